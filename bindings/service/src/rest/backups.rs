//! `/backups`.

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
    filters::{Filter, named, part, text},
    input::{At, Body, Flag, Query, arguments, given},
    listing::{Collection, Listed, Listing, Sortable},
    time::{maybe, moment},
    volumes::Metadata,
};
use crate::{
    block::{Edit, Import, NewBackup},
    catalog::Backup,
    fault::{Answer, Fault},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Create {
    backup: CreateBackup,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateBackup {
    volume_id: String,
    #[serde(default)]
    snapshot_id: Option<String>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    container: Option<String>,
    #[serde(default)]
    incremental: Option<Flag>,
    #[serde(default)]
    force: Option<Flag>,
    #[serde(default)]
    metadata: Option<Metadata>,
    #[serde(default)]
    availability_zone: Option<String>,
}

impl Listed for Backup {
    const FILTERS: &'static [Filter<Self>] = &[
        text("name", |backup| named(&backup.name)),
        part("name~", |backup| named(&backup.name)),
        text("id", |backup| Some(&backup.id)),
        text("status", |backup| Some(backup.status.as_str())),
        text("volume_id", |backup| Some(&backup.volume_id)),
        text("snapshot_id", |backup| backup.snapshot_id.as_deref()),
    ];

    fn sortable(&self, key: &str) -> Option<Sortable<'_>> {
        let text = Sortable::text;
        match key {
            "id" => text(&self.id),
            "name" => text(self.name.as_deref().unwrap_or_default()),
            "status" => text(self.status.as_str()),
            "volume_id" => text(&self.volume_id),
            "size" => Some(Sortable::Number(self.size)),
            "created_at" => Some(Sortable::Number(self.created_us)),
            "updated_at" => self.updated_us.map(Sortable::Number),
            _ => None,
        }
    }
}

fn brief(context: &Context, backup: &Backup) -> Value {
    json!({"id": backup.id, "name": backup.name, "links": context.links("backups", &backup.id)})
}

fn full(rest: &Rest, context: &Context, backup: &Backup) -> Answer<Value> {
    let mut view = json!({
        "id": backup.id,
        "name": backup.name,
        "description": backup.description,
        "status": backup.status,
        "size": backup.size,
        "object_count": 0,
        "volume_id": backup.volume_id,
        "snapshot_id": backup.snapshot_id,
        "container": backup.container,
        "availability_zone": rest.block.settings().zone,
        "created_at": moment(backup.created_us),
        "updated_at": maybe(backup.updated_us),
        "data_timestamp": moment(backup.data_us),
        "fail_reason": backup.fail_reason,
        "is_incremental": backup.incremental,
        "has_dependent_backups": rest.block.has_dependents(&backup.id)?,
        "links": context.links("backups", &backup.id),
    });
    let Some(fields) = view.as_object_mut() else { return Ok(view) };
    let mut put = |key: &str, value: Value| drop(fields.insert(key.to_owned(), value));
    if context.version.has(18) && context.caller.is_admin() {
        put("os-backup-project-attr:project_id", json!(backup.project));
    }
    if context.version.has(43) {
        put("metadata", json!(backup.metadata));
    }
    if context.version.has(56) {
        put("user_id", json!(backup.user));
    }
    Ok(view)
}

pub(super) async fn create(State(rest): State<Rest>, context: Context, Body(body): Body<Create>) -> Answer<Response> {
    let body = body.backup;
    if body.metadata.is_some() && !context.version.has(43) {
        return Err(Fault::bad("Invalid input: metadata of backups takes API version 3.43 or later."));
    }
    if body.availability_zone.as_ref().is_some_and(|zone| *zone != rest.block.settings().zone) {
        return Err(Fault::bad("the availability zone of the backup is not served here"));
    }
    let new = NewBackup {
        volume: body.volume_id,
        snapshot: body.snapshot_id.filter(|id| !id.is_empty()),
        name: body.name,
        description: body.description,
        metadata: body.metadata.unwrap_or_default(),
        container: body.container,
        incremental: body.incremental.is_some_and(|flag| flag.0),
        force: body.force.is_some_and(|flag| flag.0),
    };
    let backup = rest.block.create_backup(&context.caller, new)?;
    Ok((StatusCode::ACCEPTED, axum::Json(json!({"backup": brief(&context, &backup)}))).into_response())
}

pub(super) async fn list(State(rest): State<Rest>, context: Context, query: Query) -> Answer<axum::Json<Collection>> {
    listed(&rest, &context, query, false)
}

pub(super) async fn detail(State(rest): State<Rest>, context: Context, query: Query) -> Answer<axum::Json<Collection>> {
    listed(&rest, &context, query, true)
}

fn listed(rest: &Rest, context: &Context, query: Query, detail: bool) -> Answer<axum::Json<Collection>> {
    let listing = Listing::of(context, query.0)?;
    let page = listing.page::<Backup>(&rest.block, context)?;
    let view = |backup: &Backup| match detail {
        true => full(rest, context, backup),
        false => Ok(brief(context, backup)),
    };
    let items = page.items.iter().map(view).collect::<Answer<_>>()?;
    listing.answer(context, "backups", &page, items).map(axum::Json)
}

pub(super) async fn show(State(rest): State<Rest>, context: Context, At(id): At<String>) -> Answer<axum::Json<Value>> {
    let backup: Backup = rest.block.find(&context.caller, &id)?;
    Ok(axum::Json(json!({"backup": full(&rest, &context, &backup)?})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Update {
    backup: UpdateFields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UpdateFields {
    #[serde(default, deserialize_with = "given")]
    name: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    description: Option<Option<String>>,
    #[serde(default)]
    metadata: Option<Metadata>,
}

pub(super) async fn update(
    State(rest): State<Rest>,
    context: Context,
    At(id): At<String>,
    Body(body): Body<Update>,
) -> Answer<axum::Json<Value>> {
    context.needs(9)?;
    let UpdateFields { name, description, metadata } = body.backup;
    if name.is_none() && description.is_none() && metadata.is_none() {
        return Err(Fault::bad("nothing is changed: name a name, a description or metadata"));
    }
    let backup = rest.block.edit_backup(&context.caller, &id, Edit { name, description, metadata })?;
    Ok(axum::Json(json!({"backup": brief(&context, &backup)})))
}

pub(super) async fn delete(State(rest): State<Rest>, context: Context, At(id): At<String>) -> Answer<StatusCode> {
    rest.block.delete_backup(&context.caller, &id, false)?;
    Ok(StatusCode::ACCEPTED)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Restore {
    restore: RestoreFields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RestoreFields {
    #[serde(default)]
    volume_id: Option<String>,
    #[serde(default)]
    name: Option<String>,
}

pub(super) async fn restore(
    State(rest): State<Rest>,
    context: Context,
    At(id): At<String>,
    Body(body): Body<Restore>,
) -> Answer<Response> {
    let RestoreFields { volume_id, name } = body.restore;
    let volume = volume_id.filter(|id| !id.is_empty());
    let (backup, volume) = rest.block.restore(&context.caller, &id, volume.as_deref(), name).await?;
    let view = json!({"backup_id": backup.id, "volume_id": volume.id, "volume_name": volume.name});
    Ok((StatusCode::ACCEPTED, axum::Json(json!({"restore": view}))).into_response())
}

pub(super) async fn export(
    State(rest): State<Rest>,
    context: Context,
    At(id): At<String>,
) -> Answer<axum::Json<Value>> {
    let record = rest.block.export_backup(&context.caller, &id).await?;
    let view = json!({"backup_service": record.backup_service, "backup_url": record.backup_url});
    Ok(axum::Json(json!({"backup-record": view})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ImportBody {
    #[serde(rename = "backup-record")]
    record: Import,
}

pub(super) async fn import(
    State(rest): State<Rest>,
    context: Context,
    Body(body): Body<ImportBody>,
) -> Answer<Response> {
    let backup = rest.block.import_backup(&context.caller, &body.record).await?;
    Ok((StatusCode::CREATED, axum::Json(json!({"backup": brief(&context, &backup)}))).into_response())
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
    let _backup: Backup = rest.block.find(&context.caller, &id)?;
    match name.as_str() {
        "os-reset_status" => {
            rest.block.reset_backup(&context.caller, &id, &arguments::<Reset>(&name, value)?.status)?;
        }
        "os-force_delete" => {
            context.caller.require_admin("volume_extension:backup_admin_actions:force_delete")?;
            rest.block.delete_backup(&context.caller, &id, true)?;
        }
        _ => return Err(Fault::bad("There is no such action of backups")),
    }
    Ok(StatusCode::ACCEPTED)
}
