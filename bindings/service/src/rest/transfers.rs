//! `/volume-transfers`, and under its older name `/os-volume-transfer`.

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Rest,
    context::Context,
    filters::{Filter, named, part, text},
    input::{At, Body, Flag, Query},
    listing::{Collection, Listed, Listing, Sortable},
    time::moment,
};
use crate::{
    catalog::Transfer,
    fault::{Answer, Fault},
};

/// Since when snapshots go along, and can be left behind.
const SNAPSHOTS: u32 = 55;

impl Listed for Transfer {
    const FILTERS: &'static [Filter<Self>] = &[
        text("name", |transfer| named(&transfer.name)),
        part("name~", |transfer| named(&transfer.name)),
        text("volume_id", |transfer| Some(&transfer.volume_id)),
    ];

    fn sortable(&self, key: &str) -> Option<Sortable<'_>> {
        match key {
            "id" => Sortable::text(&self.id),
            "name" => Sortable::text(self.name.as_deref().unwrap_or_default()),
            "volume_id" => Sortable::text(&self.volume_id),
            "created_at" => Some(Sortable::Number(self.created_us)),
            _ => None,
        }
    }
}

fn brief(context: &Context, transfer: &Transfer) -> Value {
    json!({
        "id": transfer.id,
        "name": transfer.name,
        "volume_id": transfer.volume_id,
        "links": context.links("volume-transfers", &transfer.id),
    })
}

fn full(context: &Context, transfer: &Transfer) -> Value {
    let mut view = brief(context, transfer);
    let Some(fields) = view.as_object_mut() else { return view };
    let mut put = |key: &str, value: Value| drop(fields.insert(key.to_owned(), value));
    put("created_at", json!(moment(transfer.created_us)));
    if context.version.has(SNAPSHOTS) {
        put("no_snapshots", json!(transfer.no_snapshots));
    }
    if context.version.has(57) {
        put("source_project_id", json!(transfer.project));
        put("destination_project_id", Value::Null);
        put("accepted", json!(false));
    }
    view
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Create {
    transfer: CreateTransfer,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateTransfer {
    volume_id: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    no_snapshots: Option<Flag>,
}

pub(super) async fn create(State(rest): State<Rest>, context: Context, Body(body): Body<Create>) -> Answer<Response> {
    let body = body.transfer;
    if body.no_snapshots.is_some() && !context.version.has(SNAPSHOTS) {
        return Err(Fault::bad("Invalid input: no_snapshots takes API version 3.55 or later."));
    }
    let stay = body.no_snapshots.is_some_and(|flag| flag.0);
    let (transfer, key) = rest.block.create_transfer(&context.caller, &body.volume_id, body.name, stay)?;
    // Before anybody has the key. No consumer is told a new way while the volume is on offer.
    rest.block.withdraw(&transfer.volume_id).await?;
    let mut view = full(&context, &transfer);
    if let Some(fields) = view.as_object_mut() {
        drop(fields.insert("auth_key".to_owned(), json!(key)));
    }
    Ok((StatusCode::ACCEPTED, axum::Json(json!({"transfer": view}))).into_response())
}

pub(super) async fn list(State(rest): State<Rest>, context: Context, query: Query) -> Answer<axum::Json<Collection>> {
    listed(&rest, &context, query, brief)
}

pub(super) async fn detail(State(rest): State<Rest>, context: Context, query: Query) -> Answer<axum::Json<Collection>> {
    listed(&rest, &context, query, full)
}

fn listed(
    rest: &Rest,
    context: &Context,
    query: Query,
    view: fn(&Context, &Transfer) -> Value,
) -> Answer<axum::Json<Collection>> {
    let listing = Listing::of(context, query.0)?;
    let page = listing.page::<Transfer>(&rest.block, context)?;
    let items = page.items.iter().map(|transfer| view(context, transfer)).collect();
    listing.answer(context, "transfers", &page, items).map(axum::Json)
}

pub(super) async fn show(State(rest): State<Rest>, context: Context, At(id): At<String>) -> Answer<axum::Json<Value>> {
    let transfer: Transfer = rest.block.find(&context.caller, &id)?;
    Ok(axum::Json(json!({"transfer": full(&context, &transfer)})))
}

pub(super) async fn delete(State(rest): State<Rest>, context: Context, At(id): At<String>) -> Answer<StatusCode> {
    rest.block.delete_transfer(&context.caller, &id)?;
    Ok(StatusCode::ACCEPTED)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Accept {
    accept: AcceptFields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AcceptFields {
    auth_key: String,
}

pub(super) async fn accept(
    State(rest): State<Rest>,
    context: Context,
    At(id): At<String>,
    Body(body): Body<Accept>,
) -> Answer<Response> {
    let offered = rest.block.offered(&id, &body.accept.auth_key)?;
    // What was read and written up to here is that of the project that it leaves.
    rest.block.count_io_of(&offered.volume_id).await?;
    let transfer = rest.block.accept_transfer(&context.caller, &id, &body.accept.auth_key)?;
    // It is another project's now, whose limits count. That is so also when the volume is deleted at once.
    rest.block.apply_limits_to(std::slice::from_ref(&transfer.volume_id)).await?;
    let view = brief(&context, &transfer);
    Ok((StatusCode::ACCEPTED, axum::Json(json!({"transfer": view}))).into_response())
}
