//! Logging in: by password, by one-time password, by both, by application credential, or by a token that somebody has already.

use std::net::IpAddr;

use serde::Deserialize;
use serde_json::Value;

use super::{
    attempts::network,
    directory::{named_project, named_user},
    documents::DOMAIN,
    own::{Basis, Live, Own, greatest_grant, issue},
    totp,
};
use crate::{
    catalog::{AppCredential, Project, TotpKey, Tx, User, now_us},
    fault::{Answer, Fault, FaultKind},
    secrets::{self, For, Secret},
};

/// A key that nobody has: what the passcode of a user without one is checked against.
const NO_KEY: [u8; 20] = [0; 20];

/// Body of a request for a token.
#[derive(Deserialize)]
pub(super) struct Body {
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
    password: Option<OfUser>,
    #[serde(default)]
    totp: Option<OfUser>,
    #[serde(default)]
    token: Option<OfToken>,
    #[serde(default)]
    application_credential: Option<OfProgram>,
}

#[derive(Deserialize)]
struct OfUser {
    user: UserProof,
}

#[derive(Deserialize)]
struct UserProof {
    #[serde(flatten)]
    named: Named,
    #[serde(default)]
    password: Option<Secret>,
    #[serde(default)]
    passcode: Option<Secret>,
}

#[derive(Deserialize)]
struct OfToken {
    id: Secret,
}

#[derive(Deserialize)]
struct OfProgram {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    user: Option<Named>,
    secret: Secret,
}

/// Somebody or something by its id, or by its name and its domain.
#[derive(Clone, Default, Deserialize)]
pub(super) struct Named {
    #[serde(default)]
    pub(super) id: Option<String>,
    #[serde(default)]
    pub(super) name: Option<String>,
    #[serde(default)]
    pub(super) domain: Option<Domain>,
}

#[derive(Clone, Deserialize)]
pub(super) struct Domain {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    name: Option<String>,
}

impl Named {
    /// Whether the domain that it says, if any, is the one that there is.
    pub(super) fn is_here(&self) -> bool {
        let is_default = |text: &String| text.eq_ignore_ascii_case(DOMAIN);
        self.domain.as_ref().is_none_or(|domain| {
            domain.id.as_ref().is_none_or(is_default) && domain.name.as_ref().is_none_or(is_default)
        })
    }
}

/// What a token is wanted for.
enum Scope {
    /// What the user has chosen to be usual.
    Usual,
    None,
    Project(Named),
}

impl Scope {
    fn of(value: Option<Value>) -> Answer<Self> {
        let only = || Fault::bad("a scope that is served is a project, or \"unscoped\"");
        match value {
            None | Some(Value::Null) => Ok(Self::Usual),
            Some(Value::String(text)) if text == "unscoped" => Ok(Self::None),
            Some(Value::Object(mut fields)) if fields.len() == 1 => match fields.remove("project") {
                Some(project) => serde_json::from_value(project).map(Self::Project).map_err(|_| only()),
                None if fields.contains_key("unscoped") => Ok(Self::None),
                None => Err(only()),
            },
            Some(_) => Err(only()),
        }
    }
}

/// The one answer to a login that is not right, whatever is wrong.
fn refused() -> Fault {
    Fault::new(
        FaultKind::Unauthorized,
        "The request you have made requires authentication: user, password, passcode, credential or token are not right.",
    )
}

fn no_access() -> Fault {
    Fault::new(
        FaultKind::Unauthorized,
        "The user has no role in the project that was named, or there is no such project.",
    )
}

/// What has to be proven of a user.
struct Proof {
    user: Named,
    password: Option<Secret>,
    passcode: Option<Secret>,
}

impl Proof {
    fn methods(&self) -> Vec<String> {
        let password = self.password.as_ref().map(|_| "password".to_owned());
        password.into_iter().chain(self.passcode.as_ref().map(|_| "totp".to_owned())).collect()
    }
}

impl Own {
    /// Makes a token for whoever proves who they are. Answers what they get.
    pub(super) async fn login(&self, body: Body, address: IpAddr) -> Answer<(String, Live)> {
        let Auth { identity, scope } = body.auth;
        let scope = Scope::of(scope)?;
        let mut methods: Vec<&str> = identity.methods.iter().map(String::as_str).collect();
        methods.sort_unstable();
        let lacks = |what: &str| Fault::bad(format!("the request names the method {what} and has nothing for it"));
        match methods.as_slice() {
            ["token"] => self.by_token(&identity.token.ok_or_else(|| lacks("token"))?.id.0, scope),
            ["application_credential"] => {
                let program = identity.application_credential.ok_or_else(|| lacks("application_credential"))?;
                self.by_credential(program, scope, address).await
            }
            ["password"] => {
                let UserProof { named, password, .. } = identity.password.ok_or_else(|| lacks("password"))?.user;
                let password = Some(password.ok_or_else(|| lacks("password"))?);
                self.by_proof(Proof { user: named, password, passcode: None }, None, scope, address).await
            }
            ["totp"] => {
                let UserProof { named, passcode, .. } = identity.totp.ok_or_else(|| lacks("totp"))?.user;
                let passcode = Some(passcode.ok_or_else(|| lacks("totp"))?);
                self.by_proof(Proof { user: named, password: None, passcode }, None, scope, address).await
            }
            ["password", "totp"] => {
                let first = identity.password.ok_or_else(|| lacks("password"))?.user;
                let second = identity.totp.ok_or_else(|| lacks("totp"))?.user;
                let password = Some(first.password.ok_or_else(|| lacks("password"))?);
                let passcode = Some(second.passcode.ok_or_else(|| lacks("totp"))?);
                let proof = Proof { user: first.named, password, passcode };
                self.by_proof(proof, Some(second.named), scope, address).await
            }
            _ => Err(Fault::bad(
                "the methods that are served are password, totp, password with totp, application_credential and token",
            )),
        }
    }

    /// `also` has to be the same user.
    async fn by_proof(
        &self,
        proof: Proof,
        also: Option<Named>,
        scope: Scope,
        address: IpAddr,
    ) -> Answer<(String, Live)> {
        let inner = &self.inner;
        let found = {
            let tx = inner.catalog.read();
            let found = named_user(&tx, &proof.user)?;
            let other = also.as_ref().map(|named| named_user(&tx, named)).transpose()?;
            found.filter(|user| other.is_none_or(|other| other.is_some_and(|other| other.id == user.id)))
        };
        // Whether there is such a user or not, it is counted.
        let said = || proof.user.id.as_deref().or(proof.user.name.as_deref()).unwrap_or_default();
        let name = found.as_ref().map_or_else(|| format!("said {}", said()), |user| user.id.clone());
        let attempt = inner.attempts.begin(&name, address)?;
        let methods = proof.methods();
        if let Some(password) = proof.password {
            let hash = found.as_ref().and_then(|user| user.password.clone()).unwrap_or_else(|| inner.nobody.clone());
            let of = For::Address(network(address));
            match inner.hashing.run(of, move || Ok(secrets::verify(&password.0, &hash))).await {
                Ok(true) => {}
                Ok(false) => return Err(refused()),
                Err(fault) => {
                    attempt.right();
                    return Err(fault);
                }
            }
        }
        // What hides behind a right password is not told by a refusal of its own.
        if proof.passcode.is_some() && !inner.attempts.take_code(&name) {
            return Err(refused());
        }
        let code = proof.passcode.map(|passcode| self.right_key(found.as_ref(), &passcode.0)).transpose()?;
        let Some(found) = found.filter(|_| !matches!(code, Some(None))) else { return Err(refused()) };
        let mut proven = false;
        let outcome = inner.catalog.write(|tx| {
            let user = tx.get::<User>(&found.id)?.filter(|user| user.enabled && user.password == found.password);
            let user = user.filter(|user| keeps_rules(user, &methods)).ok_or_else(refused)?;
            if let Some(Some((id, step))) = &code {
                take_step(tx, id, *step)?;
            }
            proven = true;
            scoped(tx, &user, methods, &scope)
        });
        if proven {
            attempt.right();
            if code.is_some() {
                inner.attempts.right_code(&name);
            }
        }
        outcome
    }

    /// Which of a user's keys gives this passcode, and for which step.
    fn right_key(&self, user: Option<&User>, passcode: &str) -> Answer<Option<(String, u64)>> {
        let now_s = now_us() / 1_000_000;
        let keys = match user {
            Some(user) => self.inner.catalog.read().found::<TotpKey>(&TotpKey::of_user(&user.id))?,
            None => Vec::new(),
        };
        if keys.is_empty() {
            let _none = totp::step_of(&NO_KEY, passcode, now_s, 0);
        }
        for stored in keys {
            if let Some(step) = totp::step_of(&totp::key(&stored.key)?, passcode, now_s, stored.last_step) {
                return Ok(Some((stored.id, step)));
            }
        }
        Ok(None)
    }

    async fn by_credential(&self, program: OfProgram, scope: Scope, address: IpAddr) -> Answer<(String, Live)> {
        let inner = &self.inner;
        let found = {
            let tx = inner.catalog.read();
            match (&program.id, &program.name, &program.user) {
                (Some(id), _, _) => tx.get::<AppCredential>(id)?,
                (None, Some(name), Some(user)) => {
                    let of_user = |user: User| tx.found::<AppCredential>(&AppCredential::of_user(&user.id));
                    let all = named_user(&tx, user)?.map(of_user).transpose()?.unwrap_or_default();
                    all.into_iter().find(|credential| credential.name == *name)
                }
                _ => {
                    return Err(Fault::bad(
                        "an application credential is named by its id, or by its name and its user",
                    ));
                }
            }
        };
        let said = || program.id.as_deref().or(program.name.as_deref()).unwrap_or_default();
        let name = found.as_ref().map_or_else(|| format!("said {}", said()), |found| found.id.clone());
        let attempt = inner.attempts.begin(&name, address)?;
        let hash = found.as_ref().map_or_else(|| inner.nobody.clone(), |found| found.secret.clone());
        let of = For::Address(network(address));
        match inner.hashing.run(of, move || Ok(secrets::verify(&program.secret.0, &hash))).await {
            Ok(true) => {}
            Ok(false) => return Err(refused()),
            Err(fault) => {
                attempt.right();
                return Err(fault);
            }
        }
        let found = found.ok_or_else(refused)?;
        let mut proven = false;
        let outcome = inner.catalog.write(|tx| {
            let now = now_us();
            let good = |credential: &AppCredential| {
                credential.secret == found.secret && credential.expires_us.is_none_or(|until| until > now)
            };
            let credential = tx.get::<AppCredential>(&found.id)?.filter(good).ok_or_else(refused)?;
            let user = tx.get::<User>(&credential.user)?.filter(|user| user.enabled).ok_or_else(refused)?;
            let project = tx.get::<Project>(&credential.project)?.filter(|p| p.enabled).ok_or_else(refused)?;
            let has = greatest_grant(tx, &user.id, &project.id)?.map(|grant| grant.role);
            if has.is_none_or(|role| role < credential.role) {
                return Err(refused());
            }
            proven = true;
            match &scope {
                Scope::Usual => {}
                Scope::Project(named) if named_project(tx, named)?.is_some_and(|found| found.id == project.id) => {}
                _ => return Err(no_access()),
            }
            let basis = Basis {
                methods: vec!["application_credential".to_owned()],
                project: Some(&project),
                role: credential.role,
                grant: None,
                credential: Some(&credential),
                until_us: credential.expires_us,
            };
            issue(tx, &user, basis)
        });
        if proven {
            attempt.right();
        }
        outcome
    }

    /// A token for something else, by one that is good. It ends when that one would.
    fn by_token(&self, secret: &str, scope: Scope) -> Answer<(String, Live)> {
        let old = self.find(secret)?.ok_or_else(refused)?;
        if old.credential.is_some() {
            let text = "a token that was made with an application credential is for its project alone: log in anew";
            return Err(Fault::forbidden(text));
        }
        let mut methods = old.token.methods.clone();
        if !methods.iter().any(|method| method == "token") {
            methods.push("token".to_owned());
        }
        let until = old.token.expires_us;
        self.inner.catalog.write(|tx| {
            let user = tx.get::<User>(&old.user.id)?;
            let user = user.filter(|user| user.enabled && user.epoch == old.token.user_epoch).ok_or_else(refused)?;
            scoped_until(tx, &user, methods, &scope, Some(until))
        })
    }
}

/// Whether this way of logging in is enough for the user.
fn keeps_rules(user: &User, methods: &[String]) -> bool {
    let kept = |rule: &Vec<String>| rule.iter().all(|method| methods.contains(method));
    !user.rules_hold || user.rules.is_empty() || user.rules.iter().any(kept)
}

/// A passcode is taken once, also by those who come at the same moment.
fn take_step(tx: &mut Tx<'_>, id: &str, step: u64) -> Answer<()> {
    let mut key = tx.get::<TotpKey>(id)?.filter(|key| key.last_step < step).ok_or_else(refused)?;
    key.last_step = step;
    tx.put(&key)
}

fn scoped(tx: &mut Tx<'_>, user: &User, methods: Vec<String>, scope: &Scope) -> Answer<(String, Live)> {
    scoped_until(tx, user, methods, scope, None)
}

fn scoped_until(
    tx: &mut Tx<'_>,
    user: &User,
    methods: Vec<String>,
    scope: &Scope,
    until_us: Option<u64>,
) -> Answer<(String, Live)> {
    let with_grant = |tx: &Tx<'_>, project: Option<Project>| -> Answer<Option<_>> {
        let Some(project) = project.filter(|project| project.enabled) else { return Ok(None) };
        Ok(greatest_grant(tx, &user.id, &project.id)?.map(|grant| (project, grant)))
    };
    let found = match scope {
        Scope::None => None,
        Scope::Project(named) => {
            let project = named_project(tx, named)?;
            Some(with_grant(tx, project)?.ok_or_else(no_access)?)
        }
        Scope::Usual => {
            let usual = user.default_project.as_deref().map(|id| tx.get::<Project>(id)).transpose()?.flatten();
            with_grant(tx, usual)?
        }
    };
    let basis = Basis {
        methods,
        project: found.as_ref().map(|(project, _)| project),
        role: found.as_ref().map_or(crate::domain::Role::Reader, |(_, grant)| grant.role),
        grant: found.as_ref().map(|(_, grant)| grant.id.clone()),
        credential: None,
        until_us,
    };
    issue(tx, user, basis)
}
