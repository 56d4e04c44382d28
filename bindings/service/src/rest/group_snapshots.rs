//! `/group_snapshots`.

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
    input::{At, Body, Query, arguments, given},
    listing::{Collection, Listed, Listing, Sortable},
    time::moment,
};
use crate::{
    block::NewGroupSnapshot,
    catalog::GroupSnapshot,
    fault::{Answer, Fault},
};

/// Since when there are snapshots of groups, states set by hand, and their projects.
const GROUP_SNAPSHOTS: u32 = 14;
const RESET: u32 = 19;
const PROJECT: u32 = 58;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Create {
    group_snapshot: CreateFields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateFields {
    group_id: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    description: Option<String>,
}

impl Listed for GroupSnapshot {
    const FILTERS: &'static [Filter<Self>] = &[
        text("name", |taken| named(&taken.name)),
        part("name~", |taken| named(&taken.name)),
        text("id", |taken| Some(&taken.id)),
        text("status", |taken| Some(taken.status.as_str())),
        text("group_id", |taken| Some(&taken.group_id)),
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

fn brief(taken: &GroupSnapshot) -> Value {
    json!({"id": taken.id, "name": taken.name, "group_type_id": taken.type_id})
}

fn full(context: &Context, taken: &GroupSnapshot) -> Value {
    let mut view = json!({
        "id": taken.id,
        "name": taken.name,
        "description": taken.description,
        "group_id": taken.group_id,
        "group_type_id": taken.type_id,
        "status": taken.status,
        "created_at": moment(taken.created_us),
    });
    if context.version.has(PROJECT)
        && context.caller.is_admin()
        && let Some(fields) = view.as_object_mut()
    {
        drop(fields.insert("project_id".to_owned(), json!(taken.project)));
    }
    view
}

pub(super) async fn create(State(rest): State<Rest>, context: Context, Body(body): Body<Create>) -> Answer<Response> {
    context.needs(GROUP_SNAPSHOTS)?;
    let CreateFields { group_id, name, description } = body.group_snapshot;
    let new = NewGroupSnapshot { group: group_id, name, description };
    let taken = rest.block.create_group_snapshot(&context.caller, new)?;
    Ok((StatusCode::ACCEPTED, axum::Json(json!({"group_snapshot": brief(&taken)}))).into_response())
}

pub(super) async fn list(State(rest): State<Rest>, context: Context, query: Query) -> Answer<axum::Json<Collection>> {
    listed(&rest, &context, query, brief)
}

pub(super) async fn detail(State(rest): State<Rest>, context: Context, query: Query) -> Answer<axum::Json<Collection>> {
    listed(&rest, &context, query, |taken| full(&context, taken))
}

fn listed(
    rest: &Rest,
    context: &Context,
    query: Query,
    view: impl Fn(&GroupSnapshot) -> Value,
) -> Answer<axum::Json<Collection>> {
    context.needs(GROUP_SNAPSHOTS)?;
    let listing = Listing::of(context, query.0)?;
    let page = listing.page::<GroupSnapshot>(&rest.block, context)?;
    let items = page.items.iter().map(view).collect();
    listing.answer(context, "group_snapshots", &page, items).map(axum::Json)
}

pub(super) async fn show(State(rest): State<Rest>, context: Context, At(id): At<String>) -> Answer<axum::Json<Value>> {
    context.needs(GROUP_SNAPSHOTS)?;
    let taken: GroupSnapshot = rest.block.find(&context.caller, &id)?;
    Ok(axum::Json(json!({"group_snapshot": full(&context, &taken)})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Update {
    group_snapshot: UpdateFields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UpdateFields {
    #[serde(default, deserialize_with = "given")]
    name: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    description: Option<Option<String>>,
}

pub(super) async fn update(
    State(rest): State<Rest>,
    context: Context,
    At(id): At<String>,
    Body(body): Body<Update>,
) -> Answer<axum::Json<Value>> {
    context.needs(GROUP_SNAPSHOTS)?;
    let UpdateFields { name, description } = body.group_snapshot;
    if name.is_none() && description.is_none() {
        return Err(Fault::bad("nothing is changed: name a name or a description"));
    }
    let taken = rest.block.edit_group_snapshot(&context.caller, &id, name, description)?;
    Ok(axum::Json(json!({"group_snapshot": brief(&taken)})))
}

pub(super) async fn delete(State(rest): State<Rest>, context: Context, At(id): At<String>) -> Answer<StatusCode> {
    context.needs(GROUP_SNAPSHOTS)?;
    rest.block.delete_group_snapshot(&context.caller, &id)?;
    Ok(StatusCode::ACCEPTED)
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
    context.needs(GROUP_SNAPSHOTS)?;
    let (name, value) = context.action(body)?;
    let _taken: GroupSnapshot = rest.block.find(&context.caller, &id)?;
    match name.as_str() {
        "reset_status" => {
            context.needs(RESET)?;
            rest.block.reset_group_snapshot(&context.caller, &id, &arguments::<Reset>(&name, value)?.status)?;
        }
        _ => return Err(Fault::bad("There is no such action of group snapshots")),
    }
    Ok(StatusCode::ACCEPTED)
}
