//! Snapshots, clones and differences.

use axum::{extract, http::StatusCode};
use cairn_engine::{ExtentPage, SnapshotInfo, Target, VolumeInfo};

use super::snapshot_target;
use crate::{
    Result,
    api::{CreateClone, CreateSnapshots, Deleted, Deletion, Difference, Listing, Snapshots},
    error::Failure,
    extract::{Json, Path, Query},
    state::State,
};

pub(super) async fn list(
    extract::State(state): extract::State<State>,
    Query(query): Query<Listing>,
) -> Result<Json<Snapshots>> {
    Ok(Json(Snapshots { snapshots: state.pool.snapshots(query.volume.as_deref(), query.exclusive).await? }))
}

pub(super) async fn create(
    extract::State(state): extract::State<State>,
    Json(body): Json<CreateSnapshots>,
) -> Result<(StatusCode, Json<Snapshots>)> {
    if body.targets.is_empty() {
        return Err(Failure::invalid("no snapshot is named: give at least one VOLUME@SNAPSHOT"));
    }
    let targets =
        body.targets.iter().map(|text| Ok(snapshot_target(text)?.0)).collect::<Result<Vec<Target>, Failure>>()?;
    let snapshots = state.pool.snapshot(&targets).await?;
    Ok((StatusCode::CREATED, Json(Snapshots { snapshots })))
}

pub(super) async fn info(
    extract::State(state): extract::State<State>,
    Path(target): Path<String>,
    Query(query): Query<Listing>,
) -> Result<Json<SnapshotInfo>> {
    let (target, name) = snapshot_target(&target)?;
    if query.exclusive {
        let of_volume = state.pool.snapshots(Some(&target.volume), true).await?;
        if let Some(found) = of_volume.into_iter().find(|snapshot| snapshot.name == name) {
            return Ok(Json(found));
        }
    }
    Ok(Json(state.pool.snapshot_info(&target).await?))
}

pub(super) async fn delete(
    extract::State(state): extract::State<State>,
    Path(target): Path<String>,
    Query(query): Query<Deletion>,
) -> Result<Json<Deleted>> {
    if query.cascade {
        return Err(Failure::invalid("\"cascade\" is for volumes: a snapshot is deleted alone"));
    }
    let (target, _) = snapshot_target(&target)?;
    state.pool.delete_snapshot(&target).await?;
    if query.wait {
        state.pool.wait_deleted().await?;
    }
    Ok(Json(Deleted { deleted: vec![target.to_string()] }))
}

pub(super) async fn clone(
    extract::State(state): extract::State<State>,
    Json(body): Json<CreateClone>,
) -> Result<(StatusCode, Json<VolumeInfo>)> {
    let (snapshot, _) = snapshot_target(&body.snapshot)?;
    let volume = state.pool.clone_volume(&snapshot, &body.name, body.size).await?;
    Ok((StatusCode::CREATED, Json(volume)))
}

pub(super) async fn diff(
    extract::State(state): extract::State<State>,
    Query(query): Query<Difference>,
) -> Result<Json<ExtentPage>> {
    let from = query.from.as_deref().map(str::parse::<Target>).transpose()?;
    let to: Target = query.to.parse()?;
    Ok(Json(state.pool.diff(from.as_ref(), &to, query.offset).await?))
}
