//! Tokens, catalogs, projects and users as clients of Keystone v3 read them.

use serde_json::{Value, json};

use crate::{domain::Role, rest::moment};

/// Everything is in one domain and one region.
pub(super) const DOMAIN: &str = "default";
const REGION: &str = "RegionOne";

fn domain() -> Value {
    json!({"id": DOMAIN, "name": "Default"})
}

/// A role.
pub(super) fn role(role: Role) -> Value {
    json!({"id": role.id(), "name": role.as_str(), "domain_id": null, "description": null, "options": {}})
}

/// A role with what it includes, in brief.
fn roles(role: Role) -> Vec<Value> {
    let has = Role::ALL.into_iter().filter(|one| *one <= role);
    has.map(|one| json!({"id": one.id(), "name": one.as_str()})).collect()
}

/// The one domain.
pub(super) fn the_domain() -> Value {
    json!({"id": DOMAIN, "name": "Default", "enabled": true, "description": "", "options": {}, "tags": []})
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
        entry("image", "image", "glance", &format!("{url}/image")),
    ])
}

fn seconds(at: u64) -> String {
    format!("{}Z", moment(at.saturating_mul(1_000_000)))
}

/// What is said of a token: ids with names.
pub(super) struct TokenView<'a> {
    pub(super) methods: &'a [&'a str],
    pub(super) audit: Option<&'a str>,
    pub(super) user: (&'a str, &'a str),
    pub(super) project: Option<(&'a str, &'a str)>,
    pub(super) role: Role,
    pub(super) issued_s: u64,
    pub(super) expires_s: u64,
    /// Id and name of the application credential, and whether it may do all that its user may.
    pub(super) credential: Option<(&'a str, &'a str, bool)>,
    pub(super) with_catalog: bool,
}

/// A token.
pub(super) fn token(url: &str, token: &TokenView<'_>) -> Value {
    let audit: Vec<&str> = token.audit.into_iter().collect();
    let (id, name) = token.user;
    let mut view = json!({
        "methods": token.methods,
        "user": {"id": id, "name": name, "domain": domain(), "password_expires_at": null},
        "audit_ids": audit,
        "issued_at": seconds(token.issued_s),
        "expires_at": seconds(token.expires_s),
    });
    let Some(fields) = view.as_object_mut() else { return view };
    let mut put = |key: &str, value: Value| drop(fields.insert(key.to_owned(), value));
    if let Some((id, name)) = token.project {
        put("project", json!({"id": id, "name": name, "domain": domain()}));
        put("is_domain", json!(false));
        put("roles", json!(roles(token.role)));
        if token.with_catalog {
            put("catalog", catalog(url, id));
        }
    }
    if let Some((id, name, unrestricted)) = token.credential {
        put("application_credential", json!({"id": id, "name": name, "restricted": !unrestricted}));
    }
    json!({"token": view})
}

/// What is said of a project.
pub(super) struct ProjectView<'a> {
    pub(super) id: &'a str,
    pub(super) name: &'a str,
    pub(super) description: &'a str,
    pub(super) enabled: bool,
}

/// A project.
pub(super) fn project(url: &str, project: &ProjectView<'_>) -> Value {
    json!({
        "id": project.id,
        "name": project.name,
        "description": project.description,
        "enabled": project.enabled,
        "domain_id": DOMAIN,
        "parent_id": DOMAIN,
        "is_domain": false,
        "tags": [],
        "options": {},
        "links": {"self": format!("{url}/identity/v3/projects/{}", project.id)},
    })
}

/// A user.
pub(super) fn user(url: &str, id: &str, name: &str, enabled: bool) -> Value {
    json!({
        "id": id,
        "name": name,
        "enabled": enabled,
        "domain_id": DOMAIN,
        "password_expires_at": null,
        "options": {},
        "links": {"self": format!("{url}/identity/v3/users/{id}")},
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
