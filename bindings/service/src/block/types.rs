//! Types of volumes, and who may use them.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    BACKEND, Block, Caller,
    default_types::{default_type, is_no_default},
};
use crate::{
    catalog::{Group, Intent, Named, Op, QosSpec, Tx, Volume, VolumeType, now_us},
    domain::{check_name, new_id},
    fault::{Answer, Fault},
};

/// The type of volumes that name none, of projects that have no default type of their own. It is always there.
pub(super) const DEFAULT_TYPE: &str = "__DEFAULT__";

/// Extra specs that say on which back-end the volumes of a type are, plainly and with their scope.
const BACKEND_SPECS: [&str; 2] = ["volume_backend_name", "capabilities:volume_backend_name"];

/// A type that is wanted.
#[derive(Clone, Debug)]
pub(crate) struct NewType {
    pub(crate) name: String,
    pub(crate) description: Option<String>,
    pub(crate) public: bool,
    pub(crate) extra_specs: BTreeMap<String, String>,
}

/// What has this id or name.
pub(crate) fn by_id_or_name<R: Named>(tx: &Tx<'_>, text: &str) -> Answer<Option<R>> {
    if let Some(found) = tx.get::<R>(text)? {
        return Ok(Some(found));
    }
    let id = tx.ids(&R::by_name(text))?.into_iter().next();
    id.map_or(Ok(None), |id| tx.get(&id))
}

/// Refuses a name that another one of its kind has.
pub(super) fn free_name<R: Named>(tx: &Tx<'_>, id: &str, name: &str) -> Answer<()> {
    match tx.ids(&R::by_name(name))?.iter().any(|other| other != id) {
        true => Err(Fault::conflict(format!("{} {name} already exists.", R::KIND.name))),
        false => Ok(()),
    }
}

pub(super) fn visible(kind: &VolumeType, caller: &Caller) -> bool {
    kind.public || caller.is_admin() || kind.projects.contains(&caller.project)
}

/// The type of a new volume: the one that is named, or that of its source, or the default of the caller's project.
pub(super) fn usable_type(
    tx: &Tx<'_>,
    caller: &Caller,
    wanted: Option<&str>,
    inherited: Option<&str>,
) -> Answer<VolumeType> {
    let Some(name) = wanted.filter(|name| !name.is_empty()).or(inherited) else { return default_type(tx, caller) };
    by_id_or_name::<VolumeType>(tx, name)?
        .filter(|kind| visible(kind, caller))
        .ok_or_else(|| Fault::missing("Volume type", name))
}

/// Refuses a type for volumes of another back-end: they would be kept here, where it says they must not be.
pub(super) fn is_kept_here(kind: &VolumeType) -> Answer<()> {
    let mut named = BACKEND_SPECS.into_iter().filter_map(|spec| Some((spec, kind.extra_specs.get(spec)?)));
    match named.find(|(_, name)| *name != BACKEND) {
        None => Ok(()),
        Some((spec, name)) => {
            let kind = &kind.name;
            let text = format!(
                "Invalid volume type: {kind} asks for {spec} {name}, and the one that there is here is {BACKEND}: \
                 choose another type, or change that extra spec."
            );
            Err(Fault::bad(text))
        }
    }
}

impl Block {
    pub(super) fn ensure_default_type(&self) -> Answer<()> {
        self.inner.catalog.write(|tx| {
            if by_id_or_name::<VolumeType>(tx, DEFAULT_TYPE)?.is_some() {
                return Ok(());
            }
            tx.put(&VolumeType {
                id: new_id(),
                name: DEFAULT_TYPE.to_owned(),
                description: Some("Default Volume Type".to_owned()),
                public: true,
                extra_specs: BTreeMap::new(),
                qos_id: None,
                projects: BTreeSet::new(),
                created_us: now_us(),
            })
        })
    }

    /// The types that the caller sees, newest first.
    pub(crate) fn types(&self, caller: &Caller) -> Answer<Vec<VolumeType>> {
        let mut types = self.inner.catalog.read().all::<VolumeType>()?;
        types.retain(|kind| visible(kind, caller));
        types.sort_by(|a, b| b.created_us.cmp(&a.created_us).then_with(|| a.id.cmp(&b.id)));
        Ok(types)
    }

    /// A type by its id, or the default one (`default`) of the caller's project.
    pub(crate) fn volume_type(&self, caller: &Caller, id: &str) -> Answer<VolumeType> {
        let tx = self.inner.catalog.read();
        if id == "default" {
            return default_type(&tx, caller);
        }
        let found = tx.get::<VolumeType>(id)?;
        found.filter(|kind| visible(kind, caller)).ok_or_else(|| Fault::missing("Volume type", id))
    }

    /// Makes a type.
    pub(crate) fn create_type(&self, caller: &Caller, new: NewType) -> Answer<VolumeType> {
        caller.require_admin("volume_extension:type_create")?;
        check_name(&new.name).map_err(Fault::bad)?;
        self.change(caller, |tx| {
            let kind = VolumeType {
                id: new_id(),
                name: new.name,
                description: new.description,
                public: new.public,
                extra_specs: new.extra_specs,
                qos_id: None,
                projects: BTreeSet::new(),
                created_us: now_us(),
            };
            free_name::<VolumeType>(tx, &kind.id, &kind.name)?;
            tx.put(&kind)?;
            Ok(kind)
        })
    }

    /// Changes a type.
    pub(crate) fn change_type(
        &self,
        caller: &Caller,
        id: &str,
        change: impl FnOnce(&mut VolumeType) -> Answer<()>,
    ) -> Answer<VolumeType> {
        caller.require_admin("volume_extension:type_update")?;
        self.change(caller, |tx| {
            let mut kind: VolumeType = tx.require(id)?;
            change(&mut kind)?;
            check_name(&kind.name).map_err(Fault::bad)?;
            free_name::<VolumeType>(tx, id, &kind.name)?;
            tx.put(&kind)?;
            Ok(kind)
        })
    }

    /// Deletes a type that no volume is of, and that is no default.
    pub(crate) fn delete_type(&self, caller: &Caller, id: &str) -> Answer<()> {
        caller.require_admin("volume_extension:type_delete")?;
        self.change(caller, |tx| {
            let kind: VolumeType = tx.require(id)?;
            if kind.name == DEFAULT_TYPE {
                return Err(Fault::bad(format!(
                    "The volume type {id} is the default volume type and cannot be deleted."
                )));
            }
            is_no_default(tx, id)?;
            let becomes = |intent: &Intent| matches!(&intent.op, Op::RetypeVolume { type_id } if type_id == id);
            if tx.any(&Volume::of_type(id))? || tx.all::<Intent>()?.iter().any(becomes) {
                return Err(Fault::bad("Target volume type is still in use."));
            }
            if tx.any(&Group::of_volume_type(id))? {
                return Err(Fault::bad("Target volume type is still in use: by a group of volumes."));
            }
            tx.remove::<VolumeType>(id)
        })
    }

    /// The types that QoS specs are associated with.
    pub(crate) fn types_of_qos(&self, caller: &Caller, id: &str) -> Answer<Vec<VolumeType>> {
        caller.require_admin("volume_extension:qos_specs_manage:get_all")?;
        let tx = self.inner.catalog.read();
        let _specs: QosSpec = tx.require(id)?;
        tx.found(&VolumeType::of_qos(id))
    }
}
