//! Requests to the control interface, over a real pool: every answer has the form that the interface promises.

use super::{nameless_pool, volume_and_snapshot};
use axum::{Router, body::Body};
use cairn_engine::{ErrorKind, MIB, Pool};
use cairn_service::{
    Failure, State,
    api::{CheckLine, ErrorAnswer},
    router,
};
use cairn_vhost_user::{Options, Server};
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::BodyExt;
use std::cell::OnceCell;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tower::ServiceExt;

/// Requests of one input.
const MOST_REQUESTS: usize = 16;

struct Site {
    runtime: Runtime,
    pool: Pool,
    routes: Router,
    disks: Server,
    /// Where the sockets of `disks` are.
    _directory: TempDir,
}

thread_local! {
    static SITE: OnceCell<Site> = const { OnceCell::new() };
}

/// Requests, between NUL bytes: a line `METHOD URI`, or `METHOD URI TYPE` with another content type than JSON, then the body. They find a
/// volume `v` with a snapshot `v@s`, and nothing else.
pub(crate) fn control(input: &[u8]) -> bool {
    SITE.with(|site| {
        let site = site.get_or_init(Site::new);
        site.reset();
        let requests: Vec<_> = input.split(|&byte| byte == 0).take(MOST_REQUESTS).filter_map(request).collect();
        site.runtime.block_on(async {
            let mut understood = false;
            for request in requests {
                understood |= site.call(request).await;
            }
            understood
        })
    })
}

fn request(bytes: &[u8]) -> Option<Request<Body>> {
    let end = bytes.iter().position(|&byte| byte == b'\n').unwrap_or(bytes.len());
    let (line, body) = (std::str::from_utf8(&bytes[..end]).ok()?, bytes.get(end + 1..).unwrap_or_default());
    let mut words = line.split(' ');
    let method = Method::from_bytes(words.next()?.as_bytes()).ok()?;
    let uri: Uri = words.next()?.parse().ok()?;
    let kind = words.next().unwrap_or("application/json");
    let request = Request::builder().method(method).uri(uri).header(header::CONTENT_TYPE, kind);
    request.body(Body::from(body.to_vec())).ok()
}

impl Site {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let pool = nameless_pool(64 * MIB);
        // Not in memory: a fuzzer's process leaves it behind.
        let directory = tempfile::tempdir().expect("a directory for sockets");
        let disks = Server::start(&pool, directory.path(), Options::default());
        let disks = runtime.block_on(disks).expect("a server without sockets");
        let routes = router(State::new(pool.clone()).with_vhost_user(Some(disks.clone())));
        Self { runtime, pool, routes, disks, _directory: directory }
    }

    /// Takes away what the input before left.
    fn reset(&self) {
        self.runtime.block_on(async {
            for export in self.disks.exports() {
                self.disks.withdraw(&export.name, true).await.expect("it is there");
            }
            for volume in self.pool.volumes(false).await.expect("a list") {
                let _names = self.pool.delete_volume(&volume.name, true).await.expect("nothing holds it");
            }
            self.pool.wait_deleted().await.expect("its space comes back");
        });
        volume_and_snapshot(&self.pool).expect("there is room");
    }

    /// Takes all limits out: what comes next would wait for hours.
    async fn lift_limits(&self) {
        for info in self.pool.qos_list().await.expect("a list") {
            let keys = info.limits.iter().map(|(key, _)| (key.to_owned(), None));
            let target = info.target.parse().expect("what was listed");
            let _none = self.pool.set_qos(&target, &keys.collect::<Vec<_>>()).await.expect("limits go");
        }
    }

    /// Makes a request and looks at its answer; says whether it was carried out.
    async fn call(&self, request: Request<Body>) -> bool {
        let limits = request.uri().path().starts_with("/v1/qos") && request.method() == Method::PATCH;
        let about = format!("{} {}", request.method(), request.uri());
        let head = request.method() == Method::HEAD;
        let answer = self.routes.clone().oneshot(request).await.expect("routes always answer");
        let (parts, body) = answer.into_parts();
        let body = body.collect().await.expect("a whole body").to_bytes();
        let kind = parts.headers.get(header::CONTENT_TYPE).map_or("", |kind| kind.to_str().expect("plain text"));
        if limits {
            self.lift_limits().await;
        }
        assert!(!parts.status.is_server_error(), "{about}: {} {}", parts.status, String::from_utf8_lossy(&body));
        if head {
            assert!(body.is_empty(), "{about}: a body");
        } else if !parts.status.is_success() {
            refused(&about, parts.status, kind, &body);
        } else if parts.status == StatusCode::NO_CONTENT || parts.status == StatusCode::ACCEPTED {
            assert!(body.is_empty(), "{about}: a body with {}", parts.status);
        } else {
            carried_out(&about, kind, &body);
        }
        parts.status.is_success()
    }
}

fn refused(about: &str, status: StatusCode, kind: &str, body: &[u8]) {
    assert_eq!(kind, "application/json", "{about}: {status}");
    let ErrorAnswer { error } = serde_json::from_slice(body).unwrap_or_else(|e| panic!("{about}: {status}: {e}"));
    assert!(!error.message.is_empty(), "{about}: {status}");
    let failure = Failure::from(error);
    let special = [
        StatusCode::METHOD_NOT_ALLOWED,
        StatusCode::PAYLOAD_TOO_LARGE,
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        StatusCode::UNPROCESSABLE_ENTITY,
    ];
    let fits = failure.status() == status || failure.kind == ErrorKind::Invalid && special.contains(&status);
    assert!(fits, "{about}: {status} for {failure:?}");
}

fn carried_out(about: &str, kind: &str, body: &[u8]) {
    match kind {
        "application/json" => {
            let _value: serde_json::Value = serde_json::from_slice(body).unwrap_or_else(|e| panic!("{about}: {e}"));
        }
        "application/x-ndjson" => {
            let text = std::str::from_utf8(body).expect("JSON is UTF-8");
            let lines: Vec<CheckLine> = text
                .lines()
                .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{about}: {e}")))
                .collect();
            let (last, before) = lines.split_last().expect("a last line");
            assert!(before.iter().all(|line| matches!(line, CheckLine::Progress { .. })), "{about}");
            assert!(matches!(last, CheckLine::Report(report) if report.is_clean()), "{about}: {last:?}");
        }
        "application/octet-stream" => assert!(body.len().is_multiple_of(512), "{about}: {} bytes", body.len()),
        other => panic!("{about}: {other:?}"),
    }
}
