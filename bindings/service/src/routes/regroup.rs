//! Regrouping volumes. Watching answers line by line.

use axum::{extract, http::StatusCode, response::Response};
use cairn_engine::{RegroupOptions, RegroupOutcome, RegroupProgress, RegroupStatus};

use super::upkeep::{lines, tell};
use crate::{
    Result,
    api::{Regroup, Scrub},
    extract::Json,
    state::State,
};

pub(super) async fn status(extract::State(state): extract::State<State>) -> Result<Json<RegroupStatus>> {
    Ok(Json(state.pool.regroup_status().await?))
}

pub(super) async fn start(
    extract::State(state): extract::State<State>,
    Json(body): Json<Regroup>,
) -> Result<(StatusCode, Json<RegroupProgress>)> {
    let options = RegroupOptions { pace: body.pace, dry_run: body.dry_run };
    Ok((StatusCode::ACCEPTED, Json(state.pool.start_regroup(&body.volume, options).await?)))
}

pub(super) async fn set_pace(
    extract::State(state): extract::State<State>,
    Json(body): Json<Scrub>,
) -> Result<Json<RegroupProgress>> {
    Ok(Json(state.pool.set_regroup_pace(body.pace).await?))
}

pub(super) async fn cancel(extract::State(state): extract::State<State>) -> Result<Json<RegroupOutcome>> {
    Ok(Json(state.pool.cancel_regroup().await?))
}

/// A caller that goes away does not end the regroup.
pub(super) async fn watch(extract::State(state): extract::State<State>) -> Response {
    lines(
        |progress| async move { Ok(state.pool.watch_regroup(move |running| tell(&progress, running.clone())).await?) },
    )
}
