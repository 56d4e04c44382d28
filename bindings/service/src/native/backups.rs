//! Chains of backups, and restores that need no waiting.

use axum::{Json, extract::State};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{input::said, volumes::Begun};
use crate::{
    catalog::Backup,
    fault::Answer,
    rest::{At, Body, Context, Rest},
};

/// A backup in a chain.
#[derive(Serialize, ToSchema)]
pub(super) struct BackupView {
    id: String,
    name: Option<String>,
    volume_id: String,
    /// The one that it hangs on; null: a full one.
    parent_id: Option<String>,
    is_incremental: bool,
    status: String,
    /// GiB of the volume.
    size: u64,
    /// Of what moment its data are.
    data_at: String,
}

/// What a backup hangs on, the full one first; itself; and all that hang on it.
#[derive(Serialize, ToSchema)]
pub(super) struct Chain {
    chain: Vec<BackupView>,
}

fn view(backup: Backup) -> BackupView {
    BackupView {
        id: backup.id,
        name: backup.name,
        volume_id: backup.volume_id,
        parent_id: backup.parent_id,
        is_incremental: backup.incremental,
        status: backup.status.as_str().to_owned(),
        size: backup.size,
        data_at: said(backup.data_us),
    }
}

/// The chain that a backup is in.
#[utoipa::path(get, path = "/cairn/v1/backups/{id}/chain", tag = "backups", params(("id" = String, Path)),
    responses((status = 200, description = "The chain.", body = Chain)))]
pub(super) async fn chain(State(rest): State<Rest>, context: Context, At(id): At<String>) -> Answer<Json<Chain>> {
    let chain = rest.block.chain(&context.caller, &id)?;
    Ok(Json(Chain { chain: chain.into_iter().map(view).collect() }))
}

/// Takes a backup out of its chain, without moving data: those that hang on it hang on what it hung on, and lose nothing. It is gone then.
#[utoipa::path(post, path = "/cairn/v1/backups/{id}/merge", tag = "backups", params(("id" = String, Path)),
    responses((status = 202, description = "It is begun.", body = Begun)))]
pub(super) async fn merge(
    State(rest): State<Rest>,
    context: Context,
    At(id): At<String>,
) -> Answer<(StatusCode, Json<Begun>)> {
    drop(rest.block.merge_backup(&context.caller, &id)?);
    Ok((StatusCode::ACCEPTED, Json(Begun { task_id: context.caller.task })))
}

/// Makes an incremental backup a full one, with a chain of its own.
#[utoipa::path(post, path = "/cairn/v1/backups/{id}/promote", tag = "backups", params(("id" = String, Path)),
    responses((status = 202, description = "It is begun.", body = Begun)))]
pub(super) async fn promote(
    State(rest): State<Rest>,
    context: Context,
    At(id): At<String>,
) -> Answer<(StatusCode, Json<Begun>)> {
    drop(rest.block.promote_backup(&context.caller, &id)?);
    Ok((StatusCode::ACCEPTED, Json(Begun { task_id: context.caller.task })))
}

/// The new volume.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Restore {
    #[serde(default)]
    name: Option<String>,
    /// Name or id; that of the backup's volume when left out.
    #[serde(default)]
    volume_type: Option<String>,
}

/// A volume is being made.
#[derive(Serialize, ToSchema)]
pub(super) struct Restoring {
    /// Ends when the volume can be used.
    task_id: String,
    /// The new volume.
    volume_id: String,
    /// The task of filling it, which is shown until the volume is full.
    fill_task_id: String,
}

/// A new volume from a backup that can be used at once: what is read before it has come is fetched then, the rest in the background.
#[utoipa::path(post, path = "/cairn/v1/backups/{id}/instant-restore", tag = "backups", params(("id" = String, Path)),
    request_body = Restore, responses((status = 202, description = "It is begun.", body = Restoring)))]
pub(super) async fn instant_restore(
    State(rest): State<Rest>,
    context: Context,
    At(id): At<String>,
    Body(body): Body<Restore>,
) -> Answer<(StatusCode, Json<Restoring>)> {
    let volume = rest.block.restore_at_once(&context.caller, &id, body.name, body.volume_type).await?;
    let fill_task_id = crate::block::fill_task(&volume.id);
    let restoring = Restoring { task_id: context.caller.task, volume_id: volume.id, fill_task_id };
    Ok((StatusCode::ACCEPTED, Json(restoring)))
}
