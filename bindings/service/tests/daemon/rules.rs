//! The rules of the interface, each by the client that meets it: fields, limits, attached volumes; and what its owner is told of a failure.

use super::{clients::script, harness::Place};
use serde_json::json;
use std::collections::BTreeSet;

#[test]
fn objects_have_the_fields_of_their_edition() {
    script("fields.py");
}

#[test]
fn attached_volumes() {
    script("in_use.py");
}

#[test]
fn quotas_types_and_what_is_not_served() {
    script("limits.py");
}

#[test]
fn filters_and_default_types() {
    script("editions.py");
}

#[test]
fn what_failed_is_told_to_its_owner() {
    let place = Place::new();
    let daemon = place.start();
    let made = daemon.request("POST", "/v3/p/volumes", Some(&json!({"volume": {"size": 1}})));
    let id = made.body["volume"]["id"].as_str().unwrap();
    let path = format!("/v3/p/volumes/{id}");
    drop(daemon.wait(&path, |answer| answer.body["volume"]["status"] == "available"));
    assert_eq!(daemon.request("GET", "/v3/p/messages", None).body["messages"], json!([]));
    // Somebody with the control socket takes the volume away, and the service finds out.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (client, _) = cairn_service::control::find_server(&place.path().join("pool")).await.unwrap().unwrap();
        drop(client.delete_volume(&format!("volume-{id}"), false, true).await.unwrap());
    });
    let extended = daemon.request("POST", &format!("{path}/action"), Some(&json!({"os-extend": {"new_size": 2}})));
    assert_eq!(extended.status, 202, "{}", extended.body);
    drop(daemon.wait(&path, |answer| answer.body["volume"]["status"] == "error_extending"));
    let all = daemon.request("GET", &format!("/v3/p/messages?resource_uuid={id}"), None).body["messages"].clone();
    let message = &all[0];
    assert_eq!(all.as_array().unwrap().len(), 1, "{all}");
    let fields: BTreeSet<&str> = message.as_object().unwrap().keys().map(String::as_str).collect();
    let wanted = BTreeSet::from([
        "created_at",
        "event_id",
        "guaranteed_until",
        "id",
        "links",
        "message_level",
        "request_id",
        "resource_type",
        "resource_uuid",
        "user_message",
    ]);
    assert_eq!(fields, wanted);
    assert_eq!((&message["message_level"], &message["resource_uuid"]), (&json!("ERROR"), &json!(id)));
    assert_eq!(message["request_id"].as_str(), extended.header("x-openstack-request-id"), "{message}");
    // It is its project's, is shown alone, and goes when it was read.
    let one = format!("/v3/p/messages/{}", message["id"].as_str().unwrap());
    assert_eq!(daemon.request("GET", &one, None).body["message"], *message);
    let by_other = |path: &str| {
        let others = ["X-Auth-Token: u:q", "OpenStack-API-Version: volume 3.71"];
        daemon.request_with("GET", path, &others, None).body["messages"].clone()
    };
    assert_eq!(by_other("/v3/q/messages"), json!([]));
    // The command line names a project, and has no word for all of them.
    let found = by_other("/v3/q/messages?project_id=p");
    assert_eq!(found[0]["id"], message["id"], "{found}");
    assert_eq!(daemon.request("DELETE", &one, None).status, 204);
    assert_eq!(daemon.request("GET", &one, None).status, 404);
    // The volume can be deleted, and nothing of it counts any more.
    assert_eq!(daemon.request("DELETE", &path, None).status, 202);
    drop(daemon.wait(&path, |answer| answer.status == 404));
    let used = daemon.request("GET", "/v3/p/os-quota-sets/p?usage=true", None).body["quota_set"]["gigabytes"].clone();
    assert_eq!((&used["in_use"], &used["reserved"]), (&json!(0), &json!(0)));
    assert!(daemon.stop());
}
