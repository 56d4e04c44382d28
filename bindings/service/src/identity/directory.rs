//! Users, projects, and roles of users in projects.

use std::collections::BTreeSet;

use super::{
    login::Named,
    own::{Live, Own},
};
use crate::{
    catalog::{
        AppCredential, Backup, DefaultType, Grant, Group, Image, Project, ProjectQos, Record, Snapshot, Token, TotpKey,
        Tx, User, Volume, listed, now_us,
    },
    domain::{Role, new_id},
    fault::{Answer, Fault},
    secrets::{self, For, Secret},
};

/// Longest name and description, in bytes.
const LONGEST: usize = 255;
/// Lengths of a password, in bytes.
const PASSWORD: std::ops::RangeInclusive<usize> = 8..=1024;
/// Most ways of logging in, and methods of one.
const RULES: usize = 16;

/// What is to be changed of a user. Left out: stays as it is.
#[derive(Default)]
pub(super) struct UserChange {
    pub(super) name: Option<String>,
    pub(super) enabled: Option<bool>,
    pub(super) description: Option<Option<String>>,
    pub(super) email: Option<Option<String>>,
    pub(super) default_project: Option<Option<String>>,
    pub(super) password: Option<Option<Secret>>,
    pub(super) rules_hold: Option<bool>,
    pub(super) rules: Option<Vec<Vec<String>>>,
}

/// What is to be changed of a project.
#[derive(Default)]
pub(super) struct ProjectChange {
    pub(super) name: Option<String>,
    pub(super) enabled: Option<bool>,
    pub(super) description: Option<String>,
}

pub(super) fn check_name(what: &str, name: &str) -> Answer<()> {
    let wrong = name.trim().is_empty()
        || name.len() > LONGEST
        || name.chars().any(|character| character.is_control() || character == '/');
    match wrong {
        true => Err(Fault::bad(format!(
            "the name of a {what} has 1 to {LONGEST} bytes, without control characters and slashes"
        ))),
        false => Ok(()),
    }
}

pub(super) fn check_text(what: &str, text: &str) -> Answer<()> {
    match text.len() > LONGEST || text.chars().any(char::is_control) {
        true => Err(Fault::bad(format!("a {what} has at most {LONGEST} bytes, without control characters"))),
        false => Ok(()),
    }
}

pub(super) fn check_password(password: &str) -> Answer<()> {
    match PASSWORD.contains(&password.len()) {
        true => Ok(()),
        false => Err(Fault::bad(format!("a password has {} to {} bytes", PASSWORD.start(), PASSWORD.end()))),
    }
}

fn check_rules(rules: &[Vec<String>]) -> Answer<()> {
    let known = |method: &String| method == "password" || method == "totp";
    let good = |rule: &Vec<String>| !rule.is_empty() && rule.len() <= RULES && rule.iter().all(known);
    match rules.len() <= RULES && rules.iter().all(good) {
        true => Ok(()),
        false => Err(Fault::bad("multi_factor_auth_rules is a list of lists of the methods password and totp")),
    }
}

/// An id as clients of Keystone know them, which can stand in a path and in a name of a resource.
pub(super) fn plain_id() -> String {
    new_id().replace('-', "")
}

fn by_name<R: crate::catalog::Named>(tx: &Tx<'_>, name: &str) -> Answer<Option<R>> {
    let id = tx.first_ids(&R::by_name(name), 1)?.into_iter().next();
    id.map_or(Ok(None), |id| tx.get(&id))
}

fn named<R: crate::catalog::Named>(tx: &Tx<'_>, named: &Named) -> Answer<Option<R>> {
    match (&named.id, &named.name) {
        _ if !named.is_here() => Ok(None),
        (Some(id), _) => tx.get(id),
        (None, Some(name)) => by_name(tx, name),
        (None, None) => Ok(None),
    }
}

/// The user that a request names, if there is one.
pub(super) fn named_user(tx: &Tx<'_>, wanted: &Named) -> Answer<Option<User>> {
    named(tx, wanted)
}

/// The project that a request names, if there is one.
pub(super) fn named_project(tx: &Tx<'_>, wanted: &Named) -> Answer<Option<Project>> {
    named(tx, wanted)
}

fn free_name<R: crate::catalog::Named>(tx: &Tx<'_>, id: &str, name: &str) -> Answer<()> {
    match by_name::<R>(tx, name)?.is_some_and(|other| other.id() != id) {
        true => Err(Fault::conflict(format!("{} {name} exists already: choose another name", R::KIND.name))),
        false => Ok(()),
    }
}

/// Takes a role away, and with it what stands on it.
fn take_grant(tx: &mut Tx<'_>, grant: &Grant) -> Answer<()> {
    tx.remove::<Grant>(&grant.id)?;
    let left = tx.found::<Grant>(&Grant::of_user(&grant.user, Some(&grant.project)))?;
    let left = left.iter().map(|grant| grant.role).max();
    for credential in tx.found::<AppCredential>(&AppCredential::of_user(&grant.user))? {
        if credential.project == grant.project && left.is_none_or(|role| role < credential.role) {
            tx.remove::<AppCredential>(&credential.id)?;
        }
    }
    Ok(())
}

/// Gives a role, if it is not given.
pub(super) fn give_grant(tx: &mut Tx<'_>, user: &str, project: &str, role: Role) -> Answer<()> {
    let has = tx.found::<Grant>(&Grant::of_user(user, Some(project)))?;
    if has.iter().any(|grant| grant.role == role) {
        return Ok(());
    }
    tx.put(&Grant { id: plain_id(), user: user.to_owned(), project: project.to_owned(), role })
}

impl UserChange {
    async fn hashed(&mut self, own: &Own, caller: &Live) -> Answer<Option<Option<String>>> {
        match self.password.take() {
            None => Ok(None),
            Some(None) => Ok(Some(None)),
            Some(Some(password)) => {
                check_password(&password.0)?;
                let hash = own
                    .inner
                    .hashing
                    .run(For::User(caller.user.id.clone()), move || secrets::hash(&password.0))
                    .await?;
                Ok(Some(Some(hash)))
            }
        }
    }

    /// All tokens end when the user is shut out or has another password.
    fn apply(self, tx: &Tx<'_>, user: &mut User, hash: Option<Option<String>>) -> Answer<()> {
        if self.enabled == Some(false) || hash.is_some() || self.rules_hold == Some(true) {
            user.epoch += 1;
        }
        self.name.into_iter().for_each(|name| user.name = name);
        self.enabled.into_iter().for_each(|flag| user.enabled = flag);
        self.description.into_iter().for_each(|text| user.description = text);
        self.email.into_iter().for_each(|text| user.email = text);
        self.default_project.into_iter().for_each(|id| user.default_project = id);
        self.rules_hold.into_iter().for_each(|flag| user.rules_hold = flag);
        self.rules.into_iter().for_each(|rules| user.rules = rules);
        hash.into_iter().for_each(|hash| user.password = hash);
        check_name("user", &user.name)?;
        check_rules(&user.rules)?;
        for text in [&user.description, &user.email].into_iter().flatten() {
            check_text("description or address", text)?;
        }
        if let Some(project) = &user.default_project {
            let _project: Project = tx.require(project)?;
        }
        free_name::<User>(tx, &user.id, &user.name)
    }
}

impl Own {
    // ---- users ----

    /// The users that the caller sees, by name.
    pub(super) fn users(&self, caller: &Live) -> Answer<Vec<User>> {
        if !caller.is_admin() {
            return Ok(vec![caller.user.clone()]);
        }
        let mut users = self.catalog().read().all::<User>()?;
        users.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(users)
    }

    pub(super) fn user(&self, caller: &Live, id: &str) -> Answer<User> {
        let found = if caller.sees(id) { self.catalog().read().get::<User>(id)? } else { None };
        found.ok_or_else(|| Fault::missing(User::KIND.name, id))
    }

    pub(super) async fn create_user(&self, caller: &Live, mut change: UserChange) -> Answer<User> {
        caller.require_admin("identity:create_user")?;
        caller.not_by_program()?;
        let hash = change.hashed(self, caller).await?;
        self.catalog().write(|tx| {
            let mut user = User {
                id: plain_id(),
                name: String::new(),
                enabled: true,
                description: None,
                email: None,
                password: None,
                default_project: None,
                rules_hold: false,
                rules: Vec::new(),
                epoch: 0,
                created_us: now_us(),
            };
            change.apply(tx, &mut user, hash)?;
            tx.put(&user)?;
            Ok(user)
        })
    }

    pub(super) async fn change_user(&self, caller: &Live, id: &str, mut change: UserChange) -> Answer<User> {
        caller.require_admin("identity:update_user")?;
        caller.not_by_program()?;
        let _known: User = self.catalog().read().require(id)?;
        let hash = change.hashed(self, caller).await?;
        self.catalog().write(|tx| {
            let mut user: User = tx.require(id)?;
            change.apply(tx, &mut user, hash)?;
            tx.put(&user)?;
            Ok(user)
        })
    }

    pub(super) fn delete_user(&self, caller: &Live, id: &str) -> Answer<()> {
        caller.require_admin("identity:delete_user")?;
        caller.not_by_program()?;
        self.catalog().write(|tx| {
            let user: User = tx.require(id)?;
            for grant in tx.ids(&Grant::of_user(&user.id, None))? {
                tx.remove::<Grant>(&grant)?;
            }
            for credential in tx.ids(&AppCredential::of_user(&user.id))? {
                tx.remove::<AppCredential>(&credential)?;
            }
            for key in tx.ids(&TotpKey::of_user(&user.id))? {
                tx.remove::<TotpKey>(&key)?;
            }
            for token in tx.ids(&Token::of_user(&user.id))? {
                tx.remove::<Token>(&token)?;
            }
            tx.remove::<User>(&user.id)
        })
    }

    // ---- projects ----

    /// The projects in which a user has a role, by name.
    pub(super) fn projects_of(&self, user: &str) -> Answer<Vec<Project>> {
        let tx = self.catalog().read();
        let grants = tx.found::<Grant>(&Grant::of_user(user, None))?;
        let ids: BTreeSet<String> = grants.into_iter().map(|grant| grant.project).collect();
        let mut projects: Vec<Project> = ids.iter().filter_map(|id| tx.get(id).transpose()).collect::<Answer<_>>()?;
        projects.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(projects)
    }

    /// The projects that the caller sees, by name.
    pub(super) fn projects(&self, caller: &Live) -> Answer<Vec<Project>> {
        if !caller.is_admin() {
            return self.projects_of(&caller.user.id);
        }
        let mut projects = self.catalog().read().all::<Project>()?;
        projects.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(projects)
    }

    pub(super) fn project(&self, caller: &Live, id: &str) -> Answer<Project> {
        let tx = self.catalog().read();
        let is_own = caller.is_admin() || tx.any(&Grant::of_user(&caller.user.id, Some(id)))?;
        let found = if is_own { tx.get::<Project>(id)? } else { None };
        found.ok_or_else(|| Fault::missing(Project::KIND.name, id))
    }

    pub(super) fn create_project(&self, caller: &Live, change: ProjectChange) -> Answer<Project> {
        caller.require_admin("identity:create_project")?;
        caller.not_by_program()?;
        self.catalog().write(|tx| {
            let mut project = new_project(change.name.as_deref().unwrap_or_default());
            change.apply(tx, &mut project)?;
            tx.put(&project)?;
            Ok(project)
        })
    }

    pub(super) fn change_project(&self, caller: &Live, id: &str, change: ProjectChange) -> Answer<Project> {
        caller.require_admin("identity:update_project")?;
        caller.not_by_program()?;
        self.catalog().write(|tx| {
            let mut project: Project = tx.require(id)?;
            change.apply(tx, &mut project)?;
            tx.put(&project)?;
            Ok(project)
        })
    }

    /// A project that has something cannot go: nobody but administrators would find it again.
    pub(super) fn delete_project(&self, caller: &Live, id: &str) -> Answer<()> {
        caller.require_admin("identity:delete_project")?;
        caller.not_by_program()?;
        self.catalog().write(|tx| {
            let _project: Project = tx.require(id)?;
            for kind in [Volume::KIND, Snapshot::KIND, Backup::KIND, Image::KIND, Group::KIND] {
                if tx.any(&listed(kind, Some(id)).bytes())? {
                    let text =
                        format!("project {id} has volumes, snapshots, backups, images or groups: delete them first");
                    return Err(Fault::conflict(text));
                }
            }
            for grant in tx.ids(&Grant::in_project(id))? {
                tx.remove::<Grant>(&grant)?;
            }
            for credential in tx.ids(&AppCredential::for_project(id))? {
                tx.remove::<AppCredential>(&credential)?;
            }
            for mut user in tx.all::<User>()?.into_iter().filter(|user| user.default_project.as_deref() == Some(id)) {
                user.default_project = None;
                tx.put(&user)?;
            }
            tx.clear_limits(id)?;
            tx.remove::<DefaultType>(id)?;
            // The pool forgets a group without volumes and limits by itself; these limits go when the daemon starts.
            tx.remove::<ProjectQos>(id)?;
            tx.remove::<Project>(id)
        })
    }

    // ---- roles of users in projects ----

    /// The grants that the caller sees.
    pub(super) fn grants(&self, caller: &Live) -> Answer<Vec<Grant>> {
        let tx = self.catalog().read();
        match caller.is_admin() {
            true => tx.all(),
            false => tx.found(&Grant::of_user(&caller.user.id, None)),
        }
    }

    /// Roles of a user in a project.
    pub(super) fn roles_in(&self, caller: &Live, project: &str, user: &str) -> Answer<Vec<Role>> {
        let _user = self.user(caller, user)?;
        let _project = self.project(caller, project)?;
        let grants = self.catalog().read().found::<Grant>(&Grant::of_user(user, Some(project)))?;
        Ok(grants.into_iter().map(|grant| grant.role).collect())
    }

    pub(super) fn give_role(&self, caller: &Live, project: &str, user: &str, role: Role) -> Answer<()> {
        caller.require_admin("identity:create_grant")?;
        caller.not_by_program()?;
        self.catalog().write(|tx| {
            let project: Project = tx.require(project)?;
            let user: User = tx.require(user)?;
            give_grant(tx, &user.id, &project.id, role)
        })
    }

    pub(super) fn take_role(&self, caller: &Live, project: &str, user: &str, role: Role) -> Answer<()> {
        caller.require_admin("identity:revoke_grant")?;
        caller.not_by_program()?;
        self.catalog().write(|tx| {
            let has = tx.found::<Grant>(&Grant::of_user(user, Some(project)))?;
            let grant = has.into_iter().find(|grant| grant.role == role);
            let grant = grant.ok_or_else(|| Fault::missing(Grant::KIND.name, role.as_str()))?;
            take_grant(tx, &grant)
        })
    }
}

/// A project without a form yet.
pub(super) fn new_project(name: &str) -> Project {
    Project {
        id: plain_id(),
        name: name.to_owned(),
        enabled: true,
        description: String::new(),
        epoch: 0,
        created_us: now_us(),
    }
}

impl ProjectChange {
    fn apply(self, tx: &Tx<'_>, project: &mut Project) -> Answer<()> {
        if self.enabled == Some(false) {
            project.epoch += 1;
        }
        self.name.into_iter().for_each(|name| project.name = name);
        self.enabled.into_iter().for_each(|flag| project.enabled = flag);
        self.description.into_iter().for_each(|text| project.description = text);
        check_name("project", &project.name)?;
        check_text("description", &project.description)?;
        free_name::<Project>(tx, &project.id, &project.name)
    }
}
