//! Block Storage v3 over HTTP: paths, bodies and answers as the published interface has them. What they mean is in [`crate::block`].
//!
//! Invariants:
//! - An answer holds exactly the fields that the interface has for the request's microversion: strict clients refuse others.
//! - Who asks is settled before anything else ([`context::Context`]); a reader changes nothing.

mod attachments;
mod backups;
mod comparisons;
mod context;
mod default_types;
mod dictionary;
mod discovery;
mod errors;
mod filters;
mod group_snapshots;
mod group_types;
mod groups;
mod images;
mod input;
mod listing;
mod messages;
mod qos;
mod quotas;
mod service;
mod snapshots;
mod time;
mod trail;
mod transfers;
mod types;
mod volume_actions;
mod volume_view;
mod volumes;

pub(crate) use context::{Context, VERSION_HEADER, split_project, version_of};
pub(crate) use images::is_upload;
pub(crate) use input::{At, Body};
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

/// What paths of this service's own interface begin with.
pub(crate) const NATIVE: &str = "/cairn/v1";

/// All routes of `/v3`, without the project: [`split_project`] takes that out of the path before.
pub(crate) fn router(rest: Rest) -> Router {
    let routes = Router::new()
        .merge(volume_routes())
        .merge(snapshot_routes())
        .merge(backup_routes())
        .merge(group_routes())
        .merge(setting_routes())
        .merge(service_routes());
    Router::new()
        .route("/", get(discovery::root))
        .route("/v3", get(discovery::v3))
        .route("/v3/", get(discovery::v3))
        .nest("/v3", routes)
        .merge(crate::native::router())
        .merge(images::router())
        .layer(axum::middleware::from_fn_with_state(rest.clone(), trail::watch))
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

fn group_routes() -> Router<Rest> {
    Router::new()
        .route("/groups", get(groups::list).post(groups::create))
        .route("/groups/detail", get(groups::detail))
        .route("/groups/action", post(groups::create_from))
        .route("/groups/{id}", get(groups::show).put(groups::update))
        .route("/groups/{id}/action", post(groups::action))
        .route("/group_snapshots", get(group_snapshots::list).post(group_snapshots::create))
        .route("/group_snapshots/detail", get(group_snapshots::detail))
        .route(
            "/group_snapshots/{id}",
            get(group_snapshots::show).put(group_snapshots::update).delete(group_snapshots::delete),
        )
        .route("/group_snapshots/{id}/action", post(group_snapshots::action))
        .route("/group_types", get(group_types::list).post(group_types::create))
        .route("/group_types/{id}", get(group_types::show).put(group_types::update).delete(group_types::delete))
        .route("/group_types/{id}/group_specs", get(group_types::specs).post(group_types::set_specs))
        .route(
            "/group_types/{id}/group_specs/{key}",
            get(group_types::spec).put(group_types::set_spec).delete(group_types::delete_spec),
        )
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
        .route("/default-types", get(default_types::list))
        // As the published interface writes it.
        .route("/default-types/", get(default_types::list))
        .route(
            "/default-types/{project}",
            get(default_types::show).put(default_types::set).delete(default_types::unset),
        )
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
        .route("/resource_filters", get(filters::list))
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

/// A path that is served, by other methods.
pub(crate) async fn wrong_method(method: axum::http::Method, uri: axum::http::Uri) -> Fault {
    Fault::new(FaultKind::BadMethod, format!("{method} does not apply to {}", uri.path()))
}
