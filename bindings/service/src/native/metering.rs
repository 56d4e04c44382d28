//! Metering records: who held how many GiB for how long, with how much I/O.

use axum::{Json, extract::State, response::Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::input::{AT_ONCE, Search, limit, lines, parsed, said};
use crate::{
    block::MeterFilter,
    catalog::{Io, Meter},
    fault::Answer,
    rest::{Context, Rest},
};

/// Which records.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Query {
    /// Administrators: of this project only. All others see their own.
    project: Option<String>,
    /// Of this object, by its id.
    object: Option<String>,
    /// Of objects of this kind: `volume`, `snapshot`, `backup` or `image`.
    kind: Option<String>,
    /// Intervals that end after this moment: `2026-11-22T07:00:00Z`, or a day.
    from: Option<String>,
    /// Intervals that begin before this moment.
    to: Option<String>,
}

/// Which records, and which part of their list.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct PagedQuery {
    /// Administrators: of this project only. All others see their own.
    project: Option<String>,
    /// Of this object, by its id.
    object: Option<String>,
    /// Of objects of this kind: `volume`, `snapshot`, `backup` or `image`.
    kind: Option<String>,
    /// Intervals that end after this moment: `2026-11-22T07:00:00Z`, or a day.
    from: Option<String>,
    /// Intervals that begin before this moment.
    to: Option<String>,
    /// `next` of the page before.
    marker: Option<String>,
    /// At most so many: 1 to 1000.
    limit: Option<usize>,
}

/// An interval in which an object had one size and one project.
#[derive(Serialize, ToSchema)]
pub(super) struct MeterView {
    /// Greater ids are later ones.
    id: String,
    project_id: String,
    /// `volume`, `snapshot`, `backup` or `image`.
    object_kind: String,
    object_id: String,
    /// Allocated: the logical size.
    gib: u64,
    /// When it began.
    from: String,
    /// When it ended.
    to: String,
    /// How long that is.
    seconds: f64,
    /// GiB times seconds.
    gib_seconds: f64,
    /// I/O of clients in the interval; of volumes only, with their snapshots.
    io: IoView,
}

/// Requests and bytes.
#[derive(Serialize, ToSchema)]
pub(super) struct IoView {
    read_requests: u64,
    read_bytes: u64,
    write_requests: u64,
    write_bytes: u64,
    /// Discards, and writes of zeros.
    discard_requests: u64,
    discard_bytes: u64,
    flush_requests: u64,
}

/// Records, those that ended last first.
#[derive(Serialize, ToSchema)]
pub(super) struct Meters {
    metering: Vec<MeterView>,
    /// Marker of the next page; null: that was all.
    next: Option<String>,
}

/// Intervals that were ended.
#[derive(Serialize, ToSchema)]
pub(super) struct Closed {
    closed: usize,
}

fn view(meter: Meter) -> MeterView {
    let seconds = meter.until_us.saturating_sub(meter.from_us) as f64 / 1e6;
    let Io { read_requests, read_bytes, write_requests, write_bytes, discard_requests, discard_bytes, flush_requests } =
        meter.io;
    MeterView {
        id: meter.id,
        project_id: meter.project,
        object_kind: meter.kind,
        object_id: meter.object,
        gib: meter.gib,
        from: said(meter.from_us),
        to: said(meter.until_us),
        seconds,
        gib_seconds: seconds * meter.gib as f64,
        io: IoView {
            read_requests,
            read_bytes,
            write_requests,
            write_bytes,
            discard_requests,
            discard_bytes,
            flush_requests,
        },
    }
}

fn filter(query: Query) -> Answer<MeterFilter> {
    Ok(MeterFilter {
        from_us: parsed("from", query.from.as_ref())?,
        to_us: parsed("to", query.to.as_ref())?,
        project: query.project,
        object: query.object,
        kind: query.kind,
    })
}

/// Metering records, those that ended last first.
#[utoipa::path(get, path = "/cairn/v1/metering", tag = "metering", params(PagedQuery),
    responses((status = 200, description = "A page.", body = Meters)))]
pub(super) async fn list(
    State(rest): State<Rest>,
    context: Context,
    Search(query): Search<PagedQuery>,
) -> Answer<Json<Meters>> {
    let PagedQuery { project, object, kind, from, to, marker, limit: wanted } = query;
    let filter = filter(Query { project, object, kind, from, to })?;
    let part = rest.block.meters(&context.caller, &filter, marker.as_deref(), limit(wanted)?)?;
    Ok(Json(Meters { metering: part.items.into_iter().map(view).collect(), next: part.next }))
}

/// All records that fit, as lines of JSON, those that ended last first.
#[utoipa::path(get, path = "/cairn/v1/metering/export", tag = "metering", params(Query),
    responses((status = 200, description = "A record on each line.", body = MeterView, content_type = "application/x-ndjson")))]
pub(super) async fn export(
    State(rest): State<Rest>,
    context: Context,
    Search(query): Search<Query>,
) -> Answer<Response> {
    let filter = filter(query)?;
    lines(move |marker| {
        let part = rest.block.meters(&context.caller, &filter, marker, AT_ONCE)?;
        Ok((part.items.into_iter().map(view).collect(), part.next))
    })
}

/// Ends all intervals that are open, so that everything up to now is listed. Administrators only.
#[utoipa::path(post, path = "/cairn/v1/metering/close", tag = "metering",
    responses((status = 200, description = "How many there were.", body = Closed)))]
pub(super) async fn close(State(rest): State<Rest>, context: Context) -> Answer<Json<Closed>> {
    Ok(Json(Closed { closed: rest.block.close_all_meters(&context.caller).await? }))
}
