//! Limits of volumes, groups and the pool. A target is one segment of the path: `db`, `%2Fgold` for the group `/gold`, `%2F` for the pool.

use axum::extract;
use cairn_engine::{Limits, QosInfo, QosTarget};

use crate::{
    Result,
    api::QosList,
    error::Failure,
    extract::{Json, Path},
    qos::Changes,
    state::State,
};

pub(super) async fn list(extract::State(state): extract::State<State>) -> Result<Json<QosList>> {
    Ok(Json(QosList { qos: state.pool.qos_list().await? }))
}

pub(super) async fn one(
    extract::State(state): extract::State<State>,
    Path(target): Path<String>,
) -> Result<Json<QosInfo>> {
    Ok(Json(state.pool.qos(&target.parse()?).await?))
}

pub(super) async fn change(
    extract::State(state): extract::State<State>,
    Path(target): Path<String>,
    Json(changes): Json<Changes>,
) -> Result<Json<QosInfo>> {
    if changes.0.is_empty() {
        return Err(Failure::invalid("no change is named: give at least one key, with a value or null"));
    }
    if let Some(key) = changes.repeated() {
        return Err(Failure::invalid(format!("{key} is given twice")));
    }
    Ok(Json(state.pool.set_qos(&target.parse()?, &changes.0).await?))
}

/// In one step: what another caller sets meanwhile is cleared or stays as a whole.
pub(super) async fn clear(
    extract::State(state): extract::State<State>,
    Path(target): Path<String>,
) -> Result<Json<QosInfo>> {
    let target: QosTarget = target.parse()?;
    let own = match target {
        QosTarget::Volume(_) => Some("group"),
        QosTarget::Group(_) => None,
        QosTarget::Pool => Some("queue_depth"),
    };
    let changes: Vec<_> = Limits::KEYS.into_iter().chain(own).map(|key| (key.to_owned(), None)).collect();
    Ok(Json(state.pool.set_qos(&target, &changes).await?))
}
