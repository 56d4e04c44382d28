//! The pool: capacity.

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    block::BACKEND,
    fault::Answer,
    rest::{Context, Rest},
};

/// A pool. Sizes in bytes.
#[derive(Serialize, ToSchema)]
pub(super) struct Pool {
    name: String,
    /// `host@backend#pool`, as volumes name it.
    host: String,
    /// Room for data and metadata.
    total: u64,
    /// Promised: the sum of the logical sizes of all volumes.
    allocated: u64,
    /// What may be promised.
    allocatable: u64,
    /// Really stored.
    used: u64,
    free: u64,
    volumes: u64,
    snapshots: u64,
    /// Why it takes no writes, if so.
    read_only: Option<String>,
}

/// All pools of this service: there is one.
#[derive(Serialize, ToSchema)]
pub(super) struct Pools {
    pools: Vec<Pool>,
}

/// Capacity of the pool. Administrators only.
#[utoipa::path(get, path = "/cairn/v1/pools", tag = "pools",
    responses((status = 200, description = "The pools.", body = Pools)))]
pub(super) async fn list(State(rest): State<Rest>, context: Context) -> Answer<Json<Pools>> {
    context.caller.require_admin("pools:list")?;
    let stats = rest.block.pool().stats().await?;
    let pool = Pool {
        name: BACKEND.to_owned(),
        host: rest.block.place(),
        total: stats.capacity,
        allocated: stats.logical,
        allocatable: (stats.capacity as f64 * rest.block.settings().over_subscription) as u64,
        used: stats.used,
        free: stats.free,
        volumes: stats.volumes,
        snapshots: stats.snapshots,
        read_only: stats.read_only,
    };
    Ok(Json(Pools { pools: vec![pool] }))
}
