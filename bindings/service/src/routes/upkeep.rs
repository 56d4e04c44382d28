//! Check, scrub and repair. What takes long answers line by line.

use axum::{
    body::Body,
    extract,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use cairn_engine::{RepairPlan, ScrubOutcome, ScrubProgress, ScrubStatus};
use futures_util::stream;
use serde::Serialize;
use std::{convert::Infallible, future::Future};
use tokio::sync::{mpsc, watch};

use crate::{
    Result,
    api::{Check, Line, Scrub, Steps},
    error::Failure,
    extract::{Json, Query},
    state::State,
};

/// A caller that goes away ends it.
pub(super) async fn check(extract::State(state): extract::State<State>, Query(query): Query<Check>) -> Response {
    lines(|progress| async move {
        let report = state.pool.check(query.read_data, move |done, total| tell(&progress, Steps { done, total }));
        Ok(report.await?)
    })
}

pub(super) async fn scrub_status(extract::State(state): extract::State<State>) -> Result<Json<ScrubStatus>> {
    Ok(Json(state.pool.scrub_status().await?))
}

pub(super) async fn start_scrub(
    extract::State(state): extract::State<State>,
    Json(body): Json<Scrub>,
) -> Result<(StatusCode, Json<ScrubProgress>)> {
    Ok((StatusCode::ACCEPTED, Json(state.pool.start_scrub(body.pace).await?)))
}

pub(super) async fn set_scrub_pace(
    extract::State(state): extract::State<State>,
    Json(body): Json<Scrub>,
) -> Result<Json<ScrubProgress>> {
    Ok(Json(state.pool.set_scrub_pace(body.pace).await?))
}

pub(super) async fn cancel_scrub(extract::State(state): extract::State<State>) -> Result<Json<ScrubOutcome>> {
    Ok(Json(state.pool.cancel_scrub().await?))
}

/// A caller that goes away does not end the scrub.
pub(super) async fn watch_scrub(extract::State(state): extract::State<State>) -> Response {
    lines(|progress| async move { Ok(state.pool.watch_scrub(move |running| tell(&progress, running.clone())).await?) })
}

/// A caller that goes away ends it.
pub(super) async fn plan_repair(extract::State(state): extract::State<State>, Query(query): Query<Check>) -> Response {
    lines(|progress| async move {
        let plan = state.pool.plan_repair(query.read_data, move |done, total| tell(&progress, Steps { done, total }));
        Ok(plan.await?)
    })
}

/// A caller that goes away does not end it.
pub(super) async fn repair(extract::State(state): extract::State<State>, Json(plan): Json<RepairPlan>) -> Response {
    lines(|progress| async move {
        Ok(state.pool.repair(&plan, move |done, total| tell(&progress, Steps { done, total })).await?)
    })
}

pub(super) fn tell<P>(progress: &watch::Sender<Option<P>>, value: P) {
    progress.send_replace(Some(value));
}

/// Answers line by line while the work goes on: progress, and last the report or the error.
pub(super) fn lines<P, R, F>(work: impl FnOnce(watch::Sender<Option<P>>) -> F) -> Response
where
    P: Clone + Serialize + Send + Sync + 'static,
    R: Serialize + Send + 'static,
    F: Future<Output = Result<R>> + Send + 'static,
{
    // A cell that holds only the latest, so that a slow reader never holds up the work.
    let (progress, latest) = watch::channel(None);
    let (lines, mut received) = mpsc::channel::<Bytes>(1);
    tokio::spawn(write_lines(work(progress), latest, lines));
    let body = stream::poll_fn(move |cx| received.poll_recv(cx).map(|line| line.map(Ok::<_, Infallible>)));
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(body)).into_response()
}

async fn write_lines<P: Clone + Serialize, R: Serialize>(
    work: impl Future<Output = Result<R>>,
    mut latest: watch::Receiver<Option<P>>,
    lines: mpsc::Sender<Bytes>,
) {
    tokio::pin!(work);
    let last: Line<P, R> = loop {
        tokio::select! {
            outcome = &mut work => break outcome.map_or_else(|e: Failure| Line::Error(e.body()), Line::Report),
            Ok(()) = latest.changed() => {
                let Some(progress) = latest.borrow_and_update().clone() else { continue };
                if lines.send(line(&Line::<P, R>::Progress(progress))).await.is_err() {
                    return;
                }
            }
            () = lines.closed() => return,
        }
    };
    // Nobody may be left to read it, which is no error.
    drop(lines.send(line(&last)).await);
}

fn line(line: &impl Serialize) -> Bytes {
    // A value of plain numbers and strings always has a JSON form.
    let mut text = serde_json::to_vec(line).unwrap_or_default();
    text.push(b'\n');
    text.into()
}
