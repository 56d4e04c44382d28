//! `pool scrub` and `pool check --repair`: how they are begun, followed and ended, and that nothing is mended unasked.

use crate::harness::{BUSY, INVALID, Site, noise, wait_until};
use rustix::{
    fs::{Mode, OFlags, open},
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
};
use serde_json::{Value, json};
use std::{
    fs::File,
    io::{Read, Write},
    os::unix::fs::FileExt,
    process::{Output, Stdio},
};

const CORRUPT: i32 = 7;
const BLOCK: u64 = 4096;

/// A scrub that is begun like this does not end by itself while a test lasts.
const STILL: &[&str] = &["pool", "scrub", "--rate", "1", "--detach"];

#[test]
fn a_scrub_goes_on_without_its_command() {
    let mut site = Site::served();
    site.volume("v", &noise(1, 3 << 20));
    let begun = site.json(STILL);
    assert_eq!((&begun["number"], &begun["pace"]), (&json!(1), &json!({"bytes_per_second": 1})));
    let status = site.json(&["pool", "scrub", "--status"]);
    assert_eq!((&status["running"]["number"], &status["last"]), (&json!(1), &Value::Null));
    let text = site.ok(&["pool", "scrub", "--status"]);
    assert!(text.contains("scrub 1 under way") && text.contains("at most 1 B a second"), "{text}");
    let message = site.fails(BUSY, "busy", &["pool", "scrub"]);
    assert!(message.contains("cancel"), "{message}");
    assert!(site.ok(&["pool", "scrub", "--set-rate", "unlimited"]).contains("as fast as the device answers"));
    wait_until(|| site.json(&["pool", "scrub", "--status"])["running"].is_null());
    let last = site.json(&["pool", "scrub", "--status"])["last"].clone();
    assert_eq!((&last["report"]["data_blocks"], &last["cancelled"]), (&json!(768), &json!(false)));
    let events = site.ok(&["pool", "events"]);
    assert!(events.contains("a scrub has begun") && events.contains("a scrub has ended, 0 damaged"), "{events}");

    assert!(site.ok(STILL).contains("scrub 2 has begun"));
    let outcome = site.json(&["pool", "scrub", "--cancel"]);
    assert_eq!((&outcome["number"], &outcome["cancelled"]), (&json!(2), &json!(true)));
    assert!(site.ok(&["pool", "scrub", "--status"]).contains("cancelled before it was through"));
    // A server that stops does not wait for a scrub.
    site.ok(STILL);
    site.stop_server();
    site.check();
}

#[test]
fn an_interrupt_ends_the_scrub_that_is_waited_for() {
    let site = Site::served();
    site.volume("v", &noise(1, 3 << 20));
    let mut command = site.command(&["pool", "scrub", "--rate", "1"]);
    let waiting = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until(|| site.json(&["pool", "scrub", "--status"])["running"]["done"].as_u64() > Some(0));
    kill_process(Pid::from_child(&waiting), Signal::INT).unwrap();
    let output = waiting.wait_with_output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("cancelled") && output.stdout.is_empty(), "{error}");
    let status = site.json(&["pool", "scrub", "--status"]);
    assert_eq!((&status["running"], &status["last"]["cancelled"]), (&Value::Null, &json!(true)));

    // One that somebody else ends says so.
    let mut command = site.command(&["pool", "scrub", "--rate", "1"]);
    let waiting = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until(|| site.json(&["pool", "scrub", "--status"])["running"]["done"].as_u64() > Some(0));
    site.ok(&["pool", "scrub", "--cancel"]);
    let output = waiting.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("cancelled by somebody else"));
}

/// Makes a copy of the newest superblock unusable; the pool must be closed. Returns its slot.
fn damage(site: &Site) -> u64 {
    let file = File::options().read(true).write(true).open(&site.pool).unwrap();
    let total = file.metadata().unwrap().len() / BLOCK;
    let places = [0, 16, total - 32, total - 16];
    let number = |block: u64| {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, block * BLOCK + 32).unwrap();
        u64::from_le_bytes(bytes)
    };
    let newest = places.iter().map(|&block| number(block)).max().unwrap();
    let slot = newest % 2 + 2;
    file.write_all_at(&[0xff; 512], places[slot as usize] * BLOCK + 512).unwrap();
    slot
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

#[test]
fn a_repair_is_carried_out_only_when_it_is_agreed_to() {
    let site = Site::new();
    site.volume("v", &noise(1, 3 << 20));
    let slot = damage(&site);
    let before = std::fs::read(&site.pool).unwrap();
    // Without a terminal nobody can be asked.
    let output = site.run(&["pool", "check", "--repair"]);
    let (text, error) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(INVALID), "{text}{error}");
    assert!(text.starts_with(&format!("to do: write superblock copy {slot} again: ")), "{text}");
    assert!(error.contains("--yes"), "{error}");
    let output = site.run(&["--json", "pool", "check", "--repair"]);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((code(&output), &told["report"]), (Some(INVALID), &Value::Null));
    assert_eq!(told["plan"]["actions"][0]["action"], "rewrite-superblock");
    let output = on_a_terminal(&site, "n\n");
    assert_eq!(output.status.code(), Some(INVALID), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(std::fs::read(&site.pool).unwrap() == before, "not a byte has changed");

    let output = on_a_terminal(&site, "y\n");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains("\nrepaired\n") && text.ends_with("clean\n"), "{text}");
    site.check();

    let slot = damage(&site);
    let done = site.json(&["pool", "check", "--repair", "--yes"]);
    assert_eq!(done["report"]["done"], done["plan"]["actions"]);
    assert_eq!((&done["plan"]["actions"][0]["slot"], &done["report"]["check"]["problems"]), (&json!(slot), &json!([])));
    assert!(site.ok(&["pool", "check", "--repair", "--yes"]).ends_with("nothing to repair\n"));
    assert!(site.content("v")[..3 << 20] == noise(1, 3 << 20));
}

/// Runs a repair with a terminal as its standard input and error, on which this is typed.
fn on_a_terminal(site: &Site, typed: &str) -> Output {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let terminal = || Stdio::from(open(name.as_c_str(), OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap());
    let mut command = site.command(&["pool", "check", "--repair"]);
    let child = command.stdin(terminal()).stderr(terminal()).stdout(Stdio::piped()).spawn().unwrap();
    drop(command);
    let mut keyboard = File::from(master);
    keyboard.write_all(typed.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let mut shown = Vec::new();
    // A terminal that nobody holds any more ends with an error.
    assert!(keyboard.read_to_end(&mut shown).is_err());
    let shown = String::from_utf8_lossy(&shown);
    assert!(shown.contains("[y/N]"), "it asks: {shown}");
    output
}

#[test]
fn a_served_pool_is_repaired_by_its_server_when_nobody_is_attached() {
    let mut site = Site::new();
    site.volume("v", &noise(1, 3 << 20));
    // While it is served: opening it for writing would mend the copy by itself.
    site.serve(&[]);
    damage(&site);
    let output = site.run(&["pool", "check"]);
    assert_eq!(output.status.code(), Some(CORRUPT), "{}", String::from_utf8_lossy(&output.stdout));
    let output = site.run(&["pool", "scrub"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.code() == Some(CORRUPT) && text.contains("damaged: superblock"), "{text}");
    assert!(text.ends_with("1 damaged block found\n"), "{text}");
    assert_eq!(site.run(&["pool", "scrub", "--status"]).status.code(), Some(CORRUPT));
    assert!(site.ok(&["pool", "check", "--repair", "--yes"]).ends_with("clean\n"));
    assert!(site.ok(&["pool", "events"]).contains("repaired: write superblock copy"));
    assert!(site.ok(&["pool", "scrub"]).ends_with("clean\n"));
    site.stop_server();
    site.check();
}
