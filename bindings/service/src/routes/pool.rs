//! The pool as a whole: state, events, shutdown.

use axum::{extract, http::StatusCode};
use cairn_engine::{ErrorKind, PoolStats};

use crate::{
    Result,
    api::{Events, NumberedEvent, Since, Status, VolumesStats},
    error::Failure,
    extract::{Json, Query},
    listeners::NbdListener,
    state::State,
    vhost_user::VhostUser,
};

pub(super) async fn status(extract::State(state): extract::State<State>) -> Result<Json<Status>> {
    let stats = state.pool.stats().await?;
    let listeners = state.listeners.as_deref().unwrap_or_default();
    Ok(Json(Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        pool: state.pool.path().display().to_string(),
        uuid: stats.uuid,
        since_ms: state.since_ms,
        served: state.listeners.is_some(),
        listeners: listeners.iter().map(NbdListener::info).collect(),
        clients: listeners.iter().flat_map(NbdListener::clients).collect(),
        filling: state.fillings.list(&state.pool).await?.filling,
        vhost_user: state.vhost_user.as_ref().map(VhostUser::of),
    }))
}

pub(super) async fn shutdown(extract::State(state): extract::State<State>) -> Result<StatusCode> {
    if state.listeners.is_none() {
        return Err(Failure::new(ErrorKind::Invalid, "this pool is not served: there is nothing to stop"));
    }
    state.stop();
    Ok(StatusCode::ACCEPTED)
}

pub(super) async fn stats(extract::State(state): extract::State<State>) -> Result<Json<PoolStats>> {
    Ok(Json(state.pool.stats().await?))
}

pub(super) async fn volume_stats(extract::State(state): extract::State<State>) -> Result<Json<VolumesStats>> {
    let volumes = state.pool.volume_stats().await?;
    let up_ns = u64::try_from(state.since.elapsed().as_nanos()).unwrap_or(u64::MAX);
    Ok(Json(VolumesStats { since_ms: state.since_ms, up_ns, volumes }))
}

pub(super) async fn checkpoint(extract::State(state): extract::State<State>) -> Result<StatusCode> {
    state.pool.checkpoint().await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn wait_deleted(extract::State(state): extract::State<State>) -> Result<StatusCode> {
    state.pool.wait_deleted().await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn events(
    extract::State(state): extract::State<State>,
    Query(query): Query<Since>,
) -> Result<Json<Events>> {
    let events = state.pool.events(query.since).await?;
    let events = events.into_iter().map(|(seq, event)| NumberedEvent { seq, event }).collect();
    Ok(Json(Events { events }))
}
