//! The HTTP server: bounded in bodies, heads, time and connections; every answer says which edition it is of and which request it answers.

use std::{convert::Infallible, net::IpAddr, sync::Arc, time::Duration};

use axum::{
    BoxError, Router,
    body::{Body, HttpBody},
    extract::DefaultBodyLimit,
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, header};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::{GracefulShutdown, Watcher},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use super::{
    Bounds, metrics,
    watched::{Patience, Watched},
};
use crate::{
    domain::new_id,
    fault::{Fault, FaultKind},
    identity::{self, Peer, network},
    rest::{self, Rest, VERSION_HEADER, split_project, version_of},
    shares::Shares,
};

/// How long a client may take over a request's head.
const HEAD_TIME: Duration = Duration::from_secs(15);
/// How long requests in progress may take to end after the wish to stop.
const GRACE: Duration = Duration::from_secs(5);
/// A pause after the system refused a connection, as when there are too many open files.
const PAUSE: Duration = Duration::from_millis(50);
const REQUEST_ID: &str = "x-openstack-request-id";

/// Everything that is served.
pub(crate) fn routes(rest: &Rest, body: usize) -> Router {
    let (health, metered, identity) = (rest.block.clone(), rest.block.clone(), rest.identity.clone());
    let measured = move |parts: http::request::Parts| async move {
        metrics::may_see(&identity, &parts).await?;
        metrics::text(metered).await
    };
    Router::new()
        .route("/healthz", get(move || metrics::health(health)))
        .route("/metrics", get(measured))
        .method_not_allowed_fallback(rest::wrong_method)
        .merge(identity::router(rest.identity.clone()))
        .merge(rest::router(rest.clone()))
        .layer(DefaultBodyLimit::max(body))
}

/// How clients come to the routes.
#[derive(Clone)]
pub(super) struct Door {
    pub(super) bounds: Bounds,
    pub(super) tls: Option<TlsAcceptor>,
    /// Addresses whose word counts on where a request came from.
    pub(super) proxies: Arc<[IpAddr]>,
}

/// Serves until `stop` ends, then lets requests in progress end.
pub(super) async fn serve(listener: TcpListener, rest: Rest, door: Door, stop: impl Future<Output = ()>) {
    serve_routes(listener, routes(&rest, door.bounds.body), door, stop).await;
}

async fn serve_routes(listener: TcpListener, routes: Router, door: Door, stop: impl Future<Output = ()>) {
    let addresses = Shares::default();
    let places = Arc::new(Semaphore::new(door.bounds.connections));
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
        let Ok((stream, peer)) = accepted else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let peer = peer.ip().to_canonical();
        // Behind a proxy are many.
        let most = if is_proxy(peer, &door.proxies) { usize::MAX } else { door.bounds.of_address };
        let Some(share) = addresses.take(&network(peer), most) else { continue };
        let patience = Patience { limit: door.bounds.stall, pace: door.bounds.pace };
        let stream = Watched::new(stream, patience);
        let (routes, door, watcher) = (routes.clone(), door.clone(), graceful.watcher());
        tokio::spawn(async move {
            match door.tls.clone() {
                None => connection(stream, routes, &door, peer, watcher).await,
                Some(tls) => {
                    // A client that does not shake hands in time concerns nobody.
                    if let Ok(Ok(stream)) = tokio::time::timeout(HEAD_TIME, tls.accept(stream)).await {
                        connection(stream, routes, &door, peer, watcher).await;
                    }
                }
            }
            drop((place, share));
        });
    }
    drop(listener);
    drop(tokio::time::timeout(GRACE, graceful.shutdown()).await);
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    routes: Router,
    door: &Door,
    peer: IpAddr,
    watcher: Watcher,
) {
    let service = hyper::service::service_fn(|mut request: Request<hyper::body::Incoming>| {
        let from = Peer(address(peer, request.headers(), &door.proxies));
        let _none = request.extensions_mut().insert(from);
        answer(routes.clone(), request, door.bounds.time)
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(door.bounds.head)
        .serve_connection(TokioIo::new(stream), service);
    // A client that goes away, or speaks something else, concerns nobody.
    drop(watcher.watch(connection).await);
}

/// Addresses of IPv4 have two forms: a listener of IPv6 sees them in the longer one.
fn is_proxy(address: IpAddr, proxies: &[IpAddr]) -> bool {
    proxies.iter().any(|proxy| proxy.to_canonical() == address)
}

/// Where a request came from: what the last of our proxies says, or who holds the connection.
fn address(peer: IpAddr, headers: &HeaderMap, proxies: &[IpAddr]) -> IpAddr {
    let peer = peer.to_canonical();
    if !is_proxy(peer, proxies) {
        return peer;
    }
    let said = headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok());
    let said: Vec<&str> = said.flat_map(|value| value.split(',')).map(str::trim).collect();
    let said = said.iter().rev().map_while(|text| text.parse::<IpAddr>().ok());
    said.map(|address| address.to_canonical()).find(|address| !is_proxy(*address, proxies)).unwrap_or(peer)
}

/// Answers a request.
pub(crate) async fn answer<B>(
    routes: Router,
    mut request: Request<B>,
    time: Duration,
) -> Result<Response<Body>, Infallible>
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let id = format!("req-{}", new_id());
    let id = HeaderValue::from_str(&id).unwrap_or_else(|_| HeaderValue::from_static("req"));
    drop(request.headers_mut().insert(REQUEST_ID, id.clone()));
    let version = version_of(request.headers());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let of_block = path.starts_with("/v3");
    tracing::trace!(request = id.to_str().unwrap_or_default(), %method, path, "asked");
    let mut response = match &version {
        Err(fault) if of_block => fault.clone().into_response(),
        _ => {
            let routed = routes.oneshot(split_project(request).map(Body::new));
            // Whoever sends an image takes as long as that takes; other bounds hold.
            let time = if rest::is_upload(&method, &path) { Duration::MAX } else { time };
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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    #[test]
    fn only_proxies_say_where_a_request_came_from() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let of = |peer: &str, said: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in said {
                let _more = headers.append("x-forwarded-for", HeaderValue::from_static(value));
            }
            address(ip(peer), &headers, &[ip("10.0.0.1"), ip("10.0.0.2"), ip("::ffff:10.0.0.3")]).to_string()
        };
        assert_eq!(of("192.0.2.1", &["1.2.3.4"]), "192.0.2.1");
        assert_eq!(of("10.0.0.1", &["1.2.3.4"]), "1.2.3.4");
        assert_eq!(of("10.0.0.1", &["9.9.9.9, 1.2.3.4"]), "1.2.3.4");
        assert_eq!(of("10.0.0.1", &["9.9.9.9", "1.2.3.4, 10.0.0.2"]), "1.2.3.4");
        assert_eq!(of("10.0.0.1", &["1.2.3.4, what"]), "10.0.0.1");
        assert_eq!((of("10.0.0.1", &[]), of("10.0.0.1", &["10.0.0.2"])), ("10.0.0.1".into(), "10.0.0.1".into()));
        // The same addresses, as a listener of IPv6 sees them, and as proxies may write them.
        assert_eq!(of("::ffff:10.0.0.1", &["1.2.3.4"]), "1.2.3.4");
        assert_eq!(of("10.0.0.3", &["1.2.3.4, ::ffff:10.0.0.2"]), "1.2.3.4");
        assert_eq!(of("10.0.0.1", &["::ffff:1.2.3.4"]), "1.2.3.4");
        assert_eq!(of("::ffff:192.0.2.1", &["1.2.3.4"]), "192.0.2.1");
    }

    const PATIENCE: Duration = Duration::from_secs(60);

    /// A server with a long answer and a short one.
    async fn server(bounds: Bounds) -> (std::net::SocketAddr, tokio::task::JoinHandle<()>) {
        let routes =
            Router::new().route("/long", get(|| async { vec![7; 64 << 20] })).route("/", get(|| async { "x" }));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let door = Door { bounds, tls: None, proxies: Arc::new([]) };
        (address, tokio::spawn(serve_routes(listener, routes, door, std::future::pending())))
    }

    /// Whether a short answer comes. The connection stays.
    async fn asked(stream: &mut TcpStream) -> bool {
        if stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.is_err() {
            return false;
        }
        let (mut answer, mut piece) = (Vec::new(), [0; 512]);
        while !answer.ends_with(b"\r\n\r\nx") {
            match stream.read(&mut piece).await {
                Ok(length) if length > 0 => answer.extend_from_slice(&piece[..length]),
                _ => return false,
            }
        }
        true
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn whoever_takes_no_answers_does_not_keep_a_place() {
        let (address, server) =
            server(Bounds { connections: 1, stall: Duration::from_millis(50), ..Bounds::default() }).await;
        let mut slow = TcpStream::connect(address).await.unwrap();
        slow.write_all(b"GET /long HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut other = TcpStream::connect(address).await.unwrap();
        assert!(tokio::time::timeout(PATIENCE, asked(&mut other)).await.expect("a place is free after a while"));
        drop(slow);
        server.abort();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn whoever_takes_answers_too_slowly_does_not_keep_a_place() {
        // Never still for the whole of the stall, and far behind the pace.
        let bounds = Bounds { connections: 1, stall: Duration::from_secs(2), pace: 1 << 40, ..Bounds::default() };
        let (address, server) = server(bounds).await;
        // With little room on its side, so that what it takes is felt on the other one; and with more to take than it does in this time.
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(64 << 10).unwrap();
        let mut slow = socket.connect(address).await.unwrap();
        slow.write_all(&b"GET /long HTTP/1.1\r\nHost: x\r\n\r\n".repeat(8)).await.unwrap();
        let trickle = tokio::spawn(async move {
            let mut piece = vec![0; 128 << 10];
            while slow.read(&mut piece).await.is_ok_and(|length| length > 0) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        let mut other = TcpStream::connect(address).await.unwrap();
        assert!(tokio::time::timeout(PATIENCE, asked(&mut other)).await.expect("a place is free after a while"));
        trickle.abort();
        server.abort();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_address_has_a_part_of_the_places() {
        let (address, server) = server(Bounds { of_address: 2, ..Bounds::default() }).await;
        let (mut one, mut two) =
            (TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap());
        assert!(asked(&mut one).await && asked(&mut two).await);
        let mut third = TcpStream::connect(address).await.unwrap();
        assert!(!asked(&mut third).await);
        drop(one);
        let again = async {
            while !asked(&mut TcpStream::connect(address).await.unwrap()).await {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, again).await.expect("a place is free");
        assert!(asked(&mut two).await);
        server.abort();
    }
}
