//! The HTTP server: bounded in bodies, heads, time and connections; every answer says which edition it is of and which request it answers.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::DefaultBodyLimit,
    response::{IntoResponse, Response},
    routing::get,
};
use http::{HeaderName, HeaderValue, Request, header};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use tokio::{net::TcpListener, sync::Semaphore};
use tower::ServiceExt;

use super::{Bounds, metrics};
use crate::{
    domain::new_id,
    fault::{Fault, FaultKind},
    identity,
    rest::{self, Rest, VERSION_HEADER, split_project, version_of},
};

/// How long a client may take over a request's head.
const HEAD_TIME: Duration = Duration::from_secs(15);
/// How long requests in progress may take to end after the wish to stop.
const GRACE: Duration = Duration::from_secs(5);
/// A pause after the system refused a connection, as when there are too many open files.
const PAUSE: Duration = Duration::from_millis(50);
const REQUEST_ID: &str = "x-openstack-request-id";

fn routes(rest: &Rest, bounds: Bounds) -> Router {
    let block = rest.block.clone();
    let health = block.clone();
    Router::new()
        .route("/healthz", get(move || metrics::health(health)))
        .route("/metrics", get(move || metrics::text(block)))
        .merge(identity::router(rest.identity.clone()))
        .merge(rest::router(rest.clone()))
        .layer(DefaultBodyLimit::max(bounds.body))
}

/// Serves until `stop` ends, then lets requests in progress end.
pub(super) async fn serve(listener: TcpListener, rest: Rest, bounds: Bounds, stop: impl Future<Output = ()>) {
    let routes = routes(&rest, bounds);
    let places = Arc::new(Semaphore::new(bounds.connections));
    let graceful = GracefulShutdown::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = async {
            // The semaphore is never closed.
            let place = places.clone().acquire_owned().await.ok();
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            accepted = accepted => accepted,
            () = &mut stop => break,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let routes = routes.clone();
        let service = hyper::service::service_fn(move |request| answer(routes.clone(), request, bounds.time));
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME)
            .max_buf_size(bounds.head)
            .serve_connection(TokioIo::new(stream), service);
        let watched = graceful.watch(connection);
        tokio::spawn(async move {
            // A client that goes away, or speaks something else, concerns nobody.
            drop(watched.await);
            drop(place);
        });
    }
    drop(listener);
    drop(tokio::time::timeout(GRACE, graceful.shutdown()).await);
}

async fn answer(routes: Router, mut request: Request<Incoming>, time: Duration) -> Result<Response<Body>, Infallible> {
    let id = format!("req-{}", new_id());
    let id = HeaderValue::from_str(&id).unwrap_or_else(|_| HeaderValue::from_static("req"));
    drop(request.headers_mut().insert(REQUEST_ID, id.clone()));
    let version = version_of(request.headers());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let of_block = path.starts_with("/v3");
    let mut response = match &version {
        Err(fault) if of_block => fault.clone().into_response(),
        _ => {
            let routed = routes.oneshot(split_project(request).map(Body::new));
            match tokio::time::timeout(time, routed).await {
                Ok(Ok(response)) => response,
                Ok(Err(never)) => match never {},
                Err(_) => Fault::new(FaultKind::Unavailable, "the request took too long").into_response(),
            }
        }
    };
    tracing::info!(request = id.to_str().unwrap_or_default(), %method, path, status = response.status().as_u16(), "answered");
    let headers = response.headers_mut();
    drop(headers.insert(REQUEST_ID, id.clone()));
    if of_block {
        drop(headers.insert(HeaderName::from_static("x-compute-request-id"), id));
        let vary = HeaderValue::from_static("OpenStack-API-Version");
        drop(headers.insert(header::VARY, vary));
        let shown = version.ok().and_then(|version| HeaderValue::from_str(&format!("volume {version}")).ok());
        shown.into_iter().for_each(|version| drop(headers.insert(VERSION_HEADER, version)));
    }
    Ok(response)
}
