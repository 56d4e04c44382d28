//! Tasks: what takes long.

use axum::{Json, extract::State};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::input::{Search, said};
use crate::{
    block::TaskView,
    fault::Answer,
    rest::{At, Context, Rest},
};

/// How far a task is, in bytes.
#[derive(Serialize, ToSchema)]
pub(super) struct ProgressView {
    done: u64,
    /// As far as it is known.
    total: u64,
    /// To or from the repository.
    transferred: u64,
}

/// Something that takes long.
#[derive(Serialize, ToSchema)]
pub(super) struct Task {
    id: String,
    project_id: String,
    user_id: String,
    /// What: `backup.create`, …
    action: String,
    object_kind: String,
    object_id: String,
    /// `running`, `cancelling`, `waiting` (tried again by itself), `succeeded`, `failed` or `cancelled`.
    status: String,
    /// Why it waits, or failed.
    reason: Option<String>,
    /// Of backups and restores, when it is known.
    progress: Option<ProgressView>,
    /// Whether `DELETE` takes it back.
    cancellable: bool,
    request_id: String,
    began_at: String,
    ended_at: Option<String>,
}

/// What is under way, the oldest first.
#[derive(Serialize, ToSchema)]
pub(super) struct Tasks {
    tasks: Vec<Task>,
}

/// Whose tasks.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Query {
    /// Administrators: of this project only. All others see their own.
    project: Option<String>,
}

fn view(task: TaskView) -> Task {
    Task {
        id: task.id,
        project_id: task.project,
        user_id: task.user,
        action: task.action,
        object_kind: task.kind,
        object_id: task.object,
        status: task.status.to_owned(),
        reason: task.reason,
        progress: task.progress.map(|progress| ProgressView {
            done: progress.done,
            total: progress.total,
            transferred: progress.transferred,
        }),
        cancellable: task.cancellable,
        request_id: task.request,
        began_at: said(task.began_us),
        ended_at: task.ended_us.map(said),
    }
}

/// Tasks under way, the oldest first.
#[utoipa::path(get, path = "/cairn/v1/tasks", tag = "tasks", params(Query),
    responses((status = 200, description = "The tasks.", body = Tasks)))]
pub(super) async fn list(
    State(rest): State<Rest>,
    context: Context,
    Search(query): Search<Query>,
) -> Answer<Json<Tasks>> {
    let tasks = rest.block.list_tasks(&context.caller, query.project.as_deref()).await?;
    Ok(Json(Tasks { tasks: tasks.into_iter().map(view).collect() }))
}

/// One task; also when it has ended, for as long as its event is kept.
#[utoipa::path(get, path = "/cairn/v1/tasks/{id}", tag = "tasks", params(("id" = String, Path)),
    responses((status = 200, description = "The task.", body = Task)))]
pub(super) async fn show(State(rest): State<Rest>, context: Context, At(id): At<String>) -> Answer<Json<Task>> {
    Ok(Json(view(rest.block.task(&context.caller, &id).await?)))
}

/// Takes a task back: what it has made goes, what it has changed becomes what it was. Refused (409) from its point of no return on.
#[utoipa::path(delete, path = "/cairn/v1/tasks/{id}", tag = "tasks", params(("id" = String, Path)),
    responses((status = 202, description = "It will be cancelled.", body = Task)))]
pub(super) async fn cancel(
    State(rest): State<Rest>,
    context: Context,
    At(id): At<String>,
) -> Answer<(StatusCode, Json<Task>)> {
    Ok((StatusCode::ACCEPTED, Json(view(rest.block.cancel_task(&context.caller, &id).await?))))
}
