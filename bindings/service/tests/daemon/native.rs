//! `/cairn/v1`: each route against its description.

use super::{
    harness::{Answer, Daemon, PATIENCE, Place},
    killed::upload,
    schema,
};
use serde_json::{Value, json};
use std::{
    cell::RefCell,
    collections::BTreeSet,
    io::{Read, Write},
    net::TcpStream,
};

const METHODS: [&str; 5] = ["GET", "POST", "PUT", "PATCH", "DELETE"];

/// A daemon, and what it says of itself. Every answer is held against it.
struct Api {
    daemon: Daemon,
    document: Value,
    seen: RefCell<BTreeSet<String>>,
}

fn is_route_missing(answer: &Answer, path: &str) -> bool {
    let message = answer.body["itemNotFound"]["message"].as_str().unwrap_or_default();
    answer.status == 404 && message == format!("The resource could not be found: {path}")
}

impl Api {
    fn new(daemon: Daemon) -> Self {
        let answer = daemon.request_with("GET", "/cairn/v1/openapi.json", &[], None);
        assert_eq!(answer.status, 200);
        Self { daemon, document: answer.body, seen: RefCell::default() }
    }

    fn operations(&self) -> BTreeSet<(String, String)> {
        let mut found = BTreeSet::new();
        for (path, said) in self.document["paths"].as_object().unwrap() {
            for method in METHODS {
                if !said[method.to_lowercase()].is_null() {
                    let _new = found.insert((path.clone(), method.to_owned()));
                }
            }
        }
        found
    }

    /// Whether a value is as a schema of the document says.
    fn check(&self, schema: &Value, value: &Value, what: &str) {
        if let Err(error) = schema::check(&self.document, schema, value) {
            panic!("{what}: {error} in {value}");
        }
    }

    /// Asks, and holds the answer against the description of the operation.
    fn ask(&self, method: &str, template: &str, path: &str, body: Option<&Value>) -> Answer {
        let answer = self.daemon.request(method, path, body);
        let what = format!("{method} {template}");
        let said = &self.document["paths"][template][method.to_lowercase()]["responses"];
        assert!(said.is_object(), "{what} is not described");
        let status = answer.status.to_string();
        let response = match said.get(&status) {
            Some(response) => response,
            None => {
                assert!(answer.status >= 400, "{what}: {status} is not described: {}", answer.body);
                &self.document["components"]["responses"]["Refusal"]
            }
        };
        for (kind, content) in response["content"].as_object().into_iter().flatten() {
            assert!(answer.header("content-type").unwrap().starts_with(kind.as_str()), "{what}");
            match (kind.as_str(), &answer.body) {
                ("application/x-ndjson", Value::String(lines)) => {
                    for line in lines.lines() {
                        self.check(&content["schema"], &serde_json::from_str(line).unwrap(), &what);
                    }
                }
                // One line alone is a value of its own.
                (_, value) => self.check(&content["schema"], value, &what),
            }
        }
        if answer.status < 300 {
            let _new = self.seen.borrow_mut().insert(what);
        }
        answer
    }

    fn ok(&self, method: &str, template: &str, path: &str, body: Option<&Value>) -> Value {
        let answer = self.ask(method, template, path, body);
        assert!(answer.status < 300, "{method} {path}: {} {}", answer.status, answer.body);
        answer.body
    }

    fn refused(&self, status: u16, method: &str, template: &str, path: &str, body: Option<&Value>) {
        let answer = self.ask(method, template, path, body);
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
    }

    /// A new object of the published interface that is there.
    fn made(&self, kind: &str, body: Value) -> String {
        let answer = self.daemon.request("POST", &format!("/v3/p/{kind}s"), Some(&json!({kind: body})));
        assert_eq!(answer.status, 202, "{}", answer.body);
        let id = answer.body[kind]["id"].as_str().unwrap().to_owned();
        self.rests(kind, &id);
        id
    }

    fn rests(&self, kind: &str, id: &str) {
        let done = |answer: &Answer| answer.body[kind]["status"] == "available";
        drop(self.daemon.wait(&format!("/v3/p/{kind}s/{id}"), done));
    }

    /// Waits for the end of a task, which has to be a good one.
    fn succeeds(&self, begun: &Value) {
        let id = begun["task_id"].as_str().unwrap();
        drop(self.daemon.wait(&format!("/cairn/v1/tasks/{id}"), |answer| answer.body["status"] == "succeeded"));
        drop(self.ok("GET", "/cairn/v1/tasks/{id}", &format!("/cairn/v1/tasks/{id}"), None));
    }
}

#[test]
fn the_description_has_each_route_and_no_other() {
    let place = Place::new();
    let api = Api::new(place.start());
    assert_eq!(api.document["openapi"].as_str().unwrap().split('.').next(), Some("3"));
    let operations = api.operations();
    assert!(operations.len() > 25, "{}", operations.len());
    let paths: BTreeSet<&String> = operations.iter().map(|(path, _)| path).collect();
    for template in paths {
        let path = ["{id}", "{name}", "{project}"].iter().fold(template.clone(), |path, name| path.replace(name, "x"));
        assert!(template.starts_with("/cairn/v1/") && !path.contains('{'), "{template}");
        for method in METHODS {
            let answer = api.daemon.request(method, &path, None);
            assert!(!is_route_missing(&answer, &path), "{method} {template} is described, and not there");
            let is_served = answer.status != 405;
            let is_said = operations.contains(&(template.clone(), method.to_owned()));
            assert_eq!(is_served, is_said, "{method} {template}: {}", answer.body);
        }
    }
    let missing = api.daemon.request("GET", "/cairn/v1/bananas", None);
    assert!(is_route_missing(&missing, "/cairn/v1/bananas"), "{}", missing.body);
    // Without a token nothing but the description.
    for (template, method) in &operations {
        if template != "/cairn/v1/openapi.json" {
            let path =
                ["{id}", "{name}", "{project}"].iter().fold(template.clone(), |path, name| path.replace(name, "x"));
            assert_eq!(api.daemon.request_with(method, &path, &[], None).status, 401, "{method} {template}");
        }
    }
    // Each has its words.
    for (template, method) in &operations {
        let said = &api.document["paths"][template][method.to_lowercase()];
        assert!(said["summary"].is_string() || said["description"].is_string(), "{method} {template}");
    }
    assert!(api.daemon.stop());
}

fn write(place: &Place, volume: &str, offset: u64, byte: u8) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (client, _) = cairn_service::control::find_server(&place.path().join("pool")).await.unwrap().unwrap();
        let name = format!("volume-{volume}");
        client.write(&name, offset, vec![byte; 4096].into()).await.unwrap();
        client.flush(&name).await.unwrap();
    });
}

fn first_byte(place: &Place, volume: &str) -> u8 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (client, _) = cairn_service::control::find_server(&place.path().join("pool")).await.unwrap().unwrap();
        client.read(&format!("volume-{volume}"), 0, 4096).await.unwrap()[0]
    })
}

#[test]
fn answers_are_as_the_description_says() {
    let place = Place::new();
    let api = Api::new(place.start());
    versions(&api, &place);
    chains(&api, &place);
    cancelled(&api);
    limits(&api);
    past(&api);
    drop(api.ok("GET", "/cairn/v1/openapi.json", "/cairn/v1/openapi.json", None));
    let not_seen: Vec<String> = api
        .operations()
        .into_iter()
        .map(|(path, method)| format!("{method} {path}"))
        .filter(|what| !api.seen.borrow().contains(what))
        .collect();
    assert!(not_seen.is_empty(), "never asked for: {not_seen:?}");
    assert!(api.daemon.stop());
}

fn versions(api: &Api, place: &Place) {
    let (a, b) = (api.made("volume", json!({"size": 1, "name": "a"})), api.made("volume", json!({"size": 1})));
    write(place, &a, 0, 1);
    let taken = json!({"volume_ids": [a, b], "name": "both"});
    let route = "/cairn/v1/group-snapshots";
    let taken = api.ok("POST", route, route, Some(&taken));
    api.succeeds(&taken);
    let first = taken["snapshots"][0]["id"].as_str().unwrap().to_owned();
    api.rests("snapshot", &first);
    for wrong in
        [json!({}), json!({"volume_ids": []}), json!({"volume_ids": [a, a]}), json!({"volume_ids": [a], "x": 1})]
    {
        api.refused(400, "POST", route, route, Some(&wrong));
    }
    api.refused(404, "POST", route, route, Some(&json!({"volume_ids": ["none"]})));
    write(place, &a, 0, 2);
    write(place, &a, 1 << 20, 2);
    let second = api.made("snapshot", json!({"volume_id": a}));
    let diff = |query: &str| api.ok("GET", "/cairn/v1/diff", &format!("/cairn/v1/diff?{query}"), None);
    let extents = diff(&format!("from={first}&to={second}"));
    assert_eq!(
        extents,
        json!({"extents": [{"offset": 0, "length": 4096, "kind": "data"}, {"offset": 1 << 20, "length": 4096, "kind": "data"}], "next": null})
    );
    assert_eq!(diff(&format!("to={a}&offset=4096"))["extents"].as_array().unwrap().len(), 1);
    assert_eq!(diff(&format!("from={second}&to={a}"))["extents"], json!([]));
    for (status, query) in
        [(400, "from=x"), (404, "to=none"), (400, "to=x&bananas=1"), (400, &format!("to={a}&offset=x"))]
    {
        api.refused(status, "GET", "/cairn/v1/diff", &format!("/cairn/v1/diff?{query}"), None);
    }
    let route = "/cairn/v1/volumes/{id}/lineage";
    let clone = api.made("volume", json!({"snapshot_id": first}));
    let kinds = |volume: &str| {
        let lineage = api.ok("GET", route, &format!("/cairn/v1/volumes/{volume}/lineage"), None);
        let all = lineage["lineage"].as_array().unwrap().clone();
        all.into_iter().map(|link| link["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(kinds(&a), [a.clone(), second.clone(), first.clone()]);
    assert_eq!(kinds(&clone), [clone.clone(), first.clone()]);
    for id in ["none", &first] {
        api.refused(404, "GET", route, &format!("/cairn/v1/volumes/{id}/lineage"), None);
    }
    let route = "/cairn/v1/volumes/{id}/revert";
    let path = format!("/cairn/v1/volumes/{a}/revert");
    api.refused(400, "POST", route, &path, Some(&json!({"snapshot_id": taken["snapshots"][1]["id"]})));
    api.refused(404, "POST", route, &path, Some(&json!({"snapshot_id": "none"})));
    api.succeeds(&api.ok("POST", route, &path, Some(&json!({"snapshot_id": first}))));
    assert_eq!(first_byte(place, &a), 1);
    let pools = api.ok("GET", "/cairn/v1/pools", "/cairn/v1/pools", None);
    let pool = &pools["pools"][0];
    assert_eq!((pool["volumes"].as_u64(), pool["allocated"].as_u64()), (Some(3), Some(3 << 30)));
    assert!(pool["total"].as_u64() > pool["used"].as_u64() && pool["host"] == "here@cairn#cairn");
}

fn chains(api: &Api, place: &Place) {
    let volume = api.made("volume", json!({"size": 1}));
    let mut backups = Vec::new();
    for byte in 1..=3 {
        write(place, &volume, 0, byte);
        backups.push(api.made("backup", json!({"volume_id": volume, "incremental": byte > 1})));
    }
    let chain = |id: &str| {
        let chain = api.ok("GET", "/cairn/v1/backups/{id}/chain", &format!("/cairn/v1/backups/{id}/chain"), None);
        let all = chain["chain"].as_array().unwrap().clone();
        all.into_iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(chain(&backups[1]), backups);
    for id in ["none", &volume] {
        api.refused(404, "GET", "/cairn/v1/backups/{id}/chain", &format!("/cairn/v1/backups/{id}/chain"), None);
    }
    let at =
        |id: &str, what: &str| (format!("/cairn/v1/backups/{{id}}/{what}"), format!("/cairn/v1/backups/{id}/{what}"));
    let (route, path) = at(&backups[1], "merge");
    api.succeeds(&api.ok("POST", &route, &path, None));
    assert_eq!(chain(&backups[2]), [backups[0].clone(), backups[2].clone()]);
    api.refused(404, "POST", &route, &path, None);
    let (route, path) = at(&backups[2], "promote");
    api.succeeds(&api.ok("POST", &route, &path, None));
    api.refused(400, "POST", &route, &path, None);
    assert_eq!(chain(&backups[2]), [backups[2].clone()]);
    let (route, path) = at(&backups[0], "instant-restore");
    api.refused(400, "POST", &route, &path, Some(&json!({"size": 5})));
    let restored = api.ok("POST", &route, &path, Some(&json!({"name": "at once"})));
    api.succeeds(&restored);
    assert_eq!(first_byte(place, restored["volume_id"].as_str().unwrap()), 1);
    let tasks = api.ok("GET", "/cairn/v1/tasks", "/cairn/v1/tasks", None);
    assert!(tasks["tasks"].is_array());
    api.refused(404, "GET", "/cairn/v1/tasks/{id}", "/cairn/v1/tasks/none", None);
    api.refused(404, "DELETE", "/cairn/v1/tasks/{id}", "/cairn/v1/tasks/none", None);
    let ended = format!("/cairn/v1/tasks/{}", restored["task_id"].as_str().unwrap());
    api.refused(409, "DELETE", "/cairn/v1/tasks/{id}", &ended, None);
}

/// An upload that is under way for as long as nobody sends the rest is taken back, and the image can be sent once more.
fn cancelled(api: &Api) {
    const LENGTH: usize = 2 << 20;
    let fields = json!({"name": "i", "disk_format": "raw", "container_format": "bare"});
    let made = api.daemon.request("POST", "/image/v2/images", Some(&fields));
    let id = made.body["id"].as_str().unwrap();
    let path = format!("/image/v2/images/{id}");
    let head = upload(id, LENGTH);
    let mut stream = TcpStream::connect(api.daemon.url().strip_prefix("http://").unwrap()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&[&head[..], &vec![7; LENGTH / 2]].concat()).unwrap();
    drop(api.daemon.wait(&path, |answer| answer.body["status"] == "saving"));
    let tasks = api.ok("GET", "/cairn/v1/tasks", "/cairn/v1/tasks", None)["tasks"].as_array().unwrap().clone();
    let task = tasks.iter().find(|task| task["object_id"] == id).expect("the upload is a task");
    assert_eq!((&task["status"], &task["cancellable"]), (&json!("running"), &json!(true)), "{task}");
    let (route, of_task) = ("/cairn/v1/tasks/{id}", format!("/cairn/v1/tasks/{}", task["id"].as_str().unwrap()));
    let answer = api.ask("DELETE", route, &of_task, None);
    assert_eq!((answer.status, &answer.body["status"]), (202, &json!("cancelling")), "{}", answer.body);
    assert_eq!(answer.body["cancellable"], false, "{}", answer.body);
    drop(api.daemon.wait(&path, |answer| answer.body["status"] == "queued"));
    drop(api.daemon.wait(&of_task, |answer| answer.body["status"] == "cancelled"));
    drop(api.ok("GET", route, &of_task, None));
    api.refused(409, "DELETE", route, &of_task, None);
    // Whoever was sending is told, with what they send next.
    stream.write_all(&vec![7; LENGTH / 2]).unwrap();
    let mut said = String::new();
    let _length = stream.read_to_string(&mut said).unwrap();
    assert!(said.starts_with("HTTP/1.1 409 "), "{said}");
    let sent = api.daemon.raw(&[head, vec![7; LENGTH]].concat()).unwrap();
    assert_eq!((sent.status, &api.daemon.request("GET", &path, None).body["status"]), (204, &json!("active")));
    assert_eq!(api.daemon.request("DELETE", &path, None).status, 204);
}

fn limits(api: &Api) {
    let volume = api.made("volume", json!({"size": 1}));
    let places = [
        ("/cairn/v1/qos/pool", "/cairn/v1/qos/pool".to_owned()),
        ("/cairn/v1/qos/groups/{name}", "/cairn/v1/qos/groups/gold".to_owned()),
        ("/cairn/v1/qos/projects/{project}", "/cairn/v1/qos/projects/p".to_owned()),
        ("/cairn/v1/volumes/{id}/qos", format!("/cairn/v1/volumes/{volume}/qos")),
    ];
    for (route, path) in &places {
        let set = api.ok("PATCH", route, path, Some(&json!({"total_iops_sec": 500, "read_bytes_sec": "64MiB"})));
        assert_eq!(set["qos"]["rates"], json!({"total_iops_sec": 500, "read_bytes_sec": 64 << 20}), "{route}");
        let set = api.ok("PATCH", route, path, Some(&json!({"read_bytes_sec": null})));
        assert_eq!(
            (&set["qos"]["rates"], &api.ok("GET", route, path, None)["qos"]["rates"]),
            (&json!({"total_iops_sec": 500}), &json!({"total_iops_sec": 500}))
        );
        for wrong in [
            json!({}),
            json!({"bananas": 1}),
            json!({"total_iops_sec": "many"}),
            json!([]),
            json!({"total_iops_sec": [1]}),
        ] {
            api.refused(400, "PATCH", route, path, Some(&wrong));
        }
    }
    for method in ["GET", "DELETE"] {
        api.refused(404, method, places[3].0, "/cairn/v1/volumes/none/qos", None);
    }
    let more = json!({"total_iops_sec": 1});
    api.refused(404, "PATCH", places[3].0, "/cairn/v1/volumes/none/qos", Some(&more));
    let of_volume = api.ok("GET", places[3].0, &places[3].1, None);
    assert_eq!(
        (&of_volume["qos"]["group"], &of_volume["own"]),
        (&json!("project-p"), &json!({"total_iops_sec": "500"}))
    );
    assert!(api.ok("GET", "/cairn/v1/qos", "/cairn/v1/qos", None)["qos"].as_array().unwrap().len() >= 4);
    for (route, path) in &places {
        let gone = api.ask("DELETE", route, path, None);
        assert_eq!(gone.status, 204, "{route}: {}", gone.body);
    }
    assert_eq!(api.ok("GET", places[2].0, &places[2].1, None)["qos"], Value::Null);
    let (route, path) = ("/cairn/v1/quotas/{project}/images", "/cairn/v1/quotas/p/images");
    let set = api.ok("PATCH", route, path, Some(&json!({"images": 7})));
    assert_eq!(set["images"], json!({"limit": 7, "in_use": 0, "reserved": 0}));
    assert_eq!((&set["image_gigabytes"]["limit"], &api.ok("GET", route, path, None)), (&json!(1000), &set));
    for wrong in [json!({}), json!({"bananas": 1}), json!({"images": "many"}), json!([])] {
        api.refused(400, "PATCH", route, path, Some(&wrong));
    }
    assert_eq!(api.ok("GET", places[3].0, &places[3].1, None)["qos"]["group"], Value::Null);
}

fn past(api: &Api) {
    let closed = api.ok("POST", "/cairn/v1/metering/close", "/cairn/v1/metering/close", None);
    assert!(closed["closed"].as_u64() >= Some(5), "{closed}");
    for (list, route) in [("events", "/cairn/v1/events"), ("metering", "/cairn/v1/metering")] {
        let all = api.ok("GET", route, route, None);
        let ids: Vec<&str> = all[list].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).collect();
        assert!(ids.len() > 5 && all["next"].is_null());
        let mut newest_first = ids.clone();
        newest_first.sort_unstable_by(|a, b| b.cmp(a));
        assert!(list == "metering" || ids == newest_first, "{ids:?}");
        // By pages, and as lines.
        let (mut paged, mut marker) = (Vec::new(), String::new());
        loop {
            let page = api.ok("GET", route, &format!("{route}?limit=3{marker}"), None);
            paged.extend(page[list].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()));
            let Some(next) = page["next"].as_str() else { break };
            marker = format!("&marker={next}");
        }
        assert_eq!(paged, ids);
        let export = format!("{route}/export");
        let lines = api.ok("GET", &export, &export, None);
        let exported = lines.as_str().unwrap().lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        assert_eq!(exported.map(|one| one["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>(), ids);
        for wrong in ["limit=0", "limit=x", "marker=x", "from=yesterday", "bananas=1"] {
            api.refused(400, "GET", route, &format!("{route}?{wrong}"), None);
        }
        let none = api.ok("GET", route, &format!("{route}?from=2999-01-01"), None);
        assert_eq!(none[list], json!([]));
        assert_eq!(api.ok("GET", route, &format!("{route}?project=q"), None)[list], json!([]));
    }
    // What was refused is told with its reason, and what was done with its request.
    let refused = api.ok("GET", "/cairn/v1/events", "/cairn/v1/events?result=refused&action=volume.revert", None);
    let reasons: Vec<&str> =
        refused["events"].as_array().unwrap().iter().map(|event| event["reason"].as_str().unwrap()).collect();
    assert!(reasons.iter().any(|reason| reason.contains("another volume")), "{reasons:?}");
    let answer = api.daemon.request("POST", "/v3/p/volumes", Some(&json!({"volume": {"size": 1}})));
    let id = answer.body["volume"]["id"].as_str().unwrap();
    api.rests("volume", id);
    let request = answer.header("x-openstack-request-id").unwrap();
    let told = api.ok("GET", "/cairn/v1/events", &format!("/cairn/v1/events?request={request}"), None);
    let event = &told["events"][0];
    assert_eq!((told["events"].as_array().unwrap().len(), &event["action"]), (1, &json!("volume.create")));
    assert_eq!(
        (&event["result"], &event["object_id"], &event["user_id"]),
        (&json!("success"), &json!(id), &json!("u"))
    );
    let path = format!("/v3/p/volumes/{id}/action");
    assert_eq!(api.daemon.request("POST", &path, Some(&json!({"os-extend": {"new_size": 1}}))).status, 400);
    let told = api.ok("GET", "/cairn/v1/events", &format!("/cairn/v1/events?object={id}&result=refused"), None);
    assert_eq!(told["events"][0]["action"], "volume.os-extend", "{told}");
}

#[test]
fn metering_goes_on_where_a_killed_daemon_was() {
    let place = Place::new();
    let mut api = Api::new(place.start());
    let volume = api.made("volume", json!({"size": 2}));
    for round in 0..3 {
        write(&place, &volume, 0, round);
        // Counted, and then killed.
        drop(api.ok("POST", "/cairn/v1/metering/close", "/cairn/v1/metering/close", None));
        api.daemon.kill();
        api = Api::new(place.start());
    }
    drop(api.ok("POST", "/cairn/v1/metering/close", "/cairn/v1/metering/close", None));
    let path = format!("/cairn/v1/metering?object={volume}");
    let all = api.ok("GET", "/cairn/v1/metering", &path, None)["metering"].as_array().unwrap().clone();
    let written: u64 = all.iter().map(|meter| meter["io"]["write_bytes"].as_u64().unwrap()).sum();
    assert_eq!(written, 3 * 4096, "{all:?}");
    for pair in all.windows(2) {
        assert_eq!(pair[1]["to"], pair[0]["from"], "without gaps");
    }
    assert!(all.iter().all(|meter| meter["gib"] == 2));
    assert!(api.daemon.stop());
}
