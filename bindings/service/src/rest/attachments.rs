//! `/attachments`.

use axum::extract::State;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

use super::{
    Rest,
    context::Context,
    filters::{Filter, text},
    input::{At, Body, Query},
    listing::{Collection, Listed, Listing, Sortable},
    time::maybe,
};
use crate::{
    block::{NewAttachment, Role},
    catalog::Attachment,
    fault::{Answer, Fault},
};

/// Since when there are attachments, their completion, and their modes.
const ATTACHMENTS: u32 = 27;
const COMPLETE: u32 = 44;
const MODE: u32 = 54;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Create {
    attachment: CreateAttachment,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateAttachment {
    /// The published name; one of the clients sends the other.
    #[serde(alias = "volume_id")]
    volume_uuid: String,
    #[serde(default, alias = "instance", alias = "instance_id")]
    instance_uuid: Option<String>,
    #[serde(default)]
    connector: Option<Value>,
    #[serde(default)]
    mode: Option<String>,
}

impl Listed for Attachment {
    const FILTERS: &'static [Filter<Self>] = &[
        text("id", |attachment| Some(&attachment.id)),
        text("status", |attachment| Some(attachment.status.as_str())),
        text("attach_status", |attachment| Some(attachment.status.as_str())),
        text("volume_id", |attachment| Some(&attachment.volume_id)),
        text("instance_id", |attachment| attachment.instance.as_deref()),
        text("instance_uuid", |attachment| attachment.instance.as_deref()),
    ];

    fn sortable(&self, key: &str) -> Option<Sortable<'_>> {
        let text = Sortable::text;
        match key {
            "id" => text(&self.id),
            "status" => text(self.status.as_str()),
            "volume_id" => text(&self.volume_id),
            "created_at" => Some(Sortable::Number(self.created_us)),
            _ => None,
        }
    }
}

fn brief(attachment: &Attachment) -> Value {
    json!({
        "id": attachment.id,
        "status": attachment.status,
        "instance": attachment.instance,
        "volume_id": attachment.volume_id,
    })
}

/// What the consumer needs, which is to open the volume: nothing for those who may only look. One flat object, with the way of connecting in it.
fn connection_info(attachment: &Attachment, role: Role) -> Value {
    let Some(connection) = attachment.connection.as_ref().filter(|_| role > Role::Reader) else { return json!({}) };
    let mut info = connection.get("data").cloned().unwrap_or_default();
    if let Some(info) = info.as_object_mut() {
        drop(info.insert("driver_volume_type".to_owned(), connection["driver_volume_type"].clone()));
        drop(info.insert("attachment_id".to_owned(), json!(attachment.id)));
        drop(info.insert("volume_id".to_owned(), json!(attachment.volume_id)));
    }
    info
}

fn full(attachment: &Attachment, role: Role) -> Value {
    json!({
        "id": attachment.id,
        "status": attachment.status,
        "instance": attachment.instance,
        "volume_id": attachment.volume_id,
        "attached_at": maybe(attachment.attached_us),
        "detached_at": null,
        "attach_mode": attachment.mode,
        "connection_info": connection_info(attachment, role),
    })
}

pub(super) async fn create(
    State(rest): State<Rest>,
    context: Context,
    Body(body): Body<Create>,
) -> Answer<axum::Json<Value>> {
    context.needs(ATTACHMENTS)?;
    let body = body.attachment;
    if body.mode.is_some() && !context.version.has(MODE) {
        return Err(Fault::bad("Invalid input: the mode of an attachment takes API version 3.54 or later."));
    }
    let is_empty =
        |connector: &Value| connector.is_null() || connector.as_object().is_some_and(serde_json::Map::is_empty);
    let new = NewAttachment {
        volume: body.volume_uuid,
        instance: body.instance_uuid.filter(|id| !id.is_empty()),
        connector: body.connector.filter(|connector| !is_empty(connector)),
        mode: body.mode.filter(|mode| mode != "null").unwrap_or_else(|| "rw".to_owned()),
        completes: context.version.has(COMPLETE),
    };
    let attachment = rest.block.create_attachment(&context.caller, new).await?;
    Ok(axum::Json(json!({"attachment": full(&attachment, context.caller.role)})))
}

pub(super) async fn list(State(rest): State<Rest>, context: Context, query: Query) -> Answer<axum::Json<Collection>> {
    listed(&rest, &context, query, brief)
}

pub(super) async fn detail(State(rest): State<Rest>, context: Context, query: Query) -> Answer<axum::Json<Collection>> {
    listed(&rest, &context, query, |attachment| full(attachment, context.caller.role))
}

fn listed(
    rest: &Rest,
    context: &Context,
    query: Query,
    view: impl Fn(&Attachment) -> Value,
) -> Answer<axum::Json<Collection>> {
    context.needs(ATTACHMENTS)?;
    let listing = Listing::of(context, query.0)?;
    let page = listing.page::<Attachment>(&rest.block, context)?;
    let items = page.items.iter().map(view).collect();
    listing.answer(context, "attachments", &page, items).map(axum::Json)
}

pub(super) async fn show(State(rest): State<Rest>, context: Context, At(id): At<String>) -> Answer<axum::Json<Value>> {
    context.needs(ATTACHMENTS)?;
    let attachment: Attachment = rest.block.find(&context.caller, &id)?;
    Ok(axum::Json(json!({"attachment": full(&attachment, context.caller.role)})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Update {
    attachment: UpdateFields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UpdateFields {
    connector: Value,
}

pub(super) async fn update(
    State(rest): State<Rest>,
    context: Context,
    At(id): At<String>,
    Body(body): Body<Update>,
) -> Answer<axum::Json<Value>> {
    context.needs(ATTACHMENTS)?;
    let (connector, completes) = (body.attachment.connector, context.version.has(COMPLETE));
    let attachment = rest.block.connect_attachment(&context.caller, &id, connector, completes).await?;
    Ok(axum::Json(json!({"attachment": full(&attachment, context.caller.role)})))
}

pub(super) async fn delete(
    State(rest): State<Rest>,
    context: Context,
    At(id): At<String>,
) -> Answer<axum::Json<Value>> {
    context.needs(ATTACHMENTS)?;
    let left = rest.block.delete_attachment(&context.caller, &id).await?;
    Ok(axum::Json(json!({"attachments": left.iter().map(brief).collect::<Vec<_>>()})))
}

pub(super) async fn action(
    State(rest): State<Rest>,
    mut context: Context,
    At(id): At<String>,
    Body(body): Body<BTreeMap<String, Value>>,
) -> Answer<StatusCode> {
    context.needs(COMPLETE)?;
    match context.action(body)?.0.as_str() {
        "os-complete" => rest.block.complete_attachment(&context.caller, &id)?,
        _ => return Err(Fault::bad("There is no such action of attachments")),
    }
    Ok(StatusCode::NO_CONTENT)
}
