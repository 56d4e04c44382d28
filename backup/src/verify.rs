//! Verifying: every chunk that backups need is read, decoded and compared with its name, without restoring anything.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};

use crate::{
    chunk::ChunkId,
    chunks::Chunks,
    crypt::new_master,
    error::{Error, ErrorKind, Result, invalid},
    index::Located,
    job::Job,
    log::{
        packs::PackName,
        record::{Backup, Change},
    },
    map::{
        BLOCK, Map,
        page::{Content, LEAF},
        read,
    },
    mark::{Unreadable, is_marked, mark},
    pack::Kind,
    repository::{Repository, client, find},
};

/// Requests at the same time.
const AT_ONCE: usize = 4;
/// Damaged ranges that are listed for each backup.
const MOST_RANGES: usize = 1000;

/// What is verified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VerifyOptions {
    /// These backups; none named: all.
    pub backups: Vec<String>,
    /// So many of a hundred chunks of data, chosen anew each time. Maps are read whole.
    pub percent: u32,
}

impl Default for VerifyOptions {
    fn default() -> Self {
        Self { backups: Vec::new(), percent: 100 }
    }
}

/// A damaged chunk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedChunk {
    /// Its name; empty for a page that cannot be told from what leads to it, and for a pack of which not even that is known.
    pub chunk: String,
    /// The pack.
    pub pack: String,
    /// What is wrong with it.
    pub cause: String,
    /// Whether another pack has it whole: then nothing is lost.
    pub has_other_copy: bool,
}

/// A part of a backup that cannot be restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedRange {
    /// The backup.
    pub backup: String,
    /// Its volume.
    pub volume: String,
    /// First byte in the volume.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// Backups that were looked at.
    pub backups: u64,
    /// Chunks that were read.
    pub chunks: u64,
    /// Their content, in bytes.
    pub bytes: u64,
    /// Damaged chunks.
    pub damaged: Vec<DamagedChunk>,
    /// What that means for backups; a thousand ranges of each at most.
    pub ranges: Vec<DamagedRange>,
}

impl Verified {
    /// Whether everything that was looked at can be restored.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.ranges.is_empty() && self.damaged.iter().all(|damaged| damaged.has_other_copy)
    }
}

impl Repository {
    /// Verifies backups. What is found damaged is noted in the log: later backups store it again instead of relying on it.
    ///
    /// # Errors
    /// `NotFound`, `Invalid`, `Cancelled`, `Store`; damage is no error but part of the answer.
    pub async fn verify(&self, options: &VerifyOptions, job: &Job) -> Result<Verified> {
        if !(1..=100).contains(&options.percent) {
            return Err(invalid(format!("{} is not a percentage from 1 to 100", options.percent)));
        }
        loop {
            let (verified, chosen) = self.verify_once(options, job).await?;
            let now = self.state().await?;
            // What went with a backup that was deleted meanwhile is no damage.
            if verified.is_whole() || chosen.iter().all(|backup| now.backups.contains_key(&backup.id)) {
                return Ok(verified);
            }
        }
    }

    async fn verify_once(&self, options: &VerifyOptions, job: &Job) -> Result<(Verified, Vec<Backup>)> {
        let _marks = self.begin_marking().await?;
        let (state, unreadable) = self.update().await?;
        let chunks = Chunks::new(self, state.clone(), job);
        let chosen: Vec<Backup> = match options.backups.is_empty() {
            true => state.backups.values().cloned().collect(),
            false => {
                options.backups.iter().map(|id| find(&state, id, self.url()).cloned()).collect::<Result<Vec<_>>>()?
            }
        };
        let mut verified = Verified { backups: chosen.len() as u64, ..Verified::default() };
        let pages = mark(&chunks, self.index(), &chosen, job).await?;
        let bad = self.read_marked(&chunks, options.percent, !pages.is_empty(), &mut verified, job).await?;
        if !bad.is_empty() || !pages.is_empty() {
            for backup in &chosen {
                locate(&chunks, backup, &bad, &mut verified.ranges).await?;
            }
        }
        for Unreadable { error, .. } in pages {
            let cause = error.to_string();
            if !verified.damaged.iter().any(|d| !d.chunk.is_empty() && cause.contains(&d.chunk)) {
                verified.damaged.push(DamagedChunk { cause, ..DamagedChunk::default() });
            }
        }
        let has_other_copy = verified.ranges.is_empty();
        let now = self.state().await?;
        let unreadable = unreadable.into_iter().filter(|(pack, _)| now.packs.contains(pack));
        verified.damaged.extend(unreadable.map(|(pack, error)| DamagedChunk {
            chunk: String::new(),
            pack: pack.to_string(),
            cause: error.to_string(),
            has_other_copy,
        }));
        Ok((verified, chosen))
    }

    /// Reads every copy of what is marked. Answers the chunks of which none is whole. If there are pages that cannot be read, what only they
    /// lead to bears no mark; everything is read then, and all of a pack that is missing or cut short: later backups must not rely on it.
    async fn read_marked(
        &self,
        chunks: &Chunks,
        percent: u32,
        everything: bool,
        verified: &mut Verified,
        job: &Job,
    ) -> Result<BTreeSet<ChunkId>> {
        let salt = u64::from_le_bytes(new_master()[..8].try_into().unwrap_or_default());
        let is_chosen = |kind: Kind, id: &ChunkId| {
            let number = u64::from_le_bytes(id.0[..8].try_into().unwrap_or_default()) ^ salt;
            kind == Kind::Page || number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32 < (u64::from(percent) << 32) / 100
        };
        let (mut total, mut missing) = (0, Vec::new());
        let mut bad = BTreeSet::new();
        self.index().for_marked(Kind::Data, |id| {
            let copies = chunks.copies(&id)?;
            match copies.is_empty() {
                true => missing.push(id),
                false if is_chosen(Kind::Data, &id) => {
                    total += copies.iter().map(|copy| u64::from(copy.entry.length)).sum::<u64>();
                }
                false => {}
            }
            Ok(())
        })?;
        job.set_total(total);
        for id in missing {
            // One that a garbage collection has moved is found by looking again.
            if let Err(error) = chunks.get(&id).await {
                if error.kind() != ErrorKind::Corrupt {
                    return Err(error);
                }
                let _new = bad.insert(id);
                let (chunk, cause) = (id.to_string(), error.to_string());
                verified.damaged.push(DamagedChunk { chunk, cause, ..DamagedChunk::default() });
            }
        }
        let state = chunks.state();
        let listed = self.store().list("packs", None).await?;
        let sizes: BTreeMap<PackName, u64> =
            listed.iter().filter_map(|object| Some((PackName::of_object(&object.name)?, object.size))).collect();
        let sizes = &sizes;
        let packs = stream::iter(state.packs.names()).map(|pack| async move {
            let mut wanted = Vec::new();
            let entries = self.index().entries(&pack)?;
            let end = entries.last().map_or(0, |entry| u64::from(entry.offset) + u64::from(entry.stored));
            let all = everything || sizes.get(&pack).is_none_or(|size| *size < end);
            for entry in entries {
                if all || is_marked(self.index(), &entry.id)? && is_chosen(entry.kind, &entry.id) {
                    wanted.push(Located { pack: pack.clone(), entry });
                }
            }
            let read = chunks.read_pack(&pack, &wanted, job).await?;
            Ok::<_, Error>((pack, read))
        });
        let mut packs = std::pin::pin!(packs.buffer_unordered(AT_ONCE));
        let mut damaged: BTreeMap<PackName, BTreeMap<ChunkId, Error>> = BTreeMap::new();
        while let Some((pack, read)) = packs.try_next().await? {
            verified.chunks += read.chunks;
            verified.bytes += read.bytes;
            if !read.damaged.is_empty() {
                let _none = damaged.insert(pack, read.damaged.into_iter().collect());
            }
        }
        // What a garbage collection took away meanwhile is elsewhere, if it is needed.
        let now = self.state().await?;
        damaged.retain(|pack, _| now.packs.contains(pack));
        let is_bad = |pack: &PackName, id: &ChunkId| damaged.get(pack).is_some_and(|all| all.contains_key(id));
        for (pack, all) in &damaged {
            for (id, error) in all {
                if !everything && !is_marked(self.index(), id)? {
                    continue;
                }
                let has_other_copy =
                    chunks.copies(id)?.iter().any(|copy| !is_bad(&copy.pack, id) && !chunks.is_damaged(copy));
                if !has_other_copy {
                    let _new = bad.insert(*id);
                }
                let (chunk, cause) = (id.to_string(), error.to_string());
                verified.damaged.push(DamagedChunk { chunk, pack: pack.to_string(), cause, has_other_copy });
            }
            self.note(pack, all.keys()).await?;
        }
        Ok(bad)
    }

    /// Notes damaged chunks in the log, unless they are there.
    pub(crate) async fn note(&self, pack: &PackName, damaged: impl Iterator<Item = &ChunkId>) -> Result<()> {
        let state = self.state().await?;
        let chunks: Vec<String> = damaged.map(ToString::to_string).filter(|id| !state.is_damaged(pack, id)).collect();
        if chunks.is_empty() {
            return Ok(());
        }
        // A pack that was dropped meanwhile needs no note.
        let _refused = self.try_write(&client(), Change::Damage { pack: pack.to_string(), chunks }).await?;
        Ok(())
    }
}

/// Where chunks are in a backup.
async fn locate(
    chunks: &Chunks,
    backup: &Backup,
    bad: &BTreeSet<ChunkId>,
    ranges: &mut Vec<DamagedRange>,
) -> Result<()> {
    let mut found: Vec<DamagedRange> = Vec::new();
    let range = |offset, length| DamagedRange {
        backup: backup.id.clone(),
        volume: backup.origin.volume.clone(),
        offset,
        length,
    };
    let mut leaves = std::pin::pin!(read::leaves(chunks, Map::of(backup)?, 0));
    while let Some((numbered, leaves_below)) = leaves.next().await {
        let mut block = numbered.block();
        let leaf = match numbered.leaf {
            Ok(leaf) => leaf,
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                let (offset, length) = (block * BLOCK, leaves_below * u64::from(LEAF) * BLOCK);
                let length = length.min(backup.size.saturating_sub(offset));
                found.push(range(offset, length));
                continue;
            }
            Err(error) => return Err(error),
        };
        for run in leaf.runs {
            if matches!(run.content, Content::Data { chunk, .. } if bad.contains(&chunk)) && found.len() < MOST_RANGES {
                let (offset, length) = (block * BLOCK, u64::from(run.blocks) * BLOCK);
                let length = length.min(backup.size.saturating_sub(offset));
                match found.last_mut() {
                    Some(last) if last.offset + last.length == offset => last.length += length,
                    _ => found.push(range(offset, length)),
                }
            }
            block += u64::from(run.blocks);
        }
    }
    ranges.extend(found);
    Ok(())
}
