//! The routes over a real pool: statuses, forms of answers and errors, and that both ways of calling them agree.

use axum::body::Body;
use cairn_engine::{
    ErrorKind, IoBuf, MIB, OpenOptions, Pace, Pool, PoolOptions, RegroupEnd, RegroupOptions, StorageKind, SyncMode,
    VolumeOptions,
};
use cairn_service::{
    Client, State,
    api::{CheckLine, MAX_BODY, PlanLine, RegroupLine, ScrubLine, Steps},
    control::{self, Control},
    router,
};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::{os::unix::fs::FileExt, path::PathBuf};
use tempfile::TempDir;
use tower::ServiceExt;

struct Site {
    _directory: TempDir,
    path: PathBuf,
    pool: Pool,
}

async fn site() -> Site {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pool");
    let options = PoolOptions::new().size(128 * MIB).open(OpenOptions::new().storage(StorageKind::Pread));
    let pool = Pool::create(&path, options).await.unwrap();
    Site { _directory: directory, path, pool }
}

impl Site {
    async fn call(&self, method: &str, uri: &str, body: impl Into<Body>) -> (StatusCode, Vec<u8>) {
        let request = Request::builder().method(method).uri(uri).header("content-type", "application/json");
        let answer = router(State::new(self.pool.clone())).oneshot(request.body(body.into()).unwrap()).await.unwrap();
        let status = answer.status();
        (status, answer.into_body().collect().await.unwrap().to_bytes().to_vec())
    }

    async fn json(&self, method: &str, uri: &str, body: Value) -> (StatusCode, Value) {
        let (status, text) = self.call(method, uri, body.to_string()).await;
        let value = if text.is_empty() { Value::Null } else { serde_json::from_slice(&text).unwrap() };
        (status, value)
    }

    async fn error(&self, method: &str, uri: &str, body: impl Into<Body>) -> (u16, String) {
        let (status, text) = self.call(method, uri, body).await;
        let value: Value = serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{method} {uri}: {status} {e}"));
        assert!(value["error"]["message"].as_str().is_some_and(|message| !message.is_empty()), "{value}");
        (status.as_u16(), value["error"]["kind"].as_str().unwrap().to_owned())
    }
}

#[tokio::test]
async fn errors_have_one_form() {
    let site = site().await;
    let (status, _) = site.json("POST", "/v1/volumes", json!({"name": "v", "size": MIB})).await;
    assert_eq!(status, StatusCode::CREATED);
    let big = vec![0u8; MAX_BODY + 1];
    for (method, uri, body, status, kind) in [
        ("GET", "/v1/nothing", "".into(), 404, "not-found"),
        ("GET", "/", "".into(), 404, "not-found"),
        ("PATCH", "/v1/volumes", "".into(), 405, "invalid"),
        ("GET", "/v1/volumes/none", "".into(), 404, "not-found"),
        ("POST", "/v1/volumes", "{".into(), 400, "invalid"),
        ("POST", "/v1/volumes", "{\"name\":\"w\"}".into(), 422, "invalid"),
        ("POST", "/v1/volumes", "{\"name\":\"w\",\"size\":1048576,\"sizes\":1}".into(), 422, "invalid"),
        ("POST", "/v1/volumes", "{\"name\":\"v\",\"size\":1048576}".into(), 409, "exists"),
        ("POST", "/v1/volumes", "{\"name\":\"a/b\",\"size\":1048576}".into(), 400, "invalid"),
        ("GET", "/v1/volumes?exclusively=true", "".into(), 400, "invalid"),
        ("GET", "/v1/volumes?volume=v", "".into(), 400, "invalid"),
        ("POST", "/v1/snapshots", "{\"targets\":[]}".into(), 400, "invalid"),
        ("POST", "/v1/snapshots", "{\"targets\":[\"v\"]}".into(), 400, "invalid"),
        ("DELETE", "/v1/snapshots/v", "".into(), 400, "invalid"),
        ("DELETE", "/v1/snapshots/v@a?cascade=true", "".into(), 400, "invalid"),
        ("GET", "/v1/diff?from=v", "".into(), 400, "invalid"),
        ("GET", "/v1/data/v?offset=1&length=512", "".into(), 400, "invalid"),
        ("GET", "/v1/data/v?offset=1048576&length=512", "".into(), 400, "invalid"),
        ("GET", "/v1/data/v?offset=18446744073709551104&length=1024", "".into(), 400, "invalid"),
        ("GET", "/v1/data/v?offset=0&length=99999999999", "".into(), 400, "invalid"),
        ("GET", "/v1/data/v%00?offset=0&length=512", "".into(), 400, "invalid"),
        ("GET", "/v1/data/%ff?offset=0&length=512", "".into(), 400, "invalid"),
        ("PUT", "/v1/data/v?offset=0", Body::from(big), 413, "invalid"),
        ("PUT", "/v1/data/v?offset=0", "odd".into(), 400, "invalid"),
        ("POST", "/v1/zero/v", "{\"offset\":0,\"length\":2097152}".into(), 400, "invalid"),
        ("POST", "/v1/shutdown", "".into(), 400, "invalid"),
    ] {
        assert_eq!(site.error(method, uri, body).await, (status, kind.to_owned()), "{method} {uri}");
    }
    site.pool.close().await.unwrap();
    assert_eq!(site.error("GET", "/v1/pool", "").await, (503, "closed".to_owned()));
}

#[tokio::test]
async fn names_of_any_kind_are_one_segment() {
    let site = site().await;
    let client = Client::in_process(State::new(site.pool.clone()));
    for name in ["a b", "50%", "%2f", "ä?#&=+", ".", "..", "x\"y\\z", "日本"] {
        client.create_volume(name, MIB, VolumeOptions::default()).await.unwrap();
        assert_eq!(client.volume(name, false).await.unwrap().name, name);
        let snapshot = format!("{name}@{name}");
        client.create_snapshots(std::slice::from_ref(&snapshot)).await.unwrap();
        assert_eq!(client.snapshots(Some(name), false).await.unwrap().len(), 1);
        assert_eq!(client.diff(Some(&snapshot), name, 0).await.unwrap().extents, []);
        client.delete_snapshot(&snapshot, true).await.unwrap();
        assert_eq!(client.delete_volume(name, false, true).await.unwrap(), [name]);
    }
    site.pool.close().await.unwrap();
}

#[tokio::test]
async fn data_goes_in_and_comes_out() {
    let site = site().await;
    site.json("POST", "/v1/volumes", json!({"name": "v", "size": 16 * MIB})).await;
    let data: Vec<u8> = (0..MAX_BODY).map(|place| (place * 7 + place / 4096) as u8).collect();
    let (status, _) = site.call("PUT", "/v1/data/v?offset=512", data.clone()).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    let (status, read) = site.call("GET", &format!("/v1/data/v?offset=512&length={MAX_BODY}"), "").await;
    assert!(status == StatusCode::OK && read == data);
    assert_eq!(site.call("POST", "/v1/flush/v", "").await.0, StatusCode::NO_CONTENT);
    let range = json!({"offset": 4096, "length": MAX_BODY});
    assert_eq!(site.json("POST", "/v1/zero/v", range).await.0, StatusCode::NO_CONTENT);
    let (_, page) = site.json("GET", &format!("/v1/extents/v?offset=0&length={}", 16 * MIB), json!({})).await;
    assert_eq!(page["extents"][0], json!({"offset": 0, "length": 4096, "kind": "data"}), "{page}");
    assert_eq!(page["extents"][1]["kind"], "hole");
    let (_, info) = site.json("GET", "/v1/volumes/v", json!({})).await;
    assert_eq!((&info["allocated"], &info["attached"]), (&json!(4096), &json!(0)), "no request leaves it attached");
    // A snapshot takes no writes, by whatever route.
    site.json("POST", "/v1/snapshots", json!({"targets": ["v@a"]})).await;
    assert_eq!(site.error("PUT", "/v1/data/v@a?offset=0", vec![0; 512]).await, (403, "read-only".to_owned()));
    site.pool.close().await.unwrap();
}

#[tokio::test]
async fn a_check_ends_with_its_report() {
    let site = site().await;
    site.json("POST", "/v1/volumes", json!({"name": "v", "size": 16 * MIB})).await;
    site.call("PUT", "/v1/data/v?offset=0", vec![1; MAX_BODY]).await;
    let (status, text) = site.call("POST", "/v1/pool/check?read_data=true", "").await;
    assert_eq!(status, StatusCode::OK);
    let lines: Vec<CheckLine> = text
        .split(|byte| *byte == b'\n')
        .filter(|l| !l.is_empty())
        .map(|l| serde_json::from_slice(l).unwrap())
        .collect();
    let (CheckLine::Report(report), progress) = lines.split_last().unwrap() else { panic!("no report at the end") };
    assert!(report.is_clean() && report.data_verified == (MAX_BODY / 4096) as u64, "{report:?}");
    assert!(progress.iter().all(|line| matches!(line, CheckLine::Progress(Steps { done, total }) if done <= total)));
    site.pool.close().await.unwrap();
}

#[tokio::test]
async fn a_scrub_is_begun_watched_hurried_and_cancelled() {
    let site = site().await;
    site.json("POST", "/v1/volumes", json!({"name": "v", "size": 16 * MIB})).await;
    site.call("PUT", "/v1/data/v?offset=0", vec![1; MAX_BODY]).await;
    let (_, status) = site.json("GET", "/v1/pool/scrub", json!({})).await;
    assert_eq!(status, json!({"running": null, "last": null}));
    for (method, uri, body, status, kind) in [
        ("DELETE", "/v1/pool/scrub", "", 404, "not-found"),
        ("PUT", "/v1/pool/scrub", "{}", 404, "not-found"),
        ("POST", "/v1/pool/scrub", "{\"pace\":{\"bytes_per_second\":0}}", 400, "invalid"),
        ("POST", "/v1/pool/scrub", "{\"rate\":1}", 422, "invalid"),
    ] {
        assert_eq!(site.error(method, uri, body).await, (status, kind.to_owned()), "{method} {uri} {body}");
    }
    let (status, text) = site.call("GET", "/v1/pool/scrub/watch", "").await;
    let line: ScrubLine = serde_json::from_slice(&text).unwrap();
    assert!(status == StatusCode::OK && matches!(line, ScrubLine::Error(error) if error.kind == "not-found"));

    let slow = json!({"pace": {"bytes_per_second": 1}});
    let (status, begun) = site.json("POST", "/v1/pool/scrub", slow).await;
    assert_eq!(
        (status, &begun["number"], &begun["pace"]["bytes_per_second"]),
        (StatusCode::ACCEPTED, &json!(1), &json!(1))
    );
    assert_eq!(site.error("POST", "/v1/pool/scrub", "{}").await, (423, "busy".to_owned()));
    let watched = tokio::spawn({
        let client = Client::in_process(State::new(site.pool.clone()));
        async move { client.watch_scrub(|running| assert!(running.done <= running.total)).await }
    });
    let (_, status) = site.json("GET", "/v1/pool/scrub", json!({})).await;
    assert_eq!((&status["running"]["number"], &status["last"]), (&json!(1), &Value::Null));
    let (_, told) = site.json("PUT", "/v1/pool/scrub", json!({"pace": {"bytes_per_second": null}})).await;
    assert_eq!(told["pace"]["bytes_per_second"], Value::Null);
    let outcome = watched.await.unwrap();
    let outcome = match outcome {
        // It was through before it was watched.
        Err(failure) if failure.kind == ErrorKind::NotFound => site.pool.scrub_status().await.unwrap().last.unwrap(),
        outcome => outcome.unwrap(),
    };
    assert!(outcome.report.is_clean() && !outcome.cancelled, "{outcome:?}");
    assert_eq!(outcome.report.data_blocks, (MAX_BODY / 4096) as u64);

    site.json("POST", "/v1/pool/scrub", json!({"pace": {"bytes_per_second": 1}})).await;
    let (status, outcome) = site.json("DELETE", "/v1/pool/scrub", json!({})).await;
    assert_eq!((status, &outcome["cancelled"], &outcome["number"]), (StatusCode::OK, &json!(true), &json!(2)));
    let (_, status) = site.json("GET", "/v1/pool/scrub", json!({})).await;
    assert_eq!((&status["running"], &status["last"]), (&Value::Null, &outcome));
    site.pool.close().await.unwrap();
}

#[tokio::test]
async fn a_regroup_is_begun_watched_hurried_and_cancelled() {
    let site = site().await;
    site.json("POST", "/v1/volumes", json!({"name": "v", "size": 16 * MIB})).await;
    let volume = site.pool.volume("v").await.unwrap();
    // From the end to the beginning.
    for block in (0..512).rev() {
        volume.write(block * 4096, IoBuf::from(&[1; 4096][..])).await.unwrap();
    }
    drop(volume);
    let (_, status) = site.json("GET", "/v1/pool/regroup", json!({})).await;
    assert_eq!(status, json!({"running": null, "last": null}));
    for (method, body, status, kind) in [
        ("DELETE", "", 404, "not-found"),
        ("PUT", "{}", 404, "not-found"),
        ("POST", "{}", 422, "invalid"),
        ("POST", "{\"volume\":\"w\"}", 404, "not-found"),
        ("POST", "{\"volume\":\"v\",\"pace\":{\"bytes_per_second\":0}}", 400, "invalid"),
        ("POST", "{\"volume\":\"v\",\"rate\":1}", 422, "invalid"),
    ] {
        assert_eq!(site.error(method, "/v1/pool/regroup", body).await, (status, kind.to_owned()), "{method} {body}");
    }
    let (status, text) = site.call("GET", "/v1/pool/regroup/watch", "").await;
    let line: RegroupLine = serde_json::from_slice(&text).unwrap();
    assert!(status == StatusCode::OK && matches!(line, RegroupLine::Error(error) if error.kind == "not-found"));

    let client = || Client::in_process(State::new(site.pool.clone()));
    let slow = RegroupOptions { pace: Pace::bytes_per_second(1), dry_run: false };
    let begun = client().start_regroup("v", slow).await.unwrap();
    assert_eq!((begun.number, &begun.volume[..], begun.pace), (1, "v", slow.pace));
    let again = "{\"volume\":\"v\"}";
    assert_eq!(site.error("POST", "/v1/pool/regroup", again).await, (423, "busy".to_owned()));
    let watching = client();
    let watched = tokio::spawn(async move { watching.watch_regroup(|now| assert!(now.done <= now.total)).await });
    assert_eq!(client().regroup_status().await.unwrap().running.map(|running| running.number), Some(1));
    assert_eq!(client().set_regroup_pace(Pace::unlimited()).await.unwrap().pace, Pace::unlimited());
    let outcome = match watched.await.unwrap() {
        // It was through before it was watched.
        Err(failure) if failure.kind == ErrorKind::NotFound => site.pool.regroup_status().await.unwrap().last.unwrap(),
        outcome => outcome.unwrap(),
    };
    assert_eq!((outcome.end, outcome.report.moved_blocks), (RegroupEnd::Finished, 512));

    let (status, dry) = site.json("POST", "/v1/pool/regroup", json!({"volume": "v", "dry_run": true})).await;
    assert_eq!((status, &dry["dry_run"], &dry["number"]), (StatusCode::ACCEPTED, &json!(true), &json!(2)));
    while client().regroup_status().await.unwrap().running.is_some() {
        tokio::task::yield_now().await;
    }
    let volume = site.pool.volume("v").await.unwrap();
    for block in (0..512).rev() {
        volume.write(block * 4096, IoBuf::from(&[2; 4096][..])).await.unwrap();
    }
    drop(volume);
    let begun = client().start_regroup("v", slow).await.unwrap();
    let outcome = client().cancel_regroup().await.unwrap();
    assert_eq!((outcome.number, outcome.end), (begun.number, RegroupEnd::Cancelled));
    assert_eq!(client().regroup_status().await.unwrap().last, Some(outcome));
    site.pool.close().await.unwrap();
}

#[tokio::test]
async fn a_repair_follows_its_plan() {
    let site = site().await;
    site.json("POST", "/v1/volumes", json!({"name": "v", "size": 16 * MIB})).await;
    site.pool.checkpoint().await.unwrap();
    let client = Client::in_process(State::new(site.pool.clone()));
    assert!(client.plan_repair(true, |done, total| assert!(done <= total)).await.unwrap().is_clean());
    // The newest copies of the superblock are of checkpoint 2: the third slot from the front is at 128 MiB - 128 KiB.
    let file = std::fs::File::options().read(true).write(true).open(&site.path).unwrap();
    let at = 128 * MIB - 32 * 4096;
    let mut head = [0; 8];
    file.read_exact_at(&mut head, at).unwrap();
    assert_eq!(&head, b"CAIRNPL1");
    file.write_all_at(&[0; 4096], at).unwrap();
    file.sync_all().unwrap();

    let (status, text) = site.call("POST", "/v1/pool/repair/plan?read_data=true", "").await;
    let last = text.split(|byte| *byte == b'\n').rfind(|line| !line.is_empty()).unwrap();
    let PlanLine::Report(plan) = serde_json::from_slice(last).unwrap() else { panic!("no plan at the end") };
    assert_eq!((status, plan.actions.len()), (StatusCode::OK, 1), "{plan:?}");
    let form = serde_json::to_value(&plan).unwrap();
    assert_eq!((&form["actions"][0]["action"], &form["actions"][0]["slot"]), (&json!("rewrite-superblock"), &json!(2)));
    let held = site.pool.volume("v").await.unwrap();
    let refused = client.repair(&plan, |_, _| {}).await.unwrap_err();
    assert!(refused.kind == ErrorKind::Busy && refused.message.contains("open: v"), "{refused}");
    drop(held);
    let report = client.repair(&plan, |done, total| assert!(done <= total)).await.unwrap();
    assert!(report.check.is_clean() && report.done == plan.actions, "{report:?}");
    file.read_exact_at(&mut head, at).unwrap();
    assert_eq!(&head, b"CAIRNPL1");
    assert_eq!(
        client.repair(&plan, |_, _| {}).await.unwrap_err().kind,
        ErrorKind::Busy,
        "there is nothing left of it to do"
    );
    site.pool.close().await.unwrap();
}

#[tokio::test]
async fn both_ways_agree() {
    let site = site().await;
    let state = State::new(site.pool.clone()).serving(&[]);
    let mut control = Control::bind(&site.path).unwrap();
    let server = {
        let state = state.clone();
        tokio::spawn(async move { control.serve(state, std::future::pending()).await })
    };
    let (far, status) = control::find_server(&site.path).await.unwrap().expect("it is served");
    let near = Client::in_process(state);
    assert!(status.served && status.pid == std::process::id() && status.pool == site.pool.path().display().to_string());

    let options = VolumeOptions { sync: SyncMode::Never, ..VolumeOptions::default() };
    let made = far.create_volume("v", 16 * MIB, options.clone()).await.unwrap();
    assert_eq!(near.volume("v", false).await.unwrap(), made);
    assert_eq!(made.options, options);
    far.write("v", 0, vec![7; MAX_BODY].into()).await.unwrap();
    far.flush("v").await.unwrap();
    let (a, b) = tokio::join!(far.read("v", 0, MAX_BODY), near.read("v", 0, MAX_BODY));
    assert!(a.as_ref().unwrap() == b.as_ref().unwrap() && a.unwrap().iter().all(|byte| *byte == 7));
    far.create_snapshots(&["v@a".into()]).await.unwrap();
    near.zero("v", 0, MIB).await.unwrap();
    let page = far.diff(Some("v@a"), "v", 0).await.unwrap();
    assert_eq!(page, near.diff(Some("v@a"), "v", 0).await.unwrap());
    assert_eq!(page.extents.iter().map(|extent| extent.length).sum::<u64>(), MIB);
    let c = far.clone_volume("v@a", "c", None).await.unwrap();
    assert_eq!(near.volumes(false).await.unwrap(), far.volumes(false).await.unwrap());
    assert_eq!(c.parent.as_deref(), Some("v@a"));
    let (a, b) = (far.volume("none", false).await.unwrap_err(), near.volume("none", false).await.unwrap_err());
    assert_eq!((a.kind, &a.message), (ErrorKind::NotFound, &b.message));
    let report = far.check(true, |done, total| assert!(done <= total)).await.unwrap();
    assert!(report.is_clean(), "{report:?}");
    assert!(far.start_scrub(Pace::unlimited()).await.unwrap().number == 1);
    let outcome = match far.watch_scrub(|_| {}).await {
        Err(failure) if failure.kind == ErrorKind::NotFound => near.scrub_status().await.unwrap().last.unwrap(),
        outcome => outcome.unwrap(),
    };
    assert_eq!(outcome.report.data_blocks, report.data_verified);
    assert!(far.plan_repair(false, |_, _| {}).await.unwrap().is_clean());
    far.checkpoint().await.unwrap();
    assert!(far.stats().await.unwrap().used > 0);

    far.shutdown().await.unwrap();
    server.await.unwrap().unwrap();
    assert!(control::find_server(&site.path).await.unwrap().is_none());
    assert_eq!(far.stats().await.unwrap_err().kind, ErrorKind::Closed);
    site.pool.close().await.unwrap();
}
