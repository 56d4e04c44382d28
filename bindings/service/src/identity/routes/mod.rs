//! `/identity` with people of the catalog: paths, bodies and answers as Keystone v3 has them.

mod auth;
mod credentials;
mod people;
mod refusal;

use axum::{
    Json as Answered, Router,
    extract::{FromRequest, FromRequestParts, Request, State},
    response::{IntoResponse, Response},
    routing::{get, head, post},
};
use http::{StatusCode, request::Parts};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::{Value, json};
use std::{collections::BTreeMap, net::IpAddr};

use super::{
    Peer, address, documents,
    own::{Live, Own},
};
use crate::fault::{Fault, FaultKind};
use refusal::{Refusal, Reply};

pub(super) fn router(own: Own) -> Router {
    let routes = Router::new()
        .route("/auth/tokens", get(auth::show).post(auth::issue).delete(auth::revoke))
        .route("/auth/catalog", get(auth::catalog))
        .route("/auth/projects", get(auth::projects))
        .route("/auth/domains", get(people::domains))
        .route("/domains", get(people::domains))
        .route("/domains/{id}", get(people::domain))
        .route("/projects", get(people::projects).post(people::create_project))
        .route("/projects/{id}", get(people::project).patch(people::change_project).delete(people::delete_project))
        .route("/projects/{id}/users/{user}/roles", get(people::roles_in))
        .route(
            "/projects/{id}/users/{user}/roles/{role}",
            head(people::has_role).get(people::has_role).put(people::give_role).delete(people::take_role),
        )
        .route("/users", get(people::users).post(people::create_user))
        .route("/users/{id}", get(people::user).patch(people::change_user).delete(people::delete_user))
        .route("/users/{id}/projects", get(people::projects_of))
        .route("/users/{id}/password", post(credentials::change_password))
        .route("/users/{id}/application_credentials", get(credentials::programs).post(credentials::create_program))
        .route(
            "/users/{id}/application_credentials/{credential}",
            get(credentials::program).delete(credentials::delete_program),
        )
        .route("/roles", get(people::roles))
        .route("/roles/{id}", get(people::role))
        .route("/role_assignments", get(people::assignments))
        .route("/credentials", get(credentials::keys).post(credentials::create_key))
        .route("/credentials/{id}", get(credentials::key).delete(credentials::delete_key));
    Router::new()
        .route("/identity", get(versions))
        .route("/identity/", get(versions))
        .route("/identity/v3", get(version))
        .route("/identity/v3/", get(version))
        .nest("/identity/v3", routes)
        .method_not_allowed_fallback(wrong_method)
        .with_state(own)
}

async fn wrong_method(method: axum::http::Method, uri: axum::http::Uri) -> Refusal {
    Fault::new(FaultKind::BadMethod, format!("{method} does not apply to {}", uri.path())).into()
}

async fn versions(State(own): State<Own>) -> Response {
    let body = json!({"versions": {"values": [documents::version(own.url())]}});
    (StatusCode::MULTIPLE_CHOICES, Answered(body)).into_response()
}

async fn version(State(own): State<Own>) -> Answered<Value> {
    Answered(json!({"version": documents::version(own.url())}))
}

/// Whose token came with the request.
struct Who(Live);

impl FromRequestParts<Own> for Who {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, own: &Own) -> Result<Self, Refusal> {
        let token = parts.headers.get("x-auth-token").and_then(|value| value.to_str().ok());
        Ok(Self(own.live(token)?))
    }
}

/// Where the request came from. Without a network, nowhere.
struct Address(IpAddr);

impl<S: Send + Sync> FromRequestParts<S> for Address {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Self::Rejection> {
        Ok(Self(address(parts.extensions.get::<Peer>().copied())))
    }
}

/// A JSON body. A refusal does not repeat what was in it: that may be a secret.
struct Json<T>(T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let bytes = bytes::Bytes::from_request(request, state).await.map_err(|rejection| {
            let kind = match rejection.status().as_u16() {
                413 => FaultKind::OverLimit,
                _ => FaultKind::BadRequest,
            };
            Fault::new(kind, "the body cannot be read, or is too long")
        })?;
        serde_json::from_slice(&bytes).map(Self).map_err(|error| {
            let form = if error.is_data() { "a field is missing, or has the wrong type" } else { "it is no JSON" };
            let place = format!("line {}, column {}", error.line(), error.column());
            Fault::bad(format!("the body is not what is expected here: {form} ({place})")).into()
        })
    }
}

/// Variable parts of a path.
struct At<T>(T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for At<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let found = axum::extract::Path::<T>::from_request_parts(parts, state).await;
        found.map(|path| Self(path.0)).map_err(|rejection| Fault::bad(rejection.body_text()).into())
    }
}

/// Filters of a list.
struct Filters(BTreeMap<String, String>);

impl<S: Send + Sync> FromRequestParts<S> for Filters {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Refusal> {
        serde_urlencoded::from_str::<Vec<(String, String)>>(parts.uri.query().unwrap_or_default())
            .map(|pairs| Self(pairs.into_iter().collect()))
            .map_err(|_| Fault::bad("the query cannot be read").into())
    }
}

impl Filters {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// Whether a filter, if given, is this.
    fn is(&self, key: &str, value: &str) -> bool {
        self.get(key).is_none_or(|wanted| wanted == value)
    }

    /// Whether a flag, if given, is this. A flag without a value is set.
    fn flag_is(&self, key: &str, value: bool) -> bool {
        self.flag(key).is_none_or(|wanted| wanted == value)
    }

    fn flag(&self, key: &str) -> Option<bool> {
        self.get(key).map(|text| !matches!(text.to_ascii_lowercase().as_str(), "0" | "false" | "no" | "off"))
    }
}

/// A field that may be left out, be null, or have a value.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<Option<T>>, D::Error> {
    Option::<T>::deserialize(from).map(Some)
}

fn list(own: &Own, path: &str, name: &str, items: Vec<Value>) -> Answered<Value> {
    let address = format!("{}/identity/v3/{path}", own.url());
    Answered(json!({name: items, "links": {"self": address, "next": null, "previous": null}}))
}

/// A domain that a body names has to be the one that there is.
fn in_the_domain(id: Option<&str>) -> Reply<()> {
    match id.is_none_or(|id| id.eq_ignore_ascii_case(documents::DOMAIN)) {
        true => Ok(()),
        false => Err(Fault::bad("there is one domain, \"default\"").into()),
    }
}
