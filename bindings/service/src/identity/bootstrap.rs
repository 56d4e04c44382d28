//! The first administrator: made while no daemon runs, by whoever may write to the catalog.

use super::directory::{check_name, check_password, give_grant, named_project, named_user, new_project, plain_id};
use crate::{
    catalog::{Catalog, Project, User, now_us},
    domain::Role,
    fault::Answer,
    identity::login::Named,
    secrets,
};

/// Whether there is anybody who can log in.
pub(crate) fn is_bootstrapped(catalog: &Catalog) -> Answer<bool> {
    Ok(!catalog.read().all::<User>()?.is_empty())
}

/// Makes a project and a user who is its administrator. What is there already is kept; the user is let in again, with this password, and
/// without rules that ask for more: whoever holds the catalog finds a way back in.
pub(crate) fn bootstrap(catalog: &Catalog, user: &str, project: &str, password: &str) -> Answer<()> {
    check_name("user", user)?;
    check_name("project", project)?;
    check_password(password)?;
    let hash = secrets::hash(password)?;
    let named = |name: &str| Named { name: Some(name.to_owned()), ..Named::default() };
    catalog.write(|tx| {
        let mut place: Project = named_project(tx, &named(project))?.unwrap_or_else(|| new_project(project));
        place.enabled = true;
        let mut who = named_user(tx, &named(user))?.unwrap_or_else(|| User {
            id: plain_id(),
            name: user.to_owned(),
            enabled: true,
            description: None,
            email: None,
            password: None,
            default_project: None,
            rules_hold: false,
            rules: Vec::new(),
            epoch: 0,
            created_us: now_us(),
        });
        who.enabled = true;
        who.password = Some(hash);
        who.rules_hold = false;
        who.epoch += 1;
        who.default_project.get_or_insert_with(|| place.id.clone());
        tx.put(&place)?;
        tx.put(&who)?;
        give_grant(tx, &who.id, &place.id, Role::Admin)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Grant, Kept};

    #[test]
    fn the_first_administrator_is_made_once_and_let_in_again() {
        let directory = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(directory.path(), Kept::default()).unwrap();
        assert!(!is_bootstrapped(&catalog).unwrap());
        assert!(bootstrap(&catalog, "admin", "admin", "short").is_err());
        assert!(!is_bootstrapped(&catalog).unwrap());
        bootstrap(&catalog, "admin", "admin", "long enough").unwrap();
        assert!(is_bootstrapped(&catalog).unwrap());
        let first = catalog.read().all::<User>().unwrap().remove(0);
        let shut_out = User { enabled: false, rules_hold: true, ..first.clone() };
        catalog.write(|tx| tx.put(&shut_out)).unwrap();
        bootstrap(&catalog, "admin", "admin", "another one").unwrap();
        let tx = catalog.read();
        let (users, projects) = (tx.all::<User>().unwrap(), tx.all::<Project>().unwrap());
        assert_eq!((users.len(), projects.len(), tx.all::<Grant>().unwrap().len()), (1, 1, 1));
        assert!(users[0].enabled && !users[0].rules_hold && users[0].epoch == first.epoch + 1);
        assert!(secrets::verify("another one", users[0].password.as_deref().unwrap()));
        assert_eq!(crate::catalog::audit(&tx, true).unwrap(), Vec::<String>::new());
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(directory.path()).unwrap().permissions().mode() & 0o777, 0o700);
    }
}
