//! Requests to Keystone.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use reqwest::{Certificate, redirect::Policy};
use serde_json::json;
use tokio::{sync::Mutex, time::Instant};
use url::Url;

use super::{Options, document::Subject};
use crate::{
    catalog::now_us,
    fault::{Answer, Fault, FaultKind},
};

/// How long one request may take.
const TIME: Duration = Duration::from_secs(5);
const CONNECT: Duration = Duration::from_secs(2);
/// Most bytes of an answer.
const MOST: usize = 256 << 10;
/// The service's own token is renewed so long before it ends, in microseconds.
const EARLY: u64 = 60_000_000;
/// After a login that was refused: Keystone may lock out whoever tries too often.
const AFTER_REFUSAL: Duration = Duration::from_secs(10);

const TOKEN: HeaderName = HeaderName::from_static("x-auth-token");
const SUBJECT: HeaderName = HeaderName::from_static("x-subject-token");

/// This service's own token.
#[derive(Clone)]
struct Own {
    token: HeaderValue,
    expires_us: u64,
}

#[derive(Default)]
struct Login {
    own: Option<Own>,
    /// Not before this moment is there another login.
    not_before: Option<Instant>,
}

pub(super) struct Client {
    options: Options,
    tokens: Url,
    http: reqwest::Client,
    login: Mutex<Login>,
}

fn failed(what: impl Into<String>) -> Fault {
    Fault::new(FaultKind::Unavailable, what)
}

/// Without what was sent: an address has no secrets, but nobody needs it either.
fn transport(error: reqwest::Error) -> Fault {
    failed(format!("{}", error.without_url()))
}

/// A token as a header, which no log shows.
fn secret(text: &[u8]) -> Answer<HeaderValue> {
    let mut value = HeaderValue::from_bytes(text).map_err(|_| failed("a token cannot be a header"))?;
    value.set_sensitive(true);
    Ok(value)
}

impl Client {
    pub(super) fn new(options: Options) -> Answer<Self> {
        let wrong = |why: &str| Fault::bad(format!("--keystone {}: {why}", options.url));
        let mut base = Url::parse(&options.url).map_err(|e| wrong(&e.to_string()))?;
        if !matches!(base.scheme(), "http" | "https") || base.host_str().is_none() {
            return Err(wrong("an address like https://keystone:5000"));
        }
        if !base.username().is_empty() || base.password().is_some() || base.query().is_some() {
            return Err(wrong("an address without a user and a query"));
        }
        let path = base.path().trim_end_matches('/').trim_end_matches("/v3").to_owned();
        base.set_path(&format!("{path}/v3/auth/tokens"));
        base.set_query(Some("nocatalog"));
        let local = base.host_str().is_some_and(|host| matches!(host, "localhost" | "127.0.0.1" | "[::1]"));
        if base.scheme() == "http" && !local {
            tracing::warn!("{}: tokens and this service's password can be read on the way: use https", options.url);
        }
        let mut builder = reqwest::Client::builder()
            // A redirection would take the service's token elsewhere.
            .redirect(Policy::none())
            .no_proxy()
            .timeout(TIME)
            .connect_timeout(CONNECT)
            .pool_idle_timeout(Duration::from_secs(30));
        if let Some(path) = &options.ca {
            let bad = |e: String| Fault::bad(format!("--keystone-ca {}: {e}", path.display()));
            let pem = std::fs::read(path).map_err(|e| bad(e.to_string()))?;
            for certificate in Certificate::from_pem_bundle(&pem).map_err(|e| bad(e.to_string()))? {
                builder = builder.add_root_certificate(certificate);
            }
        }
        let http = builder.build().map_err(|e| wrong(&e.to_string()))?;
        Ok(Self { options, tokens: base, http, login: Mutex::default() })
    }

    /// Whose token it is; nobody's if Keystone does not know it.
    pub(super) async fn subject(&self, token: &str) -> Answer<Option<Subject>> {
        let subject = secret(token.as_bytes())?;
        let mut own = self.own(None).await?;
        for attempt in 0..2 {
            let request = self.http.get(self.tokens.clone()).header(TOKEN, own.clone());
            let (status, _, body) = answered(request.header(SUBJECT, subject.clone())).await?;
            match status {
                StatusCode::OK => return Subject::parse(&body).map(Some).map_err(failed),
                StatusCode::NOT_FOUND => return Ok(None),
                // Its own token is not good any more, whatever was said when it was made.
                StatusCode::UNAUTHORIZED if attempt == 0 => own = self.own(Some(&own)).await?,
                StatusCode::FORBIDDEN => {
                    let text = "the service's user may not look at tokens of others: give it the role admin or service";
                    return Err(failed(text));
                }
                other => return Err(failed(format!("it answers {other}"))),
            }
        }
        Err(failed("it does not take the token that it gave to this service"))
    }

    /// The service's own token; another one than `stale`.
    async fn own(&self, stale: Option<&HeaderValue>) -> Answer<HeaderValue> {
        // One login at a time; the others wait for its outcome.
        let mut login = self.login.lock().await;
        let is_good = |own: &&Own| Some(&own.token) != stale && own.expires_us > now_us().saturating_add(EARLY);
        if let Some(own) = login.own.as_ref().filter(is_good) {
            return Ok(own.token.clone());
        }
        if login.not_before.is_some_and(|moment| Instant::now() < moment) {
            return Err(failed("this service's login was refused a moment ago"));
        }
        login.own = None;
        match self.enter().await {
            Ok(own) => {
                let token = own.token.clone();
                *login = Login { own: Some(own), not_before: None };
                Ok(token)
            }
            Err((fault, refused)) => {
                login.not_before = refused.then(|| Instant::now() + AFTER_REFUSAL);
                Err(fault)
            }
        }
    }

    /// Logs in. Also says whether it was refused.
    async fn enter(&self) -> Result<Own, (Fault, bool)> {
        let options = &self.options;
        let user = json!({"name": options.user, "domain": {"name": options.user_domain}, "password": options.password});
        let project = json!({"name": options.project, "domain": {"name": options.project_domain}});
        let identity = json!({"methods": ["password"], "password": {"user": user}});
        let body = json!({"auth": {"identity": identity, "scope": {"project": project}}}).to_string();
        let request = self.http.post(self.tokens.clone()).header(header::CONTENT_TYPE, "application/json").body(body);
        let (status, headers, body) = answered(request).await.map_err(|fault| (fault, false))?;
        if status != StatusCode::CREATED {
            let refused = status.is_client_error();
            return Err((failed(format!("this service cannot log in as {}: {status}", options.user)), refused));
        }
        let wrong = |what: &str| (failed(format!("its answer to this service's login {what}")), false);
        let token = headers.get(SUBJECT).ok_or_else(|| wrong("has no token"))?;
        let token = secret(token.as_bytes()).map_err(|fault| (fault, false))?;
        let expires_us = Subject::parse(&body).map_err(|why| wrong(&why))?.expires_us;
        Ok(Own { token, expires_us })
    }
}

/// Sends a request; what comes back, if it is not too much.
async fn answered(request: reqwest::RequestBuilder) -> Answer<(StatusCode, HeaderMap, Vec<u8>)> {
    let mut response = request.send().await.map_err(transport)?;
    let (status, headers) = (response.status(), response.headers().clone());
    let mut body = Vec::new();
    while let Some(data) = response.chunk().await.map_err(transport)? {
        if body.len() + data.len() > MOST {
            return Err(failed("its answer is too long"));
        }
        body.extend_from_slice(&data);
    }
    Ok((status, headers, body))
}
