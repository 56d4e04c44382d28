//! Quota sets: limits and what is used of them, by the names that clients have for them.

use std::collections::BTreeMap;

use super::{Block, Caller, types::visible};
use crate::{
    catalog::{Tx, VolumeType},
    domain::{Count, QuotaKey, Resource},
    fault::{Answer, Fault},
};

/// A line of a quota set: limit, and what is used of it.
pub(crate) type Line = (i64, Count);

/// Keys with the names that clients have for them: those of types have the type's name in them.
fn named_keys(types: &[VolumeType]) -> Vec<(String, QuotaKey)> {
    let own = Resource::ALL.into_iter().filter(|resource| !Resource::OF_IMAGES.contains(resource));
    let own = own.map(|resource| (resource.as_str().to_owned(), QuotaKey::of(resource)));
    let of_type = |kind: &VolumeType| {
        let (id, name) = (kind.id.clone(), kind.name.clone());
        Resource::OF_TYPES.into_iter().map(move |resource| {
            let key = QuotaKey { resource, volume_type: Some(id.clone()) };
            (format!("{}_{name}", resource.as_str()), key)
        })
    };
    own.chain(types.iter().flat_map(of_type)).collect()
}

impl Block {
    /// What a project may have and has.
    pub(crate) fn quota(&self, caller: &Caller, project: &str) -> Answer<BTreeMap<String, Line>> {
        self.may_look(caller, project)?;
        let tx = self.inner.catalog.read();
        Self::lines(&tx, caller, |key| Ok((tx.limit(project, key)?, tx.count(project, key)?)))
    }

    /// What projects may have that nobody has set anything for.
    pub(crate) fn default_quota(&self, caller: &Caller) -> Answer<BTreeMap<String, Line>> {
        let tx = self.inner.catalog.read();
        Self::lines(&tx, caller, |key| Ok((tx.default_limit(key)?, Count::default())))
    }

    /// Names of types that are not there for the caller are not told.
    fn lines(tx: &Tx<'_>, caller: &Caller, line: impl Fn(&QuotaKey) -> Answer<Line>) -> Answer<BTreeMap<String, Line>> {
        let mut types = tx.all::<VolumeType>()?;
        types.retain(|kind| visible(kind, caller));
        let keys = named_keys(&types);
        keys.into_iter().map(|(name, key)| Ok((name, line(&key)?))).collect()
    }

    fn may_look(&self, caller: &Caller, project: &str) -> Answer<()> {
        match caller.sees(project) {
            true => Ok(()),
            false => Err(Fault::forbidden("Policy doesn't allow volume_extension:quotas:show for another project.")),
        }
    }

    /// Sets limits of a project, or (`None`) of all that have nothing of their own.
    pub(crate) fn set_quota(
        &self,
        caller: &Caller,
        project: Option<&str>,
        changes: &BTreeMap<String, i64>,
    ) -> Answer<()> {
        caller.require_admin("volume_extension:quotas:update")?;
        if let Some((name, limit)) = changes.iter().find(|(_, limit)| **limit < -1) {
            return Err(Fault::bad(format!("the limit of {name} is {limit}: -1 (none) or more")));
        }
        self.change(caller, |tx| {
            let keys: BTreeMap<String, QuotaKey> = named_keys(&tx.all::<VolumeType>()?).into_iter().collect();
            let named = |(name, limit): (&String, &i64)| match keys.get(name) {
                Some(key) => Ok((key.clone(), *limit)),
                None => Err(Fault::bad(format!("Bad key {name} in quota set."))),
            };
            let changes: Vec<(QuotaKey, i64)> = changes.iter().map(named).collect::<Answer<_>>()?;
            tx.set_limits(project, &changes)
        })
    }

    /// Takes out what was set for a project.
    pub(crate) fn clear_quota(&self, caller: &Caller, project: &str) -> Answer<()> {
        caller.require_admin("volume_extension:quotas:delete")?;
        self.change(caller, |tx| tx.clear_limits(project))
    }
}
