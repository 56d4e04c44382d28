//! HTTP: editions, refusals, bounds, roles, pages.

use super::harness::Place;
use serde_json::json;

#[test]
fn editions_are_negotiated_and_told() {
    let daemon = Place::new();
    let daemon = daemon.start();
    let ask = |path: &str, version: &str| daemon.request_with("GET", path, &["X-Auth-Token: u:p", version], None);
    let answer = ask("/v3/p/volumes", "OpenStack-API-Version: volume 3.50");
    assert_eq!((answer.status, answer.header("OpenStack-API-Version")), (200, Some("volume 3.50")));
    assert_eq!(answer.header("Vary"), Some("OpenStack-API-Version"));
    assert!(answer.header("x-openstack-request-id").unwrap().starts_with("req-"));
    assert_eq!(ask("/v3/p/volumes", "X: y").header("OpenStack-API-Version"), Some("volume 3.0"));
    assert_eq!(
        ask("/v3/p/volumes", "OpenStack-API-Version: volume latest").header("OpenStack-API-Version"),
        Some("volume 3.71")
    );
    for version in ["3.72", "2.0", "4.0"] {
        let answer = ask("/v3/p/volumes", &format!("OpenStack-API-Version: volume {version}"));
        assert_eq!((answer.status, answer.header("Vary")), (406, Some("OpenStack-API-Version")), "{version}");
    }
    assert_eq!(ask("/v3/p/volumes", "OpenStack-API-Version: volume three").status, 400);
    // Without the project from 3.67 on; with another one than the token's never.
    assert_eq!(ask("/v3/volumes", "OpenStack-API-Version: volume 3.67").status, 200);
    assert_eq!(ask("/v3/volumes", "OpenStack-API-Version: volume 3.66").status, 404);
    assert_eq!(ask("/v3/other/volumes", "X: y").status, 400);
    // What came later is not there yet.
    assert_eq!(ask("/v3/p/attachments", "OpenStack-API-Version: volume 3.26").status, 404);
    assert_eq!(ask("/v3/p/attachments", "OpenStack-API-Version: volume 3.27").status, 200);
    assert_eq!(ask("/v3/p/messages", "OpenStack-API-Version: volume 3.2").status, 404);
    let root = ask("/", "X: y");
    assert_eq!((root.status, root.body["versions"][0]["version"].as_str()), (300, Some("3.71")));
    assert_eq!(ask("/v3/", "X: y").body["versions"][0]["min_version"], "3.0");
    assert!(daemon.stop());
}

#[test]
fn refusals_and_bounds() {
    let place = Place::new();
    let daemon = place.start();
    let none = daemon.request_with("GET", "/v3/p/volumes", &[], None);
    assert_eq!((none.status, none.body["unauthorized"]["code"].as_u64()), (401, Some(401)));
    let missing = daemon.request("GET", "/v3/p/volumes/nothing", None);
    assert_eq!((missing.status, missing.body["itemNotFound"]["code"].as_u64()), (404, Some(404)));
    assert_eq!(daemon.request("GET", "/v3/p/bananas", None).status, 404);
    assert_eq!(daemon.request("PATCH", "/v3/p/volumes", None).status, 405);
    let create = |body| daemon.request("POST", "/v3/p/volumes", Some(&body));
    for body in [
        json!({}),
        json!({"volume": {}}),
        json!({"volume": {"size": 0}}),
        json!({"volume": {"size": "x"}}),
        json!({"volume": {"size": 1, "name": "x".repeat(129)}}),
        json!({"volume": {"size": 65537}}),
        json!({"volume": {"size": -1}}),
        json!([]),
        json!({"volume": {"size": 1, "metadata": {"": "x"}}}),
    ] {
        let answer = create(body.clone());
        assert_eq!(answer.status, 400, "{body}: {}", answer.body);
        assert!(answer.body["badRequest"]["message"].is_string());
    }
    let broken = b"POST /v3/p/volumes HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Auth-Token: u:p\r\nContent-Length: 3\r\n\r\n{\"a";
    assert_eq!(daemon.raw(broken).unwrap().status, 400);
    let long = create(json!({"volume": {"size": 1, "description": "x".repeat(2 << 20)}}));
    assert_eq!(long.status, 413);
    // A head that is too long is refused, or cut off, and others go on.
    let head = format!("GET /v3/p/volumes HTTP/1.1\r\nX-Long: {}\r\n\r\n", "x".repeat(1 << 20));
    assert!(daemon.raw(head.as_bytes()).is_none_or(|answer| answer.status == 431));
    let over = daemon.request("PUT", "/v3/p/os-quota-sets/p", Some(&json!({"quota_set": {"volumes": 0}})));
    assert_eq!((over.status, over.body["quota_set"]["volumes"].as_i64()), (200, Some(0)));
    let over = create(json!({"volume": {"size": 1}}));
    assert_eq!((over.status, over.header("Retry-After")), (413, Some("0")));
    assert!(over.body["overLimit"]["message"].as_str().unwrap().contains("limit 0"));
    assert_eq!(daemon.request_with("GET", "/healthz", &[], None).body["status"], "ok");
    let metrics = daemon.request_with("GET", "/metrics", &[], None);
    assert!(metrics.body.as_str().unwrap().contains("cairn_pool_capacity_bytes "));
}

#[test]
fn pages_link_to_the_next_and_orders_are_kept() {
    let place = Place::new();
    let daemon = place.start();
    for n in 0..5 {
        let body =
            json!({"volume": {"size": 1, "name": format!("v{}", (n * 3) % 5), "metadata": {"n": n.to_string()}}});
        assert_eq!(daemon.request("POST", "/v3/p/volumes", Some(&body)).status, 202);
    }
    let names = |path: &str| {
        let answer = daemon.request("GET", path, None);
        let volumes = answer.body["volumes"].as_array().unwrap().clone();
        let names: Vec<String> = volumes.iter().map(|v| v["name"].as_str().unwrap().to_owned()).collect();
        (names, answer.body["volumes_links"][0]["href"].as_str().map(str::to_owned), answer.body["count"].clone())
    };
    let (first, next, count) = names("/v3/p/volumes?limit=2&with_count=true");
    assert_eq!((first, count), (vec!["v2".to_owned(), "v4".to_owned()], json!(5)));
    let next = next.unwrap();
    assert!(next.starts_with(daemon.url()) && next.contains("/v3/p/volumes?"), "{next}");
    let (second, next, _) = names(next.strip_prefix(daemon.url()).unwrap());
    assert_eq!(second, ["v1", "v3"]);
    let (third, next, _) = names(next.unwrap().strip_prefix(daemon.url()).unwrap());
    assert_eq!((third, next), (vec!["v0".to_owned()], None));
    assert_eq!(names("/v3/p/volumes?sort=name:asc").0, ["v0", "v1", "v2", "v3", "v4"]);
    assert_eq!(names("/v3/p/volumes?name=v3").0, ["v3"]);
    assert_eq!(names("/v3/p/volumes?metadata=%7B%27n%27%3A%20%271%27%7D").0, ["v3"]);
    assert_eq!(names("/v3/p/volumes?status=error").0, [""; 0]);
    for wrong in ["limit=-1", "limit=x", "marker=none", "sort=shoe_size", "sort=name:up", "metadata=%5B"] {
        let status = daemon.request("GET", &format!("/v3/p/volumes?{wrong}"), None).status;
        assert!(status == 400 || status == 404, "{wrong}: {status}");
    }
    // Another project has none; its administrator sees those of all.
    let other = |query: &str| {
        let headers = ["X-Auth-Token: u:q"];
        let answer = daemon.request_with("GET", &format!("/v3/q/volumes{query}"), &headers, None);
        answer.body["volumes"].as_array().unwrap().len()
    };
    assert_eq!((other(""), other("?all_tenants=1")), (0, 5));
}

#[test]
fn the_control_socket_is_served_too() {
    let place = Place::new();
    let daemon = place.start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let pool = place.path().join("pool");
    let (client, status) = runtime.block_on(cairn_service::control::find_server(&pool)).unwrap().unwrap();
    assert!(status.served && status.listeners.len() == 2);
    assert!(runtime.block_on(client.volumes(false)).unwrap().is_empty());
    // Nobody else takes the pool meanwhile.
    let second = std::process::Command::new(env!("CARGO_BIN_EXE_cairnd"))
        .arg("--pool")
        .arg(&pool)
        .args(["--dev", "--listen", "127.0.0.1:0"])
        .output()
        .unwrap();
    assert!(!second.status.success() && String::from_utf8_lossy(&second.stderr).contains("is served already"));
    for (arguments, why) in
        [(vec!["--dev", "--listen", "0.0.0.0:0"], "open to the network"), (vec![], "logins are not served yet")]
    {
        let refused = std::process::Command::new(env!("CARGO_BIN_EXE_cairnd"))
            .arg("--pool")
            .arg(&pool)
            .args(&arguments)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && said.contains(why), "{said}");
    }
    assert!(daemon.stop());
    assert!(!pool.with_file_name("pool.ctl").exists());
}
