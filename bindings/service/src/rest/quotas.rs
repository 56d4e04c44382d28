//! `/os-quota-sets` and `/os-quota-class-sets`.

use axum::extract::State;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

use super::{
    Rest,
    context::Context,
    input::{At, Body, Flag, Number, Query},
};
use crate::fault::{Answer, Fault};

/// The class whose limits hold for projects that have none of their own.
const DEFAULT_CLASS: &str = "default";

pub(super) async fn show(
    State(rest): State<Rest>,
    context: Context,
    At(project): At<String>,
    Query(query): Query,
) -> Answer<axum::Json<Value>> {
    let usage = query.get("usage").and_then(|text| Flag::parse(text)).is_some_and(|flag| flag.0);
    let lines = rest.block.quota(&context.caller, &project)?;
    let view = lines.into_iter().map(|(name, (limit, count))| {
        let value = match usage {
            true => json!({"limit": limit, "in_use": count.in_use, "reserved": count.reserved, "allocated": 0}),
            false => json!(limit),
        };
        (name, value)
    });
    Ok(set(&project, view))
}

fn set(id: &str, lines: impl IntoIterator<Item = (String, Value)>) -> axum::Json<Value> {
    let mut set: Map<String, Value> = lines.into_iter().collect();
    drop(set.insert("id".to_owned(), json!(id)));
    axum::Json(json!({"quota_set": set}))
}

pub(super) async fn defaults(
    State(rest): State<Rest>,
    context: Context,
    At(project): At<String>,
) -> Answer<axum::Json<Value>> {
    let lines = rest.block.default_quota(&context.caller)?;
    Ok(set(&project, lines.into_iter().map(|(name, (limit, _))| (name, json!(limit)))))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Update {
    quota_set: BTreeMap<String, Value>,
}

/// Limits by name. What clients send along and what is no limit is passed over.
fn limits(body: BTreeMap<String, Value>) -> Answer<BTreeMap<String, i64>> {
    let is_limit =
        |key: &str| !matches!(key, "tenant_id" | "project_id" | "id" | "force" | "skip_validation" | "class_name");
    let number = |(key, value): (String, Value)| {
        let wrong = |e| Fault::bad(format!("Quota limit {key} must be a whole number: {e}"));
        serde_json::from_value::<Number>(value).map_err(wrong).map(|number| (key.clone(), number.0))
    };
    body.into_iter().filter(|(key, _)| is_limit(key)).map(number).collect()
}

pub(super) async fn update(
    State(rest): State<Rest>,
    context: Context,
    At(project): At<String>,
    Body(body): Body<Update>,
) -> Answer<axum::Json<Value>> {
    rest.block.set_quota(&context.caller, Some(&project), &limits(body.quota_set)?)?;
    let lines = rest.block.quota(&context.caller, &project)?;
    let view: Map<String, Value> = lines.into_iter().map(|(name, (limit, _))| (name, json!(limit))).collect();
    Ok(axum::Json(json!({"quota_set": view})))
}

pub(super) async fn delete(State(rest): State<Rest>, context: Context, At(project): At<String>) -> Answer<StatusCode> {
    rest.block.clear_quota(&context.caller, &project)?;
    Ok(StatusCode::OK)
}

fn known_class(class: &str) -> Answer<()> {
    match class == DEFAULT_CLASS {
        true => Ok(()),
        false => Err(Fault::missing("Quota class", class)),
    }
}

pub(super) async fn class(
    State(rest): State<Rest>,
    context: Context,
    At(class): At<String>,
) -> Answer<axum::Json<Value>> {
    known_class(&class)?;
    let lines = rest.block.default_quota(&context.caller)?;
    let mut view: Map<String, Value> = lines.into_iter().map(|(name, (limit, _))| (name, json!(limit))).collect();
    drop(view.insert("id".to_owned(), json!(class)));
    Ok(axum::Json(json!({"quota_class_set": view})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UpdateClass {
    quota_class_set: BTreeMap<String, Value>,
}

pub(super) async fn update_class(
    State(rest): State<Rest>,
    context: Context,
    At(class): At<String>,
    Body(body): Body<UpdateClass>,
) -> Answer<axum::Json<Value>> {
    known_class(&class)?;
    rest.block.set_quota(&context.caller, None, &limits(body.quota_class_set)?)?;
    let lines = rest.block.default_quota(&context.caller)?;
    let view: Map<String, Value> = lines.into_iter().map(|(name, (limit, _))| (name, json!(limit))).collect();
    Ok(axum::Json(json!({"quota_class_set": view})))
}
