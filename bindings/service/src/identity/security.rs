//! Every route, with every role, for the own project's objects and for those of others: one table of rules ([`super::world::TABLE`]), and all that
//! follows from it.
//!
//! The routes are those of the router itself. A route without a line fails; so does a line without a route.

use std::collections::BTreeSet;

use axum::Router;
use http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use tower::ServiceExt;

use super::world::{Caller, Line, Rule, TABLE, World, memory};
use crate::domain::Role;

/// The rules, once: what a caller is answered, where `ok` is what those are answered who may.
fn expected(rule: Rule, caller: Caller, ok: u16) -> u16 {
    let sees = caller.is_here() || caller.is_admin();
    match rule {
        Rule::Open => ok,
        _ if caller == Caller::Nobody => 401,
        Rule::Anyone | Rule::ListHere(_) | Rule::ListAcross(_) | Rule::ListOwn(_) | Rule::ListAdmin(_) => ok,
        Rule::Read if sees => ok,
        Rule::Read => 404,
        Rule::Secret if caller.is_admin() => ok,
        Rule::Secret => 404,
        Rule::Create | Rule::Join | Rule::Write | Rule::SecretWrite | Rule::Manage | Rule::Shown
            if caller.role() == Role::Reader =>
        {
            403
        }
        Rule::Shown if sees => ok,
        Rule::Shown => 403,
        Rule::Create => ok,
        Rule::Write if sees => ok,
        Rule::Write => 404,
        Rule::Join if caller.is_here() => ok,
        Rule::Join if sees => 400,
        Rule::Join => 404,
        Rule::SecretWrite if caller.is_admin() => ok,
        Rule::SecretWrite => 404,
        Rule::Manage if caller.is_admin() => ok,
        Rule::Manage if caller.is_here() => 403,
        Rule::Manage => 404,
        Rule::Admin if caller.is_admin() => ok,
        Rule::Admin => 403,
        Rule::Quota if sees => ok,
        Rule::Quota => 403,
        Rule::Own if caller == Caller::Themselves => ok,
        Rule::OwnOrAdmin if caller == Caller::Themselves || caller.is_admin() => ok,
        Rule::Own | Rule::OwnOrAdmin => 404,
    }
}

/// What a list has to show, and to whom.
fn shown(rule: Rule, caller: Caller) -> Option<(&'static str, bool)> {
    match rule {
        Rule::ListHere(what) => Some((what, caller.is_here())),
        Rule::ListAcross(what) => Some((what, caller.is_here() || caller.is_admin())),
        Rule::ListOwn(what) => Some((what, caller == Caller::Themselves || caller.is_admin())),
        Rule::ListAdmin(what) => Some((what, caller.is_admin())),
        _ => None,
    }
}

/// Paths of a router, as it shows them itself.
fn paths(routes: &Router) -> Vec<String> {
    let text = format!("{routes:?}");
    let (_, mut rest) = text.split_once("paths: {").expect("a router shows its paths");
    let mut found = Vec::new();
    while let Some(entry) = rest.trim_start_matches(", ").strip_prefix("RouteId(") {
        let (_, path) = entry.split_once("): \"").expect("a path");
        let (path, after) = path.split_once('"').expect("its end");
        found.push(path.to_owned());
        rest = after;
    }
    assert!(found.len() > 50, "the form of a router has changed: {text}");
    found
}

/// What a router serves: methods and paths. `HEAD` goes with `GET`.
async fn served(routes: &Router) -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    for path in paths(routes) {
        let filled: Vec<&str> = path.split('/').map(|part| if part.starts_with('{') { "x" } else { part }).collect();
        let request = Request::builder().method("SEARCH").uri(filled.join("/")).body(axum::body::Body::empty());
        let answer = routes.clone().oneshot(request.unwrap()).await.unwrap();
        assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED, "{path}");
        let allowed = answer.headers()[header::ALLOW].to_str().unwrap();
        let methods: Vec<&str> = allowed.split(',').filter(|method| *method != "HEAD").collect();
        assert!(!methods.is_empty(), "{path}: {allowed}");
        found.extend(methods.into_iter().map(|method| (method.to_owned(), path.clone())));
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        let said: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        let inner = said.as_object().and_then(|fields| fields.values().next()).unwrap_or(&said);
        assert_eq!(inner["code"], 405, "{path} refuses in another form: {said}");
    }
    found
}

#[tokio::test]
async fn every_route_has_a_line_and_every_line_a_route() {
    let directory = memory();
    let world = World::new(directory.path()).await;
    let served = served(&world.routes).await;
    let lines: BTreeSet<_> = TABLE.iter().map(|line| (line.method.to_owned(), line.route.to_owned())).collect();
    let forgotten: Vec<_> = served.difference(&lines).collect();
    assert!(forgotten.is_empty(), "say in the table of rules who may: {forgotten:?}");
    let gone: Vec<_> = lines.difference(&served).collect();
    assert!(gone.is_empty(), "not served: {gone:?}");
    let objects = world.all_objects().await;
    for line in TABLE {
        let (method, path, body) = line.request(&objects);
        assert!(!path.contains('{'), "{} {}: its path names nothing", line.method, line.route);
        assert!(!path.contains('$') && !body.contains('$'), "{method} {path} {body}: there is no such object");
    }
    world.end().await;
}

#[tokio::test]
async fn every_caller_may_what_the_rules_say() {
    let directory = memory();
    let world = World::new(directory.path()).await;
    let mut wrong = Vec::new();
    for line in TABLE {
        for caller in Caller::ALL {
            wrong.extend(check(&world, line, caller).await);
        }
    }
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
    world.end().await;
}

/// One caller's request of a line; what is wrong with its answer.
async fn check(world: &World, line: &Line, caller: Caller) -> Option<String> {
    let objects = if line.takes_all() { world.all_objects().await } else { world.objects() };
    let (method, path, body) = line.request(&objects);
    let token = world.token(caller, &objects);
    let about = format!("{method} {path} by {caller:?}");
    // Those that earlier requests began in the background would be too many at once for this one.
    world.images_are_filled().await;
    let (status, text) = world.ask(&method, &path, token.as_deref(), &objects, &body).await;
    let should = expected(line.rule, caller, line.ok);
    if status != should {
        return Some(format!("{about}: {status} instead of {should}: {text}"));
    }
    if let Some((what, is_shown)) = shown(line.rule, caller).filter(|_| caller != Caller::Nobody) {
        let id = objects.fill(what);
        if text.contains(&id) != is_shown {
            return Some(format!("{about}: {what} is {}", if is_shown { "missing" } else { "shown" }));
        }
    }
    // What is not there for somebody shows nowhere, but where they named it themselves, and when it is theirs from now on.
    let taken = line.route.ends_with("/accept") && status < 300;
    // Images that everybody may read tell whose they are.
    let told = |name: &str| taken && name == "offered" || path.starts_with("/image/") && name == "project";
    for (name, id) in objects.hidden_from(caller).filter(|(name, _)| !told(name)) {
        if text.contains(id) && !path.contains(id) && !body.contains(id) {
            return Some(format!("{about}: shows {name}: {text}"));
        }
    }
    if method == Method::GET {
        let (head, text) = world.ask(&Method::HEAD, &path, token.as_deref(), &objects, "").await;
        // Some of those that change something are GET in the published interface: the second time there is nothing left to change.
        if head != should && !(line.changes() && should < 300) || !text.is_empty() {
            return Some(format!("HEAD of {about}: {head} instead of {should}: {text}"));
        }
    }
    None
}

#[tokio::test]
async fn a_project_in_the_path_is_the_tokens() {
    let directory = memory();
    let world = World::new(directory.path()).await;
    let objects = world.all_objects().await;
    for line in TABLE.iter().filter(|line| line.rule != Rule::Open && line.route.starts_with("/v3/")) {
        let (method, path, body) = line.request(&objects);
        let path = path.replacen("/v3/", &format!("/v3/{}/", world.here), 1);
        for role in Role::ALL {
            let token = world.token(Caller::There(role), &objects);
            let (status, text) = world.ask(&method, &path, token.as_deref(), &objects, &body).await;
            assert_eq!(status, 400, "{method} {path} by {role:?} of another project: {text}");
        }
        let (status, text) = world.ask(&method, &path, None, &objects, &body).await;
        assert_eq!(status, 401, "{method} {path}: {text}");
    }
    world.end().await;
}

#[tokio::test]
async fn a_token_that_is_not_good_opens_nothing() {
    let directory = memory();
    let world = World::new(directory.path()).await;
    let objects = world.all_objects().await;
    let bad = world.bad_tokens();
    for line in TABLE.iter().filter(|line| line.rule != Rule::Open) {
        let (method, path, body) = line.request(&objects);
        for (what, token) in &bad {
            let (status, text) = world.ask(&method, &path, Some(token), &objects, &body).await;
            assert_eq!(status, 401, "{method} {path} with a token that is {what}: {text}");
        }
    }
    world.end().await;
}
