//! Who asks, for which project, in which edition of the interface: settled before a request is looked at.

use axum::extract::{FromRequestParts, MatchedPath, RawPathParams};
use http::{Request, Uri, request::Parts};
use serde_json::Value;
use std::collections::BTreeMap;

use super::{
    Rest,
    input::one_action,
    trail::{Trail, changes, deed},
};
use crate::{
    block::{Caller, Role},
    domain::{Microversion, NEWEST, Refused, new_id},
    fault::{Answer, Fault, FaultKind},
    identity::Peer,
};

/// Header of the edition.
pub(crate) const VERSION_HEADER: &str = "openstack-api-version";
/// Since this edition a path needs no project.
const WITHOUT_PROJECT: u32 = 67;
/// Paths that are served without one in all editions that have them: they are about projects.
const ABOUT_PROJECTS: &str = "/v3/default-types";

/// What stands first in a path that has no project.
const COLLECTIONS: [&str; 22] = [
    "volumes",
    "snapshots",
    "backups",
    "types",
    "default-types",
    "resource_filters",
    "qos-specs",
    "attachments",
    "os-quota-sets",
    "os-quota-class-sets",
    "limits",
    "extensions",
    "os-services",
    "os-availability-zone",
    "scheduler-stats",
    "messages",
    "volume-transfers",
    "os-volume-transfer",
    "groups",
    "group_snapshots",
    "group_types",
    "capabilities",
];

/// The project that stood in the path, and the path as the client wrote it.
#[derive(Clone, Debug)]
pub(crate) struct InPath {
    project: Option<String>,
    path: String,
}

/// Takes the project out of `/v3/PROJECT/…`, so that there is one set of routes.
pub(crate) fn split_project<B>(mut request: Request<B>) -> Request<B> {
    let path = request.uri().path().to_owned();
    let mut project = None;
    if let Some((first, rest)) = path.strip_prefix("/v3/").map(|rest| rest.split_once('/').unwrap_or((rest, "")))
        && !first.is_empty()
        && !COLLECTIONS.contains(&first)
    {
        let decoded = percent_encoding::percent_decode_str(first).decode_utf8_lossy().into_owned();
        let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
        if let Ok(uri) = format!("/v3/{rest}{query}").parse::<Uri>() {
            project = Some(decoded);
            *request.uri_mut() = uri;
        }
    }
    drop(request.extensions_mut().insert(InPath { project, path }));
    request
}

/// A request's circumstances.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    pub(crate) caller: Caller,
    pub(crate) version: Microversion,
    /// How the client reaches this server.
    pub(crate) url: String,
    /// The path as the client wrote it.
    pub(crate) path: String,
    trail: Option<Trail>,
}

impl Context {
    /// The one action of a body, which is what is asked for.
    pub(super) fn action(&mut self, body: BTreeMap<String, Value>) -> Answer<(String, Value)> {
        let (name, value) = one_action(body)?;
        let shown: String = name.chars().take(64).collect();
        self.caller.deed = format!("{}.{shown}", self.caller.kind());
        self.trail.iter().for_each(|trail| trail.set(&self.caller));
        Ok((name, value))
    }

    /// Refuses what the edition does not have yet.
    pub(crate) fn needs(&self, minor: u32) -> Answer<()> {
        match self.version.has(minor) {
            true => Ok(()),
            false => Err(Fault::new(
                FaultKind::NotFound,
                format!("API version {} has nothing here: it came with 3.{minor}", self.version),
            )),
        }
    }

    /// The links of an object.
    pub(crate) fn links(&self, collection: &str, id: &str) -> serde_json::Value {
        let (url, project) = (&self.url, &self.caller.project);
        serde_json::json!([
            {"rel": "self", "href": format!("{url}/v3/{project}/{collection}/{id}")},
            {"rel": "bookmark", "href": format!("{url}/{project}/{collection}/{id}")},
        ])
    }
}

pub(crate) fn version_of(headers: &http::HeaderMap) -> Answer<Microversion> {
    let values = headers.get_all(VERSION_HEADER).iter().filter_map(|value| value.to_str().ok());
    Microversion::of_headers(values).map_err(|refused| {
        let kind = match refused {
            Refused::Malformed(_) => FaultKind::BadRequest,
            Refused::OutOfRange(_) => FaultKind::NotAcceptable,
        };
        Fault::new(kind, refused.to_string())
    })
}

/// The object that the path names.
async fn named(parts: &mut Parts, rest: &Rest) -> Option<String> {
    let params = RawPathParams::from_request_parts(parts, rest).await.ok()?;
    params.iter().next().map(|(_, value)| value.chars().take(255).collect())
}

impl FromRequestParts<Rest> for Context {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, rest: &Rest) -> Answer<Self> {
        let native = [super::NATIVE, super::images::PREFIX].iter().any(|own| parts.uri.path().starts_with(own));
        let version = if native { NEWEST } else { version_of(&parts.headers)? };
        let in_path = parts.extensions.get::<InPath>().cloned();
        let project = in_path.as_ref().and_then(|found| found.project.clone());
        let path = in_path.map_or_else(|| parts.uri.path().to_owned(), |found| found.path);
        let token = parts.headers.get("x-auth-token").and_then(|value| value.to_str().ok());
        let peer = parts.extensions.get::<Peer>().copied();
        let session = rest.identity.resolve(token, project.as_deref(), peer).await?;
        if project.as_ref().is_some_and(|project| *project != session.project) {
            return Err(Fault::bad("Malformed request url: its project is not that of the token."));
        }
        let request =
            parts.headers.get("x-openstack-request-id").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let route = parts.extensions.get::<MatchedPath>().cloned();
        let caller = Caller {
            user: session.user,
            project: session.project,
            role: session.role,
            request: request.chars().take(64).collect(),
            deed: route.as_ref().map_or_else(String::new, |route| deed(&parts.method, route.as_str())),
            object: named(parts, rest).await,
            task: new_id(),
        };
        let trail = parts.extensions.get::<Trail>().cloned();
        trail.iter().for_each(|trail| trail.set(&caller));
        let about_projects = route.is_some_and(|route| route.as_str().starts_with(ABOUT_PROJECTS));
        if project.is_none() && !about_projects && !version.has(WITHOUT_PROJECT) {
            let text = "The resource could not be found: before API version 3.67 the path has the project's id.";
            return Err(Fault::new(FaultKind::NotFound, text));
        }
        if session.role == Role::Reader && changes(&parts.method, parts.uri.path()) {
            return Err(Fault::forbidden("Policy doesn't allow this to be performed: it takes the role member."));
        }
        Ok(Self { caller, version, url: rest.url.clone(), path, trail })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_project_is_taken_out_of_the_path() {
        let split = |path: &str| {
            let request = split_project(Request::builder().uri(path).body(()).unwrap());
            let found = request.extensions().get::<InPath>().unwrap().clone();
            (request.uri().to_string(), found.project)
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(split("/v3/p/volumes?limit=1"), ("/v3/volumes?limit=1".to_owned(), some("p")));
        assert_eq!(split("/v3/p%20q/volumes/x/action"), ("/v3/volumes/x/action".to_owned(), some("p q")));
        assert_eq!(split("/v3/volumes/detail"), ("/v3/volumes/detail".to_owned(), None));
        assert_eq!(split("/v3/default-types/p"), ("/v3/default-types/p".to_owned(), None));
        assert_eq!(split("/v3/p/default-types/q"), ("/v3/default-types/q".to_owned(), some("p")));
        assert_eq!(split("/v3/p"), ("/v3/".to_owned(), some("p")));
        assert_eq!(split("/v3/"), ("/v3/".to_owned(), None));
        assert_eq!(split("/v3"), ("/v3".to_owned(), None));
        assert_eq!(split("/identity/v3/auth/tokens"), ("/identity/v3/auth/tokens".to_owned(), None));
    }
}
