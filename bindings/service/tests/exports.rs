//! Sockets of vhost-user-blk through the routes.

use axum::body::Body;
use cairn_engine::{ErrorKind, MIB, OpenOptions, Pool, PoolOptions, StorageKind, VolumeOptions};
use cairn_service::{Client, State, router};
use cairn_vhost_user::{Options, Server};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::os::unix::net::UnixStream;
use tempfile::TempDir;
use tower::ServiceExt;

struct Site {
    directory: TempDir,
    pool: Pool,
    state: State,
}

async fn site() -> Site {
    let directory = tempfile::tempdir().unwrap();
    let options = PoolOptions::new().size(128 * MIB).open(OpenOptions::new().storage(StorageKind::Pread));
    let pool = Pool::create(directory.path().join("pool"), options).await.unwrap();
    drop(pool.create_volume("db", MIB, VolumeOptions::default()).await.unwrap());
    let server = Server::start(&pool, directory.path().join("vhost"), Options::default()).await.unwrap();
    let state = State::new(pool.clone()).with_vhost_user(Some(server));
    Site { directory, pool, state }
}

async fn call(state: &State, method: &str, uri: &str, body: Value) -> (StatusCode, Value) {
    let request = Request::builder().method(method).uri(uri).header("content-type", "application/json");
    let answer = router(state.clone()).oneshot(request.body(Body::from(body.to_string())).unwrap()).await.unwrap();
    let status = answer.status();
    let text = answer.into_body().collect().await.unwrap().to_bytes();
    (status, if text.is_empty() { Value::Null } else { serde_json::from_slice(&text).unwrap() })
}

#[tokio::test]
async fn the_routes_make_list_and_take_away() {
    let Site { directory, pool, state } = site().await;
    let socket = directory.path().join("vhost/db.sock");
    let export = json!({"name": "db", "socket": socket, "read_only": false, "client": null});
    // The second time it is there.
    for _ in 0..2 {
        assert_eq!(
            call(&state, "POST", "/v1/exports", json!({"target": "db"})).await,
            (StatusCode::CREATED, export.clone())
        );
    }
    let listed = json!({"directory": directory.path().join("vhost"), "exports": [export]});
    assert_eq!(call(&state, "GET", "/v1/exports", Value::Null).await, (StatusCode::OK, listed.clone()));
    assert_eq!(call(&state, "GET", "/v1/status", Value::Null).await.1["vhost_user"], listed);

    let client = Client::in_process(state.clone());
    let machine = UnixStream::connect(&socket).unwrap();
    while client.status().await.unwrap().vhost_user.unwrap().exports[0].client.is_none() {}
    let error = client.delete_export("db", false).await.unwrap_err();
    assert!(error.kind == ErrorKind::Busy && error.message.contains("virtual machine"), "{error}");
    assert_eq!(call(&state, "DELETE", "/v1/exports/db?force=true", Value::Null).await.0, StatusCode::NO_CONTENT);
    assert!(!socket.exists());
    drop(machine);
    pool.close().await.unwrap();
}

#[tokio::test]
async fn refusals_have_their_kinds() {
    let Site { directory: _directory, pool, state } = site().await;
    let plain = State::new(pool.clone());
    let long = "é".repeat(100);
    drop(pool.create_volume(&long, MIB, VolumeOptions::default()).await.unwrap());
    for (state, method, uri, body, status, kind) in [
        (&state, "POST", "/v1/exports", json!({"target": "nothing"}), 404, "not-found"),
        (&state, "POST", "/v1/exports", json!({"target": "a/b"}), 400, "invalid"),
        (&state, "POST", "/v1/exports", json!({"target": long}), 400, "invalid"),
        (&state, "POST", "/v1/exports", json!({"target": "db", "queues": 1}), 422, "invalid"),
        (&state, "DELETE", "/v1/exports/db", Value::Null, 404, "not-found"),
        (&state, "DELETE", "/v1/exports/db?forced=true", Value::Null, 400, "invalid"),
        (&plain, "GET", "/v1/exports", Value::Null, 400, "invalid"),
        (&plain, "POST", "/v1/exports", json!({"target": "db"}), 400, "invalid"),
        (&plain, "DELETE", "/v1/exports/db", Value::Null, 400, "invalid"),
    ] {
        let (got, answer) = call(state, method, uri, body).await;
        assert_eq!((got.as_u16(), answer["error"]["kind"].as_str()), (status, Some(kind)), "{method} {uri}: {answer}");
    }
    assert_eq!(call(&plain, "GET", "/v1/status", Value::Null).await.1["vhost_user"], Value::Null);
    pool.close().await.unwrap();
}
