//! `/default-types`: types of volumes that name none, project by project.

use axum::extract::State;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Rest,
    context::Context,
    input::{At, Body},
};
use crate::{catalog::DefaultType, fault::Answer};

/// Since when projects have default types.
const DEFAULT_TYPES: u32 = 62;

#[derive(Deserialize)]
pub(super) struct Set {
    default_type: SetFields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetFields {
    /// Its id or name.
    volume_type: String,
}

fn view(default: &DefaultType) -> Value {
    json!({"project_id": default.project, "volume_type_id": default.type_id})
}

fn one(default: &DefaultType) -> axum::Json<Value> {
    axum::Json(json!({"default_type": view(default)}))
}

pub(super) async fn list(State(rest): State<Rest>, context: Context) -> Answer<axum::Json<Value>> {
    context.needs(DEFAULT_TYPES)?;
    let all = rest.block.default_types(&context.caller)?;
    Ok(axum::Json(json!({"default_types": all.iter().map(view).collect::<Vec<_>>()})))
}

pub(super) async fn show(
    State(rest): State<Rest>,
    context: Context,
    At(project): At<String>,
) -> Answer<axum::Json<Value>> {
    context.needs(DEFAULT_TYPES)?;
    Ok(one(&rest.block.default_type_of(&context.caller, &project)?))
}

pub(super) async fn set(
    State(rest): State<Rest>,
    context: Context,
    At(project): At<String>,
    Body(body): Body<Set>,
) -> Answer<axum::Json<Value>> {
    context.needs(DEFAULT_TYPES)?;
    let wanted = body.default_type.volume_type;
    Ok(one(&rest.block.set_default_type(&context.caller, &project, &wanted, rest.identity.lists_projects())?))
}

pub(super) async fn unset(State(rest): State<Rest>, context: Context, At(project): At<String>) -> Answer<StatusCode> {
    context.needs(DEFAULT_TYPES)?;
    rest.block.unset_default_type(&context.caller, &project)?;
    Ok(StatusCode::NO_CONTENT)
}
