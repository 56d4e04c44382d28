//! `/identity`.

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, Query, State},
    response::{IntoResponse, Response},
    routing::get,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

use super::{Dev, Scope, Token};
use crate::{
    fault::{Answer, Fault},
    identity::{Session, documents},
};

const SUBJECT: HeaderName = HeaderName::from_static("x-subject-token");

pub(in crate::identity) fn router(identity: Dev) -> Router {
    Router::new()
        .route("/identity", get(versions))
        .route("/identity/", get(versions))
        .route("/identity/v3", get(version))
        .route("/identity/v3/", get(version))
        .route("/identity/v3/auth/tokens", get(show_token).post(issue).delete(revoke))
        .route("/identity/v3/auth/catalog", get(catalog))
        .route("/identity/v3/auth/projects", get(own_projects))
        .route("/identity/v3/projects", get(projects))
        .route("/identity/v3/projects/{id}", get(project))
        .route("/identity/v3/users", get(users))
        .route("/identity/v3/users/{id}", get(user))
        .route("/identity/v3/domains", get(domains))
        .route("/identity/v3/domains/{id}", get(domain))
        .method_not_allowed_fallback(crate::rest::wrong_method)
        .with_state(identity)
}

async fn versions(State(identity): State<Dev>) -> Response {
    let body = json!({"versions": {"values": [documents::version(identity.url())]}});
    (StatusCode::MULTIPLE_CHOICES, Json(body)).into_response()
}

async fn version(State(identity): State<Dev>) -> Json<Value> {
    Json(json!({"version": documents::version(identity.url())}))
}

#[derive(Deserialize)]
struct AuthBody {
    auth: Auth,
}

#[derive(Deserialize)]
struct Auth {
    identity: Methods,
    #[serde(default)]
    scope: Option<Value>,
}

#[derive(Deserialize)]
struct Methods {
    methods: Vec<String>,
    #[serde(default)]
    password: Option<Value>,
    #[serde(default)]
    token: Option<Value>,
}

/// `id` or `name` of what a request names.
fn named(value: Option<&Value>) -> Option<String> {
    let value = value?;
    ["id", "name"].iter().find_map(|key| value.get(key)?.as_str()).map(str::to_owned)
}

async fn issue(State(identity): State<Dev>, body: Bytes) -> Answer<Response> {
    let body: AuthBody = serde_json::from_slice(&body).map_err(|e| Fault::bad(format!("Invalid input: {e}")))?;
    let methods = body.auth.identity;
    let user = match methods.methods.first().map(String::as_str) {
        Some("password") => named(methods.password.as_ref().and_then(|password| password.get("user"))),
        Some("token") => {
            let token = methods.token.as_ref().and_then(|token| token.get("id")).and_then(Value::as_str);
            Some(identity.resolve(token, None)?.user)
        }
        _ => return Err(Fault::bad("the methods that are served are password and token")),
    };
    let user = user.ok_or_else(|| Fault::bad("the request names no user"))?;
    let scope = Scope { project: named(body.auth.scope.as_ref().and_then(|scope| scope.get("project"))) };
    let (id, token) = identity.issue(&user, &scope)?;
    let mut response = (StatusCode::CREATED, Json(document(identity.url(), &token))).into_response();
    let id = HeaderValue::from_str(&id).map_err(|_| Fault::internal("a token has no form"))?;
    drop(response.headers_mut().insert(SUBJECT, id));
    Ok(response)
}

fn session(identity: &Dev, headers: &HeaderMap) -> Answer<Session> {
    identity.resolve(headers.get("x-auth-token").and_then(|value| value.to_str().ok()), None)
}

fn subject(headers: &HeaderMap) -> Answer<&str> {
    let subject = headers.get(&SUBJECT).and_then(|value| value.to_str().ok());
    subject.ok_or_else(|| Fault::bad("the request names no token: send it as X-Subject-Token"))
}

async fn show_token(State(identity): State<Dev>, headers: HeaderMap) -> Answer<Response> {
    let _session = session(&identity, &headers)?;
    let id = subject(&headers)?;
    let token = identity.token(id)?.ok_or_else(|| Fault::missing("Token", "that was named"))?;
    let mut response = Json(document(identity.url(), &token)).into_response();
    let id = HeaderValue::from_str(id).map_err(|_| Fault::bad("the token has no form"))?;
    drop(response.headers_mut().insert(SUBJECT, id));
    Ok(response)
}

async fn revoke(State(identity): State<Dev>, headers: HeaderMap) -> Answer<StatusCode> {
    let _session = session(&identity, &headers)?;
    match identity.revoke(subject(&headers)?) {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(Fault::missing("Token", "that was named")),
    }
}

async fn catalog(State(identity): State<Dev>, headers: HeaderMap) -> Answer<Json<Value>> {
    let session = session(&identity, &headers)?;
    let links = json!({"self": format!("{}/identity/v3/auth/catalog", identity.url())});
    Ok(Json(json!({"catalog": documents::catalog(identity.url(), &session.project), "links": links})))
}

fn list(identity: &Dev, name: &str, items: Vec<Value>) -> Json<Value> {
    let address = format!("{}/identity/v3/{name}", identity.url());
    Json(json!({name: items, "links": {"self": address, "next": null, "previous": null}}))
}

type Filters = Query<BTreeMap<String, String>>;

async fn own_projects(State(identity): State<Dev>, headers: HeaderMap) -> Answer<Json<Value>> {
    let session = session(&identity, &headers)?;
    Ok(list(&identity, "projects", vec![project_of(identity.url(), &session.project)]))
}

/// In dev mode there is each project that somebody names, and the own one.
async fn projects(State(identity): State<Dev>, headers: HeaderMap, filters: Filters) -> Answer<Json<Value>> {
    let session = session(&identity, &headers)?;
    let name = filters.get("name").cloned().unwrap_or(session.project);
    Ok(list(&identity, "projects", vec![project_of(identity.url(), &name)]))
}

async fn project(State(identity): State<Dev>, headers: HeaderMap, Path(id): Path<String>) -> Answer<Json<Value>> {
    let _session = session(&identity, &headers)?;
    Ok(Json(json!({"project": project_of(identity.url(), &id)})))
}

async fn users(State(identity): State<Dev>, headers: HeaderMap, filters: Filters) -> Answer<Json<Value>> {
    let session = session(&identity, &headers)?;
    let name = filters.get("name").cloned().unwrap_or(session.user);
    Ok(list(&identity, "users", vec![user_of(identity.url(), &name)]))
}

async fn user(State(identity): State<Dev>, headers: HeaderMap, Path(id): Path<String>) -> Answer<Json<Value>> {
    let _session = session(&identity, &headers)?;
    Ok(Json(json!({"user": user_of(identity.url(), &id)})))
}

/// Each name is its id too.
fn document(url: &str, token: &Token) -> Value {
    let project = token.project.as_deref();
    documents::token(
        url,
        &documents::TokenView {
            methods: &["password"],
            audit: None,
            user: (&token.user, &token.user),
            project: project.map(|project| (project, project)),
            role: token.role,
            issued_s: token.issued_s,
            expires_s: token.expires_s,
            credential: None,
            with_catalog: true,
        },
    )
}

fn project_of(url: &str, name: &str) -> Value {
    documents::project(url, &documents::ProjectView { id: name, name, description: "", enabled: true })
}

fn user_of(url: &str, name: &str) -> Value {
    documents::user(url, name, name, true)
}

async fn domains(State(identity): State<Dev>, headers: HeaderMap) -> Answer<Json<Value>> {
    let _session = session(&identity, &headers)?;
    Ok(list(&identity, "domains", vec![documents::the_domain()]))
}

async fn domain(State(identity): State<Dev>, headers: HeaderMap, Path(id): Path<String>) -> Answer<Json<Value>> {
    let _session = session(&identity, &headers)?;
    match id.eq_ignore_ascii_case(documents::DOMAIN) {
        true => Ok(Json(json!({"domain": documents::the_domain()}))),
        false => Err(Fault::missing("Domain", &id)),
    }
}
