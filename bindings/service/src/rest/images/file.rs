//! The bytes of images, streamed both ways.

use axum::{
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt;
use std::time::Duration;
use tokio::time::Instant;

use crate::{
    fault::{Answer, Fault, FaultKind},
    rest::{Rest, context::Context, input::At},
};

/// How long a client may send nothing.
const SILENCE: Duration = Duration::from_mins(1);
/// Bytes a second that have to come, on the whole.
const SLOWEST: u64 = 16 << 10;
/// What clients say of bytes that they send in pieces.
const SIZE: &str = "x-openstack-image-size";

/// How fast a client sends. What the server takes for itself, as while others' images are hashed, is not the client's.
#[derive(Debug, Default)]
struct Pace {
    waited: Duration,
    received: u64,
}

impl Pace {
    /// So many bytes came after such a time. Whether that is fast enough on the whole.
    fn came(&mut self, waited: Duration, bytes: usize) -> bool {
        self.waited += waited;
        self.received = self.received.saturating_add(bytes as u64);
        self.waited <= SILENCE + Duration::from_secs(self.received / SLOWEST)
    }
}

/// How many bytes are to come, if that is said.
fn announced(headers: &HeaderMap) -> Answer<Option<u64>> {
    let said = |name: &str| match headers.get(name) {
        None => Ok(None),
        Some(value) => match value.to_str().ok().and_then(|text| text.parse::<u64>().ok()) {
            Some(length) => Ok(Some(length)),
            None => Err(Fault::bad(format!("{name} is a number of bytes"))),
        },
    };
    match (said(header::CONTENT_LENGTH.as_str())?, said(SIZE)?) {
        (Some(length), Some(size)) if length != size => {
            Err(Fault::bad(format!("{size} bytes were announced, and {length} are sent")))
        }
        (length, size) => Ok(length.or(size)),
    }
}

/// `PUT /v2/images/{id}/file`.
pub(super) async fn upload(
    State(rest): State<Rest>,
    context: Context,
    At(id): At<String>,
    headers: HeaderMap,
    mut body: Body,
) -> Answer<StatusCode> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if kind.is_some_and(|kind| !kind.eq_ignore_ascii_case("application/octet-stream")) {
        return Err(Fault::new(FaultKind::BadRequest, "an image is sent as application/octet-stream"));
    }
    let mut sending = rest.block.receive_image(&context.caller, &id, announced(&headers)?).await?;
    let mut pace = Pace::default();
    loop {
        let began = Instant::now();
        let frame = match tokio::time::timeout(SILENCE, body.frame()).await {
            Ok(None) => return sending.end().await.map(|()| StatusCode::NO_CONTENT),
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(_))) => return cut_off(sending, "the upload was cut off").await,
            Err(_) => return cut_off(sending, "nothing came for too long").await,
        };
        let data = frame.into_data().unwrap_or_default();
        if !pace.came(began.elapsed(), data.len()) {
            return cut_off(sending, "the image came too slowly").await;
        }
        if !sending.data(&data).await {
            // It says why.
            return sending.end().await.map(|()| StatusCode::NO_CONTENT);
        }
    }
}

async fn cut_off<T>(sending: crate::block::Sending, why: &str) -> Answer<T> {
    sending.cut_off().await;
    Err(Fault::bad(format!("{why}: send the image again")))
}

/// `GET /v2/images/{id}/file`: the bytes as they were sent.
pub(super) async fn download(State(rest): State<Rest>, context: Context, At(id): At<String>) -> Answer<Response> {
    let Some(found) = rest.block.download(&context.caller, &id)? else {
        return Ok(StatusCode::NO_CONTENT.into_response());
    };
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, found.content.size.to_string()),
        (header::HeaderName::from_static("content-md5"), found.content.md5.clone()),
    ];
    Ok((headers, Body::from_stream(found.pieces())).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_client_takes_is_counted() {
        let mut pace = Pace::default();
        assert!(pace.came(SILENCE, 0), "it may be silent once");
        assert!(!pace.came(Duration::from_secs(1), 16), "and not for longer");
        // Whatever happens between two frames, it has no part in this.
        let mut pace = Pace::default();
        for _ in 0..1000 {
            assert!(pace.came(Duration::from_secs(1), SLOWEST as usize));
        }
        assert!(pace.came(SILENCE, 0) && !pace.came(Duration::from_secs(1), 0));
    }
}
