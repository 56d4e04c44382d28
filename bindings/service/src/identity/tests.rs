//! Logins, and what ends a token.

use serde_json::{Value, json};
use std::net::IpAddr;

use super::{
    Own, bootstrap,
    credentials::NewCredential,
    directory::{ProjectChange, UserChange},
    own::Live,
    totp,
};
use crate::{
    catalog::{
        Catalog, DefaultType, Group, Kept, Project, ProjectQos, Token, TotpKey, User, VolumeType, audit, now_us,
    },
    domain::{GroupStatus, QuotaKey, Resource, Role},
    fault::{Fault, FaultKind},
    secrets::{For, Secret},
};

const HOME: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
const KEY: &str = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ";

struct Place {
    _directory: tempfile::TempDir,
    own: Own,
    admin: Live,
}

fn secret(text: &str) -> Secret {
    Secret(text.to_owned())
}

impl Place {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(directory.path(), Kept::default()).unwrap();
        bootstrap(&catalog, "admin", "admin", "first password").unwrap();
        let own = Own::new("http://x".to_owned(), catalog).unwrap();
        let auth = by_password("admin", "first password");
        let (_, admin) = own.login(body(auth, None), HOME).await.unwrap();
        Self { _directory: directory, own, admin }
    }

    /// A member of a project of their own.
    async fn member(&self, name: &str) -> (User, Project) {
        let change = UserChange {
            name: Some(name.to_owned()),
            password: Some(Some(secret("the password"))),
            ..UserChange::default()
        };
        let user = self.own.create_user(&self.admin, change).await.unwrap();
        let change = ProjectChange { name: Some(format!("of {name}")), ..ProjectChange::default() };
        let project = self.own.create_project(&self.admin, change).unwrap();
        self.own.give_role(&self.admin, &project.id, &user.id, Role::Member).unwrap();
        (user, project)
    }

    async fn login(&self, auth: Value, scope: Option<Value>) -> Result<(String, Live), Fault> {
        self.own.login(body(auth, scope), HOME).await
    }

    async fn enter(&self, user: &str, project: &Project) -> (String, Live) {
        self.login(by_password(user, "the password"), Some(of(project))).await.unwrap()
    }

    fn is_good(&self, token: &str) -> bool {
        self.own.find(token).unwrap().is_some()
    }

    fn sound(&self) {
        assert_eq!(audit(&self.own.catalog().read(), true).unwrap(), Vec::<String>::new());
    }
}

fn body(identity: Value, scope: Option<Value>) -> super::login::Body {
    serde_json::from_value(json!({"auth": {"identity": identity, "scope": scope}})).unwrap()
}

fn by_password(user: &str, password: &str) -> Value {
    json!({
        "methods": ["password"],
        "password": {"user": {"name": user, "domain": {"id": "default"}, "password": password}},
    })
}

fn by_code(user: &str, code: &str) -> Value {
    json!({"methods": ["totp"], "totp": {"user": {"name": user, "domain": {"name": "Default"}, "passcode": code}}})
}

fn by_both(user: &str, password: &str, code: &str) -> Value {
    json!({
        "methods": ["totp", "password"],
        "password": {"user": {"name": user, "password": password}},
        "totp": {"user": {"name": user, "passcode": code}},
    })
}

fn of(project: &Project) -> Value {
    json!({"project": {"name": project.name, "domain": {"id": "default"}}})
}

fn code_now() -> String {
    let key = totp::key(KEY).unwrap();
    let now = now_us() / 1_000_000;
    (0..1_000_000).map(|n| format!("{n:06}")).find(|code| totp::step_of(&key, code, now, 0).is_some()).unwrap()
}

fn credential(name: &str) -> NewCredential {
    NewCredential {
        name: name.to_owned(),
        description: None,
        secret: None,
        roles: Vec::new(),
        expires_us: None,
        unrestricted: false,
    }
}

#[tokio::test]
async fn a_token_is_for_what_was_asked() {
    let place = Place::new().await;
    assert!(place.admin.is_admin(), "without a scope it is the usual project");
    let (user, project) = place.member("me").await;
    let (token, live) = place.enter("me", &project).await;
    assert_eq!((live.token.role, live.token.project.as_ref()), (Role::Member, Some(&project.id)));
    assert_eq!(live.token.methods, ["password"]);
    let session = place.own.session(Some(&token)).unwrap();
    assert_eq!((session.user, session.project, session.role), (user.id.clone(), project.id.clone(), Role::Member));
    // Nothing that is kept is the token.
    assert!(place.own.catalog().read().get::<Token>(&token).unwrap().is_none());
    // Without a project it says who somebody is, and opens nothing else.
    let (bare, live) = place.login(by_password("me", "the password"), None).await.unwrap();
    assert!(live.project.is_none() && !live.is_admin());
    assert_eq!(place.own.session(Some(&bare)).unwrap_err().kind, FaultKind::Unauthorized);
    // With it another one can be had, that ends when it would.
    let auth = json!({"methods": ["token"], "token": {"id": bare}});
    let (_, again) = place.login(auth.clone(), Some(of(&project))).await.unwrap();
    assert_eq!((again.token.expires_us, again.token.methods.len()), (live.token.expires_us, 2));
    // No project, and one that is not theirs, are the same.
    let admins = place.admin.project.clone().unwrap();
    let one = place.login(auth.clone(), Some(of(&admins))).await.err().unwrap();
    let nothing = Project { name: "nothing".to_owned(), ..project };
    assert_eq!(one, place.login(auth, Some(of(&nothing))).await.err().unwrap());
    for scope in [json!({"domain": {"id": "default"}}), json!({"system": {"all": true}}), json!(1), json!({})] {
        let fault = place.login(by_password("me", "the password"), Some(scope)).await.err().unwrap();
        assert_eq!(fault.kind, FaultKind::BadRequest);
    }
    place.sound();
}

#[tokio::test]
async fn what_is_wrong_with_a_login_is_not_told() {
    let place = Place::new().await;
    let (user, _) = place.member("me").await;
    let first = place.login(by_password("me", "wrong"), None).await.err().unwrap();
    assert_eq!(first.kind, FaultKind::Unauthorized);
    let elsewhere = json!({"methods": ["password"], "password": {"user": {"name": "me", "domain": {"id": "x"}, "password": "the password"}}});
    for auth in [
        by_password("nobody", "the password"),
        by_password("me", ""),
        by_code("me", "123456"),
        by_code("nobody", "123456"),
        by_both("me", "the password", "123456"),
        elsewhere,
        json!({"methods": ["token"], "token": {"id": "x"}}),
        json!({"methods": ["application_credential"], "application_credential": {"id": "x", "secret": "y"}}),
        json!({"methods": ["application_credential"],
            "application_credential": {"name": "x", "user": {"name": "me"}, "secret": "y"}}),
    ] {
        assert_eq!(place.login(auth.clone(), None).await.err().unwrap(), first, "{auth}");
    }
    let off = UserChange { enabled: Some(false), ..UserChange::default() };
    drop(place.own.change_user(&place.admin, &user.id, off).await.unwrap());
    assert_eq!(place.login(by_password("me", "the password"), None).await.err().unwrap(), first);
    for auth in [json!({"methods": []}), json!({"methods": ["password"]}), json!({"methods": ["password", "token"]})] {
        assert_eq!(place.login(auth, None).await.err().unwrap().kind, FaultKind::BadRequest);
    }
}

#[tokio::test]
async fn who_fails_too_often_has_to_wait() {
    let place = Place::new().await;
    let (_, project) = place.member("me").await;
    // Failures are forgotten as time goes on, so how many it takes depends on how long each does.
    let fails = async |name: &str| {
        for _ in 0..1000 {
            let kind = place.login(by_password(name, "wrong"), None).await.err().unwrap().kind;
            if kind == FaultKind::TooMany {
                return;
            }
            assert_eq!(kind, FaultKind::Unauthorized);
        }
        panic!("{name} may try for ever");
    };
    fails("nobody").await;
    let mut refused = false;
    for _ in 0..100 {
        fails("me").await;
        let outcome = place.login(by_password("me", "the password"), Some(of(&project))).await;
        refused = outcome.is_err_and(|fault| fault.kind == FaultKind::TooMany);
        if refused {
            break;
        }
    }
    assert!(refused, "also with the right password");
    drop(place.login(by_password("admin", "first password"), None).await.unwrap());
}

#[tokio::test]
async fn tokens_end_with_what_they_stand_on() {
    let place = Place::new().await;
    let (own, admin) = (&place.own, &place.admin);
    let (user, project) = place.member("me").await;
    let change = |change| async { drop(own.change_user(admin, &user.id, change).await.unwrap()) };
    let enabled = |flag| UserChange { enabled: Some(flag), ..UserChange::default() };

    let (token, live) = place.enter("me", &project).await;
    own.revoke(&live, &token).unwrap();
    assert!(!place.is_good(&token));

    let (token, _) = place.enter("me", &project).await;
    change(UserChange { email: Some(Some("a@b".to_owned())), ..UserChange::default() }).await;
    assert!(place.is_good(&token));
    change(enabled(false)).await;
    assert!(!place.is_good(&token));
    change(enabled(true)).await;
    assert!(!place.is_good(&token), "it does not come back");

    let (token, _) = place.enter("me", &project).await;
    let off = ProjectChange { enabled: Some(false), ..ProjectChange::default() };
    drop(own.change_project(admin, &project.id, off).unwrap());
    assert!(!place.is_good(&token));
    let refused = place.login(by_password("me", "the password"), Some(of(&project))).await.err().unwrap();
    assert_eq!(refused.kind, FaultKind::Unauthorized);
    let on = ProjectChange { enabled: Some(true), ..ProjectChange::default() };
    drop(own.change_project(admin, &project.id, on).unwrap());
    assert!(!place.is_good(&token));

    let (token, live) = place.enter("me", &project).await;
    let (made, key) = own.create_app_credential(&live, &user.id, credential("p")).await.unwrap();
    let auth = json!({"methods": ["application_credential"], "application_credential": {"id": made.id, "secret": key}});
    let (program, _) = place.login(auth.clone(), None).await.unwrap();
    own.take_role(admin, &project.id, &user.id, Role::Member).unwrap();
    assert!(!place.is_good(&token) && !place.is_good(&program));
    own.give_role(admin, &project.id, &user.id, Role::Member).unwrap();
    assert!(!place.is_good(&token) && !place.is_good(&program));
    assert!(place.login(auth, None).await.is_err(), "the credential went with the role");

    let (token, live) = place.enter("me", &project).await;
    let wrong = own.change_password(&live, &user.id, secret("wrong one"), secret("another one"), HOME).await;
    assert_eq!(wrong.unwrap_err().kind, FaultKind::Unauthorized);
    assert!(place.is_good(&token));
    own.change_password(&live, &user.id, secret("the password"), secret("another one"), HOME).await.unwrap();
    assert!(!place.is_good(&token));
    assert!(place.login(by_password("me", "the password"), None).await.is_err());
    let (token, _) = place.login(by_password("me", "another one"), Some(of(&project))).await.unwrap();
    own.delete_user(admin, &user.id).unwrap();
    assert!(!place.is_good(&token));
    own.delete_project(admin, &project.id).unwrap();
    place.sound();
}

#[tokio::test]
async fn application_credentials_carry_a_role_for_a_time() {
    let place = Place::new().await;
    let own = &place.own;
    let (user, project) = place.member("me").await;
    let (_, live) = place.enter("me", &project).await;
    let reader = NewCredential { roles: vec![Role::Reader], ..credential("reader") };
    let (made, key) = own.create_app_credential(&live, &user.id, reader).await.unwrap();
    assert!(!made.secret.contains(&key));
    let auth = json!({"methods": ["application_credential"],
        "application_credential": {"name": "reader", "user": {"id": user.id}, "secret": key}});
    let (token, program) = place.login(auth.clone(), None).await.unwrap();
    assert_eq!((program.token.role, program.token.project.as_ref()), (Role::Reader, Some(&project.id)));
    // It makes nothing that others log in with, nor a token for something else.
    for refused in [
        own.create_app_credential(&program, &user.id, credential("x")).await.err(),
        own.delete_app_credential(&program, &user.id, &made.id).err(),
        own.create_totp_key(&program, &user.id, secret(KEY)).err(),
        own.change_password(&program, &user.id, secret("the password"), secret("another one"), HOME).await.err(),
        place.login(json!({"methods": ["token"], "token": {"id": token}}), None).await.err(),
    ] {
        assert_eq!(refused.unwrap().kind, FaultKind::Forbidden);
    }
    let admins = place.admin.project.clone().unwrap();
    assert!(place.login(auth.clone(), Some(of(&admins))).await.is_err());
    assert!(place.login(auth.clone(), Some(of(&project))).await.is_ok());
    // More than one has, and what has passed, cannot be had.
    let more = NewCredential { roles: vec![Role::Admin], ..credential("more") };
    assert_eq!(own.create_app_credential(&live, &user.id, more).await.err().unwrap().kind, FaultKind::BadRequest);
    let past = NewCredential { expires_us: Some(now_us()), ..credential("past") };
    assert_eq!(own.create_app_credential(&live, &user.id, past).await.err().unwrap().kind, FaultKind::BadRequest);
    let same = own.create_app_credential(&live, &user.id, credential("reader")).await;
    assert_eq!(same.err().unwrap().kind, FaultKind::Conflict);
    // At most five.
    for n in 0..4 {
        drop(own.create_app_credential(&live, &user.id, credential(&format!("c{n}"))).await.unwrap());
    }
    let sixth = own.create_app_credential(&live, &user.id, credential("c5")).await;
    assert_eq!(sixth.err().unwrap().kind, FaultKind::Forbidden);
    // That is found out before anything is hashed: there is no place for that here. Others come in all the same.
    let all = own.inner.hashing.fill(&For::User(user.id.clone()));
    let sixth = own.create_app_credential(&live, &user.id, credential("c5")).await;
    assert_eq!(sixth.err().unwrap().kind, FaultKind::Forbidden);
    let same = own.create_app_credential(&live, &user.id, credential("reader")).await;
    assert_eq!(same.err().unwrap().kind, FaultKind::Conflict);
    let other = own.app_credentials(&live, &user.id).unwrap().into_iter().find(|one| one.id != made.id).unwrap();
    own.delete_app_credential(&live, &user.id, &other.id).unwrap();
    let sixth = own.create_app_credential(&live, &user.id, credential("c5")).await;
    assert_eq!(sixth.err().unwrap().kind, FaultKind::TooMany);
    drop(place.enter("me", &project).await);
    drop(all);
    drop(own.create_app_credential(&live, &user.id, credential("c5")).await.unwrap());
    // When it has expired, its tokens have too.
    let ends = crate::catalog::AppCredential { expires_us: Some(now_us() + 60_000_000), ..made.clone() };
    own.catalog().write(|tx| tx.put(&ends)).unwrap();
    let (short, live_short) = place.login(auth.clone(), None).await.unwrap();
    assert_eq!(live_short.token.expires_us, ends.expires_us.unwrap());
    let over = crate::catalog::AppCredential { expires_us: Some(now_us() - 1), ..made.clone() };
    own.catalog().write(|tx| tx.put(&over)).unwrap();
    assert!(!place.is_good(&short) && !place.is_good(&token) && place.login(auth, None).await.is_err());
    own.delete_app_credential(&live, &user.id, &made.id).unwrap();
    place.sound();
}

#[tokio::test]
async fn passcodes_are_taken_once_and_rules_are_kept() {
    let place = Place::new().await;
    let own = &place.own;
    let (user, project) = place.member("me").await;
    let (_, live) = place.enter("me", &project).await;
    let key = own.create_totp_key(&live, &user.id, secret(KEY)).unwrap();
    // The step may end between working out a code and its use: the code is good for one more.
    let code = code_now();
    drop(place.login(by_code("me", &code), Some(of(&project))).await.unwrap());
    assert!(place.login(by_code("me", &code), None).await.is_err(), "a code is taken once");
    assert!(place.login(by_both("me", "the password", &code), None).await.is_err());
    let again = |own: &Own| {
        let key = TotpKey { last_step: 0, ..own.catalog().read().require::<TotpKey>(&key.id).unwrap() };
        own.catalog().write(|tx| tx.put(&key)).unwrap();
    };
    again(own);
    let rules = UserChange {
        rules_hold: Some(true),
        rules: Some(vec![vec!["password".to_owned(), "totp".to_owned()]]),
        ..UserChange::default()
    };
    drop(own.change_user(&place.admin, &user.id, rules).await.unwrap());
    let first = place.login(by_password("me", "wrong"), None).await.err().unwrap();
    assert_eq!(place.login(by_password("me", "the password"), None).await.err().unwrap(), first);
    assert_eq!(place.login(by_code("me", &code_now()), None).await.err().unwrap(), first);
    assert_eq!(place.login(by_both("me", "wrong", &code_now()), None).await.err().unwrap(), first);
    let (_, live) = place.login(by_both("me", "the password", &code_now()), Some(of(&project))).await.unwrap();
    assert_eq!(live.token.methods, ["password", "totp"]);
    // Two users are not one.
    let (_, _) = place.member("you").await;
    again(own);
    let mixed = json!({"methods": ["password", "totp"],
        "password": {"user": {"name": "you", "password": "the password"}},
        "totp": {"user": {"name": "me", "passcode": code_now()}}});
    assert_eq!(place.login(mixed, None).await.err().unwrap(), first);
    // After some wrong codes no code is looked at any more; the password alone tells nothing about that.
    for _ in 0..3 {
        drop(place.login(by_both("me", "the password", "no"), None).await.err().unwrap());
    }
    again(own);
    assert_eq!(place.login(by_both("me", "the password", &code_now()), None).await.err().unwrap(), first);
    for wrong in ["", "short", "not base 32 at all!!"] {
        assert!(own.create_totp_key(&live, &user.id, secret(wrong)).is_err());
    }
    place.sound();
}

#[tokio::test]
async fn one_user_has_so_many_tokens_and_old_ones_are_swept() {
    let place = Place::new().await;
    let (user, project) = place.member("me").await;
    let (first, _) = place.enter("me", &project).await;
    let auth = json!({"methods": ["token"], "token": {"id": first}});
    let mut last = String::new();
    for _ in 0..510 {
        // With the newest: the first one goes.
        let auth = if last.is_empty() { auth.clone() } else { json!({"methods": ["token"], "token": {"id": last}}) };
        (last, _) = place.login(auth, None).await.unwrap();
    }
    let tx = place.own.catalog().read();
    assert_eq!(tx.ids(&Token::of_user(&user.id)).unwrap().len(), 500);
    assert!(!place.is_good(&first) && place.is_good(&last));
    // Those that are over go with the next that are made, of whomever.
    place
        .own
        .catalog()
        .write(|tx| {
            for id in tx.ids(&Token::of_user(&user.id))? {
                let token = Token { expires_us: 1, ..tx.require(&id)? };
                tx.put(&token)?;
            }
            Ok(())
        })
        .unwrap();
    assert!(!place.is_good(&last));
    for _ in 0..3 {
        drop(place.login(by_password("admin", "first password"), None).await.unwrap());
    }
    assert_eq!(place.own.catalog().read().ids(&Token::of_user(&user.id)).unwrap().len(), 500 - 3 * 8);
    place.sound();
}

#[tokio::test]
async fn names_passwords_and_projects_have_rules() {
    let place = Place::new().await;
    let (own, admin) = (&place.own, &place.admin);
    let (user, project) = place.member("me").await;
    let named = |name: &str| UserChange { name: Some(name.to_owned()), ..UserChange::default() };
    assert_eq!(own.create_user(admin, named("me")).await.err().unwrap().kind, FaultKind::Conflict);
    for wrong in ["", " ", "a/b", "a\nb", &"x".repeat(256)] {
        assert_eq!(own.create_user(admin, named(wrong)).await.err().unwrap().kind, FaultKind::BadRequest, "{wrong:?}");
    }
    let short = UserChange { password: Some(Some(secret("short"))), ..named("x") };
    assert_eq!(own.create_user(admin, short).await.err().unwrap().kind, FaultKind::BadRequest);
    let rules = UserChange { rules: Some(vec![vec!["saml".to_owned()]]), ..named("x") };
    assert_eq!(own.create_user(admin, rules).await.err().unwrap().kind, FaultKind::BadRequest);
    let same = ProjectChange { name: Some(project.name.clone()), ..ProjectChange::default() };
    assert_eq!(own.create_project(admin, same).err().unwrap().kind, FaultKind::Conflict);
    // The usual project goes with the project.
    let usual = UserChange { default_project: Some(Some(project.id.clone())), ..UserChange::default() };
    drop(own.change_user(admin, &user.id, usual).await.unwrap());
    let (_, live) = place.login(by_password("me", "the password"), None).await.unwrap();
    assert_eq!(live.token.project.as_ref(), Some(&project.id));
    own.delete_project(admin, &project.id).unwrap();
    let (_, live) = place.login(by_password("me", "the password"), None).await.unwrap();
    assert!(live.project.is_none() && live.user.default_project.is_none());
    place.sound();
}

#[tokio::test]
async fn what_was_set_for_a_project_goes_with_it() {
    let place = Place::new().await;
    let (_, project) = place.member("me").await;
    let kind = VolumeType {
        id: "gold".to_owned(),
        name: "gold".to_owned(),
        description: None,
        public: true,
        extra_specs: Default::default(),
        qos_id: None,
        projects: Default::default(),
        created_us: now_us(),
    };
    let set = place.own.catalog().write(|tx| {
        tx.put(&kind)?;
        tx.put(&DefaultType { project: project.id.clone(), type_id: kind.id.clone() })?;
        tx.put(&ProjectQos { id: project.id.clone(), limits: [("total_iops_sec".to_owned(), "9".to_owned())].into() })?;
        tx.put(&Group {
            id: "g".to_owned(),
            project: project.id.clone(),
            user: "me".to_owned(),
            name: None,
            description: None,
            type_id: "t".to_owned(),
            volume_types: Default::default(),
            status: GroupStatus::Available,
            group_snapshot_id: None,
            source_group_id: None,
            created_us: now_us(),
        })?;
        tx.set_limits(Some(&project.id), &[(QuotaKey::of(Resource::Volumes), 3)])
    });
    set.unwrap();
    let refused = place.own.delete_project(&place.admin, &project.id).unwrap_err();
    assert!(refused.kind == FaultKind::Conflict && refused.message.contains("groups"), "{refused}");
    place.own.catalog().write(|tx| tx.remove::<Group>("g")).unwrap();
    place.own.delete_project(&place.admin, &project.id).unwrap();
    let tx = place.own.catalog().read();
    assert!(tx.all::<DefaultType>().unwrap().is_empty() && tx.all::<ProjectQos>().unwrap().is_empty());
    assert!(!tx.any(&DefaultType::of_type(&kind.id)).unwrap(), "so the type can be deleted");
    assert!(tx.limits_set(Some(&project.id)).unwrap().is_empty());
    place.sound();
}
