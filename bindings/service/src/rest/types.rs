//! `/types`.

use axum::extract::State;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

use super::{
    Rest,
    context::Context,
    input::{At, Body, Flag, Query, arguments, given},
};
use crate::{
    block::NewType,
    catalog::VolumeType,
    domain::{check_description, check_metadata},
    fault::{Answer, Fault},
};

/// The filter of the list. It means something to administrators.
pub(super) const IS_PUBLIC: &str = "is_public";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Create {
    volume_type: CreateType,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateType {
    name: String,
    #[serde(default)]
    description: Option<String>,
    #[serde(default, rename = "os-volume-type-access:is_public")]
    is_public: Option<Flag>,
    #[serde(default)]
    extra_specs: Option<BTreeMap<String, String>>,
}

fn view(context: &Context, kind: &VolumeType) -> Value {
    let mut view = json!({
        "id": kind.id,
        "name": kind.name,
        "description": kind.description,
        "is_public": kind.public,
        "os-volume-type-access:is_public": kind.public,
    });
    if context.caller.is_admin()
        && let Some(fields) = view.as_object_mut()
    {
        drop(fields.insert("extra_specs".to_owned(), json!(kind.extra_specs)));
        drop(fields.insert("qos_specs_id".to_owned(), json!(kind.qos_id)));
    }
    view
}

fn one(context: &Context, kind: &VolumeType) -> axum::Json<Value> {
    axum::Json(json!({"volume_type": view(context, kind)}))
}

fn check_specs(specs: &BTreeMap<String, String>) -> Answer<()> {
    check_metadata(specs).map_err(Fault::bad)
}

pub(super) async fn create(
    State(rest): State<Rest>,
    context: Context,
    Body(body): Body<Create>,
) -> Answer<axum::Json<Value>> {
    let CreateType { name, description, is_public, extra_specs } = body.volume_type;
    let extra_specs = extra_specs.unwrap_or_default();
    check_specs(&extra_specs)?;
    check_description(description.as_deref().unwrap_or_default()).map_err(Fault::bad)?;
    let public = is_public.is_none_or(|flag| flag.0);
    let kind = rest.block.create_type(&context.caller, NewType { name, description, public, extra_specs })?;
    Ok(one(&context, &kind))
}

pub(super) async fn list(State(rest): State<Rest>, context: Context, Query(query): Query) -> Answer<axum::Json<Value>> {
    let wanted = query.get(IS_PUBLIC).and_then(|text| Flag::parse(text));
    let admin = context.caller.is_admin();
    let types = rest.block.types(&context.caller)?;
    // Administrators see public types unless they ask for others, or (`None`) for all.
    let all = query.get(IS_PUBLIC).is_some_and(|text| text.eq_ignore_ascii_case("none"));
    let shown = types.iter().filter(|kind| match wanted {
        Some(flag) if admin => kind.public == flag.0,
        None if admin && !all => kind.public,
        _ => true,
    });
    Ok(axum::Json(json!({"volume_types": shown.map(|kind| view(&context, kind)).collect::<Vec<_>>()})))
}

pub(super) async fn show(State(rest): State<Rest>, context: Context, At(id): At<String>) -> Answer<axum::Json<Value>> {
    Ok(one(&context, &rest.block.volume_type(&context.caller, &id)?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Update {
    volume_type: UpdateFields,
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
    let UpdateFields { name, description, is_public } = body.volume_type;
    let kind = rest.block.change_type(&context.caller, &id, |kind| {
        name.into_iter().for_each(|name| kind.name = name);
        description.into_iter().for_each(|text| kind.description = text);
        is_public.into_iter().for_each(|flag| kind.public = flag.0);
        check_description(kind.description.as_deref().unwrap_or_default()).map_err(Fault::bad)
    })?;
    Ok(one(&context, &kind))
}

pub(super) async fn delete(State(rest): State<Rest>, context: Context, At(id): At<String>) -> Answer<StatusCode> {
    rest.block.delete_type(&context.caller, &id)?;
    Ok(StatusCode::ACCEPTED)
}

// ---- extra specs ----

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Specs {
    extra_specs: BTreeMap<String, String>,
}

pub(super) async fn specs(State(rest): State<Rest>, context: Context, At(id): At<String>) -> Answer<axum::Json<Value>> {
    let kind = rest.block.volume_type(&context.caller, &id)?;
    Ok(axum::Json(json!({"extra_specs": kind.extra_specs})))
}

pub(super) async fn set_specs(
    State(rest): State<Rest>,
    context: Context,
    At(id): At<String>,
    Body(body): Body<Specs>,
) -> Answer<axum::Json<Value>> {
    let given = body.extra_specs.clone();
    drop(rest.block.change_type(&context.caller, &id, |kind| {
        kind.extra_specs.extend(body.extra_specs);
        check_specs(&kind.extra_specs)
    })?);
    Ok(axum::Json(json!({"extra_specs": given})))
}

pub(super) async fn spec(
    State(rest): State<Rest>,
    context: Context,
    At((id, key)): At<(String, String)>,
) -> Answer<axum::Json<Value>> {
    let kind = rest.block.volume_type(&context.caller, &id)?;
    let value = kind.extra_specs.get(&key).ok_or_else(|| Fault::missing("Extra spec", &key))?;
    Ok(axum::Json(json!({key: value})))
}

pub(super) async fn set_spec(
    State(rest): State<Rest>,
    context: Context,
    At((id, key)): At<(String, String)>,
    Body(body): Body<BTreeMap<String, String>>,
) -> Answer<axum::Json<Value>> {
    let Some(value) = body.get(&key).filter(|_| body.len() == 1).cloned() else {
        return Err(Fault::bad("the body has to have the one extra spec that the path names"));
    };
    drop(rest.block.change_type(&context.caller, &id, |kind| {
        drop(kind.extra_specs.insert(key.clone(), value));
        check_specs(&kind.extra_specs)
    })?);
    Ok(axum::Json(json!(body)))
}

pub(super) async fn delete_spec(
    State(rest): State<Rest>,
    context: Context,
    At((id, key)): At<(String, String)>,
) -> Answer<StatusCode> {
    drop(rest.block.change_type(&context.caller, &id, |kind| match kind.extra_specs.remove(&key) {
        Some(_) => Ok(()),
        None => Err(Fault::missing("Extra spec", &key)),
    })?);
    Ok(StatusCode::ACCEPTED)
}

/// No type encrypts.
pub(super) async fn encryption(
    State(rest): State<Rest>,
    context: Context,
    At(id): At<String>,
) -> Answer<axum::Json<Value>> {
    let _kind = rest.block.volume_type(&context.caller, &id)?;
    Ok(axum::Json(json!({})))
}

// ---- who may use it ----

pub(super) async fn access(
    State(rest): State<Rest>,
    context: Context,
    At(id): At<String>,
) -> Answer<axum::Json<Value>> {
    context.caller.require_admin("volume_extension:volume_type_access:get_all_for_type")?;
    let kind = rest.block.volume_type(&context.caller, &id)?;
    if kind.public {
        return Err(Fault::missing("Access list of the public volume type", &id));
    }
    let access = kind.projects.iter().map(|project| json!({"volume_type_id": id, "project_id": project}));
    Ok(axum::Json(json!({"volume_type_access": access.collect::<Vec<_>>()})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Access {
    project: String,
}

pub(super) async fn action(
    State(rest): State<Rest>,
    mut context: Context,
    At(id): At<String>,
    Body(body): Body<BTreeMap<String, Value>>,
) -> Answer<StatusCode> {
    let (name, value) = context.action(body)?;
    let project = arguments::<Access>(&name, value)?.project;
    drop(rest.block.change_type(&context.caller, &id, |kind| {
        if kind.public {
            return Err(Fault::conflict("all projects may use a public volume type: make it private first"));
        }
        match name.as_str() {
            "addProjectAccess" if kind.projects.insert(project.clone()) => Ok(()),
            "addProjectAccess" => Err(Fault::conflict(format!("project {project} has access to the type already"))),
            "removeProjectAccess" if kind.projects.remove(&project) => Ok(()),
            "removeProjectAccess" => Err(Fault::missing("Access of project", &project)),
            _ => Err(Fault::bad("There is no such action of volume types")),
        }
    })?);
    Ok(StatusCode::ACCEPTED)
}
