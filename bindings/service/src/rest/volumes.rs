//! `/volumes`.

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
    input::{At, Body, Flag, Number, Query, given},
    listing::{Collection, Listing},
    volume_view::{Shape, view},
};
use crate::{
    block::{Edit, NewVolume},
    catalog::{Paging, Volume},
    fault::{Answer, Fault},
};

pub(super) type Metadata = BTreeMap<String, String>;

#[derive(Deserialize)]
pub(super) struct Create {
    volume: CreateVolume,
}

/// Fields that clients send and that mean nothing here are passed over, as the interface has it for this request alone.
#[derive(Deserialize)]
struct CreateVolume {
    #[serde(default, alias = "display_name")]
    name: Option<String>,
    #[serde(default, alias = "display_description")]
    description: Option<String>,
    #[serde(default)]
    metadata: Option<Metadata>,
    #[serde(default)]
    size: Option<Number>,
    #[serde(default)]
    volume_type: Option<String>,
    #[serde(default)]
    snapshot_id: Option<String>,
    #[serde(default)]
    source_volid: Option<String>,
    #[serde(default)]
    backup_id: Option<String>,
    #[serde(default, rename = "imageRef")]
    image: Option<String>,
    #[serde(default)]
    multiattach: Option<Flag>,
    #[serde(default)]
    group_id: Option<String>,
    #[serde(default)]
    availability_zone: Option<String>,
}

fn not_empty(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

pub(super) async fn create(State(rest): State<Rest>, context: Context, Body(body): Body<Create>) -> Answer<Response> {
    let body = body.volume;
    let group = not_empty(body.group_id);
    if group.is_some() && !context.version.has(13) {
        return Err(Fault::bad("Invalid input: group_id takes API version 3.13 or later."));
    }
    if body.backup_id.is_some() && !context.version.has(47) {
        return Err(Fault::bad("Invalid input: backup_id takes API version 3.47 or later."));
    }
    if body.multiattach.is_some_and(|flag| flag.0) && context.version.has(50) {
        return Err(Fault::bad("multiattach is a property of volume types from API version 3.50 on: name such a type"));
    }
    let new = NewVolume {
        name: body.name,
        description: body.description,
        metadata: body.metadata.unwrap_or_default(),
        size: body.size.map(Number::gib).transpose()?,
        volume_type: not_empty(body.volume_type),
        snapshot: not_empty(body.snapshot_id),
        source: not_empty(body.source_volid),
        backup: not_empty(body.backup_id),
        image: not_empty(body.image),
        at_once: false,
        group,
        multiattach: body.multiattach.is_some_and(|flag| flag.0),
        zone: not_empty(body.availability_zone),
    };
    let volume = rest.block.create_volume(&context.caller, new).await?;
    let view = view(&rest.block, &rest.block.catalog().read(), &context, &volume, Shape::Plain)?;
    Ok((StatusCode::ACCEPTED, axum::Json(json!({"volume": view}))).into_response())
}

pub(super) async fn list(State(rest): State<Rest>, context: Context, query: Query) -> Answer<axum::Json<Collection>> {
    listed(&rest, &context, query, Shape::Brief)
}

pub(super) async fn detail(State(rest): State<Rest>, context: Context, query: Query) -> Answer<axum::Json<Collection>> {
    listed(&rest, &context, query, Shape::Full)
}

fn listed(rest: &Rest, context: &Context, query: Query, shape: Shape) -> Answer<axum::Json<Collection>> {
    let listing = Listing::of(context, query.0)?;
    let page = listing.page::<Volume>(&rest.block, context)?;
    let tx = rest.block.catalog().read();
    let items = page.items.iter().map(|volume| view(&rest.block, &tx, context, volume, shape));
    listing.answer(context, "volumes", &page, items.collect::<Answer<_>>()?).map(axum::Json)
}

pub(super) async fn summary(State(rest): State<Rest>, context: Context, query: Query) -> Answer<axum::Json<Value>> {
    context.needs(12)?;
    let everybody = query.0.get("all_tenants").and_then(|text| Flag::parse(text)).is_some_and(|flag| flag.0);
    let project = (!everybody || !context.caller.is_admin()).then_some(context.caller.project.as_str());
    let paging = Paging { project, limit: usize::MAX, offset: 0, marker: None, order: None, count: false };
    let all = rest.block.catalog().read().page::<Volume>(&paging, |_| true)?;
    let size: u64 = all.items.iter().map(|volume| volume.size).sum();
    let mut summary = json!({"total_size": size, "total_count": all.items.len()});
    if context.version.has(36) {
        let mut metadata: BTreeMap<&str, std::collections::BTreeSet<&str>> = BTreeMap::new();
        for (key, value) in all.items.iter().flat_map(|volume| &volume.metadata) {
            let _new = metadata.entry(key).or_default().insert(value);
        }
        if let Some(summary) = summary.as_object_mut() {
            drop(summary.insert("metadata".to_owned(), json!(metadata)));
        }
    }
    Ok(axum::Json(json!({"volume-summary": summary})))
}

pub(super) async fn show(State(rest): State<Rest>, context: Context, At(id): At<String>) -> Answer<axum::Json<Value>> {
    let volume: Volume = rest.block.find(&context.caller, &id)?;
    let view = view(&rest.block, &rest.block.catalog().read(), &context, &volume, Shape::Full)?;
    Ok(axum::Json(json!({"volume": view})))
}

#[derive(Deserialize)]
pub(super) struct Update {
    #[serde(alias = "snapshot", alias = "backup")]
    volume: UpdateFields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UpdateFields {
    #[serde(default, alias = "display_name", deserialize_with = "given")]
    name: Option<Option<String>>,
    #[serde(default, alias = "display_description", deserialize_with = "given")]
    description: Option<Option<String>>,
    #[serde(default)]
    metadata: Option<Metadata>,
}

impl Update {
    pub(super) fn edit(self) -> Answer<Edit> {
        let UpdateFields { name, description, metadata } = self.volume;
        if name.is_none() && description.is_none() && metadata.is_none() {
            return Err(Fault::bad("nothing is changed: name a name, a description or metadata"));
        }
        Ok(Edit { name, description, metadata })
    }
}

pub(super) async fn update(
    State(rest): State<Rest>,
    context: Context,
    At(id): At<String>,
    Body(body): Body<Update>,
) -> Answer<axum::Json<Value>> {
    let volume = rest.block.edit_volume(&context.caller, &id, body.edit()?)?;
    let view = view(&rest.block, &rest.block.catalog().read(), &context, &volume, Shape::Plain)?;
    Ok(axum::Json(json!({"volume": view})))
}

pub(super) async fn delete(
    State(rest): State<Rest>,
    context: Context,
    At(id): At<String>,
    Query(query): Query,
) -> Answer<StatusCode> {
    let flag = |key: &str| query.get(key).and_then(|text| Flag::parse(text)).is_some_and(|flag| flag.0);
    let force = flag("force") && context.version.has(23);
    if force {
        context.caller.require_admin("volume:force_delete")?;
    }
    rest.block.delete_volume(&context.caller, &id, flag("cascade"), force)?;
    Ok(StatusCode::ACCEPTED)
}

// ---- metadata ----

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MetadataBody {
    pub(super) metadata: Metadata,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EntryBody {
    pub(super) meta: Metadata,
}

impl EntryBody {
    /// The one entry, which has to be the one of the path.
    pub(super) fn value(self, key: &str) -> Answer<String> {
        let mut entries = self.meta.into_iter();
        match (entries.next(), entries.next()) {
            (Some((found, value)), None) if found == key => Ok(value),
            _ => Err(Fault::bad("the body has to have the one entry that the path names")),
        }
    }
}

/// The entry of the path.
pub(super) fn entry(metadata: &Metadata, key: &str) -> Answer<axum::Json<Value>> {
    let value = metadata.get(key).ok_or_else(|| Fault::missing("Metadata item", key))?;
    Ok(axum::Json(json!({"meta": {key: value}})))
}

pub(super) fn all_entries(metadata: &Metadata) -> axum::Json<Value> {
    axum::Json(json!({"metadata": metadata}))
}

pub(super) async fn metadata(
    State(rest): State<Rest>,
    context: Context,
    At(id): At<String>,
) -> Answer<axum::Json<Value>> {
    Ok(all_entries(&rest.block.find::<Volume>(&context.caller, &id)?.metadata))
}

pub(super) async fn add_metadata(
    State(rest): State<Rest>,
    context: Context,
    At(id): At<String>,
    Body(body): Body<MetadataBody>,
) -> Answer<axum::Json<Value>> {
    let changed = rest.block.change_volume(&context.caller, &id, |volume| {
        volume.metadata.extend(body.metadata);
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
    let changed = rest.block.change_volume(&context.caller, &id, |volume| {
        volume.metadata = body.metadata;
        Ok(())
    });
    Ok(all_entries(&changed?.metadata))
}

pub(super) async fn one_entry(
    State(rest): State<Rest>,
    context: Context,
    At((id, key)): At<(String, String)>,
) -> Answer<axum::Json<Value>> {
    entry(&rest.block.find::<Volume>(&context.caller, &id)?.metadata, &key)
}

pub(super) async fn set_entry(
    State(rest): State<Rest>,
    context: Context,
    At((id, key)): At<(String, String)>,
    Body(body): Body<EntryBody>,
) -> Answer<axum::Json<Value>> {
    let value = body.value(&key)?;
    let changed = rest.block.change_volume(&context.caller, &id, |volume| {
        drop(volume.metadata.insert(key.clone(), value));
        Ok(())
    });
    entry(&changed?.metadata, &key)
}

pub(super) async fn delete_entry(
    State(rest): State<Rest>,
    context: Context,
    At((id, key)): At<(String, String)>,
) -> Answer<StatusCode> {
    let changed = rest.block.change_volume(&context.caller, &id, |volume| match volume.metadata.remove(&key) {
        Some(_) => Ok(()),
        None => Err(Fault::missing("Metadata item", &key)),
    });
    changed.map(|_| StatusCode::OK)
}
