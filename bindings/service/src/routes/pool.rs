//! The pool as a whole: state, check, events, shutdown.

use axum::{
    body::Body,
    extract,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use cairn_engine::{ErrorKind, Pool, PoolStats};
use futures_util::stream;
use std::convert::Infallible;
use tokio::sync::{mpsc, watch};

use crate::{
    Result,
    api::{Check, CheckLine, Events, NumberedEvent, Since, Status},
    error::Failure,
    extract::{Json, Query},
    listeners::NbdListener,
    state::State,
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

/// Answers line by line while the check runs; a caller that goes away ends it.
pub(super) async fn check(extract::State(state): extract::State<State>, Query(query): Query<Check>) -> Response {
    let (lines, mut received) = mpsc::channel::<Bytes>(1);
    tokio::spawn(run_check(state.pool, query.read_data, lines));
    let body = stream::poll_fn(move |cx| received.poll_recv(cx).map(|line| line.map(Ok::<_, Infallible>)));
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(body)).into_response()
}

/// Progress goes through a cell that holds only the latest, so that a slow reader never holds up the check.
async fn run_check(pool: Pool, read_data: bool, lines: mpsc::Sender<Bytes>) {
    let (progress, mut latest) = watch::channel((0, 0));
    let check = pool.check(read_data, move |done, total| {
        progress.send_replace((done, total));
    });
    tokio::pin!(check);
    let last = loop {
        tokio::select! {
            outcome = &mut check => break match outcome {
                Ok(report) => CheckLine::Report(report),
                Err(error) => CheckLine::Error(Failure::from(error).body()),
            },
            Ok(()) = latest.changed() => {
                let (done, total) = *latest.borrow_and_update();
                if lines.send(line(&CheckLine::Progress { done, total })).await.is_err() {
                    return;
                }
            }
            () = lines.closed() => return,
        }
    };
    // Nobody may be left to read it, which is no error.
    drop(lines.send(line(&last)).await);
}

fn line(line: &CheckLine) -> Bytes {
    // A value of plain numbers and strings always has a JSON form.
    let mut text = serde_json::to_vec(line).unwrap_or_default();
    text.push(b'\n');
    text.into()
}
