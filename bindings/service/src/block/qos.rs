//! QoS specs: limits that types refer to. A change reaches the volumes of these types at once, attached or not, unless they say otherwise
//! ([`super::reattach`]).

use std::collections::BTreeMap;

use super::{
    Block, Caller,
    reattach::{change_of_types, check_specs},
    types::free_name,
};
use crate::{
    catalog::{Consumer, QosSpec, Tx, VolumeType, now_us},
    domain::{check_name, new_id},
    fault::{Answer, Fault},
};

/// QoS specs that are wanted.
#[derive(Clone, Debug)]
pub(crate) struct NewQos {
    pub(crate) name: String,
    pub(crate) consumer: Consumer,
    pub(crate) specs: BTreeMap<String, String>,
}

/// What the engine enforces has to be what it understands; what is meant for others is theirs.
fn check(consumer: Consumer, specs: &BTreeMap<String, String>) -> Answer<()> {
    if consumer.is_ours() { check_specs(specs) } else { Ok(()) }
}

impl Block {
    /// All QoS specs, by name.
    pub(crate) fn qos_specs(&self, caller: &Caller) -> Answer<Vec<QosSpec>> {
        caller.require_admin("volume_extension:qos_specs_manage:get_all")?;
        let mut all = self.inner.catalog.read().all::<QosSpec>()?;
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    /// One.
    pub(crate) fn qos_spec(&self, caller: &Caller, id: &str) -> Answer<QosSpec> {
        caller.require_admin("volume_extension:qos_specs_manage:get")?;
        self.inner.catalog.read().require(id)
    }

    /// Makes QoS specs.
    pub(crate) fn create_qos(&self, caller: &Caller, new: NewQos) -> Answer<QosSpec> {
        caller.require_admin("volume_extension:qos_specs_manage:create")?;
        check_name(&new.name).map_err(Fault::bad)?;
        check(new.consumer, &new.specs)?;
        self.change(caller, |tx| {
            let specs = QosSpec {
                id: new_id(),
                name: new.name,
                consumer: new.consumer,
                specs: new.specs,
                created_us: now_us(),
            };
            free_name::<QosSpec>(tx, &specs.id, &specs.name)?;
            tx.put(&specs)?;
            Ok(specs)
        })
    }

    /// Changes QoS specs, and the limits of all volumes that have them.
    pub(crate) async fn change_qos(
        &self,
        caller: &Caller,
        id: &str,
        change: impl FnOnce(&mut QosSpec) -> Answer<()>,
    ) -> Answer<QosSpec> {
        caller.require_admin("volume_extension:qos_specs_manage:update")?;
        let (specs, types) = self.change(caller, |tx| {
            let mut specs: QosSpec = tx.require(id)?;
            change(&mut specs)?;
            check(specs.consumer, &specs.specs)?;
            let types = tx.ids(&VolumeType::of_qos(id))?;
            change_of_types(tx, &types, |tx| tx.put(&specs))?;
            Ok((specs, types))
        })?;
        self.limit_volumes_of(&types).await?;
        Ok(specs)
    }

    /// Deletes QoS specs: that no type has, unless `force`.
    pub(crate) async fn delete_qos(&self, caller: &Caller, id: &str, force: bool) -> Answer<()> {
        caller.require_admin("volume_extension:qos_specs_manage:delete")?;
        let types = self.change(caller, |tx| {
            let specs: QosSpec = tx.require(id)?;
            let types = tx.ids(&VolumeType::of_qos(id))?;
            if !types.is_empty() && !force {
                return Err(Fault::bad(format!("Qos specs {} is still associated with entities.", specs.name)));
            }
            change_of_types(tx, &types, |tx| types.iter().try_for_each(|kind| tie(tx, kind, None)))?;
            tx.remove::<QosSpec>(id)?;
            Ok(types)
        })?;
        self.limit_volumes_of(&types).await
    }

    /// Ties a type to QoS specs.
    pub(crate) async fn associate_qos(&self, caller: &Caller, id: &str, kind: &str) -> Answer<()> {
        caller.require_admin("volume_extension:qos_specs_manage:update")?;
        let types = [kind.to_owned()];
        self.change(caller, |tx| {
            let specs: QosSpec = tx.require(id)?;
            let has = tx.require::<VolumeType>(kind)?.qos_id;
            if has.is_some_and(|other| other != specs.id) {
                let text = format!("Type {kind} is already associated with another qos specs: disassociate it first.");
                return Err(Fault::bad(text));
            }
            change_of_types(tx, &types, |tx| tie(tx, kind, Some(id)))
        })?;
        self.limit_volumes_of(&types).await
    }

    /// Unties a type, or all that are tied.
    pub(crate) async fn disassociate_qos(&self, caller: &Caller, id: &str, kind: Option<&str>) -> Answer<()> {
        caller.require_admin("volume_extension:qos_specs_manage:update")?;
        let types = self.change(caller, |tx| {
            let _specs: QosSpec = tx.require(id)?;
            let mut types = tx.ids(&VolumeType::of_qos(id))?;
            if let Some(kind) = kind {
                let _kind: VolumeType = tx.require(kind)?;
                types.retain(|tied| tied == kind);
            }
            change_of_types(tx, &types, |tx| types.iter().try_for_each(|kind| tie(tx, kind, None)))?;
            Ok(types)
        })?;
        self.limit_volumes_of(&types).await
    }
}

fn tie(tx: &mut Tx<'_>, kind: &str, specs: Option<&str>) -> Answer<()> {
    let mut kind: VolumeType = tx.require(kind)?;
    kind.qos_id = specs.map(str::to_owned);
    tx.put(&kind)
}
