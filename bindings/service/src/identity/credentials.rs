//! What people and their programs log in with: passwords, application credentials, keys of one-time passwords.

use std::net::IpAddr;

use super::{
    directory::{check_name, check_password, check_text, plain_id},
    own::{Live, Own, greatest_grant},
    totp,
};
use crate::{
    catalog::{AppCredential, Project, Record, TotpKey, Tx, User, now_us},
    domain::Role,
    fault::{Answer, Fault, FaultKind},
    secrets::{self, For, Secret},
};

/// Most application credentials of one user.
const CREDENTIALS: usize = 5;
/// Most keys of one-time passwords of one user: one for each device.
const KEYS: usize = 5;
/// Lengths of a secret that somebody brings along, in bytes.
const SECRET: std::ops::RangeInclusive<usize> = 8..=1024;

/// An application credential that is wanted.
pub(super) struct NewCredential {
    pub(super) name: String,
    pub(super) description: Option<String>,
    pub(super) secret: Option<Secret>,
    /// None: the role of the token.
    pub(super) roles: Vec<Role>,
    pub(super) expires_us: Option<u64>,
    pub(super) unrestricted: bool,
}

/// An application credential that somebody may have, or not.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    user: &'a str,
    project: &'a str,
    role: Role,
    name: &'a str,
}

impl Wanted<'_> {
    fn check(&self, tx: &Tx<'_>) -> Answer<()> {
        let _user: User = tx.require(self.user)?;
        let _project: Project = tx.require(self.project)?;
        if greatest_grant(tx, self.user, self.project)?.is_none_or(|grant| grant.role < self.role) {
            return Err(Fault::bad(format!("you do not have the role {} in this project", self.role.as_str())));
        }
        let all = tx.found::<AppCredential>(&AppCredential::of_user(self.user))?;
        if all.iter().any(|other| other.name == self.name) {
            let text = format!("application credential {} exists already: choose another name", self.name);
            return Err(Fault::conflict(text));
        }
        if all.len() >= CREDENTIALS {
            let text = format!("a user has at most {CREDENTIALS} application credentials: delete one first");
            return Err(Fault::forbidden(text));
        }
        Ok(())
    }
}

/// What is not there for the caller is not found, whether there is such a user or not.
fn only_own(caller: &Live, user: &str) -> Answer<()> {
    match caller.user.id == user {
        true => Ok(()),
        false => Err(Fault::missing(User::KIND.name, user)),
    }
}

impl Own {
    // ---- passwords ----

    /// Somebody gives themselves another password. All tokens of theirs end.
    pub(super) async fn change_password(
        &self,
        caller: &Live,
        user: &str,
        old: Secret,
        new: Secret,
        address: IpAddr,
    ) -> Answer<()> {
        only_own(caller, user)?;
        caller.not_by_program()?;
        check_password(&new.0)?;
        let attempt = self.inner.attempts.begin(user, address)?;
        let stored = caller.user.password.clone();
        let hash = stored.clone().unwrap_or_else(|| self.inner.nobody.clone());
        let run = move || {
            if secrets::verify(&old.0, &hash) { secrets::hash(&new.0).map(Some) } else { Ok(None) }
        };
        let Some(hash) = self.inner.hashing.run(For::User(user.to_owned()), run).await? else {
            return Err(Fault::new(FaultKind::Unauthorized, "the original password is not right"));
        };
        attempt.right();
        self.catalog().write(|tx| {
            let mut user: User = tx.require(user)?;
            if user.password != stored {
                return Err(Fault::conflict("the password was changed meanwhile: log in with the new one"));
            }
            user.password = Some(hash);
            user.epoch += 1;
            tx.put(&user)
        })
    }

    // ---- application credentials ----

    /// Those of a user, by name.
    pub(super) fn app_credentials(&self, caller: &Live, user: &str) -> Answer<Vec<AppCredential>> {
        let user = self.user(caller, user)?;
        self.catalog().read().found(&AppCredential::of_user(&user.id))
    }

    pub(super) fn app_credential(&self, caller: &Live, user: &str, id: &str) -> Answer<AppCredential> {
        let all = self.app_credentials(caller, user)?;
        all.into_iter().find(|found| found.id == id).ok_or_else(|| Fault::missing(AppCredential::KIND.name, id))
    }

    /// Makes one for the project of the token. Answers it, and its secret, which is shown this once.
    pub(super) async fn create_app_credential(
        &self,
        caller: &Live,
        user: &str,
        new: NewCredential,
    ) -> Answer<(AppCredential, String)> {
        only_own(caller, user)?;
        caller.not_by_program()?;
        check_name("application credential", &new.name)?;
        check_text("description", new.description.as_deref().unwrap_or_default())?;
        let project = caller.project.as_ref().ok_or_else(|| {
            Fault::bad("an application credential is for a project: ask for a token with the scope of that project")
        })?;
        let role = new.roles.iter().copied().max().unwrap_or(caller.token.role);
        if role > caller.token.role {
            return Err(Fault::bad(format!("you do not have the role {} in this project", role.as_str())));
        }
        if new.expires_us.is_some_and(|until| until <= now_us()) {
            return Err(Fault::bad("expires_at has passed already"));
        }
        let secret = match new.secret {
            Some(secret) if SECRET.contains(&secret.0.len()) => secret.0,
            Some(_) => {
                let (least, most) = (SECRET.start(), SECRET.end());
                return Err(Fault::bad(format!("a secret has {least} to {most} bytes")));
            }
            None => secrets::random(32),
        };
        let project = project.id.clone();
        let wanted = Wanted { user, project: &project, role, name: &new.name };
        // Before it costs anything: hashing takes a processor that others log in with.
        wanted.check(&self.catalog().read())?;
        let hashed = secret.clone();
        let hash = self.inner.hashing.run(For::User(user.to_owned()), move || secrets::hash(&hashed)).await?;
        let credential = self.catalog().write(|tx| {
            wanted.check(tx)?;
            let credential = AppCredential {
                id: plain_id(),
                name: new.name.clone(),
                description: new.description,
                user: user.to_owned(),
                project: project.clone(),
                role,
                secret: hash,
                expires_us: new.expires_us,
                unrestricted: new.unrestricted,
                created_us: now_us(),
            };
            tx.put(&credential)?;
            Ok(credential)
        })?;
        Ok((credential, secret))
    }

    /// Its tokens end with it.
    pub(super) fn delete_app_credential(&self, caller: &Live, user: &str, id: &str) -> Answer<()> {
        caller.not_by_program()?;
        let found = self.app_credential(caller, user, id)?;
        self.catalog().write(|tx| tx.remove::<AppCredential>(&found.id))
    }

    // ---- keys of one-time passwords ----

    /// Those that the caller sees.
    pub(super) fn totp_keys(&self, caller: &Live, user: Option<&str>) -> Answer<Vec<TotpKey>> {
        let tx = self.catalog().read();
        match (caller.is_admin(), user) {
            (true, None) => tx.all(),
            (true, Some(user)) => tx.found(&TotpKey::of_user(user)),
            (false, Some(user)) if user != caller.user.id => Ok(Vec::new()),
            (false, _) => tx.found(&TotpKey::of_user(&caller.user.id)),
        }
    }

    pub(super) fn totp_key(&self, caller: &Live, id: &str) -> Answer<TotpKey> {
        let found = self.catalog().read().get::<TotpKey>(id)?.filter(|key| caller.sees(&key.user));
        found.ok_or_else(|| Fault::missing(TotpKey::KIND.name, id))
    }

    /// For oneself, or, for administrators, for anybody.
    pub(super) fn create_totp_key(&self, caller: &Live, user: &str, key: Secret) -> Answer<TotpKey> {
        let user = self.user(caller, user)?;
        caller.not_by_program()?;
        let _bytes = totp::key(&key.0)?;
        self.catalog().write(|tx| {
            let _user: User = tx.require(&user.id)?;
            if tx.ids(&TotpKey::of_user(&user.id))?.len() >= KEYS {
                return Err(Fault::forbidden(format!("a user has at most {KEYS} such credentials: delete one first")));
            }
            let key = TotpKey { id: plain_id(), user: user.id.clone(), key: key.0, last_step: 0, created_us: now_us() };
            tx.put(&key)?;
            Ok(key)
        })
    }

    pub(super) fn delete_totp_key(&self, caller: &Live, id: &str) -> Answer<()> {
        let found = self.totp_key(caller, id)?;
        caller.not_by_program()?;
        self.catalog().write(|tx| tx.remove::<TotpKey>(&found.id))
    }
}
