//! A Keystone elsewhere: a second daemon with people of its own plays it, and servers that misbehave.

use super::harness::{Answer, Daemon, Place};
use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

const PASSWORD: &str = "Qp8-the-services-password";

/// A daemon that asks the Keystone at `url`.
fn asking(place: &Place, url: &str, more: &[&str]) -> Daemon {
    let password = place.path().join("password");
    std::fs::write(&password, format!("{PASSWORD}\n")).unwrap();
    let (password, log) = (password.display().to_string(), place.path().join("log"));
    let own = ["--keystone", url, "--keystone-user", "admin", "--keystone-project", "admin"];
    let arguments = [&own[..], &["--keystone-password-file", &password], more].concat();
    let log = std::fs::File::options().create(true).append(true).open(log).unwrap();
    place.start_with(&arguments, "trace", Stdio::from(log))
}

fn login(keystone: &Daemon, user: &str, password: &str, project: Option<&str>) -> Answer {
    let domain = json!({"id": "default"});
    let user = json!({"name": user, "domain": domain, "password": password});
    let mut body = json!({"auth": {"identity": {"methods": ["password"], "password": {"user": user}}}});
    if let Some(project) = project {
        body["auth"]["scope"] = json!({"project": {"name": project, "domain": domain}});
    } else {
        body["auth"]["scope"] = json!("unscoped");
    }
    let answer = keystone.request_with("POST", "/identity/v3/auth/tokens", &[], Some(&body));
    assert_eq!(answer.status, 201, "{}", answer.body);
    answer
}

fn token(answer: &Answer) -> String {
    format!("X-Auth-Token: {}", answer.header("X-Subject-Token").unwrap())
}

fn ask(daemon: &Daemon, token: &str, method: &str, path: &str, body: Option<&Value>) -> Answer {
    daemon.request_with(method, path, &[token, "OpenStack-API-Version: volume 3.71"], body)
}

#[test]
fn people_of_another_identity_service_come_in() {
    let (there, here) = (Place::new(), Place::new());
    there.bootstrap(PASSWORD);
    let keystone = there.start_with(&[], "warn", Stdio::inherit());
    let admin = login(&keystone, "admin", PASSWORD, Some("admin"));
    let manage = |method: &str, path: &str, body: Value| {
        keystone.request_with(method, &format!("/identity/v3{path}"), &[&token(&admin)], Some(&body))
    };
    let project = manage("POST", "/projects", json!({"project": {"name": "demo"}})).body["project"]["id"].clone();
    let project = project.as_str().unwrap();
    let user = |name: &str, role: Option<&str>| {
        let made = manage("POST", "/users", json!({"user": {"name": name, "password": "Vb5-a-password"}}));
        let id = made.body["user"]["id"].as_str().unwrap().to_owned();
        if let Some(role) = role {
            let path = format!("/projects/{project}/users/{id}/roles/role-{role}");
            assert_eq!(manage("PUT", &path, json!({})).status, 204);
        }
        id
    };
    let reader = user("r", Some("reader"));
    let _member = user("m", Some("member"));
    let _none = user("n", None);
    let daemon = asking(&here, &format!("{}/identity", keystone.url()), &["--keystone-cache", "0"]);
    let enter = |name: &str, project| token(&login(&keystone, name, "Vb5-a-password", project));
    let (of_reader, of_member) = (enter("r", Some("demo")), enter("m", Some("demo")));
    let volume = json!({"volume": {"size": 1}});
    let volumes = format!("/v3/{project}/volumes");
    assert_eq!(ask(&daemon, &of_member, "POST", &volumes, Some(&volume)).status, 202);
    let list = ask(&daemon, &of_reader, "GET", &volumes, None);
    assert_eq!((list.status, list.body["volumes"].as_array().unwrap().len()), (200, 1));
    assert_eq!(ask(&daemon, &of_reader, "POST", &volumes, Some(&volume)).status, 403);
    assert_eq!(ask(&daemon, &of_reader, "GET", "/image/v2/images", None).status, 200);
    // The project is the token's, whatever the path says.
    assert_eq!(ask(&daemon, &of_member, "GET", "/v3/other/volumes", None).status, 400);
    let of_admin = token(&admin);
    let all = ask(&daemon, &of_admin, "GET", "/v3/volumes?all_tenants=1", None);
    assert_eq!((all.status, all.body["volumes"].as_array().unwrap().len()), (200, 1));
    assert_eq!(ask(&daemon, &of_member, "GET", "/v3/os-services", None).status, 403);
    assert_eq!(ask(&daemon, &of_admin, "GET", "/v3/os-services", None).status, 200);
    // A token for no project, one that is made up, none, and those that another way of logging in takes.
    for bad in [&enter("m", None), "X-Auth-Token: garbage", "X-Auth-Token: ", "X-None: x", "X-Auth-Token: admin:demo"] {
        assert_eq!(ask(&daemon, bad, "GET", "/v3/volumes", None).status, 401, "{bad}");
    }
    // Nobody logs in here.
    for path in ["/identity", "/identity/v3", "/identity/v3/auth/tokens", "/identity/v3/users"] {
        assert_eq!(ask(&daemon, &of_admin, "GET", path, None).status, 404, "{path}");
    }
    // What ends there ends here.
    let path = format!("/projects/{project}/users/{reader}/roles/role-reader");
    assert_eq!(manage("DELETE", &path, json!({})).status, 204);
    assert_eq!(ask(&daemon, &of_reader, "GET", &volumes, None).status, 401);
    assert_eq!(ask(&daemon, &of_member, "GET", &volumes, None).status, 200);
    // The service's own token ends: it gets another one.
    let again = manage("POST", "/users", json!({"user": {"name": "z", "password": "Vb5-a-password"}}));
    assert_eq!(again.status, 201);
    let kill_own = json!({"user": {"password": PASSWORD, "original_password": PASSWORD}});
    let whose = manage("GET", "/users?name=admin", json!({})).body["users"][0]["id"].as_str().unwrap().to_owned();
    let _changed = manage("POST", &format!("/users/{whose}/password"), kill_own);
    assert_eq!(ask(&daemon, &of_member, "GET", &volumes, None).status, 200);
    // When it is gone, nobody comes in, and the log says why, without secrets.
    keystone.kill();
    let gone = ask(&daemon, &of_member, "GET", &volumes, None);
    assert_eq!((gone.status, gone.body["serviceUnavailable"]["code"].as_u64()), (503, Some(503)));
    assert_eq!(daemon.request_with("GET", "/healthz", &[], None).status, 200);
    assert!(daemon.stop());
    let log = std::fs::read_to_string(here.path().join("log")).unwrap();
    assert!(log.contains("TRACE") && log.contains("Keystone cannot be asked"), "{log}");
    for secret in [PASSWORD, of_member.split(' ').nth(1).unwrap(), of_admin.split(' ').nth(1).unwrap()] {
        assert!(secret.len() > 8 && !log.contains(secret), "{secret} is in the log");
    }
}

#[test]
fn answers_count_for_a_while() {
    let (there, here) = (Place::new(), Place::new());
    there.bootstrap(PASSWORD);
    let keystone = there.start_with(&[], "warn", Stdio::inherit());
    let daemon = asking(&here, &format!("{}/identity/v3/", keystone.url()), &["--keystone-cache", "300"]);
    let known = token(&login(&keystone, "admin", PASSWORD, Some("admin")));
    let other = token(&login(&keystone, "admin", PASSWORD, Some("admin")));
    assert_eq!(ask(&daemon, &known, "GET", "/v3/volumes", None).status, 200);
    keystone.kill();
    assert_eq!(ask(&daemon, &known, "GET", "/v3/volumes", None).status, 200);
    assert_eq!(ask(&daemon, &other, "GET", "/v3/volumes", None).status, 503);
    assert!(daemon.stop());
}

/// A server that answers logins, and then what it is told to.
struct Odd {
    url: String,
    asked: Arc<AtomicUsize>,
    logins: Arc<AtomicUsize>,
}

fn request(stream: &TcpStream) -> Option<(String, usize)> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut first = String::new();
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if first.is_empty() {
            first.clone_from(&line);
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((first, length))
}

fn document(expires: &str) -> String {
    json!({"token": {"expires_at": expires, "user": {"id": "u"}, "project": {"id": "p"}, "roles": [{"name": "admin"}]}})
        .to_string()
}

fn whole(status: &str, more: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\n{more}Content-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len()).into_bytes()
}

impl Odd {
    /// `answer` writes what follows on a question about a token.
    fn start(answer: impl Fn(&mut TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (asked, logins) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (counted, entered, answer) = (asked.clone(), logins.clone(), Arc::new(answer));
        drop(std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let (counted, entered, answer) = (counted.clone(), entered.clone(), answer.clone());
                drop(std::thread::spawn(move || match request(&stream) {
                    Some((first, _)) if first.starts_with("POST") => {
                        let _before = entered.fetch_add(1, Ordering::SeqCst);
                        let token = "X-Subject-Token: its-own-token\r\n";
                        drop(stream.write_all(&whole("201 Created", token, &document("2099-01-01T00:00:00Z"))));
                    }
                    Some(_) => {
                        let _before = counted.fetch_add(1, Ordering::SeqCst);
                        answer(&mut stream);
                    }
                    None => {}
                }));
            }
        }));
        Self { url, asked, logins }
    }
}

/// What a client is answered that has any token.
fn answer_behind(odd: &Odd) -> (u16, Duration) {
    let place = Place::new();
    let daemon = asking(&place, &odd.url, &[]);
    let since = Instant::now();
    let answer = ask(&daemon, "X-Auth-Token: some-token", "GET", "/v3/p/volumes", None);
    let taken = since.elapsed();
    assert!(daemon.stop());
    (answer.status, taken)
}

#[test]
fn whatever_else_is_answered_lets_nobody_in() {
    let says = |bytes: Vec<u8>| move |stream: &mut TcpStream| drop(stream.write_all(&bytes));
    let good = document("2099-01-01T00:00:00Z");
    assert_eq!(answer_behind(&Odd::start(says(whole("200 OK", "", &good)))).0, 200, "else the rest proves nothing");
    let (over, nobody) = (document("2001-01-01T00:00:00Z"), whole("404 Not Found", "", "{}"));
    for (bytes, status) in [
        (whole("200 OK", "", &over), 401),
        (nobody, 401),
        (whole("500 Internal Server Error", "", &good), 503),
        (whole("503 Service Unavailable", "", &good), 503),
        (whole("201 Created", "", &good), 503),
        (whole("204 No Content", "", ""), 503),
        (whole("403 Forbidden", "", &good), 503),
        (whole("302 Found", "Location: /v3/auth/tokens\r\n", &good), 503),
        (whole("200 OK", "", ""), 503),
        (whole("200 OK", "", "<html>come in</html>"), 503),
        (whole("200 OK", "", r#"{"token":{"user":{"id":"u"}}}"#), 503),
        (whole("200 OK", "", &good.replace("\"p\"", "\"../p\"")), 503),
        (b"come in, come in\r\n\r\n".to_vec(), 503),
        (Vec::new(), 503),
    ] {
        let odd = Odd::start(says(bytes.clone()));
        assert_eq!(answer_behind(&odd).0, status, "{}", String::from_utf8_lossy(&bytes));
    }
    // Its own token is refused for ever: one more login, and no more.
    let odd = Odd::start(says(whole("401 Unauthorized", "", "{}")));
    assert_eq!(answer_behind(&odd).0, 503);
    assert!(odd.logins.load(Ordering::SeqCst) <= 2 && odd.asked.load(Ordering::SeqCst) <= 2);
}

#[test]
fn a_keystone_that_is_slow_or_never_ends_takes_no_longer_than_the_bound() {
    // Says nothing; says a word now and then; never ends.
    let silent = Odd::start(|_| std::thread::sleep(Duration::from_secs(60)));
    let trickling = Odd::start(|stream| {
        drop(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"));
        while stream.write_all(b"{").is_ok() {
            std::thread::sleep(Duration::from_millis(200));
        }
    });
    let endless = Odd::start(|stream| {
        drop(stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n"));
        while stream.write_all(&[b' '; 65536]).is_ok() {}
    });
    for odd in [silent, trickling, endless] {
        let (status, taken) = answer_behind(&odd);
        // The bound is 10 s; whether this machine was busy is nobody's business.
        assert!(status == 503 && taken < Duration::from_secs(50), "{status} after {taken:?}");
    }
}

#[test]
fn what_cannot_be_is_said_at_the_start() {
    let place = Place::new();
    let run = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_cairnd"));
        let command = command.arg("--pool").arg(place.path().join("pool")).args(["--listen", "127.0.0.1:0"]);
        let output = command.args(arguments).env_remove("CAIRN_KEYSTONE_PASSWORD").output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (started, said) = run(&["--keystone", "http://127.0.0.1:1"]);
    assert!(!started && said.contains("--keystone-password-file"), "{said}");
    let (started, said) = run(&["--keystone", "http://127.0.0.1:1", "--dev"]);
    assert!(!started && said.contains("cannot be used with"), "{said}");
    let password = place.path().join("password");
    std::fs::write(&password, PASSWORD).unwrap();
    let password = password.display().to_string();
    for url in ["ftp://x", "keystone", "http://user:word@x/", "http://x/?a=b"] {
        let (started, said) = run(&["--keystone", url, "--keystone-password-file", &password]);
        assert!(!started && said.contains("--keystone"), "{url}: {said}");
    }
    let missing = ["--keystone", "https://x", "--keystone-password-file", &password, "--keystone-ca", "/none.pem"];
    let (started, said) = run(&missing);
    assert!(!started && said.contains("/none.pem"), "{said}");
}
