//! Snapshots of several volumes at one moment.

use axum::{Json, extract::State};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    fault::Answer,
    rest::{Body, Context, Rest},
};

/// Of which volumes.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Create {
    /// Ids of 1 to 256 volumes of one project.
    volume_ids: Vec<String>,
    /// Of each of the snapshots.
    #[serde(default)]
    name: Option<String>,
}

/// A snapshot that is being taken.
#[derive(Serialize, ToSchema)]
pub(super) struct Taken {
    id: String,
    volume_id: String,
}

/// Snapshots that are being taken; as snapshots of Block Storage they are shown from now on.
#[derive(Serialize, ToSchema)]
pub(super) struct AllTaken {
    task_id: String,
    snapshots: Vec<Taken>,
}

/// Takes snapshots of several volumes at one moment, with clients writing: all, or none.
#[utoipa::path(post, path = "/cairn/v1/group-snapshots", tag = "versions", request_body = Create,
    responses((status = 202, description = "They are being taken.", body = AllTaken)))]
pub(super) async fn create(
    State(rest): State<Rest>,
    context: Context,
    Body(body): Body<Create>,
) -> Answer<(StatusCode, Json<AllTaken>)> {
    let snapshots = rest.block.freeze_volumes(&context.caller, &body.volume_ids, body.name)?;
    let snapshots = snapshots.into_iter().map(|one| Taken { id: one.id, volume_id: one.volume_id }).collect();
    Ok((StatusCode::ACCEPTED, Json(AllTaken { task_id: context.caller.task, snapshots })))
}
