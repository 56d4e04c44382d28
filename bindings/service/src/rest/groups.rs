//! `/groups`.

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
    time::moment,
};
use crate::{
    block::{GroupEdit, GroupSource, NewGroup},
    catalog::Group,
    fault::{Answer, Fault, FaultKind},
};

/// Since when there are groups, groups from others, states set by hand, lists of their volumes, and their projects.
const GROUPS: u32 = 13;
const FROM_SOURCE: u32 = 14;
const RESET: u32 = 20;
const VOLUMES: u32 = 25;
const PROJECT: u32 = 58;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Create {
    group: CreateFields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateFields {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    description: Option<String>,
    group_type: String,
    volume_types: Vec<String>,
    #[serde(default)]
    availability_zone: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateFrom {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    group_snapshot_id: Option<String>,
    #[serde(default)]
    source_group_id: Option<String>,
}

impl Listed for Group {
    const FILTERS: &'static [Filter<Self>] = &[
        text("name", |group| named(&group.name)),
        part("name~", |group| named(&group.name)),
        text("id", |group| Some(&group.id)),
        text("status", |group| Some(group.status.as_str())),
        text("group_type", |group| Some(&group.type_id)),
        text("group_snapshot_id", |group| group.group_snapshot_id.as_deref()),
        text("source_group_id", |group| group.source_group_id.as_deref()),
    ];

    fn sortable(&self, key: &str) -> Option<Sortable<'_>> {
        let text = Sortable::text;
        match key {
            "id" => text(&self.id),
            "name" => text(self.name.as_deref().unwrap_or_default()),
            "status" => text(self.status.as_str()),
            "created_at" => Some(Sortable::Number(self.created_us)),
            _ => None,
        }
    }
}

fn brief(group: &Group) -> Value {
    json!({"id": group.id, "name": group.name})
}

fn full(rest: &Rest, context: &Context, group: &Group, with_volumes: bool) -> Answer<Value> {
    let mut view = json!({
        "id": group.id,
        "name": group.name,
        "description": group.description,
        "status": group.status,
        "availability_zone": rest.block.settings().zone,
        "created_at": moment(group.created_us),
        "group_type": group.type_id,
        "volume_types": group.volume_types,
    });
    let Some(fields) = view.as_object_mut() else { return Ok(view) };
    let mut put = |key: &str, value: Value| drop(fields.insert(key.to_owned(), value));
    if context.version.has(FROM_SOURCE) {
        put("group_snapshot_id", json!(group.group_snapshot_id));
        put("source_group_id", json!(group.source_group_id));
    }
    if context.version.has(VOLUMES) && with_volumes {
        let volumes = rest.block.volumes_in(&group.id)?;
        put("volumes", json!(volumes.iter().map(|volume| &volume.id).collect::<Vec<_>>()));
    }
    if context.version.has(38) {
        put("replication_status", json!("disabled"));
    }
    if context.version.has(PROJECT) && context.caller.is_admin() {
        put("project_id", json!(group.project));
    }
    Ok(view)
}

fn accepted(group: &Group) -> Response {
    (StatusCode::ACCEPTED, axum::Json(json!({"group": brief(group)}))).into_response()
}

pub(super) async fn create(State(rest): State<Rest>, context: Context, Body(body): Body<Create>) -> Answer<Response> {
    context.needs(GROUPS)?;
    let CreateFields { name, description, group_type, volume_types, availability_zone } = body.group;
    let zone = availability_zone.filter(|zone| !zone.is_empty());
    let new = NewGroup { name, description, group_type, volume_types, zone };
    Ok(accepted(&rest.block.create_group(&context.caller, new)?))
}

/// `POST /groups/action`: `create-from-src`.
pub(super) async fn create_from(
    State(rest): State<Rest>,
    mut context: Context,
    Body(body): Body<BTreeMap<String, Value>>,
) -> Answer<Response> {
    context.needs(FROM_SOURCE)?;
    let (name, value) = context.action(body)?;
    if name != "create-from-src" {
        return Err(Fault::bad("There is no such action of groups"));
    }
    let wanted: CreateFrom = arguments(&name, value)?;
    let source = match (wanted.group_snapshot_id, wanted.source_group_id) {
        (Some(id), None) => GroupSource::Snapshot(id),
        (None, Some(id)) => GroupSource::Group(id),
        _ => return Err(Fault::bad("name either group_snapshot_id or source_group_id")),
    };
    let group = rest.block.create_group_from(&context.caller, wanted.name, wanted.description, &source).await?;
    Ok(accepted(&group))
}

fn lists_volumes(query: &BTreeMap<String, String>) -> bool {
    query.get("list_volume").and_then(|text| Flag::parse(text)).is_some_and(|flag| flag.0)
}

pub(super) async fn list(State(rest): State<Rest>, context: Context, query: Query) -> Answer<axum::Json<Collection>> {
    listed(&rest, &context, query, false)
}

pub(super) async fn detail(State(rest): State<Rest>, context: Context, query: Query) -> Answer<axum::Json<Collection>> {
    listed(&rest, &context, query, true)
}

fn listed(rest: &Rest, context: &Context, query: Query, detail: bool) -> Answer<axum::Json<Collection>> {
    context.needs(GROUPS)?;
    let with_volumes = lists_volumes(&query.0);
    let listing = Listing::of(context, query.0)?;
    let page = listing.page::<Group>(&rest.block, context)?;
    let view = |group: &Group| match detail {
        true => full(rest, context, group, with_volumes),
        false => Ok(brief(group)),
    };
    let items = page.items.iter().map(view).collect::<Answer<_>>()?;
    listing.answer(context, "groups", &page, items).map(axum::Json)
}

pub(super) async fn show(
    State(rest): State<Rest>,
    context: Context,
    At(id): At<String>,
    Query(query): Query,
) -> Answer<axum::Json<Value>> {
    context.needs(GROUPS)?;
    let group: Group = rest.block.find(&context.caller, &id)?;
    Ok(axum::Json(json!({"group": full(&rest, &context, &group, lists_volumes(&query))?})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Update {
    group: UpdateFields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UpdateFields {
    #[serde(default, deserialize_with = "given")]
    name: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    description: Option<Option<String>>,
    #[serde(default)]
    add_volumes: Option<String>,
    #[serde(default)]
    remove_volumes: Option<String>,
}

/// Ids, divided by commas.
fn ids(text: Option<String>) -> Vec<String> {
    let text = text.unwrap_or_default();
    text.split(',').map(str::trim).filter(|id| !id.is_empty()).map(str::to_owned).collect()
}

pub(super) async fn update(
    State(rest): State<Rest>,
    context: Context,
    At(id): At<String>,
    Body(body): Body<Update>,
) -> Answer<StatusCode> {
    context.needs(GROUPS)?;
    let UpdateFields { name, description, add_volumes, remove_volumes } = body.group;
    // One of the clients sends null for what is to stay.
    let (name, description) = (name.filter(Option::is_some), description.filter(Option::is_some));
    let edit = GroupEdit { name, description, add: ids(add_volumes), remove: ids(remove_volumes) };
    if edit.name.is_none() && edit.description.is_none() && edit.add.is_empty() && edit.remove.is_empty() {
        return Err(Fault::bad("nothing is changed: name a name, a description, add_volumes or remove_volumes"));
    }
    rest.block.edit_group(&context.caller, &id, edit)?;
    Ok(StatusCode::ACCEPTED)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Delete {
    #[serde(default, rename = "delete-volumes")]
    with_volumes: Option<Flag>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reset {
    status: String,
}

pub(super) async fn action(
    State(rest): State<Rest>,
    mut context: Context,
    At(id): At<String>,
    Body(body): Body<BTreeMap<String, Value>>,
) -> Answer<StatusCode> {
    context.needs(GROUPS)?;
    let (name, value) = context.action(body)?;
    let _group: Group = rest.block.find(&context.caller, &id)?;
    match name.as_str() {
        "delete" => {
            let with_volumes = arguments::<Delete>(&name, value)?.with_volumes.is_some_and(|flag| flag.0);
            rest.block.delete_group(&context.caller, &id, with_volumes)?;
        }
        "reset_status" => {
            context.needs(RESET)?;
            rest.block.reset_group(&context.caller, &id, &arguments::<Reset>(&name, value)?.status)?;
        }
        "enable_replication" | "disable_replication" | "failover_replication" | "list_replication_targets" => {
            return Err(Fault::new(
                FaultKind::Unsupported,
                format!("{name} is not served here: nothing is replicated"),
            ));
        }
        _ => return Err(Fault::bad("There is no such action of groups")),
    }
    Ok(StatusCode::ACCEPTED)
}
