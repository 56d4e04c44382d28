//! Limits of volumes, groups and the pool: setting and showing them, keeping them and what was used of them over restarts.

use std::collections::BTreeSet;

use cairn_qos::{Kind, Request};

use crate::{
    admin::LocalPool,
    core::Core,
    error::{Result, invalid},
    format::{
        FORMAT,
        sheet::{Owner, Sheet},
    },
    names::check_name,
    qos::{DEPTH, Meter, is_news},
    state::{Need, State},
    stats::{QosInfo, QosTarget, VolumeStats},
    units::{BLOCK, VersionId, VolumeId},
    versions::Version,
};

/// Largest queue depth.
const MAX_DEPTH: u32 = 65_536;

impl LocalPool {
    /// Changes limits, also while requests are under way: exact from the next one on, and durable when it returns. A key without a value is
    /// taken out. All changes at once or none.
    ///
    /// Keys are those of [`Limits`](crate::Limits); for a volume also `group`, for the pool `queue_depth` (what may be under way at the device while several
    /// volumes want it, in requests of 4 KiB). Rates by size, weights and reserves are a volume's.
    ///
    /// # Errors
    /// `Invalid` names the key and the rule; `NotFound`, `NoSpace`, `ReadOnly`.
    pub async fn set_qos(&self, target: &QosTarget, changes: &[(String, Option<String>)]) -> Result<QosInfo> {
        // An older program could not read what follows in the journal of a pool that says it is of its format.
        if self.core.superblock.borrow().format < FORMAT && !self.core.opened_read_only.get() {
            self.core.checkpoint().await?;
        }
        self.admit(Need::New(1)).await?;
        {
            let core = &self.core;
            let state = core.state.borrow();
            let owner = owner(&state, target)?;
            let (entry, old) = match state.lineage.sheet(&owner) {
                Some((entry, sheet)) => (entry, sheet.clone()),
                None => (VersionId(state.lineage.next_version), Sheet::new(owner.clone())),
            };
            let mut sheet = changed(&old, target, changes)?;
            drop(state);
            core.apply(&sheet);
            // Of the limits as they are now: what a lower one lets off stays let off after a restart.
            sheet.used = core.qos.used(&owner, &sheet.limits, size_of(&core.state.borrow(), &owner));
            core.state.borrow_mut().set_sheet(entry, sheet.clone());
            if old.group != sheet.group || matches!(target, QosTarget::Group(_)) {
                core.forget_unused_groups();
            }
        }
        self.core.flush().await?;
        self.qos(target)
    }

    /// The limits of one, and what is left of them.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn qos(&self, target: &QosTarget) -> Result<QosInfo> {
        let state = self.core.state.borrow();
        let owner = owner(&state, target)?;
        Ok(self.info_of(&state, target, &owner))
    }

    /// The pool, all groups, and all volumes that have limits or are in a group.
    #[must_use]
    pub fn qos_list(&self) -> Vec<QosInfo> {
        let state = self.core.state.borrow();
        let mut targets = vec![(QosTarget::Pool, Owner::Pool)];
        targets.extend(groups(&state).into_iter().map(|name| (QosTarget::Group(name.clone()), Owner::Group(name))));
        let mut volumes: Vec<_> = state.lineage.sheets().filter_map(|sheet| named(&state, &sheet.owner)).collect();
        volumes.sort_by_key(|(target, _)| target.to_string());
        targets.extend(volumes);
        targets.iter().map(|(target, owner)| self.info_of(&state, target, owner)).collect()
    }

    fn info_of(&self, state: &State, target: &QosTarget, owner: &Owner) -> QosInfo {
        let sheet = state.lineage.sheet(owner).map_or_else(|| Sheet::new(owner.clone()), |(_, sheet)| sheet.clone());
        let rates = sheet.limits.effective(size_of(state, owner));
        let qos = &self.core.qos;
        let meter = match owner {
            Owner::Volume(volume) => qos.known_meter(*volume),
            _ => None,
        };
        let snapshot = meter.map(|meter| qos.snapshot(&meter)).unwrap_or_default();
        QosInfo {
            target: target.to_string(),
            rates: rates.iter().map(|rate| (rate.key.name().to_owned(), rate.rate)).collect(),
            credits: qos.credits(owner).into_iter().map(|(name, credit)| (name.to_owned(), credit)).collect(),
            limits: sheet.limits,
            group: sheet.group,
            members: match target {
                QosTarget::Group(name) => members(state, name),
                _ => Vec::new(),
            },
            queue_depth: (*owner == Owner::Pool).then(|| sheet.depth.unwrap_or(DEPTH)),
            held: snapshot.held,
            waiting: snapshot.waiting,
        }
    }

    /// Waits until background work that has read or written so many bytes may go on: for work that is a part of what users were admitted
    /// for, and part not. It pays afterwards, and holds nothing while it works.
    pub async fn background_turn(&self, kind: Kind, bytes: u64) {
        let _permit = self.core.qos.admit_background(Request { kind, bytes }).await;
    }

    /// What each volume was asked for since the pool was opened, by name; background work is the last.
    ///
    /// Takes some microseconds for each volume. Where others wait for this thread, ask for parts of them: [`LocalPool::volume_stats_after`].
    #[must_use]
    pub fn volume_stats(&self) -> Vec<VolumeStats> {
        let mut all = self.volume_stats_after("", usize::MAX);
        all.push(self.background_stats());
        all
    }

    /// The same of so many volumes at most, the first whose names come after `name`.
    #[must_use]
    pub fn volume_stats_after(&self, name: &str, most: usize) -> Vec<VolumeStats> {
        let state = self.core.state.borrow();
        state.lineage.volumes_after(name).take(most).map(|volume| self.stats_of(volume)).collect()
    }

    /// What one volume was asked for since the pool was opened.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn volume_stats_of(&self, name: &str) -> Result<VolumeStats> {
        let state = self.core.state.borrow();
        state.lineage.require_volume(name).map(|volume| self.stats_of(volume))
    }

    /// What background work has read and written since the pool was opened.
    #[must_use]
    pub fn background_stats(&self) -> VolumeStats {
        self.stats_with(Some(self.core.qos.background()), None, "background", (0, 0))
    }

    fn stats_of(&self, volume: &Version) -> VolumeStats {
        let meter = self.core.qos.known_meter(volume.volume);
        self.stats_with(meter.as_deref(), Some(volume.volume), &volume.name, (volume.data_blocks * BLOCK, volume.size))
    }

    fn stats_with(
        &self,
        meter: Option<&Meter>,
        id: Option<VolumeId>,
        name: &str,
        (allocated, size): (u64, u64),
    ) -> VolumeStats {
        let snapshot = meter.map(|meter| self.core.qos.snapshot(meter)).unwrap_or_default();
        VolumeStats {
            id,
            name: name.to_owned(),
            flows: meter.map(Meter::flows).unwrap_or_default(),
            in_flight: meter.map_or(0, Meter::in_flight),
            waiting: snapshot.waiting,
            held: snapshot.held,
            allocated,
            size,
        }
    }
}

/// Whose sheet is meant.
fn owner(state: &State, target: &QosTarget) -> Result<Owner> {
    match target {
        QosTarget::Pool => Ok(Owner::Pool),
        QosTarget::Group(name) => check_name("group", name).map(|()| Owner::Group(name.clone())),
        QosTarget::Volume(name) => Ok(Owner::Volume(state.lineage.require_volume(name)?.volume)),
    }
}

fn named(state: &State, owner: &Owner) -> Option<(QosTarget, Owner)> {
    let Owner::Volume(volume) = owner else { return None };
    Some((QosTarget::Volume(state.lineage.live_of(*volume)?.name.clone()), owner.clone()))
}

/// Groups that have limits or volumes.
fn groups(state: &State) -> BTreeSet<String> {
    let of = |sheet: &Sheet| match &sheet.owner {
        Owner::Group(name) => Some(name.clone()),
        _ => sheet.group.clone(),
    };
    state.lineage.sheets().filter_map(of).collect()
}

fn members(state: &State, group: &str) -> Vec<String> {
    let sheets = state.lineage.sheets().filter(|sheet| sheet.group.as_deref() == Some(group));
    let mut names: Vec<String> =
        sheets.filter_map(|sheet| named(state, &sheet.owner)).map(|(target, _)| target.to_string()).collect();
    names.sort_unstable();
    names
}

/// The size that rates go by.
fn size_of(state: &State, owner: &Owner) -> u64 {
    match owner {
        Owner::Volume(volume) => state.lineage.live_of(*volume).map_or(0, |version| version.size),
        _ => 0,
    }
}

/// A sheet with changes made to it.
fn changed(old: &Sheet, target: &QosTarget, changes: &[(String, Option<String>)]) -> Result<Sheet> {
    let mut sheet = old.clone();
    let mut limits = Vec::new();
    for (at, (key, value)) in changes.iter().enumerate() {
        if changes.iter().take(at).any(|(before, _)| before == key) {
            return Err(invalid(format!("{key} is given twice")));
        }
        match (key.as_str(), target) {
            ("group", QosTarget::Volume(_)) => {
                let name = value.as_deref().map(|name| name.strip_prefix('/').unwrap_or(name));
                name.map_or(Ok(()), |name| check_name("group", name))?;
                sheet.group = name.map(str::to_owned);
            }
            ("group", _) => return Err(invalid(format!("group: {target} is no volume; volumes are put into groups"))),
            ("queue_depth", QosTarget::Pool) => {
                let depth = |text: &String| text.parse().ok().filter(|depth| (1..=MAX_DEPTH).contains(depth));
                sheet.depth = match value {
                    None => None,
                    Some(text) => Some(
                        depth(text)
                            .ok_or_else(|| invalid(format!("queue_depth={text}: 1 to {MAX_DEPTH} is needed")))?,
                    ),
                };
            }
            ("queue_depth", _) => return Err(invalid("queue_depth is the pool's: set it for /")),
            _ => limits.push((key.as_str(), value.as_deref())),
        }
    }
    sheet.limits = sheet.limits.changed(limits).map_err(|error| invalid(error.to_string()))?;
    if !matches!(target, QosTarget::Volume(_)) {
        let of_volumes = |name: &str| name.contains("_per_gb") || name == "weight" || name == "reserve_iops_sec";
        if let Some((name, _)) = sheet.limits.iter().find(|(name, _)| of_volumes(name)) {
            return Err(invalid(format!("{name} is a volume's: {target} has no size and no share of its own")));
        }
    }
    Ok(sheet)
}

impl Core {
    /// What a sheet says holds from now on.
    fn apply(&self, sheet: &Sheet) {
        let size = size_of(&self.state.borrow(), &sheet.owner);
        match &sheet.owner {
            Owner::Pool => self.qos.set_depth(sheet.depth),
            Owner::Group(_) => {}
            Owner::Volume(volume) => self.qos.set_group(*volume, sheet.group.as_deref()),
        }
        self.qos.set_limits(&sheet.owner, sheet.limits.clone(), size);
    }

    /// The pool has been opened: all limits hold, with what had been used of them.
    pub(crate) fn apply_limits(&self) {
        let sheets: Vec<Sheet> = self.state.borrow().lineage.sheets().cloned().collect();
        for sheet in &sheets {
            self.apply(sheet);
            self.qos.restore(&sheet.owner, &sheet.used);
        }
    }

    /// A volume has another size, and with it perhaps other rates.
    pub(crate) fn volume_resized(&self, volume: VolumeId) {
        let sheet = self.state.borrow().lineage.sheet(&Owner::Volume(volume)).map(|(_, sheet)| sheet.clone());
        if let Some(sheet) = sheet {
            self.apply(&sheet);
        }
    }

    /// A volume is gone.
    pub(crate) fn volume_gone(&self, volume: VolumeId, was_in_group: bool) {
        self.qos.forget(volume);
        if was_in_group {
            self.forget_unused_groups();
        }
    }

    fn forget_unused_groups(&self) {
        let groups = groups(&self.state.borrow());
        self.qos.keep_groups(|name| groups.contains(name));
    }

    /// Notes what was used of limits, where that is news, so that a restart is no way to full credits. Says whether it came to the end: those
    /// whose turn it was not are the first the next time.
    pub(crate) fn note_credits(&self) -> bool {
        if self.latch.borrow().is_some() || self.opened_read_only.get() || self.repairing.get() {
            return true;
        }
        // Most have asked for nothing since the last time, and had used nothing then.
        let is_used = |sheet: &&Sheet| match &sheet.owner {
            Owner::Volume(volume) => {
                !sheet.used.is_empty() || self.qos.known_meter(*volume).is_some_and(|meter| meter.take_used())
            }
            Owner::Pool | Owner::Group(_) => true,
        };
        let limited = |sheet: &&Sheet| !sheet.limits.is_empty();
        let mut owners = self.qos.take_unnoted();
        owners.extend(self.state.borrow().lineage.sheets().filter(limited).filter(is_used).map(|s| s.owner.clone()));
        let mut owners = owners.into_iter();
        while let Some(owner) = owners.next() {
            let mut state = self.state.borrow_mut();
            let Some((entry, sheet)) = state.lineage.sheet(&owner) else { continue };
            let used = self.qos.used(&owner, &sheet.limits, size_of(&state, &owner));
            if !is_news(&sheet.used, &used) {
                continue;
            }
            let noted = Sheet { used, ..sheet.clone() };
            // Records that wait have to fit into a group, and what others need for their changes is not used up by this.
            if state.journal.blocks() * 2 >= self.max_group_blocks() || state.is_short(Need::Change) {
                self.qos.keep_unnoted([owner].into_iter().chain(owners).collect());
                return false;
            }
            state.set_sheet(entry, noted);
        }
        true
    }
}
