//! HTTP: editions, refusals, bounds, roles, pages.

use super::harness::Place;
use serde_json::{Value, json};

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
    for path in
        ["/v3/p/volumes", "/identity", "/identity/v3/auth/tokens", "/healthz", "/metrics", "/cairn/v1/events", "/"]
    {
        let refused = daemon.request("PATCH", path, None);
        let said = refused.body.as_object().and_then(|fields| fields.values().next()).cloned().unwrap_or_default();
        assert_eq!((refused.status, said["code"].as_u64()), (405, Some(405)), "{path}: {}", refused.body);
    }
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
}

#[test]
fn what_an_edition_does_not_have_yet_is_refused() {
    let place = Place::new();
    let daemon = place.start();
    let made = daemon.request("POST", "/v3/p/volumes", Some(&json!({"volume": {"size": 1}})));
    let volume = made.body["volume"]["id"].as_str().unwrap();
    drop(daemon.wait(&format!("/v3/p/volumes/{volume}"), |answer| answer.body["volume"]["status"] == "available"));
    let none = "11111111-1111-1111-1111-111111111111";
    // What comes with an edition, where, and what is answered from then on: nothing of it succeeds, so each can be asked for twice.
    let fields = [
        (13, "volumes", json!({"volume": {"size": 1, "group_id": none}}), 404),
        (43, "backups", json!({"backup": {"volume_id": none, "metadata": {"a": "b"}}}), 404),
        (47, "volumes", json!({"volume": {"size": 1, "backup_id": none}}), 404),
        (54, "attachments", json!({"attachment": {"volume_uuid": none, "mode": "ro"}}), 404),
        (55, "volume-transfers", json!({"transfer": {"volume_id": none, "no_snapshots": true}}), 404),
    ];
    let ask = |method: &str, minor: u32, path: &str, body: &Value| {
        let version = format!("OpenStack-API-Version: volume 3.{minor}");
        daemon.request_with(method, &format!("/v3/p/{path}"), &["X-Auth-Token: u:p", &version], Some(body))
    };
    for (minor, path, body, later) in fields {
        let before = ask("POST", minor - 1, path, &body);
        let said = before.body["badRequest"]["message"].as_str().unwrap_or_default();
        assert!(before.status == 400 && said.contains(&format!("3.{minor}")), "{path} at 3.{minor}: {}", before.body);
        let after = ask("POST", minor, path, &body);
        assert_eq!(after.status, later, "{path} at 3.{minor}: {}", after.body);
    }
    // Routes and actions are not there at all.
    let (attachment, action) = (format!("attachments/{none}/action"), format!("volumes/{volume}/action"));
    for (minor, method, path, body) in [
        (12, "GET", "volumes/summary", json!({})),
        (9, "PUT", format!("backups/{none}").as_str(), json!({"backup": {"name": "x"}})),
        (40, "POST", action.as_str(), json!({"revert": {"snapshot_id": none}})),
        (44, "POST", attachment.as_str(), json!({"os-complete": {}})),
    ] {
        let before = ask(method, minor - 1, path, &body);
        let said = before.body["itemNotFound"]["message"].as_str().unwrap_or_default();
        assert!(before.status == 404 && said.contains(&format!("3.{minor}")), "{path} at 3.{minor}: {}", before.body);
        let after = ask(method, minor, path, &body);
        assert!(!after.body.to_string().contains(&format!("3.{minor}")), "{path} at 3.{minor}: {}", after.body);
    }
    // And what an edition has no longer.
    let several = json!({"volume": {"size": 1, "multiattach": true}});
    assert_eq!((ask("POST", 49, "volumes", &several).status, ask("POST", 50, "volumes", &several).status), (202, 400));
    let snapshot = json!({"snapshot": {"volume_id": volume, "force": false}});
    assert_eq!(
        (ask("POST", 65, "snapshots", &snapshot).status, ask("POST", 66, "snapshots", &snapshot).status),
        (202, 400)
    );
    assert!(daemon.stop());
}

/// The families of numbers, with what each is of.
const FAMILIES: [(&str, &str); 30] = [
    ("cairn_pool_capacity_bytes", "gauge"),
    ("cairn_pool_used_bytes", "gauge"),
    ("cairn_pool_free_bytes", "gauge"),
    ("cairn_pool_promised_bytes", "gauge"),
    ("cairn_pool_volumes", "gauge"),
    ("cairn_pool_snapshots", "gauge"),
    ("cairn_pool_journal_used_bytes", "gauge"),
    ("cairn_pool_journal_size_bytes", "gauge"),
    ("cairn_pool_cache_bytes", "gauge"),
    ("cairn_pool_dirty_bytes", "gauge"),
    ("cairn_pool_read_only", "gauge"),
    ("cairn_pool_checksum_errors_total", "counter"),
    ("cairn_operations", "gauge"),
    ("cairn_operation_done_bytes", "gauge"),
    ("cairn_operation_total_bytes", "gauge"),
    ("cairn_images", "gauge"),
    ("cairn_images_bytes", "gauge"),
    ("cairn_backups", "gauge"),
    ("cairn_backups_bytes", "gauge"),
    ("cairn_repository_deletions", "gauge"),
    ("cairn_repository_collected_timestamp_seconds", "gauge"),
    ("cairn_repository_freed_bytes_total", "counter"),
    ("cairn_repository_collection_failures_total", "counter"),
    ("cairn_volume_requests_total", "counter"),
    ("cairn_volume_bytes_total", "counter"),
    ("cairn_volume_latency_seconds", "histogram"),
    ("cairn_volume_held_seconds_total", "counter"),
    ("cairn_volume_allocated_bytes", "gauge"),
    ("cairn_volume_size_bytes", "gauge"),
    ("cairn_volume_in_flight", "gauge"),
];

#[test]
fn numbers_have_their_names_and_are_right() {
    let place = Place::new();
    let daemon = place.start();
    let made = |kind: &str, body: Value| {
        let answer = daemon.request("POST", &format!("/v3/p/{kind}s"), Some(&json!({kind: body})));
        let id = answer.body[kind]["id"].as_str().unwrap().to_owned();
        drop(daemon.wait(&format!("/v3/p/{kind}s/{id}"), |answer| answer.body[kind]["status"] == "available"));
        id
    };
    let volume = made("volume", json!({"size": 3}));
    let backups = [(); 2].map(|()| made("backup", json!({"volume_id": volume})));
    let reset = json!({"os-reset_status": {"status": "error"}});
    assert_eq!(daemon.request("POST", &format!("/v3/p/backups/{}/action", backups[0]), Some(&reset)).status, 202);
    let limit = json!({"total_iops_sec": 500});
    assert_eq!(daemon.request("PATCH", &format!("/cairn/v1/volumes/{volume}/qos"), Some(&limit)).status, 200);
    let text = daemon.request_with("GET", "/metrics", &[], None).body.as_str().unwrap().to_owned();
    let mut said: Vec<(&str, &str)> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    let mut wanted = FAMILIES.to_vec();
    said.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(said, wanted);
    for (name, _) in FAMILIES {
        assert!(text.contains(&format!("# HELP {name} ")), "{name}");
    }
    let gib = 1_u64 << 30;
    for line in [
        "cairn_pool_volumes 1".to_owned(),
        format!("cairn_pool_promised_bytes {}", 3 * gib),
        "cairn_pool_read_only 0".to_owned(),
        "cairn_images{status=\"active\"} 0".to_owned(),
        "cairn_backups{status=\"available\"} 1".to_owned(),
        "cairn_backups{status=\"error\"} 1".to_owned(),
        "cairn_backups{status=\"creating\"} 0".to_owned(),
        format!("cairn_backups_bytes{{status=\"available\"}} {}", 3 * gib),
        format!("cairn_backups_bytes{{status=\"error\"}} {}", 3 * gib),
        format!("cairn_volume_size_bytes{{volume=\"volume-{volume}\"}} {}", 3 * gib),
    ] {
        assert!(text.lines().any(|said| said == line), "{line} is not in {text}");
    }
    for name in ["requests_total", "bytes_total", "latency_seconds_count", "latency_seconds_sum"] {
        let sample = format!("cairn_volume_{name}{{volume=\"volume-{volume}\",kind=\"read\"");
        assert!(text.contains(&sample), "{sample} is not in {text}");
    }
    assert!(daemon.stop());
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
    let refused = std::process::Command::new(env!("CARGO_BIN_EXE_cairnd"))
        .arg("--pool")
        .arg(&pool)
        .args(["--dev", "--listen", "0.0.0.0:0"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("open to the network"), "{said}");
    assert!(daemon.stop());
    assert!(!pool.with_file_name("pool.ctl").exists());
}
