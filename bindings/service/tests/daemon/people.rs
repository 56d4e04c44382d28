//! Logins: real clients against a daemon with people of its own. No secret gets into its log.

use super::{
    clients::{clients, succeed},
    harness::{Daemon, Place},
};
use serde_json::{Value, json};
use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

const PASSWORD: &str = "Xq7-the-first-password";

fn script(name: &str) -> Command {
    let mut command = Command::new(clients().join("bin/python"));
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/daemon/clients").join(name);
    let _ = command.arg("-B").arg(path).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
    let _ = command.env("HOME", std::env::temp_dir());
    command
}

fn log(path: &Path) -> Stdio {
    Stdio::from(File::create(path).unwrap())
}

/// Nothing of these is in the log; and there is a log.
fn keeps(log: &Path, secrets: &[String]) {
    let log = std::fs::read_to_string(log).unwrap();
    assert!(log.contains("logged in") && log.contains("TRACE"), "the log says what happens: {log}");
    for secret in secrets {
        assert!(secret.len() >= 8 && !log.contains(secret.as_str()), "{secret} is in the log");
    }
}

#[test]
fn the_sdk_logs_in_by_all_ways() {
    let place = Place::new();
    place.bootstrap(PASSWORD);
    let path = place.path().join("log");
    let daemon = place.start_with(&[], "trace", log(&path));
    let mut command = script("people.py");
    let _ = command.env("CAIRN_URL", daemon.url()).env("CAIRN_PASSWORD", PASSWORD);
    let said = succeed(&command.output().unwrap(), "people.py");
    let mut secrets: Vec<String> = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert!(secrets.len() > 8, "{secrets:?}");
    secrets.push(PASSWORD.to_owned());
    assert!(daemon.stop());
    keeps(&path, &secrets);
}

fn openstack(daemon: &Daemon, more: &[(&str, &str)], arguments: &[&str]) -> Output {
    let mut command = Command::new(clients().join("bin/openstack"));
    let _ = command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", std::env::temp_dir())
        .env("OS_AUTH_URL", format!("{}/identity/v3", daemon.url()))
        .env("OS_IDENTITY_API_VERSION", "3")
        .env("OS_VOLUME_API_VERSION", "3.71")
        .envs(more.iter().copied())
        .args(arguments);
    command.output().unwrap()
}

#[test]
fn the_command_line_manages_people() {
    let place = Place::new();
    place.bootstrap(PASSWORD);
    let path = place.path().join("log");
    let daemon = place.start_with(&[], "trace", log(&path));
    let login = |user, password, project| {
        [
            ("OS_AUTH_TYPE", "password"),
            ("OS_USERNAME", user),
            ("OS_PASSWORD", password),
            ("OS_PROJECT_NAME", project),
            ("OS_USER_DOMAIN_ID", "default"),
            ("OS_PROJECT_DOMAIN_ID", "default"),
        ]
    };
    let (admin, me) = (login("admin", PASSWORD, "admin"), login("me", "Zk3-my-password", "demo"));
    let json = |who: &[(&str, &str)], arguments: &[&str]| -> Value {
        let arguments: Vec<&str> = arguments.iter().copied().chain(["-f", "json"]).collect();
        serde_json::from_str(&succeed(&openstack(&daemon, who, &arguments), &arguments.join(" "))).unwrap()
    };
    let plain = |who: &[(&str, &str)], arguments: &[&str]| {
        drop(succeed(&openstack(&daemon, who, arguments), &arguments.join(" ")));
    };
    let refused = |who: &[(&str, &str)], arguments: &[&str], why: &str| {
        let output = openstack(&daemon, who, arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(why), "{arguments:?}: {said}");
    };
    let names = |list: &Value| -> Vec<String> {
        list.as_array().unwrap().iter().map(|line| line["Name"].as_str().unwrap().to_owned()).collect()
    };

    assert_eq!(json(&admin, &["project", "create", "--description", "to try", "demo"])["name"], "demo");
    assert_eq!(
        json(&admin, &["user", "create", "--password", "Zk3-my-password", "--project", "demo", "me"])["name"],
        "me"
    );
    plain(&admin, &["role", "add", "--project", "demo", "--user", "me", "member"]);
    assert_eq!(names(&json(&admin, &["user", "list"])), ["admin", "me"]);
    assert_eq!(names(&json(&admin, &["project", "list"])), ["admin", "demo"]);
    assert_eq!(names(&json(&admin, &["role", "list"])), ["admin", "member", "reader"]);
    let assignments = json(&admin, &["role", "assignment", "list", "--names", "--project", "demo"]);
    assert_eq!((&assignments[0]["User"], &assignments[0]["Role"]), (&json!("me@Default"), &json!("member")));

    assert_eq!(names(&json(&me, &["project", "list"])), ["demo"]);
    assert_eq!(json(&me, &["volume", "create", "--size", "1", "mine"])["name"], "mine");
    assert_eq!(names(&json(&me, &["volume", "list"])), ["mine"]);
    assert_eq!(names(&json(&admin, &["volume", "list"])), [""; 0]);
    refused(&me, &["user", "create", "x"], "403");
    refused(&login("me", "wrong", "demo"), &["volume", "list"], "401");
    refused(&login("me", "Zk3-my-password", "admin"), &["volume", "list"], "401");

    let made = json(
        &me,
        &["application", "credential", "create", "--role", "reader", "--expiration", "2099-01-01T00:00:00", "p"],
    );
    let (id, secret) = (made["id"].as_str().unwrap_or_else(|| made["ID"].as_str().unwrap()), &made);
    let secret = secret["secret"].as_str().unwrap_or_else(|| secret["Secret"].as_str().unwrap());
    let program = [
        ("OS_AUTH_TYPE", "v3applicationcredential"),
        ("OS_APPLICATION_CREDENTIAL_ID", id),
        ("OS_APPLICATION_CREDENTIAL_SECRET", secret),
    ];
    assert_eq!(names(&json(&program, &["volume", "list"])), ["mine"]);
    refused(&program, &["volume", "create", "--size", "1", "x"], "403");
    plain(&me, &["application", "credential", "delete", id]);
    refused(&program, &["volume", "list"], "401");

    plain(&me, &["user", "password", "set", "--original-password", "Zk3-my-password", "--password", "Wm4-another-one"]);
    refused(&me, &["token", "issue"], "401");
    let token = json(&login("me", "Wm4-another-one", "demo"), &["token", "issue"]);
    let token = token["id"].as_str().unwrap().to_owned();
    plain(&admin, &["role", "remove", "--project", "demo", "--user", "me", "member"]);
    let with_token = [
        ("OS_AUTH_TYPE", "v3token"),
        ("OS_TOKEN", token.as_str()),
        ("OS_PROJECT_NAME", "demo"),
        ("OS_PROJECT_DOMAIN_ID", "default"),
    ];
    refused(&with_token, &["volume", "list"], "401");
    plain(&admin, &["user", "delete", "me"]);
    refused(&admin, &["project", "delete", "demo"], "has volumes");
    assert!(daemon.stop());
    let secrets = [PASSWORD, "Zk3-my-password", "Wm4-another-one", secret, &token].map(str::to_owned);
    keeps(&path, &secrets);
}

fn run(place: &Place, arguments: &[&str]) -> (bool, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cairnd"));
    let output = command.args(arguments).arg("--pool").arg(place.path().join("pool")).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn without_an_administrator_it_says_how_to_make_one() {
    let place = Place::new();
    let (started, _, said) = run(&place, &["--listen", "127.0.0.1:0"]);
    assert!(!started && said.contains("cairnd bootstrap --pool"), "{said}");
    let (made, said, _) = run(&place, &["bootstrap", "--user", "root", "--project", "ops"]);
    let said: Value = serde_json::from_str(&said).unwrap();
    assert!(made && said["user"] == "root" && said["project"] == "ops");
    let password = said["password"].as_str().unwrap();
    let daemon = place.start_with(&[], "warn", Stdio::inherit());
    let body = |password: &str| {
        let user = json!({"name": "root", "domain": {"id": "default"}, "password": password});
        json!({"auth": {"identity": {"methods": ["password"], "password": {"user": user}}}})
    };
    let enter = |password: &str| daemon.request_with("POST", "/identity/v3/auth/tokens", &[], Some(&body(password)));
    let entered = enter(password);
    assert_eq!((entered.status, &entered.body["token"]["project"]["name"]), (201, &json!("ops")));
    let token = format!("X-Auth-Token: {}", entered.header("X-Subject-Token").unwrap());
    let volumes = daemon.request_with("GET", "/v3/volumes", &[&token, "OpenStack-API-Version: volume 3.70"], None);
    assert_eq!(volumes.status, 200);
    // What `--dev` takes is no token here.
    assert_eq!(daemon.request("GET", "/v3/p/volumes", None).status, 401);
    let wrong = enter("wrong password");
    assert_eq!((wrong.status, wrong.body["error"]["title"].as_str()), (401, Some("Unauthorized")));
    // A name fails only so often; how many times that is depends on how fast it goes.
    let waits = (0..1000).map(|_| enter("wrong password")).find(|answer| answer.status != 401).unwrap();
    assert_eq!((waits.status, waits.header("Retry-After")), (429, Some("10")));
    // The catalog is the daemon's while it runs.
    let (made, _, said) = run(&place, &["bootstrap"]);
    assert!(!made && said.contains("the catalog"), "{said}");
    // Tokens outlive it.
    assert!(daemon.stop());
    let daemon = place.start_with(&[], "warn", Stdio::inherit());
    let volumes = daemon.request_with("GET", "/v3/volumes", &[&token, "OpenStack-API-Version: volume 3.70"], None);
    assert_eq!(volumes.status, 200);
    assert!(daemon.stop());
    let (made, _, said) = run(&place, &["bootstrap", "--user", "a/b"]);
    assert!(!made && said.contains("without control characters and slashes"), "{said}");
}

#[test]
fn tls_is_spoken_with_a_certificate() {
    let place = Place::new();
    place.bootstrap(PASSWORD);
    let (certificate, key) = (place.path().join("certificate.pem"), place.path().join("key.pem"));
    drop(succeed(&script("certificate.py").args([&certificate, &key]).output().unwrap(), "certificate.py"));
    let text = |path: &Path| path.display().to_string();
    let with_tls = ["--tls-certificate".to_owned(), text(&certificate), "--tls-key".to_owned(), text(&key)];
    let with_tls: Vec<&str> = with_tls.iter().map(String::as_str).collect();
    let daemon = place.start_with(&with_tls, "warn", Stdio::inherit());
    assert!(daemon.url().starts_with("https://127.0.0.1:"));
    let certificate = text(&certificate);
    let login = [
        ("OS_AUTH_TYPE", "password"),
        ("OS_USERNAME", "admin"),
        ("OS_PASSWORD", PASSWORD),
        ("OS_PROJECT_NAME", "admin"),
        ("OS_USER_DOMAIN_ID", "default"),
        ("OS_PROJECT_DOMAIN_ID", "default"),
        ("OS_CACERT", certificate.as_str()),
    ];
    drop(succeed(&openstack(&daemon, &login, &["volume", "list"]), "volume list"));
    assert!(daemon.stop());
    let (started, _, said) =
        run(&place, &["--listen", "127.0.0.1:0", "--tls-certificate", &text(&key), "--tls-key", &text(&key)]);
    assert!(!started && said.contains("key.pem"), "{said}");
}
