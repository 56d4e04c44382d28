//! Limits as they are: of volumes, projects, the engine's groups, and the pool. A change counts from the next request on, with clients
//! attached.

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use cairn_engine::{QosInfo, QosTarget};
use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    fault::{Answer, Fault},
    qos::Changes,
    rest::{At, Body, Context, Rest},
};

/// How much was held back.
#[derive(Serialize, ToSchema)]
pub(super) struct HeldView {
    requests: u64,
    nanoseconds: u64,
}

/// Limits, and what is left of them.
#[derive(Serialize, ToSchema)]
pub(super) struct LimitsView {
    /// Whose, as the engine names it: a volume, `/GROUP`, or `/` for the pool.
    target: String,
    /// What was set: `total_iops_sec`, …
    limits: BTreeMap<String, String>,
    /// What they come to, a second.
    rates: BTreeMap<String, u64>,
    /// Of a volume: the group that it is in.
    group: Option<String>,
    /// Of a group: the volumes in it.
    members: Vec<String>,
    /// Of the pool: how much may be under way at the device while several volumes want it.
    queue_depth: Option<u32>,
    /// Requests or bytes that may go at once.
    credits: BTreeMap<String, i64>,
    /// Of a volume: what was held back, by what, since the pool was opened.
    held: BTreeMap<String, HeldView>,
    /// Of a volume: requests that wait now.
    waiting: u64,
}

/// Limits of a volume.
#[derive(Serialize, ToSchema)]
pub(super) struct VolumeLimits {
    /// What counts: of its type, and before that its own.
    qos: LimitsView,
    /// What was set for it alone.
    own: BTreeMap<String, String>,
}

/// Limits of the pool or a group.
#[derive(Serialize, ToSchema)]
pub(super) struct OneLimits {
    qos: LimitsView,
}

/// Limits of a project.
#[derive(Serialize, ToSchema)]
pub(super) struct ProjectLimits {
    /// Null: it has none.
    qos: Option<LimitsView>,
}

/// All limits that there are.
#[derive(Serialize, ToSchema)]
pub(super) struct AllLimits {
    qos: Vec<LimitsView>,
}

fn texts(limits: &impl Serialize) -> BTreeMap<String, String> {
    let value = serde_json::to_value(limits).unwrap_or_default();
    let fields = value.as_object().cloned().unwrap_or_default();
    fields
        .into_iter()
        .map(|(key, value)| (key, value.as_str().map_or_else(|| value.to_string(), str::to_owned)))
        .collect()
}

fn view(info: QosInfo) -> LimitsView {
    LimitsView {
        target: info.target,
        limits: texts(&info.limits),
        rates: info.rates,
        group: info.group,
        members: info.members,
        queue_depth: info.queue_depth,
        credits: info.credits,
        held: info
            .held
            .into_iter()
            .map(|(by, held)| (by, HeldView { requests: held.requests, nanoseconds: held.nanos }))
            .collect(),
        waiting: info.waiting,
    }
}

/// What a body says to change.
fn changes(changes: Changes) -> Answer<Vec<(String, Option<String>)>> {
    match changes.repeated() {
        Some(key) => Err(Fault::bad(format!("{key} is given twice"))),
        None => Ok(changes.0),
    }
}

/// All limits: of the pool, of groups, of volumes that have any. Administrators only.
#[utoipa::path(get, path = "/cairn/v1/qos", tag = "qos",
    responses((status = 200, description = "The limits.", body = AllLimits)))]
pub(super) async fn list(State(rest): State<Rest>, context: Context) -> Answer<Json<AllLimits>> {
    let all = rest.block.all_limits(&context.caller).await?;
    Ok(Json(AllLimits { qos: all.into_iter().map(view).collect() }))
}

async fn shown(rest: &Rest, context: &Context, target: &QosTarget) -> Answer<Json<OneLimits>> {
    Ok(Json(OneLimits { qos: view(rest.block.engine_limits(&context.caller, target).await?) }))
}

/// Limits of the pool. Administrators only.
#[utoipa::path(get, path = "/cairn/v1/qos/pool", tag = "qos",
    responses((status = 200, description = "The limits.", body = OneLimits)))]
pub(super) async fn show_pool(State(rest): State<Rest>, context: Context) -> Answer<Json<OneLimits>> {
    shown(&rest, &context, &QosTarget::Pool).await
}

/// Changes limits of the pool: keys with a number, a text such as `64MiB`, or null to take them out. Administrators only.
#[utoipa::path(patch, path = "/cairn/v1/qos/pool", tag = "qos", request_body = Object,
    responses((status = 200, description = "The limits as they are now.", body = OneLimits)))]
pub(super) async fn change_pool(
    State(rest): State<Rest>,
    context: Context,
    Body(body): Body<Changes>,
) -> Answer<Json<OneLimits>> {
    let info = rest.block.set_engine_limits(&context.caller, &QosTarget::Pool, Some(changes(body)?)).await?;
    Ok(Json(OneLimits { qos: view(info) }))
}

/// Takes out all limits of the pool. Administrators only.
#[utoipa::path(delete, path = "/cairn/v1/qos/pool", tag = "qos", responses((status = 204, description = "They are gone.")))]
pub(super) async fn clear_pool(State(rest): State<Rest>, context: Context) -> Answer<StatusCode> {
    drop(rest.block.set_engine_limits(&context.caller, &QosTarget::Pool, None).await?);
    Ok(StatusCode::NO_CONTENT)
}

fn group(name: &str) -> Answer<QosTarget> {
    match name.is_empty() {
        true => Err(Fault::bad("the name of the group is empty")),
        false => Ok(format!("/{name}").parse()?),
    }
}

/// Limits of the volumes of a group of the engine together. Administrators only.
#[utoipa::path(get, path = "/cairn/v1/qos/groups/{name}", tag = "qos", params(("name" = String, Path)),
    responses((status = 200, description = "The limits.", body = OneLimits)))]
pub(super) async fn show_group(
    State(rest): State<Rest>,
    context: Context,
    At(name): At<String>,
) -> Answer<Json<OneLimits>> {
    shown(&rest, &context, &group(&name)?).await
}

/// Changes them. Volumes come into a group by `group` of their own limits. Administrators only.
#[utoipa::path(patch, path = "/cairn/v1/qos/groups/{name}", tag = "qos", params(("name" = String, Path)), request_body = Object,
    responses((status = 200, description = "The limits as they are now.", body = OneLimits)))]
pub(super) async fn change_group(
    State(rest): State<Rest>,
    context: Context,
    At(name): At<String>,
    Body(body): Body<Changes>,
) -> Answer<Json<OneLimits>> {
    let info = rest.block.set_engine_limits(&context.caller, &group(&name)?, Some(changes(body)?)).await?;
    Ok(Json(OneLimits { qos: view(info) }))
}

/// Takes them out. Administrators only.
#[utoipa::path(delete, path = "/cairn/v1/qos/groups/{name}", tag = "qos", params(("name" = String, Path)),
    responses((status = 204, description = "They are gone.")))]
pub(super) async fn clear_group(
    State(rest): State<Rest>,
    context: Context,
    At(name): At<String>,
) -> Answer<StatusCode> {
    drop(rest.block.set_engine_limits(&context.caller, &group(&name)?, None).await?);
    Ok(StatusCode::NO_CONTENT)
}

async fn of_project(rest: &Rest, context: &Context, project: &str) -> Answer<Json<ProjectLimits>> {
    let info = rest.block.project_limits(&context.caller, project).await?;
    Ok(Json(ProjectLimits { qos: info.map(view) }))
}

/// Limits of all volumes of a project together.
#[utoipa::path(get, path = "/cairn/v1/qos/projects/{project}", tag = "qos", params(("project" = String, Path)),
    responses((status = 200, description = "The limits.", body = ProjectLimits)))]
pub(super) async fn show_project(
    State(rest): State<Rest>,
    context: Context,
    At(project): At<String>,
) -> Answer<Json<ProjectLimits>> {
    of_project(&rest, &context, &project).await
}

/// Changes them. Administrators only.
#[utoipa::path(patch, path = "/cairn/v1/qos/projects/{project}", tag = "qos", params(("project" = String, Path)),
    request_body = Object, responses((status = 200, description = "The limits as they are now.", body = ProjectLimits)))]
pub(super) async fn change_project(
    State(rest): State<Rest>,
    context: Context,
    At(project): At<String>,
    Body(body): Body<Changes>,
) -> Answer<Json<ProjectLimits>> {
    rest.block.set_project_limits(&context.caller, &project, Some(changes(body)?)).await?;
    of_project(&rest, &context, &project).await
}

/// Takes them out. Administrators only.
#[utoipa::path(delete, path = "/cairn/v1/qos/projects/{project}", tag = "qos", params(("project" = String, Path)),
    responses((status = 204, description = "They are gone.")))]
pub(super) async fn clear_project(
    State(rest): State<Rest>,
    context: Context,
    At(project): At<String>,
) -> Answer<StatusCode> {
    rest.block.set_project_limits(&context.caller, &project, None).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn of_volume(rest: &Rest, context: &Context, id: &str) -> Answer<Json<VolumeLimits>> {
    let (info, own) = rest.block.volume_limits(&context.caller, id).await?;
    Ok(Json(VolumeLimits { qos: view(info), own }))
}

/// Limits of a volume.
#[utoipa::path(get, path = "/cairn/v1/volumes/{id}/qos", tag = "qos", params(("id" = String, Path)),
    responses((status = 200, description = "The limits.", body = VolumeLimits)))]
pub(super) async fn show_volume(
    State(rest): State<Rest>,
    context: Context,
    At(id): At<String>,
) -> Answer<Json<VolumeLimits>> {
    of_volume(&rest, &context, &id).await
}

/// Changes a volume's own limits, which stand before those of its type; `group` puts it into a group of the engine. Administrators only.
#[utoipa::path(patch, path = "/cairn/v1/volumes/{id}/qos", tag = "qos", params(("id" = String, Path)), request_body = Object,
    responses((status = 200, description = "The limits as they are now.", body = VolumeLimits)))]
pub(super) async fn change_volume(
    State(rest): State<Rest>,
    context: Context,
    At(id): At<String>,
    Body(body): Body<Changes>,
) -> Answer<Json<VolumeLimits>> {
    rest.block.set_volume_limits(&context.caller, &id, Some(changes(body)?)).await?;
    of_volume(&rest, &context, &id).await
}

/// Takes a volume's own limits out. Administrators only.
#[utoipa::path(delete, path = "/cairn/v1/volumes/{id}/qos", tag = "qos", params(("id" = String, Path)),
    responses((status = 204, description = "They are gone.")))]
pub(super) async fn clear_volume(State(rest): State<Rest>, context: Context, At(id): At<String>) -> Answer<StatusCode> {
    rest.block.set_volume_limits(&context.caller, &id, None).await?;
    Ok(StatusCode::NO_CONTENT)
}
