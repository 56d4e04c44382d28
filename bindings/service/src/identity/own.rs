//! People of the catalog, and what their tokens are good for now.

use std::sync::Arc;

use super::{Session, attempts::Attempts, unauthorized};
use crate::{
    catalog::{AppCredential, Catalog, Grant, Project, Token, Tx, User, now_us},
    domain::Role,
    fault::{Answer, Fault},
    secrets::{self, Hashing},
};

/// Longest token that is looked for, in bytes. Ours have 43.
const LONGEST: usize = 128;
/// How long a token is good for, in microseconds.
const LIFETIME: u64 = 3_600_000_000;
/// Most tokens of one user: then the oldest goes.
const TOKENS: usize = 500;
/// Tokens that are over and taken out with each that is made: more than one, so that they come to an end.
const SWEPT: usize = 8;

pub(super) struct Inner {
    pub(super) url: String,
    pub(super) catalog: Catalog,
    pub(super) hashing: &'static Hashing,
    pub(super) attempts: Attempts,
    /// Hash of a secret that nobody has: what a wrong name is checked against.
    pub(super) nobody: String,
}

/// The identity service over a catalog. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Own {
    pub(super) inner: Arc<Inner>,
}

/// A token that is good, and whose it is.
#[derive(Clone)]
pub(super) struct Live {
    pub(super) token: Token,
    pub(super) user: User,
    pub(super) project: Option<Project>,
    /// What it was made with, if that was an application credential.
    pub(super) credential: Option<AppCredential>,
}

impl Live {
    pub(super) fn is_admin(&self) -> bool {
        self.project.is_some() && self.token.role == Role::Admin
    }

    /// # Errors
    /// `Forbidden`.
    pub(super) fn require_admin(&self, what: &str) -> Answer<()> {
        match self.is_admin() {
            true => Ok(()),
            false => Err(Fault::forbidden(format!(
                "You are not authorized to perform the requested action: {what}: it takes the role admin."
            ))),
        }
    }

    /// Whether this user's things are there for the caller.
    pub(super) fn sees(&self, user: &str) -> bool {
        self.is_admin() || self.user.id == user
    }

    /// Refuses what a program must not do in its user's name.
    ///
    /// # Errors
    /// `Forbidden`.
    pub(super) fn not_by_program(&self) -> Answer<()> {
        match self.credential.as_ref().is_some_and(|credential| !credential.unrestricted) {
            true => Err(Fault::forbidden(
                "You are not authorized to perform the requested action: the application credential is restricted.",
            )),
            false => Ok(()),
        }
    }
}

/// What a new token stands on.
pub(super) struct Basis<'a> {
    pub(super) methods: Vec<String>,
    pub(super) project: Option<&'a Project>,
    pub(super) role: Role,
    pub(super) grant: Option<String>,
    pub(super) credential: Option<&'a AppCredential>,
    /// No longer than this, in microseconds since 1970.
    pub(super) until_us: Option<u64>,
}

/// The greatest role of a user in a project.
pub(super) fn greatest_grant(tx: &Tx<'_>, user: &str, project: &str) -> Answer<Option<Grant>> {
    let grants = tx.found::<Grant>(&Grant::of_user(user, Some(project)))?;
    Ok(grants.into_iter().max_by_key(|grant| grant.role))
}

/// Makes a token. Answers what its owner gets.
pub(super) fn issue(tx: &mut Tx<'_>, user: &User, basis: Basis<'_>) -> Answer<(String, Live)> {
    let now = now_us();
    let secret = secrets::random(32);
    let lifetime = now.saturating_add(LIFETIME);
    let token = Token {
        id: secrets::digest(&secret),
        user: user.id.clone(),
        project: basis.project.map(|project| project.id.clone()),
        role: basis.role,
        methods: basis.methods,
        audit: secrets::random(16),
        grant: basis.grant,
        credential: basis.credential.map(|credential| credential.id.clone()),
        user_epoch: user.epoch,
        project_epoch: basis.project.map_or(0, |project| project.epoch),
        issued_us: now,
        expires_us: basis.until_us.map_or(lifetime, |until| until.min(lifetime)),
    };
    for id in tx.first_ids(&Token::by_end(), SWEPT)? {
        if tx.get::<Token>(&id)?.is_some_and(|old| old.expires_us <= now) {
            tx.remove::<Token>(&id)?;
        }
    }
    for id in tx.ids(&Token::of_user(&user.id))?.iter().skip(TOKENS - 1) {
        tx.remove::<Token>(id)?;
    }
    tx.put(&token)?;
    let live =
        Live { token, user: user.clone(), project: basis.project.cloned(), credential: basis.credential.cloned() };
    Ok((secret, live))
}

impl Own {
    pub(super) fn new(url: String, catalog: Catalog) -> Answer<Self> {
        let nobody = secrets::hash(&secrets::random(32))?;
        let inner = Inner { url, catalog, hashing: Hashing::shared(), attempts: Attempts::new(), nobody };
        Ok(Self { inner: Arc::new(inner) })
    }

    pub(super) fn catalog(&self) -> &Catalog {
        &self.inner.catalog
    }

    pub(super) fn url(&self) -> &str {
        &self.inner.url
    }

    /// A token, if it is good now.
    pub(super) fn find(&self, secret: &str) -> Answer<Option<Live>> {
        if secret.is_empty() || secret.len() > LONGEST {
            return Ok(None);
        }
        let (tx, now) = (self.inner.catalog.read(), now_us());
        let Some(token) = tx.get::<Token>(&secrets::digest(secret))?.filter(|token| token.expires_us > now) else {
            return Ok(None);
        };
        let user = tx.get::<User>(&token.user)?;
        let Some(user) = user.filter(|user| user.enabled && user.epoch == token.user_epoch) else { return Ok(None) };
        let project = match &token.project {
            None => None,
            Some(id) => {
                let project = tx.get::<Project>(id)?;
                let good = project.filter(|project| project.enabled && project.epoch == token.project_epoch);
                let Some(project) = good else { return Ok(None) };
                Some(project)
            }
        };
        if let Some(grant) = &token.grant
            && tx.get::<Grant>(grant)?.is_none()
        {
            return Ok(None);
        }
        let credential = match &token.credential {
            None => None,
            Some(id) => {
                let credential = tx.get::<AppCredential>(id)?;
                let good = credential.filter(|found| found.expires_us.is_none_or(|until| until > now));
                let Some(credential) = good else { return Ok(None) };
                Some(credential)
            }
        };
        Ok(Some(Live { token, user, project, credential }))
    }

    /// Whose token it is.
    ///
    /// # Errors
    /// `Unauthorized`.
    pub(super) fn live(&self, token: Option<&str>) -> Answer<Live> {
        token.map_or(Ok(None), |token| self.find(token))?.ok_or_else(unauthorized)
    }

    /// Who asks, for which project.
    ///
    /// # Errors
    /// `Unauthorized`, also for a token without a project.
    pub(super) fn session(&self, token: Option<&str>) -> Answer<Session> {
        let live = self.live(token)?;
        let project = live.project.ok_or_else(|| {
            let text = "The token is for no project: ask for one with a scope.";
            Fault::new(crate::fault::FaultKind::Unauthorized, text)
        })?;
        Ok(Session { user: live.user.id, project: project.id, role: live.token.role })
    }

    /// A token that the caller may look at or end: own ones, and for administrators all.
    pub(super) fn subject(&self, caller: &Live, secret: &str) -> Answer<Live> {
        let found = self.find(secret)?.filter(|live| caller.sees(&live.user.id));
        found.ok_or_else(|| Fault::missing("Token", "that was named"))
    }

    /// Ends a token.
    pub(super) fn revoke(&self, caller: &Live, secret: &str) -> Answer<()> {
        let live = self.subject(caller, secret)?;
        self.inner.catalog.write(|tx| tx.remove::<Token>(&live.token.id))
    }
}
