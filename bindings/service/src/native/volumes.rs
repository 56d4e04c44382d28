//! Versions: differences, lineage, reverts.

use axum::{Json, extract::State};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::input::{Search, said};
use crate::{
    block::{Link, LinkKind},
    fault::Answer,
    rest::{At, Body, Context, Rest},
};

/// Which versions.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Query {
    /// The older one: id of a volume or snapshot; left out: nothing, so that all data of the newer one are told.
    from: Option<String>,
    /// The newer one.
    to: String,
    /// Where to start: 0, or the `next` of the page before.
    #[serde(default)]
    #[param(required = false)]
    offset: u64,
}

/// A range, in bytes.
#[derive(Serialize, ToSchema)]
pub(super) struct ExtentView {
    offset: u64,
    length: u64,
    /// What the newer version holds there: `data` or `hole`.
    kind: String,
}

/// Where the newer version differs.
#[derive(Serialize, ToSchema)]
pub(super) struct Difference {
    extents: Vec<ExtentView>,
    /// Where to go on; null: that was all.
    next: Option<u64>,
}

/// Where two versions differ, to the block, without reading their data.
#[utoipa::path(get, path = "/cairn/v1/diff", tag = "versions", params(Query),
    responses((status = 200, description = "A page of ranges, by offset.", body = Difference)))]
pub(super) async fn diff(
    State(rest): State<Rest>,
    context: Context,
    Search(query): Search<Query>,
) -> Answer<Json<Difference>> {
    let page = rest.block.diff(&context.caller, query.from.as_deref(), &query.to, query.offset).await?;
    let extents = page.extents.into_iter().map(|extent| ExtentView {
        offset: extent.offset,
        length: extent.length,
        kind: match extent.kind {
            cairn_engine::ExtentKind::Data => "data",
            cairn_engine::ExtentKind::Hole => "hole",
        }
        .to_owned(),
    });
    Ok(Json(Difference { extents: extents.collect(), next: page.next }))
}

/// A version. Sizes in bytes.
#[derive(Serialize, ToSchema)]
pub(super) struct Version {
    /// `volume`, `snapshot`, `internal` (kept by the service itself) or `hidden` (of another project).
    kind: String,
    id: Option<String>,
    name: Option<String>,
    /// Of a snapshot: its volume.
    volume_id: Option<String>,
    size: u64,
    /// Data that it refers to, shared or not.
    allocated: u64,
    created_at: String,
}

/// A volume and what it comes from, the newest first.
#[derive(Serialize, ToSchema)]
pub(super) struct Lineage {
    lineage: Vec<Version>,
}

fn version(link: Link) -> Version {
    let (kind, id, name, volume_id) = match link.kind {
        LinkKind::Volume(volume) => ("volume", Some(volume.id), volume.name, None),
        LinkKind::Snapshot(snapshot) => ("snapshot", Some(snapshot.id), snapshot.name, Some(snapshot.volume_id)),
        LinkKind::Internal => ("internal", None, None, None),
        LinkKind::Hidden => ("hidden", None, None, None),
    };
    Version {
        kind: kind.to_owned(),
        id,
        name,
        volume_id,
        size: link.size,
        allocated: link.allocated,
        created_at: said(link.created_ms.saturating_mul(1000)),
    }
}

/// The chain of snapshots that a volume hangs on, through clones too.
#[utoipa::path(get, path = "/cairn/v1/volumes/{id}/lineage", tag = "versions", params(("id" = String, Path)),
    responses((status = 200, description = "The chain.", body = Lineage)))]
pub(super) async fn lineage(State(rest): State<Rest>, context: Context, At(id): At<String>) -> Answer<Json<Lineage>> {
    let links = rest.block.lineage(&context.caller, &id).await?;
    Ok(Json(Lineage { lineage: links.into_iter().map(version).collect() }))
}

/// To which snapshot.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Revert {
    /// Any snapshot of the volume.
    snapshot_id: String,
}

/// A task was begun.
#[derive(Serialize, ToSchema)]
pub(super) struct Begun {
    /// See `/cairn/v1/tasks`.
    pub(super) task_id: String,
}

/// Sets a volume back to any of its snapshots. The others stay, and the volume stays as large as it is.
#[utoipa::path(post, path = "/cairn/v1/volumes/{id}/revert", tag = "versions", params(("id" = String, Path)), request_body = Revert,
    responses((status = 202, description = "It is begun.", body = Begun)))]
pub(super) async fn revert(
    State(rest): State<Rest>,
    context: Context,
    At(id): At<String>,
    Body(body): Body<Revert>,
) -> Answer<(StatusCode, Json<Begun>)> {
    rest.block.revert_volume(&context.caller, &id, &body.snapshot_id, true)?;
    Ok((StatusCode::ACCEPTED, Json(Begun { task_id: context.caller.task })))
}
