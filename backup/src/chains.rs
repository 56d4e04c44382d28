//! Deleting, merging and promoting: one record each, and no data moves.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, ErrorKind, Result},
    job::Job,
    log::{
        record::{Backup, Change},
        state::State,
    },
    mark::mark,
    pack::Kind,
    repository::{Repository, client, find},
};

/// Looks at what others delete at the same time.
const ATTEMPTS: u32 = 5;

/// What was deleted, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deleted {
    /// Backups, in the order of their deletion: those that hang on others first.
    pub backups: Vec<String>,
    /// Stored bytes that no backup needs then, and that a garbage collection gives back.
    pub freed: u64,
}

/// Some backups and all that hang on them, tips first.
fn with_descendants(state: &State, roots: &[String]) -> Vec<String> {
    let mut found: BTreeSet<&str> = BTreeSet::new();
    let mut waiting: Vec<&str> = roots.iter().map(String::as_str).collect();
    let children = state.children();
    while let Some(id) = waiting.pop() {
        if found.insert(id) {
            waiting.extend(children.get(id).into_iter().flatten());
        }
    }
    tips_first(state, found)
}

/// A backup is always newer than what it hangs on.
fn tips_first<'a>(state: &State, ids: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut backups: Vec<&Backup> = ids.into_iter().filter_map(|id| state.backups.get(id)).collect();
    backups.sort_by_key(|backup| std::cmp::Reverse(backup.number));
    backups.into_iter().map(|backup| backup.id.clone()).collect()
}

impl Repository {
    /// Deletes backups; with `cascade` also those that hang on them, with `dry_run` none: it only says what would happen. How much comes
    /// free takes reading the maps of all backups.
    ///
    /// # Errors
    /// `InUse` naming those that hang on one of them; `NotFound`; `Corrupt` when the dry run meets a damaged page; `Store`.
    pub async fn delete(&self, ids: &[String], cascade: bool, dry_run: bool, job: &Job) -> Result<Deleted> {
        for attempt in 1.. {
            let state = self.state().await?;
            match self.delete_from(&state, ids, cascade, dry_run, job).await {
                // What the dry run looked at was deleted meanwhile, and collected.
                Err(error)
                    if dry_run
                        && error.kind() == ErrorKind::Corrupt
                        && attempt < ATTEMPTS
                        && self.state().await?.number > state.number => {}
                other => return other,
            }
        }
        unreachable!("the last attempt answers")
    }

    async fn delete_from(
        &self,
        state: &State,
        ids: &[String],
        cascade: bool,
        dry_run: bool,
        job: &Job,
    ) -> Result<Deleted> {
        let named = ids.iter().map(|id| find(state, id, self.url()).map(|b| b.id.clone()));
        let named = named.collect::<Result<Vec<String>>>()?;
        let backups = match cascade {
            true => with_descendants(state, &named),
            false => tips_first(state, named.iter().map(String::as_str)),
        };
        let change = Change::Delete { backups: backups.clone() };
        if dry_run {
            state.judge("", &change).map_err(|refusal| self.explain(&refusal))?;
            let freed = self.would_free(state, &backups, job).await?;
            return Ok(Deleted { backups, freed });
        }
        let _number = self.write(&client(), change).await?;
        for id in &backups {
            // The log has decided. A copy that stays behind says nothing.
            drop(self.store().delete(&crate::create::manifest(id)).await);
        }
        Ok(Deleted { backups, freed: 0 })
    }

    /// Stored bytes of chunks that only these backups need.
    async fn would_free(&self, state: &State, backups: &[String], job: &Job) -> Result<u64> {
        let _marks = self.begin_marking().await?;
        let chunks = self.chunks(job).await?;
        let going: BTreeSet<&str> = backups.iter().map(String::as_str).collect();
        // Gathered here: of a closure that lives on, the compiler would not see that any thread may go on with this.
        let (go, stay): (Vec<&Backup>, Vec<&Backup>) =
            state.backups.values().partition(|b| going.contains(b.id.as_str()));
        if let Some(page) = mark(&chunks, self.index(), stay, job).await?.into_iter().next() {
            return Err(page.error.within(format!("a page of backup {} is needed to know it", page.backup)));
        }
        let (mut kept, mut all) = (0, 0);
        let stored = |total: &mut u64| {
            for kind in [Kind::Data, Kind::Page] {
                self.index().for_marked(kind, |id| {
                    // One that is marked as both counts once.
                    if kind == Kind::Data || !self.index().is_marked(Kind::Data, &id)? {
                        *total += chunks.copies(&id)?.first().map_or(0, |copy| u64::from(copy.entry.stored));
                    }
                    Ok(())
                })?;
            }
            Ok::<_, Error>(())
        };
        stored(&mut kept)?;
        let _unreadable = mark(&chunks, self.index(), go, job).await?;
        stored(&mut all)?;
        // Which copy of a chunk counts may have changed meanwhile.
        Ok(all.saturating_sub(kept))
    }

    /// Takes a backup out of its chain: those that hang on it hang on what it hung on, or are full ones if it was. They lose nothing.
    ///
    /// # Errors
    /// `NotFound`, `Store`.
    pub async fn merge(&self, id: &str) -> Result<Backup> {
        let backup = self.backup(id).await?;
        let _number = self.write(&client(), Change::Merge { backup: backup.id.clone() }).await?;
        drop(self.store().delete(&crate::create::manifest(&backup.id)).await);
        Ok(backup)
    }

    /// Makes an incremental backup a full one, with a chain of its own. Those that hang on it stay with it.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` when it is a full one; `Store`.
    pub async fn promote(&self, id: &str) -> Result<Backup> {
        let backup = self.backup(id).await?;
        let _number = self.write(&client(), Change::Promote { backup: backup.id.clone() }).await?;
        self.backup(&backup.id).await
    }
}
