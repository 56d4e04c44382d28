//! What a request came to, for the audit: what was refused is told of here; what was done tells of itself ([`crate::block`]).

use std::sync::{Arc, Mutex, PoisonError};

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use http::Method;

use super::Rest;
use crate::{block::Caller, catalog::Verdict};

/// Filled when it is known who asks.
#[derive(Clone, Debug, Default)]
pub(super) struct Trail(Arc<Mutex<Option<Caller>>>);

impl Trail {
    pub(super) fn set(&self, caller: &Caller) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(caller.clone());
    }

    fn take(&self) -> Option<Caller> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Why a request was refused: beside the answer, for the audit.
#[derive(Clone)]
pub(super) struct Reason(pub(super) String);

/// Last parts of paths that say what is done, whatever the method is.
const VERBS: [&str; 22] = [
    "accept",
    "associate",
    "cancel",
    "close",
    "defaults",
    "delete_keys",
    "detail",
    "diff",
    "disassociate",
    "disassociate_all",
    "export",
    "export_record",
    "import_record",
    "instant-restore",
    "lineage",
    "chain",
    "merge",
    "promote",
    "restore",
    "revert",
    "summary",
    "associations",
];

/// What is asked for, by the route: `volume.create`, `volume.metadata.update`, `backup.restore`.
pub(super) fn deed(method: &Method, route: &str) -> String {
    let rest = route.strip_prefix("/v3/").or_else(|| route.strip_prefix("/cairn/v1/"));
    let rest = rest.or_else(|| route.strip_prefix("/image/v2/")).unwrap_or(route);
    let mut words = rest.split('/').filter(|word| !word.is_empty() && !word.starts_with('{'));
    let collection = words.next().unwrap_or("service");
    let kind = match collection {
        "types" => "volume_type",
        "qos-specs" => "qos_specs",
        "os-quota-sets" => "quota",
        "os-quota-class-sets" => "quota_class",
        "volume-transfers" | "os-volume-transfer" => "transfer",
        "metering" | "qos" => collection,
        plural => plural.strip_suffix('s').unwrap_or(plural),
    };
    let mut name = kind.replace('-', "_");
    let mut is_said = false;
    for word in words {
        name.push('.');
        name.push_str(word);
        is_said = VERBS.contains(&word);
    }
    if !is_said {
        name.push_str(match *method {
            Method::POST => ".create",
            Method::PUT | Method::PATCH => ".update",
            Method::DELETE => ".delete",
            _ => ".show",
        });
    }
    name
}

/// Whether a request may change something. Some that do are asked for with `GET`, as the published interface has it.
pub(super) fn changes(method: &Method, path: &str) -> bool {
    let last = path.rsplit('/').next().unwrap_or_default();
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
        || matches!(last, "associate" | "disassociate" | "disassociate_all")
}

/// Tells of what was refused, or failed before anything was begun.
pub(super) async fn watch(State(rest): State<Rest>, mut request: Request, next: Next) -> Response {
    let trail = Trail::default();
    let watched = changes(request.method(), request.uri().path());
    drop(request.extensions_mut().insert(trail.clone()));
    let response = next.run(request).await;
    let status = response.status();
    if watched
        && (status.is_client_error() || status.is_server_error())
        && let Some(caller) = trail.take()
    {
        let reason =
            response.extensions().get::<Reason>().map_or_else(|| status.to_string(), |reason| reason.0.clone());
        let verdict = if status.is_server_error() { Verdict::Failed } else { Verdict::Refused };
        if let Err(fault) = rest.block.refused(&caller, verdict, &reason) {
            tracing::error!(request = caller.request, %fault, "an audit event cannot be recorded");
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deeds_are_named_by_their_routes() {
        for (method, route, name) in [
            (Method::POST, "/v3/volumes", "volume.create"),
            (Method::PUT, "/v3/volumes/{id}", "volume.update"),
            (Method::DELETE, "/v3/volumes/{id}/metadata/{key}", "volume.metadata.delete"),
            (Method::POST, "/v3/backups/{id}/restore", "backup.restore"),
            (Method::PUT, "/v3/qos-specs/{id}/delete_keys", "qos_specs.delete_keys"),
            (Method::GET, "/v3/qos-specs/{id}/associate", "qos_specs.associate"),
            (Method::POST, "/v3/os-volume-transfer/{id}/accept", "transfer.accept"),
            (Method::PUT, "/v3/os-quota-sets/{project}", "quota.update"),
            (Method::POST, "/v3/types/{id}/extra_specs", "volume_type.extra_specs.create"),
            (Method::POST, "/cairn/v1/group-snapshots", "group_snapshot.create"),
            (Method::POST, "/cairn/v1/volumes/{id}/revert", "volume.revert"),
            (Method::PATCH, "/cairn/v1/qos/pool", "qos.pool.update"),
            (Method::DELETE, "/cairn/v1/tasks/{id}", "task.delete"),
            (Method::PUT, "/image/v2/images/{id}/file", "image.file.update"),
        ] {
            assert_eq!(deed(&method, route), name);
        }
        assert!(changes(&Method::POST, "/v3/x") && changes(&Method::GET, "/v3/qos-specs/1/associate"));
        assert!(!changes(&Method::GET, "/v3/qos-specs/1/associations"));
    }
}
