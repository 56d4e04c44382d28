//! `/cairn/v1`: what the published interface lacks. Rules of projects and roles are those of [`crate::rest`]; what routes mean is in
//! [`crate::block`].
//!
//! Invariant: a route is added together with its description, so the document at `/cairn/v1/openapi.json` has exactly the routes that are
//! served.

mod backups;
mod document;
mod events;
mod input;
mod metering;
mod pools;
mod qos;
mod quotas;
mod snapshots;
mod tasks;
mod volumes;

use axum::Router;
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::rest::Rest;

/// The routes, and what the document says of them before it is completed.
fn described() -> (Router<Rest>, utoipa::openapi::OpenApi) {
    OpenApiRouter::with_openapi(document::Description::openapi())
        .routes(routes!(document::show))
        .routes(routes!(events::list))
        .routes(routes!(events::export))
        .routes(routes!(metering::list))
        .routes(routes!(metering::export))
        .routes(routes!(metering::close))
        .routes(routes!(pools::list))
        .routes(routes!(tasks::list))
        .routes(routes!(tasks::show, tasks::cancel))
        .routes(routes!(volumes::diff))
        .routes(routes!(volumes::lineage))
        .routes(routes!(volumes::revert))
        .routes(routes!(snapshots::create))
        .routes(routes!(backups::chain))
        .routes(routes!(backups::merge))
        .routes(routes!(backups::promote))
        .routes(routes!(backups::instant_restore))
        .routes(routes!(quotas::show, quotas::change))
        .routes(routes!(qos::list))
        .routes(routes!(qos::show_pool, qos::change_pool, qos::clear_pool))
        .routes(routes!(qos::show_group, qos::change_group, qos::clear_group))
        .routes(routes!(qos::show_project, qos::change_project, qos::clear_project))
        .routes(routes!(qos::show_volume, qos::change_volume, qos::clear_volume))
        .split_for_parts()
}

/// All routes of `/cairn/v1`.
pub(crate) fn router() -> Router<Rest> {
    described().0
}
