//! Making backups: what changed is read, named, compressed and stored, and a new map refers to it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use bytes::Bytes;
use cairn_engine::{IoBuf, Pool, SnapshotInfo, Target, VolumeInfo};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};

use crate::{
    chunk,
    chunks::Chunks,
    envelope,
    error::{Error, ErrorKind, Result, corrupt, invalid},
    job::{Job, now_ms},
    log::{
        packs::Packs,
        record::{Backup, Change, Origin, Statistics},
        state::{Refusal, State},
    },
    map::{BLOCK, Map, page::Content, sample, write::Writer},
    pack::Kind,
    repository::{Repository, find, new_id},
    session::{Readier, Ready, Session},
    source::{Changes, Piece, Portion, Source, engine, is_of},
    unfinished::Unfinished,
};

/// Portions that are read ahead. A pack on its way to the same disk holds reads up for a while; the processors are not to wait for them.
const READ_AHEAD: usize = 16;
/// Portions that are named and compressed at the same time.
const AT_ONCE: usize = 8;
/// Reads of one portion at the same time.
const READS: usize = 8;
/// Attempts when a garbage collection deletes packs that a new backup counted on.
const ATTEMPTS: u32 = 4;
/// Blocks that are compared with the volume before a backup counts.
const SAMPLES: usize = 16;
/// Snapshots that backups take begin so; the last one of a volume stays for each repository, for the next incremental.
pub const SNAPSHOT_PREFIX: &str = "cairn-backup-";

/// What kind of backup is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Incremental if there is something to go on from, else full. The backup says why.
    #[default]
    Incremental,
    /// Everything that the volume holds; begins a new chain.
    Full,
}

/// How a backup is made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CreateOptions {
    /// Full or incremental.
    pub mode: Mode,
    /// The backup on which an incremental hangs; `None`: the newest of the volume whose snapshot is still there.
    pub parent: Option<String>,
    /// A snapshot to back up, which is left alone; `None`: one is taken, and kept for the next incremental.
    pub snapshot: Option<String>,
    /// What is to be remembered with it.
    pub labels: BTreeMap<String, String>,
    /// Ids of backups on which an incremental is not to hang, as those of somebody else: what is named here can be deleted whatever is made.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub except: BTreeSet<String>,
}

/// What an incremental backup goes on from.
struct Base {
    backup: Backup,
    snapshot: SnapshotInfo,
}

/// How a backup is going to be made, and why so.
struct Plan {
    volume: VolumeInfo,
    pool: String,
    snapshot: SnapshotInfo,
    base: Option<Base>,
    reason: String,
    labels: BTreeMap<String, String>,
}

impl Repository {
    /// Backs up a volume, which may be in use meanwhile: its content is that of a snapshot.
    ///
    /// # Errors
    /// `NotFound` for volume, snapshot or parent; `Invalid`; `Cancelled`; `Corrupt` when what the volume holds is damaged, or a sample of the
    /// backup is not what the volume holds; `Volume` and `Store` when those fail. Nothing is listed then; what was stored is found by the
    /// next attempt.
    pub async fn create(&self, pool: &Pool, volume: &str, options: &CreateOptions, job: &Job) -> Result<Backup> {
        let id = new_id();
        let target = |snapshot: &str| Target { volume: volume.to_owned(), snapshot: Some(snapshot.to_owned()) };
        // Each repository keeps its own.
        let own = format!("{SNAPSHOT_PREFIX}{}-", self.identity().uuid.get(..8).unwrap_or_default());
        let (snapshot, taken) = match &options.snapshot {
            Some(name) => (named(pool, volume, name).await?, None),
            None => {
                let target = target(&format!("{own}{}", &id[..16]));
                let taken = pool.snapshot(std::slice::from_ref(&target)).await.map_err(|e| engine(&e))?.pop();
                let snapshot = taken.ok_or_else(|| invalid("the snapshot was deleted at once"))?;
                let version = snapshot.version;
                (snapshot, Some(Unfinished::snapshot(pool, target, version)))
            }
        };
        let made = self.create_from(pool, volume, &id, snapshot.clone(), options, job).await;
        match (taken, &made) {
            (None, _) => {}
            (Some(taken), Err(_)) => taken.remove().await,
            (Some(taken), Ok(_)) => {
                taken.finished();
                // The new one replaces the others as the ground for the next.
                let all = pool.snapshots(Some(volume), false).await.unwrap_or_default();
                for old in all.iter().filter(|s| s.name.starts_with(&own) && s.version < snapshot.version) {
                    // One that is open, for another backup or a user, goes with a later backup.
                    drop(pool.delete_snapshot(&target(&old.name)).await);
                }
            }
        }
        made
    }

    async fn create_from(
        &self,
        pool: &Pool,
        volume: &str,
        id: &str,
        snapshot: SnapshotInfo,
        options: &CreateOptions,
        job: &Job,
    ) -> Result<Backup> {
        let volume = pool.volume_info(volume).await.map_err(|e| engine(&e))?;
        let uuid = pool.stats().await.map_err(|e| engine(&e))?.uuid;
        for attempt in 1.. {
            let state = self.state().await?;
            let snapshots = pool.snapshots(Some(&volume.name), false).await.map_err(|e| engine(&e))?;
            let (base, reason) = self.choose(&state, &uuid, &volume, &snapshot, &snapshots, options)?;
            let labels = options.labels.clone();
            let plan =
                Plan { volume: volume.clone(), pool: uuid.clone(), snapshot: snapshot.clone(), base, reason, labels };
            let mut session = Session::begin(self, job).await?;
            let made = self.attempt(&mut session, pool, id, &plan, job).await;
            // One that cannot be ended is taken over by the next.
            let _ended = session.end(!matches!(made, Ok(Ok(_)))).await;
            match made? {
                Ok(backup) => {
                    // The log has decided: a copy that is missing takes nothing away.
                    let _copied = self.put_manifest(&backup).await;
                    return Ok(backup);
                }
                // What it counted on was deleted meanwhile: the next attempt stores it again.
                Err(Refusal::PacksGone(_) | Refusal::ParentGone(_)) if attempt < ATTEMPTS => {}
                Err(refusal) => return Err(self.explain(&refusal)),
            }
        }
        unreachable!("the last attempt answers")
    }

    /// Makes a backup and commits it, unless what it counts on is gone.
    async fn attempt(
        &self,
        session: &mut Session,
        pool: &Pool,
        id: &str,
        plan: &Plan,
        job: &Job,
    ) -> Result<Result<Backup, Refusal>> {
        let (backup, commit) = match self.fill(session, pool, id, plan, job).await {
            Ok(made) => made,
            // What cannot be read may have gone with the parent, or with what was counted on.
            Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) => {
                return self.gone(session, pool, plan).await?.map_or(Err(error), |refusal| Ok(Err(refusal)));
            }
            Err(error) => return Err(error),
        };
        Ok(session.write(commit).await?.map(|number| Backup { number, ..backup }))
    }

    /// What a backup counts on and is there no more.
    async fn gone(&self, session: &Session, pool: &Pool, plan: &Plan) -> Result<Option<Refusal>> {
        let state = self.state().await?;
        if let Some(base) = &plan.base {
            let snapshots = pool.snapshots(Some(&plan.volume.name), false).await.map_err(|e| engine(&e))?;
            // Another backup of the volume, which finished first, may have replaced its snapshot.
            let is_there = state.backups.contains_key(&base.backup.id)
                && snapshots.iter().any(|snapshot| is_of(&base.backup, snapshot));
            if !is_there {
                return Ok(Some(Refusal::ParentGone(base.backup.id.clone())));
            }
        }
        let packs: Packs = session.uses.names().filter(|pack| !state.packs.contains(pack)).collect();
        Ok((!packs.is_empty()).then_some(Refusal::PacksGone(packs)))
    }

    /// What an incremental can go on from, and the reason for the kind of backup that it is to be.
    fn choose(
        &self,
        state: &State,
        pool: &str,
        volume: &VolumeInfo,
        snapshot: &SnapshotInfo,
        snapshots: &[SnapshotInfo],
        options: &CreateOptions,
    ) -> Result<(Option<Base>, String)> {
        let is_of_it = |b: &Backup| b.origin.pool == pool && b.origin.volume_id == volume.id.0;
        let named = options.parent.as_ref().map(|id| find(state, id, self.url())).transpose()?;
        if let Some(parent) = named.filter(|parent| !is_of_it(parent)) {
            return Err(invalid(format!("backup {} is one of another volume than {}", parent.id, volume.name)));
        }
        if options.mode == Mode::Full {
            return Ok((None, "a full backup was asked for".to_owned()));
        }
        let mut candidates: Vec<&Backup> = match named {
            Some(parent) => vec![parent],
            None => state.backups.values().filter(|b| is_of_it(b)).collect(),
        };
        let known = candidates.len();
        candidates.retain(|backup| !options.except.contains(&backup.id));
        candidates.sort_by_key(|backup| std::cmp::Reverse(backup.number));
        let Some(newest) = candidates.first() else {
            if known > 0 {
                return Ok((None, "it is not to hang on any backup of this volume that there is".to_owned()));
            }
            return Ok((None, "it is the first backup of this volume".to_owned()));
        };
        let kept = |parent: &Backup| snapshots.iter().find(|s| is_of(parent, s) && s.size <= snapshot.size);
        let Some((parent, kept)) = candidates.iter().find_map(|parent| Some((*parent, kept(parent)?))) else {
            let of = &newest.origin;
            let why = match newest.size > snapshot.size {
                true => format!(
                    "the volume had {} bytes in backup {} and has {} now",
                    newest.size, newest.id, snapshot.size
                ),
                false => {
                    format!("the snapshot {}@{} of backup {} is gone from the pool", of.volume, of.snapshot, newest.id)
                }
            };
            return Ok((None, why));
        };
        let why = match parent.size == snapshot.size {
            true => format!("goes on from backup {}", parent.id),
            false => {
                format!("goes on from backup {}, since which the volume grew from {} bytes", parent.id, parent.size)
            }
        };
        Ok((Some(Base { backup: parent.clone(), snapshot: kept.clone() }), why))
    }

    /// Stores what is new, and says what is to be committed.
    async fn fill(
        &self,
        session: &mut Session,
        pool: &Pool,
        id: &str,
        plan: &Plan,
        job: &Job,
    ) -> Result<(Backup, Change)> {
        let began = Instant::now();
        // Both stay open to the end: what is compared must not go, or become another one, half-way.
        let source = Source::of(pool, &plan.volume.name, &plan.snapshot).await?;
        let mut base = match &plan.base {
            Some(base) => Some((base, Source::of(pool, &plan.volume.name, &base.snapshot).await?)),
            None => None,
        };
        let chunks = session.chunks().clone();
        let mut reason = plan.reason.clone();
        if let Some((b, source)) = &base
            && !self.is_whole(session, &chunks, &b.backup, source).await?
        {
            reason = format!("backup {} is damaged: a full backup does without what is lost", b.backup.id);
            base = None;
        }
        let (base, from) = base.unzip();
        job.set_total(source.changes(from.as_ref()).count().await?);
        let old = base.map(|b| Map::of(&b.backup)).transpose()?;
        let mut writer = Writer::new(&chunks, old, source.size, session).await?;
        let mut statistics = Statistics::default();
        let portions = portions(source.changes(from.as_ref()), source.clone(), session.readier(), job.clone());
        let mut portions = std::pin::pin!(portions);
        while let Some(portion) = portions.try_next().await? {
            statistics.read += portion.read;
            let chunk = match portion.ready {
                Some(ready) => Some(session.store(ready).await?),
                None => None,
            };
            for (piece, content) in portion.pieces {
                let content = match (content, chunk) {
                    (Held::Data(first), Some(chunk)) => Content::Data { chunk, first },
                    (Held::Zero, _) => Content::Zero,
                    _ => Content::Unallocated,
                };
                writer.set(session, piece.block, piece.count, content).await?;
            }
            job.advance(portion.read);
        }
        let map = writer.finish(session).await?;
        session.flush().await?;
        self.compare_sample(session, map, &source).await?;
        statistics.new = session.stored_data;
        statistics.pages = session.stored_pages;
        statistics.stored = session.uploaded;
        statistics.millis = began.elapsed().as_millis() as u64;
        let backup = Backup {
            id: id.to_owned(),
            number: 0,
            origin: Origin {
                pool: plan.pool.clone(),
                volume: plan.volume.name.clone(),
                volume_id: plan.volume.id.0,
                snapshot: plan.snapshot.name.clone(),
                version: plan.snapshot.version.0,
            },
            data_ms: plan.snapshot.created_ms,
            finished_ms: now_ms(),
            size: source.size,
            parent: base.map(|b| b.backup.id.clone()),
            reason,
            root: map.to_record(),
            statistics,
            labels: plan.labels.clone(),
        };
        let change =
            Change::Commit { backup: Box::new(backup.clone()), new: session.new.clone(), uses: session.uses.clone() };
        Ok((backup, change))
    }

    /// Whether nothing of a backup is known to be damaged. What is, is stored again if its snapshot still holds it.
    async fn is_whole(&self, session: &mut Session, chunks: &Chunks, backup: &Backup, source: &Source) -> Result<bool> {
        let (state, unreadable) = self.update().await?;
        if state.damaged.is_empty() && unreadable.is_empty() {
            return Ok(true);
        }
        match crate::heal::heal(session, chunks, backup, source).await {
            Ok(outcome) => Ok(outcome.lost == 0),
            Err(error) if error.kind() == ErrorKind::Corrupt => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Compares some blocks of a new map with the volume: a backup that holds something else must not count.
    async fn compare_sample(&self, session: &Session, map: Map, source: &Source) -> Result<()> {
        for _ in 0..SAMPLES {
            compare_one(session.chunks(), map, source).await?;
        }
        Ok(())
    }

    /// A copy of what the log says, for people and for import.
    async fn put_manifest(&self, backup: &Backup) -> Result<()> {
        let name = manifest(&backup.id);
        let bytes = Bytes::from(envelope::wrap("manifest", &name, backup, self.keys()));
        self.store().put_new(&name, bytes).await.map(drop)
    }
}

async fn compare_one(chunks: &Chunks, map: Map, source: &Source) -> Result<()> {
    let damaged = |error: Error| {
        match error.kind() {
        ErrorKind::Corrupt => error.within(
            "the backup counts on what is damaged in the repository: run `cairn backup verify`, which notes it, and then the backup again",
        ),
        _ => error,
    }
    };
    let any = sample::any(chunks, map, source.size.div_ceil(BLOCK)).await.map_err(damaged)?;
    let Some((block, content)) = any else { return Ok(()) };
    let expected = match content {
        Content::Data { chunk, first } => {
            let whole = chunks.get(&chunk).await.map_err(damaged)?;
            let at = usize::from(first) * BLOCK as usize;
            whole.get(at..at + BLOCK as usize).map(<[u8]>::to_vec)
        }
        _ => Some(vec![0; BLOCK as usize]),
    };
    if expected.as_deref() == Some(&source.read(block, 1).await?[..]) {
        return Ok(());
    }
    Err(corrupt(format!(
        "the backup would be wrong: it has something else at byte {} than the snapshot; nothing was recorded. \
         Check the pool (`cairn pool check --data`) and make a full backup",
        block * BLOCK
    )))
}

async fn named(pool: &Pool, volume: &str, name: &str) -> Result<SnapshotInfo> {
    let all = pool.snapshots(Some(volume), false).await.map_err(|e| engine(&e))?;
    let text = || format!("volume {volume} has no snapshot {name}");
    all.into_iter().find(|s| s.name == name).ok_or_else(|| Error::new(ErrorKind::NotFound, text()))
}

pub(crate) fn manifest(id: &str) -> String {
    format!("manifests/{id}")
}

/// What neighbouring blocks of a portion hold.
enum Held {
    Nothing,
    Zero,
    /// From this block of the portion's chunk on.
    Data(u16),
}

/// A portion that was read.
struct Done {
    pieces: Vec<(Piece, Held)>,
    ready: Option<Ready>,
    /// Bytes.
    read: u64,
}

/// Reads portions, some at the same time; they come out in order.
fn portions(changes: Changes, source: Source, readier: Readier, job: Job) -> impl stream::Stream<Item = Result<Done>> {
    let portions = stream::try_unfold(changes, |mut changes| async move {
        Ok(changes.next().await?.map(|portion| (portion, changes)))
    });
    portions
        .map_ok(move |portion| {
            let (source, job) = (source.clone(), job.clone());
            async move {
                job.check()?;
                read(portion, &source).await
            }
        })
        .try_buffered(READ_AHEAD)
        .map_ok(move |read| {
            let readier = readier.clone();
            async move {
                let worker = tokio::task::spawn_blocking(move || ready(read, &readier));
                worker.await.map_err(|e| Error::new(ErrorKind::Store, format!("a worker failed: {e}")))?
            }
        })
        .try_buffered(AT_ONCE)
}

async fn read(portion: Portion, source: &Source) -> Result<Vec<(Piece, IoBuf)>> {
    let reads = stream::iter(portion).map(|piece| async move {
        let content = if piece.is_hole { IoBuf::zeroed(0) } else { source.read(piece.block, piece.count).await? };
        Ok::<_, Error>((piece, content))
    });
    reads.buffered(READS).try_collect().await
}

fn is_zero(block: &[u8]) -> bool {
    const ZEROS: [u8; BLOCK as usize] = [0; BLOCK as usize];
    block == &ZEROS[..block.len()]
}

/// Takes out blocks of zeros, and names and compresses the rest.
fn ready(mut read: Vec<(Piece, IoBuf)>, readier: &Readier) -> Result<Done> {
    let bytes = read.iter().map(|(_, content)| content.len() as u64).sum();
    if let [(piece, content)] = &mut read[..]
        && !piece.is_hole
        && !content.chunks(BLOCK as usize).any(is_zero)
    {
        let (piece, content) = (*piece, std::mem::replace(content, IoBuf::zeroed(0)));
        let ready = readier.ready(Kind::Data, chunk::Content::Read(content))?;
        return Ok(Done { pieces: vec![(piece, Held::Data(0))], ready: Some(ready), read: bytes });
    }
    let mut chunk = Vec::with_capacity(bytes as usize);
    let mut pieces: Vec<(Piece, Held)> = Vec::new();
    for (piece, content) in read {
        if piece.is_hole {
            pieces.push((piece, Held::Nothing));
            continue;
        }
        for (block, content) in (piece.block..).zip(content.chunks(BLOCK as usize)) {
            let one = Piece { block, count: 1, is_hole: false };
            let is_zero = is_zero(content);
            match pieces.last_mut() {
                Some((last, Held::Zero)) if is_zero && last.block + last.count == block => last.count += 1,
                Some((last, Held::Data(_))) if !is_zero && last.block + last.count == block => last.count += 1,
                _ if is_zero => pieces.push((one, Held::Zero)),
                _ => pieces.push((one, Held::Data((chunk.len() / BLOCK as usize) as u16))),
            }
            if !is_zero {
                chunk.extend_from_slice(content);
            }
        }
    }
    let ready = if chunk.is_empty() { None } else { Some(readier.ready(Kind::Data, chunk::Content::Made(chunk))?) };
    Ok(Done { pieces, ready, read: bytes })
}
