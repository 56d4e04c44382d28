//! Default types of projects: what volumes are of that name no type, before the type that there always is.

use super::{
    Block, Caller,
    types::{DEFAULT_TYPE, by_id_or_name, visible},
};
use crate::{
    catalog::{DefaultType, Project, Record, Tx, VolumeType},
    fault::{Answer, Fault, FaultKind},
};

/// Longest id of a project, in characters.
const MAX_PROJECT: usize = 255;

/// The type of the caller's volumes that name none.
///
/// # Errors
/// `NotFound` when it was set for the project, which may not use it: another type is not taken in its place without a word.
pub(super) fn default_type(tx: &Tx<'_>, caller: &Caller) -> Answer<VolumeType> {
    let seen = |kind: &VolumeType| visible(kind, caller);
    let Some(default) = tx.get::<DefaultType>(&caller.project)? else {
        let usual = by_id_or_name::<VolumeType>(tx, DEFAULT_TYPE)?.filter(seen);
        return usual.ok_or_else(|| Fault::missing(VolumeType::KIND.name, DEFAULT_TYPE));
    };
    let Some(kind) = tx.get::<VolumeType>(&default.type_id)? else {
        let text = "The default volume type of the project is not there any more (an earlier version of the service has deleted it): name \
                    another type, or have an administrator set or unset the default.";
        return Err(Fault::new(FaultKind::NotFound, text));
    };
    // Which one it is, is not told to those for whom it is not there.
    let hidden = "The default volume type of the project is a private one that the project may not use: \
                  name another type, or have an administrator give access to it.";
    Some(kind).filter(seen).ok_or_else(|| Fault::new(FaultKind::NotFound, hidden))
}

/// Refuses to delete a type that is the default of a project.
pub(super) fn is_no_default(tx: &Tx<'_>, type_id: &str) -> Answer<()> {
    let projects = tx.first_ids(&DefaultType::of_type(type_id), 2)?;
    let Some(first) = projects.first() else { return Ok(()) };
    let others = if projects.len() > 1 { " and of others" } else { "" };
    Err(Fault::bad(format!(
        "The volume type {type_id} is a default volume type and cannot be deleted: it is that of project \
         {first}{others}. Unset it there first, or set another one."
    )))
}

impl Block {
    /// Default types of all projects that have one, by project.
    pub(crate) fn default_types(&self, caller: &Caller) -> Answer<Vec<DefaultType>> {
        caller.require_admin("volume_extension:default_get_all")?;
        self.inner.catalog.read().all()
    }

    /// The default type of a project.
    pub(crate) fn default_type_of(&self, caller: &Caller, project: &str) -> Answer<DefaultType> {
        caller.require_admin("volume_extension:default_get")?;
        let found = self.inner.catalog.read().get(project)?;
        found.ok_or_else(|| Fault::missing("Default type for project", project))
    }

    /// Sets the default type of a project, by the type's id or name. With `listed`, projects are those of the catalog, and it has to be one.
    pub(crate) fn set_default_type(
        &self,
        caller: &Caller,
        project: &str,
        wanted: &str,
        listed: bool,
    ) -> Answer<DefaultType> {
        caller.require_admin("volume_extension:default_set_or_update")?;
        if project.chars().count() > MAX_PROJECT {
            return Err(Fault::missing("Project", project));
        }
        self.change(caller, |tx| {
            if listed {
                let _project: Project = tx.require(project)?;
            }
            let kind = by_id_or_name::<VolumeType>(tx, wanted)?
                .ok_or_else(|| Fault::bad(Fault::missing(VolumeType::KIND.name, wanted).message))?;
            let default = DefaultType { project: project.to_owned(), type_id: kind.id };
            tx.put(&default)?;
            Ok(default)
        })
    }

    /// Takes out the default type of a project, if it has one; also of one that is not there any more.
    pub(crate) fn unset_default_type(&self, caller: &Caller, project: &str) -> Answer<()> {
        caller.require_admin("volume_extension:default_unset")?;
        self.change(caller, |tx| tx.remove::<DefaultType>(project))
    }
}
