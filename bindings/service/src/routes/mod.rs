//! The routes. Each is one call of the engine, with its arguments from the path, the query or the body.

mod backups;
mod data;
mod exports;
mod pool;
mod qos;
mod regroup;
mod snapshots;
mod upkeep;
mod volumes;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::{Method, StatusCode, Uri},
    routing::{delete, get, post, put},
};
use cairn_engine::{ErrorKind, Target};

use crate::{api::MAX_BODY, error::Failure, state::State};

/// All routes, under `/v1`. The table stands in `DESIGN.md`.
pub fn router(state: State) -> Router {
    let routes = Router::new()
        .route("/status", get(pool::status))
        .route("/shutdown", post(pool::shutdown))
        .route("/pool", get(pool::stats))
        .route("/pool/check", post(upkeep::check))
        .route("/pool/checkpoint", post(pool::checkpoint))
        .route("/pool/events", get(pool::events))
        .route(
            "/pool/regroup",
            get(regroup::status).post(regroup::start).put(regroup::set_pace).delete(regroup::cancel),
        )
        .route("/pool/regroup/watch", get(regroup::watch))
        .route("/pool/repair", post(upkeep::repair))
        .route("/pool/repair/plan", post(upkeep::plan_repair))
        .route(
            "/pool/scrub",
            get(upkeep::scrub_status)
                .post(upkeep::start_scrub)
                .put(upkeep::set_scrub_pace)
                .delete(upkeep::cancel_scrub),
        )
        .route("/pool/scrub/watch", get(upkeep::watch_scrub))
        .route("/pool/volume-stats", get(pool::volume_stats))
        .route("/pool/wait-deleted", post(pool::wait_deleted))
        .route("/backups", post(backups::create))
        .route("/exports", get(exports::list).post(exports::create))
        .route("/exports/{target}", delete(exports::delete))
        .route("/restores", get(backups::fillings).post(backups::restore))
        .route("/restores/instant", post(backups::restore_instantly))
        .route("/qos", get(qos::list))
        .route("/qos/{target}", get(qos::one).patch(qos::change).delete(qos::clear))
        .route("/volumes", get(volumes::list).post(volumes::create))
        .route("/volumes/{name}", get(volumes::info).delete(volumes::delete))
        .route("/volumes/{name}/options", put(volumes::set_options))
        .route("/volumes/{name}/rename", post(volumes::rename))
        .route("/volumes/{name}/resize", post(volumes::resize))
        .route("/volumes/{name}/revert", post(volumes::revert))
        .route("/snapshots", get(snapshots::list).post(snapshots::create))
        .route("/snapshots/{target}", delete(snapshots::delete).get(snapshots::info))
        .route("/clones", post(snapshots::clone))
        .route("/diff", get(snapshots::diff))
        .route("/extents/{target}", get(data::extents))
        .route("/data/{target}", get(data::read).put(data::write))
        .route("/zero/{target}", post(data::zero))
        .route("/flush/{target}", post(data::flush));
    Router::new()
        .nest("/v1", routes)
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(state)
}

async fn unknown(uri: Uri) -> Failure {
    Failure::new(ErrorKind::NotFound, format!("no such route: {}", uri.path()))
}

async fn wrong_method(method: Method, uri: Uri) -> Failure {
    Failure::invalid(format!("{method} does not apply to {}", uri.path())).with_status(StatusCode::METHOD_NOT_ALLOWED)
}

/// Parses `volume@snapshot`, refusing a volume.
fn snapshot_target(text: &str) -> Result<(Target, String), Failure> {
    let target: Target = text.parse()?;
    let Some(snapshot) = target.snapshot.clone() else {
        return Err(Failure::invalid(format!("\"{text}\" names a volume: write VOLUME@SNAPSHOT")));
    };
    Ok((target, snapshot))
}
