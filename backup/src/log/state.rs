//! The state of a repository: what its records come to. A function of the records alone, so that all who read them have the same.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{
    packs::{PackMap, PackName, Packs},
    record::{Backup, Change, Record},
};

/// Why a change is not lawful in a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// No such backup.
    NoBackup(String),
    /// Others hang on it.
    HasChildren { backup: String, children: Vec<String> },
    /// The backup is a full one already.
    IsFull(String),
    /// There is such a backup or session already.
    Exists(String),
    /// The parent of a new backup is gone.
    ParentGone(String),
    /// Packs that are deleted, or about to be.
    PacksGone(Packs),
    /// Packs that are in use, or have been used since.
    PacksInUse(Packs),
    /// Packs of a session that goes on, or of another one.
    NotItsPack(PackName),
    /// Another collection has come to its own conclusions since.
    Collected,
    /// The session has not begun, or was ended.
    NoSession(String),
    /// Packs that cannot be, or more than one record can name.
    NoSuchPacks,
}

/// A pack that backups may refer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PackState {
    /// The last record that relies on it.
    pub(crate) used: u64,
    /// The record that condemned it, if none has used it since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) condemned: Option<u64>,
}

/// What the records up to some number come to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    /// Number of the last record.
    pub(crate) number: u64,
    /// BLAKE3 of its object.
    pub(crate) last: String,
    pub(crate) backups: BTreeMap<String, Backup>,
    pub(crate) packs: PackMap<PackState>,
    /// Dropped packs, which may not be used again; their objects may still be there.
    pub(crate) dropped: Packs,
    /// Chunks that were found damaged, by pack.
    pub(crate) damaged: BTreeMap<String, BTreeSet<String>>,
    /// Sessions that have begun and not ended, with who they are.
    pub(crate) sessions: BTreeMap<String, String>,
    /// The last record by which a collection condemned packs, or by which damage was told: collections that saw less are not heard.
    pub(crate) collected: u64,
}

fn refuse_any(packs: Packs, why: impl Fn(Packs) -> Refusal) -> Result<(), Refusal> {
    if packs.is_empty() { Ok(()) } else { Err(why(packs)) }
}

impl State {
    /// Those that hang on each backup, in order of their ids.
    pub(crate) fn children(&self) -> BTreeMap<&str, Vec<&str>> {
        let mut children: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for backup in self.backups.values() {
            if let Some(parent) = &backup.parent {
                children.entry(parent).or_default().push(&backup.id);
            }
        }
        children
    }

    fn require(&self, id: &str) -> Result<&Backup, Refusal> {
        self.backups.get(id).ok_or_else(|| Refusal::NoBackup(id.to_owned()))
    }

    /// Whether a chunk of a pack was found damaged there.
    pub(crate) fn is_damaged(&self, pack: &PackName, chunk: &str) -> bool {
        !self.damaged.is_empty() && self.damaged.get(&pack.to_string()).is_some_and(|chunks| chunks.contains(chunk))
    }

    /// Whether a change may come next, from a session.
    pub(crate) fn judge(&self, session: &str, change: &Change) -> Result<(), Refusal> {
        if !change.is_sound() {
            return Err(Refusal::NoSuchPacks);
        }
        match change {
            Change::Begin { .. } => match self.sessions.contains_key(session) {
                true => Err(Refusal::Exists(session.to_owned())),
                false => Ok(()),
            },
            Change::End => self.is_open(session),
            Change::Add { packs } => self.judge_add(session, packs),
            Change::Commit { backup, new, uses } => self.judge_commit(session, backup, new, uses),
            Change::Delete { backups } => self.judge_delete(backups),
            Change::Merge { backup } => self.require(backup).map(drop),
            Change::Promote { backup } => match self.require(backup)?.parent {
                Some(_) => Ok(()),
                None => Err(Refusal::IsFull(backup.clone())),
            },
            Change::Condemn { packs, seen } => self.judge_condemn(packs, *seen),
            Change::Repack { new, old, seen } => {
                self.is_open(session)?;
                self.are_its_own(session, new)?;
                self.judge_condemn(old, *seen)
            }
            Change::Drop { packs } => self.judge_drop(packs),
            Change::Damage { pack, .. } => match pack.parse() {
                Ok(pack) if self.packs.contains(&pack) => Ok(()),
                Ok(pack) => Err(Refusal::PacksGone([pack].into_iter().collect())),
                Err(()) => Err(Refusal::PacksGone(Packs::default())),
            },
        }
    }

    fn is_open(&self, session: &str) -> Result<(), Refusal> {
        match self.sessions.contains_key(session) {
            true => Ok(()),
            false => Err(Refusal::NoSession(session.to_owned())),
        }
    }

    fn are_its_own(&self, session: &str, packs: &Packs) -> Result<(), Refusal> {
        let foreign = packs.names().find(|pack| pack.session != session || self.dropped.contains(pack));
        foreign.map_or(Ok(()), |pack| Err(Refusal::NotItsPack(pack)))
    }

    /// Packs of sessions that are over, or of this one.
    fn judge_add(&self, session: &str, packs: &Packs) -> Result<(), Refusal> {
        self.is_open(session)?;
        let gone = packs.names().filter(|pack| self.dropped.contains(pack)).collect();
        refuse_any(gone, Refusal::PacksGone)?;
        let going_on = packs.names().find(|p| p.session != session && self.sessions.contains_key(&p.session));
        going_on.map_or(Ok(()), |pack| Err(Refusal::NotItsPack(pack)))
    }

    fn judge_commit(&self, session: &str, backup: &Backup, new: &Packs, uses: &Packs) -> Result<(), Refusal> {
        self.is_open(session)?;
        if self.backups.contains_key(&backup.id) {
            return Err(Refusal::Exists(backup.id.clone()));
        }
        if let Some(parent) = &backup.parent
            && !self.backups.contains_key(parent)
        {
            return Err(Refusal::ParentGone(parent.clone()));
        }
        self.are_its_own(session, new)?;
        refuse_any(uses.names().filter(|pack| !self.packs.contains(pack)).collect(), Refusal::PacksGone)
    }

    fn judge_delete(&self, backups: &[String]) -> Result<(), Refusal> {
        let going: BTreeSet<&str> = backups.iter().map(String::as_str).collect();
        let children = self.children();
        for id in backups {
            let _there = self.require(id)?;
            let on_it = children.get(id.as_str()).into_iter().flatten();
            let stay: Vec<String> = on_it.filter(|c| !going.contains(*c)).map(|c| (*c).to_owned()).collect();
            if !stay.is_empty() {
                return Err(Refusal::HasChildren { backup: id.clone(), children: stay });
            }
        }
        Ok(())
    }

    /// Whoever found these packs unneeded had read the log up to `seen`: nothing since then may rely on them. Of two collections that saw
    /// the same, each may have counted on copies of chunks that the other condemned: only the first is heard; and none that counted on
    /// copies which were found damaged since. Packs of a session that goes on may be needed by what it commits next.
    fn judge_condemn(&self, packs: &Packs, seen: u64) -> Result<(), Refusal> {
        if self.collected > seen {
            return Err(Refusal::Collected);
        }
        let used = |pack: &PackName| {
            self.sessions.contains_key(&pack.session) || self.packs.get(pack).is_none_or(|p| p.used > seen)
        };
        refuse_any(packs.names().filter(used).collect(), Refusal::PacksInUse)
    }

    fn judge_drop(&self, packs: &Packs) -> Result<(), Refusal> {
        let kept = |pack: &PackName| match self.packs.get(pack) {
            Some(state) => state.condemned.is_none(),
            None => self.sessions.contains_key(&pack.session) || self.dropped.contains(pack),
        };
        refuse_any(packs.names().filter(kept).collect(), Refusal::PacksInUse)
    }

    /// The state after a record. Refused if the record could not have been written after this state.
    pub(crate) fn apply(&mut self, record: &Record, hash: &str) -> Result<(), Refusal> {
        self.judge(&record.session, &record.change)?;
        let number = record.number;
        match &record.change {
            Change::Begin { client } => {
                let _none = self.sessions.insert(record.session.clone(), client.clone());
            }
            Change::End => {
                let _client = self.sessions.remove(&record.session);
            }
            Change::Add { packs } => self.rely_on(packs, number),
            Change::Commit { backup, new, uses } => {
                self.rely_on(new, number);
                self.rely_on(uses, number);
                let backup = Backup { number, ..(**backup).clone() };
                let _none = self.backups.insert(backup.id.clone(), backup);
            }
            Change::Delete { backups } => {
                for id in backups {
                    let _backup = self.backups.remove(id);
                }
            }
            Change::Merge { backup } => {
                let gone = self.backups.remove(backup);
                let parent = gone.and_then(|gone| gone.parent);
                let children = self.backups.values_mut().filter(|c| c.parent.as_deref() == Some(backup));
                children.for_each(|child| child.parent.clone_from(&parent));
            }
            Change::Promote { backup } => {
                if let Some(backup) = self.backups.get_mut(backup) {
                    backup.parent = None;
                }
            }
            Change::Condemn { packs, .. } => self.condemn(packs, number),
            Change::Repack { new, old, .. } => {
                self.condemn(old, number);
                self.rely_on(new, number);
            }
            Change::Drop { packs } => {
                for pack in packs.names() {
                    self.packs.remove(&pack);
                    self.dropped.insert(&pack);
                    let _gone = self.damaged.remove(&pack.to_string());
                }
            }
            Change::Damage { pack, chunks } => {
                self.damaged.entry(pack.clone()).or_default().extend(chunks.iter().cloned());
                // A pack may have been condemned because what is damaged here was counted on.
                self.packs.change_all(|pack| pack.condemned = None);
                self.collected = number;
            }
        }
        self.number = number;
        hash.clone_into(&mut self.last);
        Ok(())
    }

    fn rely_on(&mut self, packs: &Packs, number: u64) {
        packs.names().for_each(|pack| self.packs.set(&pack, PackState { used: number, condemned: None }));
    }

    fn condemn(&mut self, packs: &Packs, number: u64) {
        self.collected = number;
        for pack in packs.names() {
            if let Some(state) = self.packs.get(&pack).copied() {
                self.packs.set(&pack, PackState { condemned: Some(number), ..state });
            }
        }
    }

    /// What a file may say but no log comes to.
    pub(crate) fn is_sound(&self) -> bool {
        self.packs.is_sound() && self.dropped.is_sound()
    }
}
