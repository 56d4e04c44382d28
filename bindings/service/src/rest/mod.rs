//! Block Storage v3 over HTTP: paths, bodies and answers as the published interface has them. What they mean is in [`crate::block`].
//!
//! Invariants:
//! - An answer holds exactly the fields that the interface has for the request's microversion: strict clients refuse others.
//! - Who asks is settled before anything else ([`context::Context`]); a reader changes nothing.

mod attachments;
mod backups;
mod context;
mod discovery;
mod errors;
mod input;
mod listing;
mod messages;
mod qos;
mod quotas;
mod service;
mod snapshots;
mod time;
mod transfers;
mod types;
mod volume_actions;
mod volume_view;
mod volumes;

pub(crate) use context::{VERSION_HEADER, split_project, version_of};
pub(crate) use time::moment;

use axum::{
    Router,
    routing::{delete, get, post, put},
};

use crate::{
    block::Block,
    fault::{Fault, FaultKind},
    identity::Identity,
};

/// What the routes work on. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Rest {
    pub(crate) block: Block,
    pub(crate) identity: Identity,
    /// How clients reach this server, without a slash at the end.
    pub(crate) url: String,
}

/// All routes of `/v3`, without the project: [`split_project`] takes that out of the path before.
pub(crate) fn router(rest: Rest) -> Router {
    let routes = Router::new()
        .merge(volume_routes())
        .merge(snapshot_routes())
        .merge(backup_routes())
        .merge(setting_routes())
        .merge(service_routes());
    Router::new()
        .route("/", get(discovery::root))
        .route("/v3", get(discovery::v3))
        .route("/v3/", get(discovery::v3))
        .nest("/v3", routes)
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .with_state(rest)
}

fn volume_routes() -> Router<Rest> {
    Router::new()
        .route("/volumes", get(volumes::list).post(volumes::create))
        .route("/volumes/detail", get(volumes::detail))
        .route("/volumes/summary", get(volumes::summary))
        .route("/volumes/{id}", get(volumes::show).put(volumes::update).delete(volumes::delete))
        .route("/volumes/{id}/metadata", get(volumes::metadata).post(volumes::add_metadata).put(volumes::set_metadata))
        .route(
            "/volumes/{id}/metadata/{key}",
            get(volumes::one_entry).put(volumes::set_entry).delete(volumes::delete_entry),
        )
        .route("/volumes/{id}/action", post(volume_actions::action))
        .route("/attachments", get(attachments::list).post(attachments::create))
        .route("/attachments/detail", get(attachments::detail))
        .route("/attachments/{id}", get(attachments::show).put(attachments::update).delete(attachments::delete))
        .route("/attachments/{id}/action", post(attachments::action))
        .route("/volume-transfers", get(transfers::list).post(transfers::create))
        .route("/volume-transfers/detail", get(transfers::detail))
        .route("/volume-transfers/{id}", get(transfers::show).delete(transfers::delete))
        .route("/volume-transfers/{id}/accept", post(transfers::accept))
        .route("/os-volume-transfer", get(transfers::list).post(transfers::create))
        .route("/os-volume-transfer/detail", get(transfers::detail))
        .route("/os-volume-transfer/{id}", get(transfers::show).delete(transfers::delete))
        .route("/os-volume-transfer/{id}/accept", post(transfers::accept))
}

fn snapshot_routes() -> Router<Rest> {
    Router::new()
        .route("/snapshots", get(snapshots::list).post(snapshots::create))
        .route("/snapshots/detail", get(snapshots::detail))
        .route("/snapshots/{id}", get(snapshots::show).put(snapshots::update).delete(snapshots::delete))
        .route(
            "/snapshots/{id}/metadata",
            get(snapshots::metadata).post(snapshots::add_metadata).put(snapshots::set_metadata),
        )
        .route(
            "/snapshots/{id}/metadata/{key}",
            get(snapshots::one_entry).put(snapshots::set_entry).delete(snapshots::delete_entry),
        )
        .route("/snapshots/{id}/action", post(snapshots::action))
}

fn backup_routes() -> Router<Rest> {
    Router::new()
        .route("/backups", get(backups::list).post(backups::create))
        .route("/backups/detail", get(backups::detail))
        .route("/backups/import_record", post(backups::import))
        .route("/backups/{id}", get(backups::show).put(backups::update).delete(backups::delete))
        .route("/backups/{id}/restore", post(backups::restore))
        .route("/backups/{id}/export_record", get(backups::export))
        .route("/backups/{id}/action", post(backups::action))
}

fn setting_routes() -> Router<Rest> {
    Router::new()
        .route("/types", get(types::list).post(types::create))
        .route("/types/{id}", get(types::show).put(types::update).delete(types::delete))
        .route("/types/{id}/extra_specs", get(types::specs).post(types::set_specs))
        .route("/types/{id}/extra_specs/{key}", get(types::spec).put(types::set_spec).delete(types::delete_spec))
        .route("/types/{id}/encryption", get(types::encryption))
        .route("/types/{id}/os-volume-type-access", get(types::access))
        .route("/types/{id}/action", post(types::action))
        .route("/qos-specs", get(qos::list).post(qos::create))
        .route("/qos-specs/{id}", get(qos::show).put(qos::update).delete(qos::delete))
        .route("/qos-specs/{id}/delete_keys", put(qos::delete_keys))
        .route("/qos-specs/{id}/associations", get(qos::associations))
        .route("/qos-specs/{id}/associate", get(qos::associate))
        .route("/qos-specs/{id}/disassociate", get(qos::disassociate))
        .route("/qos-specs/{id}/disassociate_all", get(qos::disassociate_all))
        .route("/os-quota-sets/{project}", get(quotas::show).put(quotas::update).delete(quotas::delete))
        .route("/os-quota-sets/{project}/defaults", get(quotas::defaults))
        .route("/os-quota-class-sets/{class}", get(quotas::class).put(quotas::update_class))
}

fn service_routes() -> Router<Rest> {
    Router::new()
        .route("/limits", get(service::limits))
        .route("/extensions", get(service::extensions))
        .route("/os-services", get(service::services))
        .route("/os-availability-zone", get(service::zones))
        .route("/scheduler-stats/get_pools", get(service::pools))
        .route("/messages", get(messages::list))
        .route("/messages/{id}", get(messages::show))
        .route("/messages/{id}", delete(messages::delete))
}

async fn unknown(uri: axum::http::Uri) -> Fault {
    Fault::new(FaultKind::NotFound, format!("The resource could not be found: {}", uri.path()))
}

async fn wrong_method(method: axum::http::Method, uri: axum::http::Uri) -> Fault {
    Fault::new(FaultKind::BadMethod, format!("{method} does not apply to {}", uri.path()))
}
