//! `/qos-specs`.

use axum::extract::State;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

use super::{
    Rest,
    context::Context,
    input::{At, Body, Flag, Query},
};
use crate::{
    block::NewQos,
    catalog::{Consumer, QosSpec},
    fault::{Answer, Fault},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Specs {
    qos_specs: BTreeMap<String, Value>,
}

fn text(key: &str, value: Value) -> Answer<String> {
    match value {
        Value::String(text) => Ok(text),
        Value::Number(number) => Ok(number.to_string()),
        _ => Err(Fault::bad(format!("the value of {key} has to be a text or a number"))),
    }
}

fn texts(specs: BTreeMap<String, Value>) -> Answer<BTreeMap<String, String>> {
    specs.into_iter().map(|(key, value)| text(&key, value).map(|value| (key, value))).collect()
}

fn consumer(text: Option<String>) -> Answer<Option<Consumer>> {
    let wrong = || Fault::bad("the consumer of qos specs is front-end, back-end or both");
    text.map(|text| Consumer::named(&text).ok_or_else(wrong)).transpose()
}

fn view(specs: &QosSpec) -> Value {
    json!({"id": specs.id, "name": specs.name, "consumer": specs.consumer, "specs": specs.specs})
}

fn links(context: &Context, id: &str) -> Value {
    context.links("qos-specs", id)
}

pub(super) async fn create(
    State(rest): State<Rest>,
    context: Context,
    Body(body): Body<Specs>,
) -> Answer<axum::Json<Value>> {
    let mut specs = texts(body.qos_specs)?;
    let name = specs.remove("name").ok_or_else(|| Fault::bad("Invalid input: qos specs need a name"))?;
    let consumer = consumer(specs.remove("consumer"))?.unwrap_or(Consumer::BackEnd);
    let made = rest.block.create_qos(&context.caller, NewQos { name, consumer, specs })?;
    Ok(axum::Json(json!({"qos_specs": view(&made), "links": links(&context, &made.id)})))
}

pub(super) async fn list(State(rest): State<Rest>, context: Context) -> Answer<axum::Json<Value>> {
    let all = rest.block.qos_specs(&context.caller)?;
    Ok(axum::Json(json!({"qos_specs": all.iter().map(view).collect::<Vec<_>>()})))
}

pub(super) async fn show(State(rest): State<Rest>, context: Context, At(id): At<String>) -> Answer<axum::Json<Value>> {
    let specs = rest.block.qos_spec(&context.caller, &id)?;
    Ok(axum::Json(json!({"qos_specs": view(&specs), "links": links(&context, &id)})))
}

pub(super) async fn update(
    State(rest): State<Rest>,
    context: Context,
    At(id): At<String>,
    Body(body): Body<Specs>,
) -> Answer<axum::Json<Value>> {
    let mut changes = texts(body.qos_specs)?;
    let given = changes.clone();
    let consumer = consumer(changes.remove("consumer"))?;
    let change = |specs: &mut QosSpec| {
        consumer.into_iter().for_each(|consumer| specs.consumer = consumer);
        specs.specs.extend(changes);
        Ok(())
    };
    drop(rest.block.change_qos(&context.caller, &id, change).await?);
    Ok(axum::Json(json!({"qos_specs": given})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Keys {
    keys: Vec<String>,
}

pub(super) async fn delete_keys(
    State(rest): State<Rest>,
    context: Context,
    At(id): At<String>,
    Body(body): Body<Keys>,
) -> Answer<StatusCode> {
    let change = |specs: &mut QosSpec| {
        for key in body.keys {
            if specs.specs.remove(&key).is_none() {
                return Err(Fault::bad(format!("Qos specs {} has no spec with key {key}.", specs.id)));
            }
        }
        Ok(())
    };
    drop(rest.block.change_qos(&context.caller, &id, change).await?);
    Ok(StatusCode::ACCEPTED)
}

pub(super) async fn delete(
    State(rest): State<Rest>,
    context: Context,
    At(id): At<String>,
    Query(query): Query,
) -> Answer<StatusCode> {
    let force = query.get("force").and_then(|text| Flag::parse(text)).is_some_and(|flag| flag.0);
    rest.block.delete_qos(&context.caller, &id, force).await?;
    Ok(StatusCode::ACCEPTED)
}

pub(super) async fn associations(
    State(rest): State<Rest>,
    context: Context,
    At(id): At<String>,
) -> Answer<axum::Json<Value>> {
    let types = rest.block.types_of_qos(&context.caller, &id)?;
    let view = |kind: &crate::catalog::VolumeType| json!({"association_type": "volume_type", "name": kind.name, "id": kind.id});
    Ok(axum::Json(json!({"qos_associations": types.iter().map(view).collect::<Vec<_>>()})))
}

fn type_of(query: &BTreeMap<String, String>) -> Answer<&str> {
    query.get("vol_type_id").map(String::as_str).ok_or_else(|| Fault::bad("Volume Type id must not be None."))
}

pub(super) async fn associate(
    State(rest): State<Rest>,
    context: Context,
    At(id): At<String>,
    Query(query): Query,
) -> Answer<StatusCode> {
    not_a_reader(&context)?;
    rest.block.associate_qos(&context.caller, &id, type_of(&query)?).await?;
    Ok(StatusCode::ACCEPTED)
}

pub(super) async fn disassociate(
    State(rest): State<Rest>,
    context: Context,
    At(id): At<String>,
    Query(query): Query,
) -> Answer<StatusCode> {
    not_a_reader(&context)?;
    rest.block.disassociate_qos(&context.caller, &id, Some(type_of(&query)?)).await?;
    Ok(StatusCode::ACCEPTED)
}

pub(super) async fn disassociate_all(
    State(rest): State<Rest>,
    context: Context,
    At(id): At<String>,
) -> Answer<StatusCode> {
    not_a_reader(&context)?;
    rest.block.disassociate_qos(&context.caller, &id, None).await?;
    Ok(StatusCode::ACCEPTED)
}

/// These change something, though the interface has them as GET.
fn not_a_reader(context: &Context) -> Answer<()> {
    context.caller.require_admin("volume_extension:qos_specs_manage:update")
}
