//! Volumes: create, list, change, delete.

use axum::{extract, http::StatusCode};
use cairn_engine::{ErrorKind, Target, VolumeInfo, VolumeOptions};

use crate::{
    Result,
    api::{CreateVolume, Deleted, Deletion, Listing, Rename, Resize, Revert, Volumes},
    error::Failure,
    extract::{Json, Path, Query},
    state::State,
};

pub(super) async fn list(
    extract::State(state): extract::State<State>,
    Query(query): Query<Listing>,
) -> Result<Json<Volumes>> {
    if query.volume.is_some() {
        return Err(Failure::invalid("\"volume\" selects snapshots; one volume is at /v1/volumes/NAME"));
    }
    Ok(Json(Volumes { volumes: state.pool.volumes(query.exclusive).await? }))
}

pub(super) async fn create(
    extract::State(state): extract::State<State>,
    Json(body): Json<CreateVolume>,
) -> Result<(StatusCode, Json<VolumeInfo>)> {
    if body.options.filling {
        return Err(Failure::invalid("\"filling\" is for restores: make the volume with POST /v1/restores/instant"));
    }
    {
        // Let go of at once, or the answer would count this request as a user of the volume.
        let _volume = state.pool.create_volume(&body.name, body.size, body.options).await?;
    }
    Ok((StatusCode::CREATED, Json(state.pool.volume_info(&body.name).await?)))
}

pub(super) async fn info(
    extract::State(state): extract::State<State>,
    Path(name): Path<String>,
    Query(query): Query<Listing>,
) -> Result<Json<VolumeInfo>> {
    if !query.exclusive {
        return Ok(Json(state.pool.volume_info(&name).await?));
    }
    let found = state.pool.volumes(true).await?.into_iter().find(|volume| volume.name == name);
    Ok(Json(found.ok_or_else(|| Failure::new(ErrorKind::NotFound, format!("volume \"{name}\" does not exist")))?))
}

pub(super) async fn delete(
    extract::State(state): extract::State<State>,
    Path(name): Path<String>,
    Query(query): Query<Deletion>,
) -> Result<Json<Deleted>> {
    let deleted = state.fillings.delete_volume(&state.pool, &name, query.cascade).await?;
    if query.wait {
        state.pool.wait_deleted().await?;
    }
    Ok(Json(Deleted { deleted }))
}

pub(super) async fn set_options(
    extract::State(state): extract::State<State>,
    Path(name): Path<String>,
    Json(options): Json<VolumeOptions>,
) -> Result<Json<VolumeInfo>> {
    Ok(Json(state.pool.set_options(&name, options).await?))
}

pub(super) async fn rename(
    extract::State(state): extract::State<State>,
    Path(name): Path<String>,
    Json(body): Json<Rename>,
) -> Result<Json<VolumeInfo>> {
    Ok(Json(state.pool.rename(&name, &body.name).await?))
}

pub(super) async fn resize(
    extract::State(state): extract::State<State>,
    Path(name): Path<String>,
    Json(body): Json<Resize>,
) -> Result<Json<VolumeInfo>> {
    Ok(Json(state.pool.resize(&name, body.size).await?))
}

pub(super) async fn revert(
    extract::State(state): extract::State<State>,
    Path(name): Path<String>,
    Json(body): Json<Revert>,
) -> Result<Json<VolumeInfo>> {
    // Both names by the engine's rule, so that "vol@snap" in the wrong place is told apart from a missing one.
    let target: Target = format!("{name}@{}", body.snapshot).parse()?;
    Ok(Json(state.pool.revert(&target.volume, &body.snapshot, body.force).await?))
}
