//! `regroup`: a volume that was overwritten at random, with and without a server; following it, ending it.

use crate::harness::{BUSY, INVALID, NOT_FOUND, Site, noise, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::process::Stdio;

/// A volume of 8 MiB whose data lies in no order; what it holds.
fn scattered(site: &Site) -> Vec<u8> {
    site.volume("v", &noise(1, 8 << 20));
    site.ok(&["bench", "v", "--rw", "randwrite", "--requests", "4000", "--destroy"]);
    site.content("v")
}

#[test]
fn a_volume_is_in_order_again_and_holds_what_it_held() {
    let site = Site::new();
    let content = scattered(&site);
    let plan = site.json(&["regroup", "v", "--dry-run"]);
    assert_eq!((&plan["dry_run"], &plan["end"]), (&json!(true), &json!("finished")));
    assert!(site.ok(&["regroup", "v", "--dry-run"]).contains("8 of 8 MiB are scattered"));
    let outcome = site.json(&["regroup", "v", "--rate", "unlimited"]);
    let report = &outcome["report"];
    assert_eq!((&report["scattered"], &report["moved_blocks"]), (&json!(8), &plan["report"]["moved_blocks"]));
    assert!(report["runs_before"].as_u64() > Some(1000) && report["runs_after"].as_u64() < Some(40), "{report}");
    assert!(site.content("v") == content);
    site.check();
    let again = site.ok(&["regroup", "v"]);
    assert!(again.starts_with("0 of 8 MiB were scattered: 0 B moved, "), "{again}");
    assert!(site.ok(&["regroup", "--status"]).starts_with("no regroup is under way"));
    site.fails(NOT_FOUND, "not-found", &["regroup", "w"]);
    site.fails(NOT_FOUND, "not-found", &["regroup", "--cancel"]);
    let message = site.fails(INVALID, "invalid", &["regroup", "v", "--detach"]);
    assert!(message.contains("cairn serve"), "{message}");
}

#[test]
fn it_goes_on_in_the_server_until_it_is_ended() {
    let mut site = Site::new();
    let content = scattered(&site);
    site.serve(&[]);
    // Like this it does not end by itself while a test lasts.
    let still = ["regroup", "v", "--rate", "1", "--detach"];
    assert!(site.ok(&still).contains("regroup 1 has begun, at most 1 B a second"));
    assert!(site.fails(BUSY, "busy", &["regroup", "v"]).contains("cancel"));
    let text = site.ok(&["regroup", "--status"]);
    assert!(text.contains("regroup 1 of v under way"), "{text}");
    assert!(site.ok(&["regroup", "--set-rate", "2"]).contains("at most 2 B a second"));
    let outcome = site.json(&["regroup", "--cancel"]);
    assert_eq!((&outcome["number"], &outcome["end"]), (&json!(1), &json!("cancelled")));

    // An interrupt ends the one that is waited for.
    let mut command = site.command(&["regroup", "v", "--rate", "1"]);
    let waiting = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until(|| site.json(&["regroup", "--status"])["running"]["number"] == json!(2));
    kill_process(Pid::from_child(&waiting), Signal::INT).unwrap();
    let output = waiting.wait_with_output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("stays moved") && output.stdout.is_empty(), "{error}");
    let status = site.json(&["regroup", "--status"]);
    assert_eq!((&status["running"], &status["last"]["end"]), (&Value::Null, &json!("cancelled")));

    let outcome = site.json(&["regroup", "v", "--rate", "unlimited"]);
    assert_eq!((&outcome["number"], &outcome["end"]), (&json!(3), &json!("finished")));
    let events = site.ok(&["pool", "events"]);
    assert!(events.contains("a regroup of v has begun") && events.contains("a regroup of v has ended, "), "{events}");
    assert!(site.content("v") == content);
    // A server that stops does not wait for one.
    site.ok(&still);
    site.stop_server();
    site.check();
}
