//! `/snapshots`.

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

use super::{
    Rest,
    context::Context,
    filters::{Filter, consumes_quota, named, pairs, part, text, zone},
    input::{At, Body, Flag, Query, arguments},
    listing::{Collection, Listed, Listing, Sortable},
    time::{maybe, moment},
    volumes::{EntryBody, Metadata, MetadataBody, Update, all_entries, entry},
};
use crate::{
    block::NewSnapshot,
    catalog::Snapshot,
    domain::SnapshotStatus,
    fault::{Answer, Fault},
};

/// Since when a snapshot of an attached volume needs no force.
const WITHOUT_FORCE: u32 = 66;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Create {
    snapshot: CreateSnapshot,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateSnapshot {
    volume_id: String,
    #[serde(default, alias = "display_name")]
    name: Option<String>,
    #[serde(default, alias = "display_description")]
    description: Option<String>,
    #[serde(default)]
    metadata: Option<Metadata>,
    #[serde(default)]
    force: Option<Flag>,
}

impl Listed for Snapshot {
    const FILTERS: &'static [Filter<Self>] = &[
        text("name", |snapshot| named(&snapshot.name)),
        part("name~", |snapshot| named(&snapshot.name)),
        text("id", |snapshot| Some(&snapshot.id)),
        text("status", |snapshot| Some(snapshot.status.as_str())),
        text("volume_id", |snapshot| Some(&snapshot.volume_id)),
        pairs("metadata", |snapshot| &snapshot.metadata),
        zone(),
        text("user_id", |snapshot| Some(&snapshot.user)),
        consumes_quota(),
    ];

    fn sortable(&self, key: &str) -> Option<Sortable<'_>> {
        let text = Sortable::text;
        match key {
            "id" => text(&self.id),
            "name" | "display_name" => text(self.name.as_deref().unwrap_or_default()),
            "status" => text(self.status.as_str()),
            "volume_id" => text(&self.volume_id),
            "size" => Some(Sortable::Number(self.size)),
            "created_at" => Some(Sortable::Number(self.created_us)),
            "updated_at" => self.updated_us.map(Sortable::Number),
            _ => None,
        }
    }
}

fn view(context: &Context, snapshot: &Snapshot, detail: bool) -> Value {
    let mut view = json!({
        "id": snapshot.id,
        "name": snapshot.name,
        "description": snapshot.description,
        "volume_id": snapshot.volume_id,
        "status": snapshot.status,
        "size": snapshot.size,
        "created_at": moment(snapshot.created_us),
        "updated_at": maybe(snapshot.updated_us),
        "metadata": snapshot.metadata,
    });
    let Some(fields) = view.as_object_mut() else { return view };
    let mut put = |key: &str, value: Value| drop(fields.insert(key.to_owned(), value));
    if context.version.has(14) {
        put("group_snapshot_id", json!(snapshot.group_snapshot_id));
    }
    if context.version.has(41) {
        put("user_id", json!(snapshot.user));
    }
    if context.version.has(65) {
        put("consumes_quota", json!(true));
    }
    if detail {
        let progress = if snapshot.status == SnapshotStatus::Creating { "0%" } else { "100%" };
        put("os-extended-snapshot-attributes:project_id", json!(snapshot.project));
        put("os-extended-snapshot-attributes:progress", json!(progress));
    }
    view
}

pub(super) async fn create(State(rest): State<Rest>, context: Context, Body(body): Body<Create>) -> Answer<Response> {
    let body = body.snapshot;
    let always = context.version.has(WITHOUT_FORCE);
    if always && body.force.is_some_and(|flag| !flag.0) {
        return Err(Fault::bad("Invalid input: since API version 3.66 snapshots are always forced: leave force out."));
    }
    let new = NewSnapshot {
        volume: body.volume_id,
        name: body.name,
        description: body.description,
        metadata: body.metadata.unwrap_or_default(),
        force: always || body.force.is_some_and(|flag| flag.0),
    };
    let snapshot = rest.block.create_snapshot(&context.caller, new)?;
    Ok((StatusCode::ACCEPTED, axum::Json(json!({"snapshot": view(&context, &snapshot, false)}))).into_response())
}

pub(super) async fn list(State(rest): State<Rest>, context: Context, query: Query) -> Answer<axum::Json<Collection>> {
    listed(&rest, &context, query, false)
}

pub(super) async fn detail(State(rest): State<Rest>, context: Context, query: Query) -> Answer<axum::Json<Collection>> {
    listed(&rest, &context, query, true)
}

fn listed(rest: &Rest, context: &Context, query: Query, detail: bool) -> Answer<axum::Json<Collection>> {
    let listing = Listing::of(context, query.0)?;
    let page = listing.page::<Snapshot>(&rest.block, context)?;
    let items = page.items.iter().map(|snapshot| view(context, snapshot, detail)).collect();
    listing.answer(context, "snapshots", &page, items).map(axum::Json)
}

pub(super) async fn show(State(rest): State<Rest>, context: Context, At(id): At<String>) -> Answer<axum::Json<Value>> {
    let snapshot: Snapshot = rest.block.find(&context.caller, &id)?;
    Ok(axum::Json(json!({"snapshot": view(&context, &snapshot, true)})))
}

pub(super) async fn update(
    State(rest): State<Rest>,
    context: Context,
    At(id): At<String>,
    Body(body): Body<Update>,
) -> Answer<axum::Json<Value>> {
    let snapshot = rest.block.edit_snapshot(&context.caller, &id, body.edit()?)?;
    Ok(axum::Json(json!({"snapshot": view(&context, &snapshot, false)})))
}

pub(super) async fn delete(State(rest): State<Rest>, context: Context, At(id): At<String>) -> Answer<StatusCode> {
    rest.block.delete_snapshot(&context.caller, &id, false)?;
    Ok(StatusCode::ACCEPTED)
}

#[derive(Deserialize)]
struct Reset {
    status: String,
}

pub(super) async fn action(
    State(rest): State<Rest>,
    mut context: Context,
    At(id): At<String>,
    Body(body): Body<BTreeMap<String, Value>>,
) -> Answer<StatusCode> {
    let (name, value) = context.action(body)?;
    let _snapshot: Snapshot = rest.block.find(&context.caller, &id)?;
    match name.as_str() {
        "os-reset_status" | "os-update_snapshot_status" => {
            rest.block.reset_snapshot(&context.caller, &id, &arguments::<Reset>(&name, value)?.status)?;
        }
        "os-force_delete" => {
            context.caller.require_admin("volume_extension:snapshot_admin_actions:force_delete")?;
            rest.block.delete_snapshot(&context.caller, &id, true)?;
        }
        _ => return Err(Fault::bad("There is no such action of snapshots")),
    }
    Ok(StatusCode::ACCEPTED)
}

pub(super) async fn metadata(
    State(rest): State<Rest>,
    context: Context,
    At(id): At<String>,
) -> Answer<axum::Json<Value>> {
    Ok(all_entries(&rest.block.find::<Snapshot>(&context.caller, &id)?.metadata))
}

pub(super) async fn add_metadata(
    State(rest): State<Rest>,
    context: Context,
    At(id): At<String>,
    Body(body): Body<MetadataBody>,
) -> Answer<axum::Json<Value>> {
    let changed = rest.block.change_snapshot(&context.caller, &id, |snapshot| {
        snapshot.metadata.extend(body.metadata);
        Ok(())
    });
    Ok(all_entries(&changed?.metadata))
}

pub(super) async fn set_metadata(
    State(rest): State<Rest>,
    context: Context,
    At(id): At<String>,
    Body(body): Body<MetadataBody>,
) -> Answer<axum::Json<Value>> {
    let changed = rest.block.change_snapshot(&context.caller, &id, |snapshot| {
        snapshot.metadata = body.metadata;
        Ok(())
    });
    Ok(all_entries(&changed?.metadata))
}

pub(super) async fn one_entry(
    State(rest): State<Rest>,
    context: Context,
    At((id, key)): At<(String, String)>,
) -> Answer<axum::Json<Value>> {
    entry(&rest.block.find::<Snapshot>(&context.caller, &id)?.metadata, &key)
}

pub(super) async fn set_entry(
    State(rest): State<Rest>,
    context: Context,
    At((id, key)): At<(String, String)>,
    Body(body): Body<EntryBody>,
) -> Answer<axum::Json<Value>> {
    let value = body.value(&key)?;
    let changed = rest.block.change_snapshot(&context.caller, &id, |snapshot| {
        drop(snapshot.metadata.insert(key.clone(), value));
        Ok(())
    });
    entry(&changed?.metadata, &key)
}

pub(super) async fn delete_entry(
    State(rest): State<Rest>,
    context: Context,
    At((id, key)): At<(String, String)>,
) -> Answer<StatusCode> {
    let changed = rest.block.change_snapshot(&context.caller, &id, |snapshot| match snapshot.metadata.remove(&key) {
        Some(_) => Ok(()),
        None => Err(Fault::missing("Metadata item", &key)),
    });
    changed.map(|_| StatusCode::OK)
}
