//! Audit events.

use axum::{Json, extract::State, response::Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::input::{AT_ONCE, Search, limit, lines, parsed, said};
use crate::{
    block::EventFilter,
    catalog::{Event, Verdict},
    fault::{Answer, Fault},
    rest::{Context, Rest},
};

/// Which events.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Query {
    /// Administrators: of this project only. All others see their own.
    project: Option<String>,
    /// About this object, by its id.
    object: Option<String>,
    /// `volume.create`, …
    action: Option<String>,
    /// `success`, `failed`, `cancelled` or `refused`.
    result: Option<String>,
    /// Of this user.
    user: Option<String>,
    /// Of this request.
    request: Option<String>,
    /// From this moment on: `2026-11-22T07:00:00Z`, or a day.
    from: Option<String>,
    /// Before this moment.
    to: Option<String>,
}

/// Which events, and which part of their list.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct PagedQuery {
    /// Administrators: of this project only. All others see their own.
    project: Option<String>,
    /// About this object, by its id.
    object: Option<String>,
    /// `volume.create`, …
    action: Option<String>,
    /// `success`, `failed`, `cancelled` or `refused`.
    result: Option<String>,
    /// Of this user.
    user: Option<String>,
    /// Of this request.
    request: Option<String>,
    /// From this moment on: `2026-11-22T07:00:00Z`, or a day.
    from: Option<String>,
    /// Before this moment.
    to: Option<String>,
    /// `next` of the page before.
    marker: Option<String>,
    /// At most so many: 1 to 1000.
    limit: Option<usize>,
}

/// What somebody did, or tried to do.
#[derive(Serialize, ToSchema)]
pub(super) struct EventView {
    /// Greater ids are later ones.
    id: String,
    /// When it was done, or had failed.
    at: String,
    /// Who.
    user_id: String,
    /// Whose object it is.
    project_id: String,
    /// What.
    action: String,
    /// Kind of the object.
    object_kind: String,
    /// Its id.
    object_id: Option<String>,
    /// `success`, `failed`, `cancelled` or `refused`.
    result: String,
    /// Why it was refused, or failed.
    reason: Option<String>,
    /// The request that asked for it.
    request_id: String,
    /// The task, of what took one.
    task_id: Option<String>,
    /// When that was begun.
    began_at: Option<String>,
}

/// Events, newest first.
#[derive(Serialize, ToSchema)]
pub(super) struct Events {
    events: Vec<EventView>,
    /// Marker of the next page; null: that was all.
    next: Option<String>,
}

fn view(event: Event) -> EventView {
    EventView {
        id: event.id,
        at: said(event.created_us),
        user_id: event.user,
        project_id: event.project,
        action: event.action,
        object_kind: event.kind,
        object_id: event.object,
        result: event.verdict.as_str().to_owned(),
        reason: event.reason,
        request_id: event.request,
        task_id: event.task.filter(|task| !task.is_empty()),
        began_at: event.began_us.map(said),
    }
}

fn filter(query: Query) -> Answer<EventFilter> {
    let verdict = |text: &String| {
        let known = Verdict::ALL.into_iter().find(|verdict| verdict.as_str() == text);
        known.ok_or_else(|| Fault::bad("result is success, failed, cancelled or refused"))
    };
    Ok(EventFilter {
        verdict: query.result.as_ref().map(verdict).transpose()?,
        from_us: parsed("from", query.from.as_ref())?,
        to_us: parsed("to", query.to.as_ref())?,
        project: query.project,
        object: query.object,
        action: query.action,
        user: query.user,
        request: query.request,
    })
}

/// Audit events, newest first.
#[utoipa::path(get, path = "/cairn/v1/events", tag = "events", params(PagedQuery),
    responses((status = 200, description = "A page.", body = Events)))]
pub(super) async fn list(
    State(rest): State<Rest>,
    context: Context,
    Search(query): Search<PagedQuery>,
) -> Answer<Json<Events>> {
    let PagedQuery { project, object, action, result, user, request, from, to, marker, limit: wanted } = query;
    let filter = filter(Query { project, object, action, result, user, request, from, to })?;
    let part = rest.block.events(&context.caller, &filter, marker.as_deref(), limit(wanted)?)?;
    Ok(Json(Events { events: part.items.into_iter().map(view).collect(), next: part.next }))
}

/// All events that fit, as lines of JSON, newest first.
#[utoipa::path(get, path = "/cairn/v1/events/export", tag = "events", params(Query),
    responses((status = 200, description = "An event on each line.", body = EventView, content_type = "application/x-ndjson")))]
pub(super) async fn export(
    State(rest): State<Rest>,
    context: Context,
    Search(query): Search<Query>,
) -> Answer<Response> {
    let filter = filter(query)?;
    lines(move |marker| {
        let part = rest.block.events(&context.caller, &filter, marker, AT_ONCE)?;
        Ok((part.items.into_iter().map(view).collect(), part.next))
    })
}
