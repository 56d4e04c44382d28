//! Types of groups. They have names and specs; what a group may do does not depend on them.

use std::collections::BTreeMap;

use super::{
    Block, Caller,
    types::{by_id_or_name, free_name},
};
use crate::{
    catalog::{Group, GroupType, Tx, now_us},
    domain::{check_name, new_id},
    fault::{Answer, Fault},
};

/// The type that there always is.
const DEFAULT_TYPE: &str = "default_group_type";

/// A type that is wanted.
#[derive(Clone, Debug)]
pub(crate) struct NewGroupType {
    pub(crate) name: String,
    pub(crate) description: Option<String>,
    pub(crate) public: bool,
    pub(crate) specs: BTreeMap<String, String>,
}

fn visible(kind: &GroupType, caller: &Caller) -> bool {
    kind.public || caller.is_admin()
}

/// The type of a new group.
pub(super) fn usable_group_type(tx: &Tx<'_>, caller: &Caller, wanted: &str) -> Answer<GroupType> {
    by_id_or_name::<GroupType>(tx, wanted)?
        .filter(|kind| visible(kind, caller))
        .ok_or_else(|| Fault::missing("Group type", wanted))
}

impl Block {
    pub(super) fn ensure_default_group_type(&self) -> Answer<()> {
        self.inner.catalog.write(|tx| {
            if by_id_or_name::<GroupType>(tx, DEFAULT_TYPE)?.is_some() {
                return Ok(());
            }
            tx.put(&GroupType {
                id: new_id(),
                name: DEFAULT_TYPE.to_owned(),
                description: Some("Default Group Type".to_owned()),
                public: true,
                specs: BTreeMap::new(),
                created_us: now_us(),
            })
        })
    }

    /// The types that the caller sees, newest first.
    pub(crate) fn group_types(&self, caller: &Caller) -> Answer<Vec<GroupType>> {
        let mut types = self.inner.catalog.read().all::<GroupType>()?;
        types.retain(|kind| visible(kind, caller));
        types.sort_by(|a, b| b.created_us.cmp(&a.created_us).then_with(|| a.id.cmp(&b.id)));
        Ok(types)
    }

    /// A type by its id.
    pub(crate) fn group_type(&self, caller: &Caller, id: &str) -> Answer<GroupType> {
        let tx = self.inner.catalog.read();
        let found = match id {
            "default" => by_id_or_name::<GroupType>(&tx, DEFAULT_TYPE)?,
            id => tx.get::<GroupType>(id)?,
        };
        found.filter(|kind| visible(kind, caller)).ok_or_else(|| Fault::missing("Group type", id))
    }

    /// Makes a type.
    pub(crate) fn create_group_type(&self, caller: &Caller, new: NewGroupType) -> Answer<GroupType> {
        caller.require_admin("group:group_types:create")?;
        check_name(&new.name).map_err(Fault::bad)?;
        self.change(caller, |tx| {
            let kind = GroupType {
                id: new_id(),
                name: new.name,
                description: new.description,
                public: new.public,
                specs: new.specs,
                created_us: now_us(),
            };
            free_name::<GroupType>(tx, &kind.id, &kind.name)?;
            tx.put(&kind)?;
            Ok(kind)
        })
    }

    /// Changes a type.
    pub(crate) fn change_group_type(
        &self,
        caller: &Caller,
        id: &str,
        change: impl FnOnce(&mut GroupType) -> Answer<()>,
    ) -> Answer<GroupType> {
        caller.require_admin("group:group_types:update")?;
        self.change(caller, |tx| {
            let mut kind: GroupType = tx.require(id)?;
            change(&mut kind)?;
            check_name(&kind.name).map_err(Fault::bad)?;
            free_name::<GroupType>(tx, id, &kind.name)?;
            tx.put(&kind)?;
            Ok(kind)
        })
    }

    /// Deletes a type that no group is of.
    pub(crate) fn delete_group_type(&self, caller: &Caller, id: &str) -> Answer<()> {
        caller.require_admin("group:group_types:delete")?;
        self.change(caller, |tx| {
            let kind: GroupType = tx.require(id)?;
            if kind.name == DEFAULT_TYPE {
                return Err(Fault::bad(format!("The group type {id} is the default one and cannot be deleted.")));
            }
            if tx.any(&Group::of_type(id))? {
                return Err(Fault::bad(format!("The group type {id} is still in use.")));
            }
            tx.remove::<GroupType>(id)
        })
    }
}
