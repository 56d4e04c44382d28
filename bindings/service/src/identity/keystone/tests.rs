//! Who gets how many of the questions.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, response::IntoResponse, routing::get};
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::{super::attempts::Bound, Keystone, OF_ADDRESS, Options, STRANGERS};
use crate::fault::FaultKind;

/// A Keystone that knows tokens which begin with `good`, and answers questions when it is let.
struct There {
    keystone: Keystone,
    asked: Arc<AtomicUsize>,
    lets: Arc<Semaphore>,
    server: tokio::task::JoinHandle<()>,
}

fn document() -> Value {
    json!({"token": {"expires_at": "2099-01-01T00:00:00Z", "user": {"id": "u"}, "project": {"id": "p"},
        "roles": [{"name": "member"}]}})
}

impl There {
    async fn new(cache: u64, strangers: Bound) -> Self {
        let (asked, lets) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
        let (counted, let_in) = (asked.clone(), lets.clone());
        let question = move |headers: HeaderMap| {
            let (counted, let_in) = (counted.clone(), let_in.clone());
            async move {
                let _before = counted.fetch_add(1, Ordering::SeqCst);
                let _let = let_in.acquire().await.unwrap();
                match headers["x-subject-token"].as_bytes().starts_with(b"good") {
                    true => axum::Json(document()).into_response(),
                    false => StatusCode::NOT_FOUND.into_response(),
                }
            }
        };
        let login = || async { (StatusCode::CREATED, [("x-subject-token", "its-own")], axum::Json(document())) };
        let routes = Router::new().route("/v3/auth/tokens", get(question).post(login));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let options = Options {
            url: format!("http://{}", listener.local_addr().unwrap()),
            user: "cairn".to_owned(),
            user_domain: "Default".to_owned(),
            project: "service".to_owned(),
            project_domain: "Default".to_owned(),
            password: "x".to_owned(),
            ca: None,
            cache: Duration::from_secs(cache),
        };
        let server = tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        Self { keystone: Keystone::bounded(options, strangers).unwrap(), asked, lets, server }
    }

    /// It answers all questions from now on.
    fn answer(&self) {
        self.lets.add_permits(Semaphore::MAX_PERMITS / 2);
    }

    fn ask(&self, token: &str, from: [u8; 4]) -> tokio::task::JoinHandle<Result<String, FaultKind>> {
        let (keystone, token) = (self.keystone.clone(), token.to_owned());
        tokio::spawn(async move {
            let session = keystone.session(Some(&token), IpAddr::from(from)).await;
            session.map(|session| session.user).map_err(|fault| fault.kind)
        })
    }

    fn end(self) {
        self.server.abort();
    }
}

const HERE: [u8; 4] = [192, 0, 2, 1];
const THERE: [u8; 4] = [192, 0, 2, 2];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_address_does_not_take_all_places() {
    let there = There::new(30, STRANGERS).await;
    let mut asked: Vec<_> = (0..OF_ADDRESS + 8).map(|n| there.ask(&format!("bad-{n}"), HERE)).collect();
    // Those beyond its part are refused while nothing is answered; everybody else waits.
    while asked.iter().filter(|one| one.is_finished()).count() < 8 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    asked.extend([there.ask("good", THERE), there.ask("bad", THERE)]);
    there.answer();
    let mut outcomes = Vec::new();
    for one in asked {
        outcomes.push(one.await.unwrap());
    }
    assert_eq!(outcomes.split_off(OF_ADDRESS + 8), [Ok("u".to_owned()), Err(FaultKind::Unauthorized)]);
    let count = |kind: FaultKind| outcomes.iter().filter(|outcome| **outcome == Err(kind)).count();
    assert_eq!((count(FaultKind::TooMany), count(FaultKind::Unauthorized)), (8, OF_ADDRESS));
    // The places are free again.
    assert_eq!(there.ask("good too", HERE).await.unwrap(), Err(FaultKind::Unauthorized), "no token has a blank in it");
    assert_eq!(there.ask("good-too", HERE).await.unwrap(), Ok("u".to_owned()));
    there.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_with_one_token_are_one_question() {
    let there = There::new(30, STRANGERS).await;
    let asked: Vec<_> = (0..4 * OF_ADDRESS).map(|_| there.ask("good", HERE)).collect();
    while there.asked.load(Ordering::SeqCst) < 1 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    there.answer();
    for one in asked {
        assert_eq!(one.await.unwrap(), Ok("u".to_owned()));
    }
    assert_eq!(there.asked.load(Ordering::SeqCst), 1);
    there.end();
    // Where no answer counts for any time, each is asked about.
    let there = There::new(0, STRANGERS).await;
    let asked = [there.ask("good", HERE), there.ask("good", HERE)];
    while there.asked.load(Ordering::SeqCst) < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    there.answer();
    for one in asked {
        assert_eq!(one.await.unwrap(), Ok("u".to_owned()));
    }
    there.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_that_nobody_has_are_not_asked_about_without_end() {
    let there = There::new(30, Bound { burst: 3, pause: Duration::from_hours(1) }).await;
    there.answer();
    // Good ones never meet the bound.
    for n in 0..10 {
        assert_eq!(there.ask(&format!("good-{n}"), HERE).await.unwrap(), Ok("u".to_owned()));
    }
    let mut outcomes = Vec::new();
    for n in 0..5 {
        outcomes.push(there.ask(&format!("bad-{n}"), HERE).await.unwrap().unwrap_err());
    }
    let (refused, many) = (FaultKind::Unauthorized, FaultKind::TooMany);
    assert_eq!(outcomes, [refused, refused, refused, many, many]);
    assert_eq!(there.asked.load(Ordering::SeqCst), 13);
    // What is known costs nothing, and others ask as before.
    assert_eq!(there.ask("good-1", HERE).await.unwrap(), Ok("u".to_owned()));
    assert_eq!(there.ask("bad-9", THERE).await.unwrap(), Err(refused));
    assert_eq!(there.ask("good-too", THERE).await.unwrap(), Ok("u".to_owned()));
    there.end();
}
