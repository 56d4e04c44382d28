//! Tokens, catalogs, projects and users as clients of Keystone v3 read them.

use serde_json::{Value, json};

use super::Token;
use crate::{block::Role, rest::moment};

/// Everything is in one domain and one region.
pub(super) const DOMAIN: &str = "default";
const REGION: &str = "RegionOne";

fn domain() -> Value {
    json!({"id": DOMAIN, "name": "Default"})
}

fn role_id(role: Role) -> String {
    format!("role-{}", role.as_str())
}

/// A role with what it includes.
fn roles(role: Role) -> Vec<Value> {
    let has = [Role::Admin, Role::Member, Role::Reader].into_iter().filter(|one| *one <= role);
    has.map(|one| json!({"id": role_id(one), "name": one.as_str()})).collect()
}

fn endpoints(service: &str, address: &str) -> Vec<Value> {
    let of = |interface: &str| {
        json!({
            "id": format!("{service}-{interface}"),
            "interface": interface,
            "region": REGION,
            "region_id": REGION,
            "url": address,
        })
    };
    ["public", "internal", "admin"].map(of).into()
}

/// Where the services are, for a project.
pub(super) fn catalog(url: &str, project: &str) -> Value {
    let block =
        format!("{url}/v3/{}", percent_encoding::utf8_percent_encode(project, percent_encoding::NON_ALPHANUMERIC));
    let block = block.replace("%2D", "-");
    let entry = |id: &str, kind: &str, name: &str, address: &str| json!({"id": id, "type": kind, "name": name, "endpoints": endpoints(id, address)});
    json!([
        entry("block-storage", "block-storage", "cinder", &block),
        entry("volumev3", "volumev3", "cinderv3", &block),
        entry("identity", "identity", "keystone", &format!("{url}/identity/v3")),
    ])
}

fn seconds(at: u64) -> String {
    format!("{}Z", moment(at.saturating_mul(1_000_000)))
}

/// A token.
pub(super) fn token(url: &str, token: &Token) -> Value {
    let mut view = json!({
        "methods": ["password"],
        "user": {"id": token.user, "name": token.user, "domain": domain(), "password_expires_at": null},
        "audit_ids": [],
        "issued_at": seconds(token.issued_s),
        "expires_at": seconds(token.expires_s),
    });
    if let (Some(project), Some(fields)) = (&token.project, view.as_object_mut()) {
        drop(fields.insert("project".to_owned(), json!({"id": project, "name": project, "domain": domain()})));
        drop(fields.insert("is_domain".to_owned(), json!(false)));
        drop(fields.insert("roles".to_owned(), json!(roles(token.role))));
        drop(fields.insert("catalog".to_owned(), catalog(url, project)));
    }
    json!({"token": view})
}

/// A project. In dev mode each name is one.
pub(super) fn project(url: &str, name: &str) -> Value {
    json!({
        "id": name,
        "name": name,
        "description": "",
        "enabled": true,
        "domain_id": DOMAIN,
        "parent_id": DOMAIN,
        "is_domain": false,
        "tags": [],
        "options": {},
        "links": {"self": format!("{url}/identity/v3/projects/{name}")},
    })
}

/// A user.
pub(super) fn user(url: &str, name: &str) -> Value {
    json!({
        "id": name,
        "name": name,
        "enabled": true,
        "domain_id": DOMAIN,
        "password_expires_at": null,
        "options": {},
        "links": {"self": format!("{url}/identity/v3/users/{name}")},
    })
}

/// What is served under `/identity/v3`.
pub(super) fn version(url: &str) -> Value {
    json!({
        "id": "v3.14",
        "status": "stable",
        "updated": "2020-04-07T00:00:00Z",
        "links": [{"rel": "self", "href": format!("{url}/identity/v3/")}],
        "media-types": [{"base": "application/json", "type": "application/vnd.openstack.identity-v3+json"}],
    })
}
