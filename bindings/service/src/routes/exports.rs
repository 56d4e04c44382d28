//! Sockets of vhost-user-blk: made and taken away while the pool is served.

use axum::{extract, http::StatusCode};
use cairn_engine::ErrorKind;
use cairn_vhost_user::Server;

use crate::{
    Result,
    api::{CreateExport, Withdrawal},
    error::Failure,
    extract::{Json, Path, Query},
    state::State,
    vhost_user::{VhostExport, VhostUser},
};

fn server(state: &State) -> Result<&Server> {
    let none = || {
        let text = "no vhost-user sockets are offered here: start the server with cairn serve --vhost-user DIR";
        Failure::new(ErrorKind::Invalid, text)
    };
    state.vhost_user.as_ref().ok_or_else(none)
}

pub(super) async fn list(extract::State(state): extract::State<State>) -> Result<Json<VhostUser>> {
    Ok(Json(VhostUser::of(server(&state)?)))
}

/// The socket may be there already; and it has an older name, if its volume was renamed.
pub(super) async fn create(
    extract::State(state): extract::State<State>,
    Json(request): Json<CreateExport>,
) -> Result<(StatusCode, Json<VhostExport>)> {
    let server = server(&state)?;
    let socket = server.export(&request.target).await?;
    let made = server.exports().into_iter().find(|export| export.socket == socket);
    let gone = || Failure::new(ErrorKind::Busy, format!("{} was withdrawn meanwhile", request.target));
    Ok((StatusCode::CREATED, Json(made.ok_or_else(gone)?.into())))
}

pub(super) async fn delete(
    extract::State(state): extract::State<State>,
    Path(target): Path<String>,
    Query(query): Query<Withdrawal>,
) -> Result<StatusCode> {
    server(&state)?.withdraw(&target, query.force).await?;
    Ok(StatusCode::NO_CONTENT)
}
