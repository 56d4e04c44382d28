//! Garbage collection: packs that no backup needs go, and those that hold little of what is needed are written anew without the rest.

use std::collections::BTreeMap;

use futures_util::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};

use crate::{
    chunk::ChunkId,
    chunks::Chunks,
    error::{Error, ErrorKind, Result, invalid},
    index::Located,
    job::Job,
    log::{
        packs::{PackName, Packs},
        record::Change,
        state::{Refusal, State},
    },
    mark::{is_marked, mark},
    pack::Entry,
    repository::{Repository, client},
    session::Session,
};

/// Collections that others come before, before this one gives up.
const ATTEMPTS: u32 = 5;
/// Copies that are read at the same time.
const AT_ONCE: usize = 8;

/// How garbage is collected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CollectOptions {
    /// A pack of which more than so many percent are not needed is written anew. 0: whatever is not needed goes.
    pub max_unused_percent: u32,
    /// Only says what would go.
    pub dry_run: bool,
}

impl Default for CollectOptions {
    fn default() -> Self {
        Self { max_unused_percent: 10, dry_run: false }
    }
}

/// What a collection did, or would do. Bytes as stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collected {
    /// Packs that no backup needs.
    pub unneeded_packs: u64,
    /// Packs that were written anew.
    pub rewritten_packs: u64,
    /// Chunks that are needed, in all packs.
    pub needed: u64,
    /// Chunks that went.
    pub freed: u64,
    /// Chunks that are not needed and stay, since too little of their packs is so.
    pub unused: u64,
    /// Objects that were deleted.
    pub deleted_objects: u64,
    /// Sessions that have not ended, with who they are: their packs stay.
    pub open_sessions: Vec<(String, String)>,
    /// Packs that cannot be read, and why: they stay.
    pub unreadable: Vec<(String, String)>,
    /// Why packs were not written anew, if that failed.
    pub rewriting_failed: Option<String>,
}

/// What is to become of packs.
#[derive(Default)]
struct Plan {
    unneeded: Packs,
    rewrite: Vec<(PackName, Vec<Entry>)>,
    /// What goes with each of those, in bytes.
    going: BTreeMap<PackName, Going>,
    /// A copy that was counted on is damaged.
    is_void: bool,
    collected: Collected,
}

enum Going {
    Unneeded(u64),
    Rewritten(u64),
}

impl Plan {
    /// A pack that was to go stays.
    fn keep(&mut self, pack: &PackName) {
        let Some(going) = self.going.remove(pack) else { return };
        let collected = &mut self.collected;
        let (packs, bytes) = match going {
            Going::Unneeded(bytes) => (&mut collected.unneeded_packs, bytes),
            Going::Rewritten(bytes) => (&mut collected.rewritten_packs, bytes),
        };
        *packs -= 1;
        collected.freed -= bytes;
        collected.unused += bytes;
    }
}

impl Repository {
    /// Gives back what no backup needs. Backups may be made, restored and deleted at the same time, also by others.
    ///
    /// # Errors
    /// `Corrupt` when a page of a map cannot be read, since nothing below it is known: nothing is deleted then; `InUse` when other collections
    /// keep coming first; `Cancelled`; `Store`.
    pub async fn collect(&self, options: &CollectOptions, job: &Job) -> Result<Collected> {
        if options.max_unused_percent > 100 {
            return Err(invalid(format!("{} percent is more than all", options.max_unused_percent)));
        }
        for attempt in 1.. {
            let _marks = self.begin_marking().await?;
            let (state, unreadable) = self.update().await?;
            let mut plan = match self.plan(&state, &unreadable, options, job).await {
                Ok(plan) => plan,
                // A backup was deleted meanwhile, and another collection took what it needed.
                Err(error)
                    if error.kind() == ErrorKind::Corrupt
                        && attempt < ATTEMPTS
                        && self.state().await?.number > state.number =>
                {
                    continue;
                }
                Err(error) => return Err(error),
            };
            if options.dry_run {
                return Ok(plan.collected);
            }
            if plan.is_void && attempt < ATTEMPTS {
                continue;
            }
            match self.condemn(&mut plan, state.number, job).await? {
                Ok(()) => {}
                // What was found out holds no more: another collection was first, or damage was found.
                Err(Refusal::Collected) if attempt < ATTEMPTS => continue,
                Err(refusal) => return Err(self.explain(&refusal)),
            }
            plan.collected.deleted_objects = self.sweep(job).await?;
            // Those that others collected meanwhile are no loss.
            let state = self.state().await?;
            let is_there = |pack: &str| pack.parse().is_ok_and(|pack| state.packs.contains(&pack));
            plan.collected.unreadable.retain(|(pack, _)| is_there(pack));
            return Ok(plan.collected);
        }
        unreachable!("the last attempt answers")
    }

    async fn plan(
        &self,
        state: &State,
        unreadable: &[(PackName, Error)],
        options: &CollectOptions,
        job: &Job,
    ) -> Result<Plan> {
        let chunks = self.chunks(job).await?;
        if let Some(page) = mark(&chunks, self.index(), state.backups.values(), job).await?.into_iter().next() {
            let why = format!("nothing is deleted while the map of backup {} cannot be read", page.backup);
            return Err(page.error.within(why));
        }
        let mut plan = Plan::default();
        plan.collected.open_sessions = state.sessions.clone().into_iter().collect();
        plan.collected.unreadable =
            unreadable.iter().map(|(pack, error)| (pack.to_string(), error.to_string())).collect();
        job.set_total(state.packs.len());
        for (pack, pack_state) in state.packs.iter() {
            job.check()?;
            job.advance(1);
            // Of one that cannot be read nothing is known.
            let is_kept = state.sessions.contains_key(&pack.session) || !self.index().has_pack(&pack)?;
            if is_kept {
                continue;
            }
            let (mut needed, mut unneeded, mut entries, mut elsewhere) = (0, 0, Vec::new(), Vec::new());
            for entry in self.index().entries(&pack)? {
                let kept = match is_marked(self.index(), &entry.id)? {
                    true => chunks.copies(&entry.id)?.into_iter().next(),
                    false => None,
                };
                match kept {
                    Some(copy) if copy.pack == pack && copy.entry == entry => {
                        needed += u64::from(entry.stored);
                        entries.push(entry);
                        continue;
                    }
                    // If that one is known to be damaged, all are.
                    Some(copy) if !chunks.is_damaged(&copy) => elsewhere.push(copy),
                    _ => {}
                }
                unneeded += u64::from(entry.stored);
            }
            let goes = unneeded * 100 > (needed + unneeded) * u64::from(options.max_unused_percent);
            if (needed == 0 || goes) && !options.dry_run {
                plan.is_void |= !self.are_whole(&chunks, elsewhere).await?;
            }
            let collected = &mut plan.collected;
            collected.needed += needed;
            if needed == 0 {
                collected.unneeded_packs += 1;
                collected.freed += unneeded;
                // Those of a collection that did not come to its end are condemned already, and swept with the others.
                if pack_state.condemned.is_none() {
                    plan.unneeded.insert(&pack);
                    let _none = plan.going.insert(pack, Going::Unneeded(unneeded));
                }
            } else if goes {
                collected.rewritten_packs += 1;
                collected.freed += unneeded;
                let _none = plan.going.insert(pack.clone(), Going::Rewritten(unneeded));
                plan.rewrite.push((pack, entries));
            } else {
                collected.unused += unneeded;
            }
        }
        Ok(plan)
    }

    /// Whether copies that are to be the only ones can be read. Damage is noted in the log, so that these count no more.
    async fn are_whole(&self, chunks: &Chunks, copies: Vec<Located>) -> Result<bool> {
        let reads = stream::iter(copies).map(|copy| async move {
            match chunks.read(&copy).await {
                Ok(_) => Ok(None),
                Err(error) if error.kind() == ErrorKind::Corrupt => Ok(Some(copy)),
                Err(error) => Err(error),
            }
        });
        let mut reads = std::pin::pin!(reads.buffer_unordered(AT_ONCE));
        let mut damaged: BTreeMap<PackName, Vec<ChunkId>> = BTreeMap::new();
        while let Some(read) = reads.try_next().await? {
            if let Some(copy) = read {
                damaged.entry(copy.pack).or_default().push(copy.entry.id);
            }
        }
        for (pack, chunks) in &damaged {
            self.note(pack, chunks.iter()).await?;
        }
        Ok(damaged.is_empty())
    }

    /// Writes packs anew, and condemns what is to go.
    async fn condemn(&self, plan: &mut Plan, seen: u64, job: &Job) -> Result<Result<(), Refusal>> {
        if !plan.rewrite.is_empty() {
            let mut session = Session::begin(self, job).await?;
            let outcome = self.rewrite(&mut session, plan, seen).await;
            session.end(false).await?;
            match outcome {
                Ok(outcome) => return Ok(outcome),
                Err(error) if error.kind() == ErrorKind::Cancelled => return Err(error),
                // As on a full disk: what needs no room is done all the same.
                Err(error) => {
                    plan.collected.rewriting_failed = Some(error.to_string());
                    let packs: Vec<PackName> = plan.rewrite.iter().map(|(pack, _)| pack.clone()).collect();
                    packs.iter().for_each(|pack| plan.keep(pack));
                }
            }
        }
        if plan.unneeded.is_empty() {
            return Ok(Ok(()));
        }
        let change = |packs: Packs| Change::Condemn { packs, seen };
        self.write_without_used(None, plan.unneeded.clone(), plan, change).await
    }

    /// Writes a change that condemns packs, of a session or of none; those that backups have come to rely on meanwhile are left out of it.
    async fn write_without_used(
        &self,
        session: Option<&Session>,
        mut packs: Packs,
        plan: &mut Plan,
        change: impl Fn(Packs) -> Change,
    ) -> Result<Result<(), Refusal>> {
        while !packs.is_empty() {
            let change = change(packs.clone());
            let written = match session {
                Some(session) => session.write(change).await?,
                None => self.try_write(&client(), change).await?,
            };
            match written {
                Err(Refusal::PacksInUse(used)) => used.names().for_each(|pack| {
                    packs.remove(&pack);
                    plan.keep(&pack);
                }),
                other => return Ok(other.map(drop)),
            }
        }
        Ok(Ok(()))
    }

    async fn rewrite(&self, session: &mut Session, plan: &mut Plan, seen: u64) -> Result<Result<(), Refusal>> {
        let (mut old, mut stay) = (plan.unneeded.clone(), Vec::new());
        for (pack, entries) in &plan.rewrite {
            match copy(session, pack, entries).await {
                Ok(()) => old.insert(pack),
                // It stays as it is; a verification says more.
                Err(error) if error.kind() == ErrorKind::Corrupt => stay.push((pack.clone(), error)),
                Err(error) => return Err(error),
            }
        }
        for (pack, error) in stay {
            plan.keep(&pack);
            plan.collected.unreadable.push((pack.to_string(), error.to_string()));
        }
        session.flush().await?;
        let change = |old: Packs| Change::Repack { new: session.new.clone(), old, seen };
        self.write_without_used(Some(session), old, plan, change).await
    }

    /// Drops what is condemned, and what sessions left behind that are over; then deletes the objects of what is dropped.
    async fn sweep(&self, job: &Job) -> Result<u64> {
        loop {
            // The lists first: a session that ends after it was taken may have put packs that it does not name, but none that it does and
            // that the state after it calls unknown is anybody's.
            let listed = self.store().list("packs", None).await?;
            let cut_off = self.store().cut_off("packs").await?;
            let state = self.state().await?;
            let mut going: Packs =
                state.packs.iter().filter(|(_, pack)| pack.condemned.is_some()).map(|(name, _)| name).collect();
            let objects: Vec<PackName> = listed.iter().filter_map(|object| PackName::of_object(&object.name)).collect();
            for pack in &objects {
                let is_known = state.packs.contains(pack) || state.dropped.contains(pack);
                if !is_known && !state.sessions.contains_key(&pack.session) {
                    going.insert(pack);
                }
            }
            if !going.is_empty() {
                match self.try_write(&client(), Change::Drop { packs: going }).await? {
                    Ok(_) => {}
                    // A backup has come to rely on one of them: what is left is found by looking again.
                    Err(Refusal::PacksInUse(_)) => continue,
                    Err(refusal) => return Err(self.explain(&refusal)),
                }
            }
            // A put of a session that is over can only fail: what its program has not put cannot be named by a record any more.
            for file in cut_off {
                if PackName::of_object(&file.object).is_some_and(|pack| !state.sessions.contains_key(&pack.session)) {
                    file.delete()?;
                }
            }
            let (state, _unreadable) = self.update().await?;
            let mut deleted = 0;
            for pack in objects.iter().filter(|pack| state.dropped.contains(pack)) {
                job.check()?;
                self.store().delete(&pack.object()).await?;
                deleted += 1;
            }
            return Ok(deleted);
        }
    }
}

async fn copy(session: &mut Session, pack: &PackName, entries: &[Entry]) -> Result<()> {
    let chunks = session.chunks().clone();
    for entry in entries {
        let content = chunks.read(&Located { pack: pack.clone(), entry: *entry }).await?;
        session.store_again(entry.kind, content).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{InitOptions, Location, pack::Kind};

    #[tokio::test]
    async fn what_a_killed_program_was_putting_goes_and_what_an_open_session_puts_stays() {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("file://{}", dir.path().join("repository").display());
        let location = Location { url, cache: Some(dir.path().join("cache")), ..Location::default() };
        let repository = Repository::init(&location, &InitOptions::default()).await.unwrap();
        let job = Job::new();
        let open = Session::begin(&repository, &job).await.unwrap();
        let file = |session: &str, name: &str| {
            let directory = dir.path().join("repository/packs").join(session);
            std::fs::create_dir_all(&directory).unwrap();
            let path = directory.join(name);
            std::fs::write(&path, "half a pack").unwrap();
            path
        };
        let gone = "0123456789abcdef0123456789abcdef";
        let left = [file(gone, "00000001#1"), file(gone, "00000002#31")];
        // Of the session that goes on, and such as nothing here makes.
        let kept =
            [file(open.id(), "00000001#1"), file(gone, "00000003#"), file(gone, "00000004#a"), file(gone, "n#1")];
        for _ in 0..2 {
            let _collected = repository.collect(&CollectOptions::default(), &job).await.unwrap();
            assert!(left.iter().all(|path| !path.exists()) && kept.iter().all(|path| path.exists()));
        }
        let of_open = kept[0].clone();
        open.end(false).await.unwrap();
        let _collected = repository.collect(&CollectOptions::default(), &job).await.unwrap();
        assert!(!of_open.exists() && kept[1..].iter().all(|path| path.exists()));
    }

    #[tokio::test]
    async fn what_others_came_to_rely_on_is_not_called_freed() {
        let dir = tempfile::tempdir().unwrap();
        let location =
            Location { url: "memory:".to_owned(), cache: Some(dir.path().to_owned()), ..Location::default() };
        let store = std::sync::Arc::new(object_store::memory::InMemory::new());
        let repository = Repository::init_with(store, &location, &InitOptions::default()).await.unwrap();
        let job = Job::new();
        let mut session = Session::begin(&repository, &job).await.unwrap();
        let _id = session.put(Kind::Data, vec![7; 4096]).await.unwrap();
        session.flush().await.unwrap();
        let packs = session.new.clone();
        session.end(true).await.unwrap();
        let _marks = repository.begin_marking().await.unwrap();
        let (state, unreadable) = repository.update().await.unwrap();
        let mut plan = repository.plan(&state, &unreadable, &CollectOptions::default(), &job).await.unwrap();
        let freed = plan.collected.freed;
        assert!(plan.collected.unneeded_packs == 1 && freed > 0, "{:?}", plan.collected);
        let other = Session::begin(&repository, &job).await.unwrap();
        let _number = other.write(Change::Add { packs }).await.unwrap().unwrap();
        other.end(false).await.unwrap();
        repository.condemn(&mut plan, state.number, &job).await.unwrap().unwrap();
        let Collected { unneeded_packs, freed: now, unused, .. } = plan.collected;
        assert_eq!((unneeded_packs, now, unused), (0, 0, freed));
    }
}
