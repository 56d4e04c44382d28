//! Backups and restores of this pool's volumes. What takes long answers line by line; a caller that goes away ends it.

use std::{future::Future, time::Duration};

use axum::{extract, http::StatusCode, response::Response};
use cairn_backup::{Job, Progress};
use serde::Serialize;
use tokio::sync::watch;

use super::upkeep::{lines, tell};
use crate::{
    Result,
    backup::{CreateBackup, FillingVolume, FillingVolumes, RestoreBackup, job},
    extract::Json,
    state::State,
};

/// Between two lines of progress.
const TELL: Duration = Duration::from_millis(200);

pub(super) async fn create(extract::State(state): extract::State<State>, Json(body): Json<CreateBackup>) -> Response {
    let job = job(body.limit);
    told(job.clone(), async move {
        let repository = body.repository.open().await?;
        Ok(repository.create(&state.pool, &body.volume, &body.options, &job).await?)
    })
}

pub(super) async fn restore(extract::State(state): extract::State<State>, Json(body): Json<RestoreBackup>) -> Response {
    let job = job(body.limit);
    told(job.clone(), async move {
        let repository = body.repository.open().await?;
        Ok(repository.restore(&body.backup, &state.pool, &body.volume, &body.options, &job).await?)
    })
}

/// Answers as soon as the volume can be used; it is filled in the background.
pub(super) async fn restore_instantly(
    extract::State(state): extract::State<State>,
    Json(body): Json<RestoreBackup>,
) -> Result<(StatusCode, Json<FillingVolume>)> {
    Ok((StatusCode::ACCEPTED, Json(state.fillings.begin(&state.pool, body).await?)))
}

pub(super) async fn fillings(extract::State(state): extract::State<State>) -> Result<Json<FillingVolumes>> {
    Ok(Json(state.fillings.list(&state.pool).await?))
}

/// Answers line by line how far a job is, and last what came of it.
fn told<R: Serialize + Send + 'static>(job: Job, work: impl Future<Output = Result<R>> + Send + 'static) -> Response {
    lines(move |progress: watch::Sender<Option<Progress>>| async move {
        let mut work = std::pin::pin!(work);
        let mut tick = tokio::time::interval(TELL);
        loop {
            tokio::select! {
                outcome = &mut work => return outcome,
                _ = tick.tick() => tell(&progress, job.progress()),
            }
        }
    })
}
