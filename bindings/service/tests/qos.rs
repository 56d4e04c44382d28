//! Limits and statistics over the routes: targets with slashes, changes in all forms, the engine's own sentences, both ways of calling.

use axum::body::Body;
use cairn_engine::{ErrorKind, MIB, OpenOptions, Pool, PoolOptions, QosTarget, StorageKind, VolumeOptions};
use cairn_service::{
    Client, State,
    control::{self, Control},
    qos::Changes,
    router,
};
use http::Request;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt;

async fn pool() -> (TempDir, Pool) {
    let directory = tempfile::tempdir().unwrap();
    let options = PoolOptions::new().size(128 * MIB).open(OpenOptions::new().storage(StorageKind::Pread));
    let pool = Pool::create(directory.path().join("pool"), options).await.unwrap();
    pool.create_volume("db", 16 * MIB, VolumeOptions::default()).await.unwrap();
    (directory, pool)
}

async fn call(pool: &Pool, method: &str, uri: &str, body: &str) -> (u16, Value) {
    let request = Request::builder().method(method).uri(uri).header("content-type", "application/json");
    let request = request.body(Body::from(body.to_owned())).unwrap();
    let answer = router(State::new(pool.clone())).oneshot(request).await.unwrap();
    let status = answer.status().as_u16();
    let text = answer.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{method} {uri}: {status} {error}")))
}

fn changes(list: &[(&str, Option<&str>)]) -> Changes {
    Changes(list.iter().map(|(key, value)| ((*key).to_owned(), value.map(str::to_owned))).collect())
}

#[tokio::test]
async fn limits_are_set_shown_and_cleared() {
    let (_directory, pool) = pool().await;
    let body = r#"{"total_iops_sec": 500, "total_iops_sec_max": "1000", "read_bytes_sec": "64MiB", "group": "gold"}"#;
    let (status, info) = call(&pool, "PATCH", "/v1/qos/db", body).await;
    assert_eq!((status, &info["target"], &info["group"]), (200, &json!("db"), &json!("gold")), "{info}");
    let limits = json!({"read_bytes_sec": 64 * MIB, "total_iops_sec": 500, "total_iops_sec_max": 1000});
    assert_eq!(info["limits"], limits);
    assert_eq!(info["credits"]["total_iops_sec"], 500, "for a second twice as fast");
    assert_eq!(call(&pool, "GET", "/v1/qos/db", "").await, (200, info.clone()));

    let (_, info) = call(&pool, "PATCH", "/v1/qos/%2Fgold", r#"{"total_bytes_sec": "1GiB"}"#).await;
    assert_eq!((&info["target"], &info["members"]), (&json!("/gold"), &json!(["db"])));
    let (_, info) = call(&pool, "PATCH", "/v1/qos/%2F", r#"{"queue_depth": 17, "total_iops_sec": 9000}"#).await;
    assert_eq!((&info["target"], &info["queue_depth"]), (&json!("/"), &json!(17)));
    let (_, list) = call(&pool, "GET", "/v1/qos", "").await;
    let targets: Vec<_> = list["qos"].as_array().unwrap().iter().map(|info| info["target"].clone()).collect();
    assert_eq!(targets, ["/", "/gold", "db"]);

    let (_, info) = call(&pool, "PATCH", "/v1/qos/db", r#"{"total_iops_sec_max": null, "weight": 3}"#).await;
    assert_eq!(info["limits"], json!({"read_bytes_sec": 64 * MIB, "total_iops_sec": 500, "weight": 3}));
    for (uri, kept) in [("/v1/qos/db", "/gold"), ("/v1/qos/%2Fgold", "/"), ("/v1/qos/%2F", "/")] {
        let (status, info) = call(&pool, "DELETE", uri, "").await;
        assert_eq!((status, &info["limits"], &info["group"]), (200, &json!({}), &Value::Null), "{uri}");
        let (_, list) = call(&pool, "GET", "/v1/qos", "").await;
        assert_eq!(list["qos"].as_array().unwrap().last().unwrap()["target"], kept, "after {uri}: {list}");
    }
    pool.close().await.unwrap();
}

#[tokio::test]
async fn refusals_keep_their_kind_and_words() {
    let (_directory, pool) = pool().await;
    let (_, before) = call(&pool, "PATCH", "/v1/qos/db", r#"{"total_iops_sec": 500}"#).await;
    for (method, uri, body, status, kind, words) in [
        ("GET", "/v1/qos/none", "", 404, "not-found", "none"),
        ("PATCH", "/v1/qos/none", r#"{"weight":1}"#, 404, "not-found", "none"),
        ("DELETE", "/v1/qos/none", "", 404, "not-found", "none"),
        ("GET", "/v1/qos/%2Fa%2Fb", "", 400, "invalid", "a/b"),
        ("GET", "/v1/qos//gold", "", 404, "not-found", "route"),
        ("GET", "/v1/qos/db@a", "", 400, "invalid", "db@a"),
        ("PUT", "/v1/qos/db", "{}", 405, "invalid", "PUT"),
        ("PATCH", "/v1/qos/db", "{}", 400, "invalid", "no change"),
        ("PATCH", "/v1/qos/db", "[]", 422, "invalid", "object"),
        ("PATCH", "/v1/qos/db", r#"{"weight":true}"#, 422, "invalid", "weight"),
        ("PATCH", "/v1/qos/db", r#"{"weight":1,"weight":2}"#, 400, "invalid", "weight is given twice"),
        ("PATCH", "/v1/qos/db", r#"{"group":"a","group":"b"}"#, 400, "invalid", "group is given twice"),
        ("PATCH", "/v1/qos/db", r#"{"iops":1}"#, 400, "invalid", "iops is no key"),
        ("PATCH", "/v1/qos/db", r#"{"weight":0}"#, 400, "invalid", "weight=0"),
        ("PATCH", "/v1/qos/db", r#"{"weight":-1}"#, 400, "invalid", "weight=-1"),
        ("PATCH", "/v1/qos/db", r#"{"weight":1.5}"#, 400, "invalid", "weight=1.5"),
        ("PATCH", "/v1/qos/db", r#"{"weight":""}"#, 400, "invalid", "whole number"),
        ("PATCH", "/v1/qos/db", r#"{"write_bytes_sec":"99999999TiB"}"#, 400, "invalid", "cannot be counted"),
        ("PATCH", "/v1/qos/db", r#"{"read_iops_sec":5}"#, 400, "invalid", "read_iops_sec exclude"),
        ("PATCH", "/v1/qos/db", r#"{"total_iops_sec_max":5}"#, 400, "invalid", "below total_iops_sec=500"),
        ("PATCH", "/v1/qos/db", r#"{"queue_depth":5}"#, 400, "invalid", "queue_depth"),
        ("PATCH", "/v1/qos/%2F", r#"{"queue_depth":0}"#, 400, "invalid", "queue_depth=0"),
        ("PATCH", "/v1/qos/%2F", r#"{"group":"gold"}"#, 400, "invalid", "group"),
        ("PATCH", "/v1/qos/%2Fgold", r#"{"weight":2}"#, 400, "invalid", "weight"),
        ("PATCH", "/v1/qos/db", r#"{"write_bytes_sec":1,"total_iops_sec":0}"#, 400, "invalid", "total_iops_sec=0"),
    ] {
        let (found, answer) = call(&pool, method, uri, body).await;
        let error = &answer["error"];
        assert_eq!((found, &error["kind"]), (status, &json!(kind)), "{method} {uri} {body}: {answer}");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(words), "{method} {uri} {body}: {message}");
    }
    assert_eq!(call(&pool, "GET", "/v1/qos/db", "").await.1["limits"], before["limits"], "nothing of it was kept");
    pool.close().await.unwrap();
}

#[tokio::test]
async fn both_ways_agree_whatever_the_target_is_called() {
    let (directory, pool) = pool().await;
    let state = State::new(pool.clone()).serving(&[]);
    let mut control = Control::bind(&directory.path().join("pool")).unwrap();
    let server = {
        let state = state.clone();
        tokio::spawn(async move { control.serve(state, std::future::pending()).await })
    };
    let (far, _) = control::find_server(&directory.path().join("pool")).await.unwrap().expect("it is served");
    let near = Client::in_process(state);
    for name in ["a b", "50%", "%2F", "ä?#&=+", ".", ".."] {
        near.create_volume(name, MIB, VolumeOptions::default()).await.unwrap();
        let group = format!("/{name}");
        for target in [name, &group, "/"] {
            let named: QosTarget = target.parse().unwrap();
            let info = far.set_qos(&named, &changes(&[("write_bytes_sec", Some("3MiB"))])).await.unwrap();
            assert_eq!((info.target.as_str(), info.rates["write_bytes_sec"]), (target, 3 * MIB));
            assert_eq!(near.qos(&named).await.unwrap().limits, info.limits);
            assert!(far.clear_qos(&named).await.unwrap().limits.is_empty());
        }
    }
    let wrong = changes(&[("total_iops_sec", Some("0"))]);
    let db = "db".parse().unwrap();
    let (a, b) = (far.set_qos(&db, &wrong).await.unwrap_err(), near.set_qos(&db, &wrong).await.unwrap_err());
    assert_eq!((a.kind, &a.message), (ErrorKind::Invalid, &b.message));
    assert_eq!(far.qos_list().await.unwrap(), near.qos_list().await.unwrap());

    let before = far.volume_stats().await.unwrap();
    far.write("db", 0, vec![7; MIB as usize].into()).await.unwrap();
    far.read("db", 0, 4096).await.unwrap();
    let after = near.volume_stats().await.unwrap();
    assert!(after.since_ms == before.since_ms && after.up_ns > before.up_ns);
    let db = |stats: &cairn_service::api::VolumesStats| stats.volumes.iter().find(|v| v.name == "db").unwrap().clone();
    let (before, after) = (db(&before).flows, db(&after).flows);
    let (read, write) = (after.read.since(&before.read), after.write.since(&before.write));
    assert_eq!((read.requests, read.bytes, write.requests, write.bytes), (1, 4096, 1, MIB));
    assert_eq!(near.volume_stats().await.unwrap().volumes.last().unwrap().name, "background");

    far.shutdown().await.unwrap();
    server.await.unwrap().unwrap();
    pool.close().await.unwrap();
}
