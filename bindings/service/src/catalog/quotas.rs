//! Quotas in the catalog: limits that were set, and counts.
//!
//! Life of a claim: [`reserve`](Tx::reserve) with the intent; then [`settle`](Tx::settle) when the object is there (also in error: it is
//! there until it is deleted), or [`cancel`](Tx::cancel); [`release`](Tx::release) when it goes.

use std::{collections::BTreeMap, ops::ControlFlow};

use super::{
    keys::Key,
    records::{Kind, decode},
    tx::Tx,
};
use crate::{
    domain::{Claim, Count, DEFAULTS, QuotaKey, Resource, admit},
    fault::{Answer, Fault, FaultKind},
};

const LIMITS: Kind = Kind { tag: "limits", name: "Quota" };
const COUNT: Kind = Kind { tag: "count", name: "Quota usage" };

/// Limits that were set, by key.
pub(crate) type Limits = BTreeMap<String, i64>;

fn limits_key(project: Option<&str>) -> Vec<u8> {
    match project {
        Some(project) => Key::new("l").with("p").with(project).bytes(),
        None => Key::new("l").with("class").bytes(),
    }
}

fn count_key(project: &str, key: &QuotaKey) -> Vec<u8> {
    Key::new("c").with(project).with(&key.to_string()).bytes()
}

impl Tx<'_> {
    /// What was set for a project, or (`None`) for all that have nothing of their own.
    pub(crate) fn limits_set(&self, project: Option<&str>) -> Answer<Limits> {
        Ok(self.value(LIMITS, &limits_key(project))?.unwrap_or_default())
    }

    /// Sets limits; those that are left out stay.
    pub(crate) fn set_limits(&mut self, project: Option<&str>, changes: &[(QuotaKey, i64)]) -> Answer<()> {
        let mut limits = self.limits_set(project)?;
        limits.extend(changes.iter().map(|(key, limit)| (key.to_string(), *limit)));
        self.touch_quota(project.unwrap_or("default"));
        self.set_value(limits_key(project), Some(&limits))
    }

    /// Takes out all that was set for a project.
    pub(crate) fn clear_limits(&mut self, project: &str) -> Answer<()> {
        self.touch_quota(project);
        self.set_value::<Limits>(limits_key(Some(project)), None)
    }

    /// The limit that counts.
    pub(crate) fn limit(&self, project: &str, key: &QuotaKey) -> Answer<i64> {
        if let Some(limit) = self.limits_set(Some(project))?.get(&key.to_string()) {
            return Ok(*limit);
        }
        self.default_limit(key)
    }

    /// The limit of projects that nobody has set any for.
    pub(crate) fn default_limit(&self, key: &QuotaKey) -> Answer<i64> {
        if let Some(limit) = self.limits_set(None)?.get(&key.to_string()) {
            return Ok(*limit);
        }
        let builtin = DEFAULTS.iter().find(|(resource, _)| *resource == key.resource && key.volume_type.is_none());
        Ok(builtin.map_or(-1, |(_, limit)| *limit))
    }

    /// What a project has of a resource.
    pub(crate) fn count(&self, project: &str, key: &QuotaKey) -> Answer<Count> {
        Ok(self.value(COUNT, &count_key(project, key))?.unwrap_or_default())
    }

    /// All counts that are not zero: by project and resource.
    pub(super) fn counts(&self) -> Answer<BTreeMap<Vec<u8>, Count>> {
        let mut counts = BTreeMap::new();
        self.scan(&Key::new("c").bytes(), None, |key, value| {
            let count: Count = decode(COUNT.name, value)?;
            if count != Count::default() {
                let _none = counts.insert(key.to_vec(), count);
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(counts)
    }

    /// Promises a claim, if the project's quota takes all of it.
    pub(crate) fn reserve(&mut self, project: &str, claim: &Claim) -> Answer<()> {
        for (key, wanted) in claim.parts() {
            admit(&key, self.limit(project, &key)?, self.count(project, &key)?, wanted)?;
        }
        self.change(project, claim, |count, amount| count.reserved += amount)
    }

    /// What was promised is there.
    pub(crate) fn settle(&mut self, project: &str, claim: &Claim) -> Answer<()> {
        self.change(project, claim, |count, amount| {
            count.reserved -= amount;
            count.in_use += amount;
        })
    }

    /// What is there was promised before under another name.
    pub(crate) fn take(&mut self, project: &str, claim: &Claim) -> Answer<()> {
        self.change(project, claim, |count, amount| count.in_use += amount)
    }

    /// What was promised does not come.
    pub(crate) fn cancel(&mut self, project: &str, claim: &Claim) -> Answer<()> {
        self.change(project, claim, |count, amount| count.reserved -= amount)
    }

    /// What was there is gone.
    pub(crate) fn release(&mut self, project: &str, claim: &Claim) -> Answer<()> {
        self.change(project, claim, |count, amount| count.in_use -= amount)
    }

    /// What is there belongs to another project from now on, if its quota takes it.
    pub(crate) fn hand_over(&mut self, from: &str, to: &str, claim: &Claim) -> Answer<()> {
        // First given back: the two may be one.
        self.release(from, claim)?;
        self.reserve(to, claim)?;
        self.settle(to, claim)
    }

    /// Whether a project may have a volume of this size.
    pub(crate) fn check_volume_size(&self, project: &str, gib: u64) -> Answer<()> {
        let limit = self.limit(project, &QuotaKey::of(Resource::PerVolumeGigabytes))?;
        if limit >= 0 && gib as i64 > limit {
            let text = format!("the quota of the project allows volumes of {limit} GiB each, {gib} were wanted");
            return Err(Fault::new(FaultKind::OverLimit, text));
        }
        Ok(())
    }

    fn change(&mut self, project: &str, claim: &Claim, apply: impl Fn(&mut Count, i64)) -> Answer<()> {
        for (key, amount) in claim.parts() {
            let mut count = self.count(project, &key)?;
            apply(&mut count, amount);
            if count.in_use < 0 || count.reserved < 0 {
                return Err(Fault::internal(format!("the count of {key} would be below zero: {count:?}")));
            }
            let value = (count != Count::default()).then_some(&count);
            self.set_value(count_key(project, &key), value)?;
        }
        Ok(())
    }

    /// How a count is found again by the audit.
    pub(super) fn count_name(project: &str, key: &QuotaKey) -> Vec<u8> {
        count_key(project, key)
    }
}
