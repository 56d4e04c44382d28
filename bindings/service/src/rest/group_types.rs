//! `/group_types`.

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
    input::{At, Body, Flag, Query, given},
};
use crate::{
    block::NewGroupType,
    catalog::GroupType,
    domain::{check_description, check_metadata},
    fault::{Answer, Fault},
};

/// Since when there are types of groups.
const GROUP_TYPES: u32 = 11;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Create {
    group_type: CreateFields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateFields {
    name: String,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    is_public: Option<Flag>,
    #[serde(default)]
    group_specs: Option<BTreeMap<String, String>>,
}

fn view(context: &Context, kind: &GroupType) -> Value {
    let mut view = json!({
        "id": kind.id,
        "name": kind.name,
        "description": kind.description,
        "is_public": kind.public,
    });
    if context.caller.is_admin()
        && let Some(fields) = view.as_object_mut()
    {
        drop(fields.insert("group_specs".to_owned(), json!(kind.specs)));
    }
    view
}

fn one(context: &Context, kind: &GroupType) -> axum::Json<Value> {
    axum::Json(json!({"group_type": view(context, kind)}))
}

fn check_specs(specs: &BTreeMap<String, String>) -> Answer<()> {
    check_metadata(specs).map_err(Fault::bad)
}

pub(super) async fn create(State(rest): State<Rest>, context: Context, Body(body): Body<Create>) -> Answer<Response> {
    context.needs(GROUP_TYPES)?;
    let CreateFields { name, description, is_public, group_specs } = body.group_type;
    let specs = group_specs.unwrap_or_default();
    check_specs(&specs)?;
    check_description(description.as_deref().unwrap_or_default()).map_err(Fault::bad)?;
    let new = NewGroupType { name, description, public: is_public.is_none_or(|flag| flag.0), specs };
    let kind = rest.block.create_group_type(&context.caller, new)?;
    Ok((StatusCode::ACCEPTED, one(&context, &kind)).into_response())
}

pub(super) async fn list(State(rest): State<Rest>, context: Context, Query(query): Query) -> Answer<axum::Json<Value>> {
    context.needs(GROUP_TYPES)?;
    let wanted = query.get("is_public").and_then(|text| Flag::parse(text));
    let all = query.get("is_public").is_some_and(|text| text.eq_ignore_ascii_case("none"));
    let admin = context.caller.is_admin();
    let types = rest.block.group_types(&context.caller)?;
    let shown = types.iter().filter(|kind| match wanted {
        Some(flag) if admin => kind.public == flag.0,
        None if admin && !all => kind.public,
        _ => true,
    });
    Ok(axum::Json(json!({"group_types": shown.map(|kind| view(&context, kind)).collect::<Vec<_>>()})))
}

pub(super) async fn show(State(rest): State<Rest>, context: Context, At(id): At<String>) -> Answer<axum::Json<Value>> {
    context.needs(GROUP_TYPES)?;
    Ok(one(&context, &rest.block.group_type(&context.caller, &id)?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Update {
    group_type: UpdateFields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UpdateFields {
    #[serde(default)]
    name: Option<String>,
    #[serde(default, deserialize_with = "given")]
    description: Option<Option<String>>,
    #[serde(default)]
    is_public: Option<Flag>,
}

pub(super) async fn update(
    State(rest): State<Rest>,
    context: Context,
    At(id): At<String>,
    Body(body): Body<Update>,
) -> Answer<axum::Json<Value>> {
    context.needs(GROUP_TYPES)?;
    let UpdateFields { name, description, is_public } = body.group_type;
    let kind = rest.block.change_group_type(&context.caller, &id, |kind| {
        name.into_iter().for_each(|name| kind.name = name);
        description.into_iter().for_each(|text| kind.description = text);
        is_public.into_iter().for_each(|flag| kind.public = flag.0);
        check_description(kind.description.as_deref().unwrap_or_default()).map_err(Fault::bad)
    })?;
    Ok(one(&context, &kind))
}

pub(super) async fn delete(State(rest): State<Rest>, context: Context, At(id): At<String>) -> Answer<StatusCode> {
    context.needs(GROUP_TYPES)?;
    rest.block.delete_group_type(&context.caller, &id)?;
    Ok(StatusCode::ACCEPTED)
}

// ---- specs ----

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Specs {
    group_specs: BTreeMap<String, String>,
}

fn with_specs(rest: &Rest, context: &Context, id: &str) -> Answer<GroupType> {
    context.needs(GROUP_TYPES)?;
    context.caller.require_admin("group:group_types_specs")?;
    rest.block.group_type(&context.caller, id)
}

pub(super) async fn specs(State(rest): State<Rest>, context: Context, At(id): At<String>) -> Answer<axum::Json<Value>> {
    Ok(axum::Json(json!({"group_specs": with_specs(&rest, &context, &id)?.specs})))
}

pub(super) async fn set_specs(
    State(rest): State<Rest>,
    context: Context,
    At(id): At<String>,
    Body(body): Body<Specs>,
) -> Answer<Response> {
    context.needs(GROUP_TYPES)?;
    let given = body.group_specs.clone();
    drop(rest.block.change_group_type(&context.caller, &id, |kind| {
        kind.specs.extend(body.group_specs);
        check_specs(&kind.specs)
    })?);
    Ok((StatusCode::ACCEPTED, axum::Json(json!({"group_specs": given}))).into_response())
}

pub(super) async fn spec(
    State(rest): State<Rest>,
    context: Context,
    At((id, key)): At<(String, String)>,
) -> Answer<axum::Json<Value>> {
    let kind = with_specs(&rest, &context, &id)?;
    let value = kind.specs.get(&key).ok_or_else(|| Fault::missing("Group spec", &key))?;
    Ok(axum::Json(json!({key: value})))
}

pub(super) async fn set_spec(
    State(rest): State<Rest>,
    context: Context,
    At((id, key)): At<(String, String)>,
    Body(body): Body<BTreeMap<String, String>>,
) -> Answer<axum::Json<Value>> {
    context.needs(GROUP_TYPES)?;
    let Some(value) = body.get(&key).filter(|_| body.len() == 1).cloned() else {
        return Err(Fault::bad("the body has to have the one group spec that the path names"));
    };
    drop(rest.block.change_group_type(&context.caller, &id, |kind| {
        drop(kind.specs.insert(key.clone(), value));
        check_specs(&kind.specs)
    })?);
    Ok(axum::Json(json!(body)))
}

pub(super) async fn delete_spec(
    State(rest): State<Rest>,
    context: Context,
    At((id, key)): At<(String, String)>,
) -> Answer<StatusCode> {
    context.needs(GROUP_TYPES)?;
    drop(rest.block.change_group_type(&context.caller, &id, |kind| match kind.specs.remove(&key) {
        Some(_) => Ok(()),
        None => Err(Fault::missing("Group spec", &key)),
    })?);
    Ok(StatusCode::ACCEPTED)
}
