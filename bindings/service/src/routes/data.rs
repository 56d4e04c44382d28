//! Content of volumes and snapshots, in bounded pieces: what import and export go through.
//!
//! Every request opens the volume for itself, so that a caller that goes away leaves nothing attached.

use axum::{
    body::Body,
    extract,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use cairn_engine::{ExtentPage, IoBuf};

use crate::{
    Result,
    api::{At, ByteRange, MAX_BODY},
    error::Failure,
    extract::{Json, Octets, Path, Query},
    state::State,
};

/// Hands an engine buffer to the HTTP layer without a copy.
struct Owned(IoBuf);

impl AsRef<[u8]> for Owned {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

pub(super) async fn extents(
    extract::State(state): extract::State<State>,
    Path(target): Path<String>,
    Query(range): Query<ByteRange>,
) -> Result<Json<ExtentPage>> {
    let volume = state.pool.volume(&target).await?;
    Ok(Json(volume.extents(range.offset, range.length).await?))
}

pub(super) async fn read(
    extract::State(state): extract::State<State>,
    Path(target): Path<String>,
    Query(range): Query<ByteRange>,
) -> Result<Response> {
    if range.length > MAX_BODY as u64 {
        return Err(Failure::invalid(format!(
            "{} bytes are too many for one request: ask for at most {MAX_BODY}",
            range.length
        )));
    }
    let volume = state.pool.volume(&target).await?;
    let data = volume.read(range.offset, range.length as usize).await?;
    let body = Body::from(Bytes::from_owner(Owned(data)));
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], body).into_response())
}

pub(super) async fn write(
    extract::State(state): extract::State<State>,
    Path(target): Path<String>,
    Query(at): Query<At>,
    Octets(data): Octets,
) -> Result<StatusCode> {
    let volume = state.pool.volume(&target).await?;
    volume.write(at.offset, IoBuf::from(&data[..])).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn zero(
    extract::State(state): extract::State<State>,
    Path(target): Path<String>,
    Json(range): Json<ByteRange>,
) -> Result<StatusCode> {
    let volume = state.pool.volume(&target).await?;
    volume.write_zeroes(range.offset, range.length).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn flush(
    extract::State(state): extract::State<State>,
    Path(target): Path<String>,
) -> Result<StatusCode> {
    state.pool.volume(&target).await?.flush().await?;
    Ok(StatusCode::NO_CONTENT)
}
