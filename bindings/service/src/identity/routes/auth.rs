//! `/auth`: tokens, and what they are good for.

use axum::{
    Json as Answered,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use super::{Address, Filters, Json, Reply, Who, list, people::project_view};
use crate::{
    fault::Fault,
    identity::{
        documents,
        login::Body,
        own::{Live, Own},
    },
};

const SUBJECT: HeaderName = HeaderName::from_static("x-subject-token");

fn document(own: &Own, live: &Live, with_catalog: bool) -> Value {
    let methods: Vec<&str> = live.token.methods.iter().map(String::as_str).collect();
    let credential = live.credential.as_ref();
    documents::token(
        own.url(),
        &documents::TokenView {
            methods: &methods,
            audit: Some(&live.token.audit),
            user: (&live.user.id, &live.user.name),
            project: live.project.as_ref().map(|project| (project.id.as_str(), project.name.as_str())),
            role: live.token.role,
            issued_s: live.token.issued_us / 1_000_000,
            expires_s: live.token.expires_us / 1_000_000,
            credential: credential.map(|found| (found.id.as_str(), found.name.as_str(), found.unrestricted)),
            with_catalog,
        },
    )
}

/// The token itself is in a header, which nobody may keep.
fn answer(status: StatusCode, secret: &str, body: Value) -> Reply<Response> {
    let mut response = (status, Answered(body)).into_response();
    let mut secret = HeaderValue::from_str(secret).map_err(|_| Fault::internal("a token has no form"))?;
    secret.set_sensitive(true);
    drop(response.headers_mut().insert(SUBJECT, secret));
    drop(response.headers_mut().insert(header::VARY, HeaderValue::from_static("X-Auth-Token")));
    drop(response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store")));
    Ok(response)
}

pub(super) async fn issue(
    State(own): State<Own>,
    Address(address): Address,
    filters: Filters,
    Json(body): Json<Body>,
) -> Reply<Response> {
    let (secret, live) = own.login(body, address).await?;
    let user = &live.user.id;
    let methods = live.token.methods.join(",");
    tracing::info!(user, project = live.token.project, methods, audit = live.token.audit, "logged in");
    let body = document(&own, &live, filters.get("nocatalog").is_none());
    answer(StatusCode::CREATED, &secret, body)
}

fn subject(headers: &HeaderMap) -> Reply<&str> {
    let subject = headers.get(&SUBJECT).and_then(|value| value.to_str().ok());
    Ok(subject.ok_or_else(|| Fault::bad("the request names no token: send it as X-Subject-Token"))?)
}

pub(super) async fn show(
    State(own): State<Own>,
    Who(caller): Who,
    filters: Filters,
    headers: HeaderMap,
) -> Reply<Response> {
    let secret = subject(&headers)?;
    let live = own.subject(&caller, secret)?;
    answer(StatusCode::OK, secret, document(&own, &live, filters.get("nocatalog").is_none()))
}

pub(super) async fn revoke(State(own): State<Own>, Who(caller): Who, headers: HeaderMap) -> Reply<StatusCode> {
    own.revoke(&caller, subject(&headers)?)?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn catalog(State(own): State<Own>, Who(caller): Who) -> Reply<Answered<Value>> {
    let project = caller.project.ok_or_else(|| Fault::forbidden("the token is for no project, and has no catalog"))?;
    let links = json!({"self": format!("{}/identity/v3/auth/catalog", own.url())});
    Ok(Answered(json!({"catalog": documents::catalog(own.url(), &project.id), "links": links})))
}

/// What the caller could ask a token for.
pub(super) async fn projects(State(own): State<Own>, Who(caller): Who) -> Reply<Answered<Value>> {
    let mut projects = own.projects_of(&caller.user.id)?;
    projects.retain(|project| project.enabled);
    let items = projects.iter().map(|project| project_view(&own, project)).collect();
    Ok(list(&own, "auth/projects", "projects", items))
}
