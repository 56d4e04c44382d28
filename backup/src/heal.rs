//! Healing: damaged chunks are made again from a volume that still holds what they held.

use std::collections::BTreeMap;

use futures_util::StreamExt;

use crate::{
    chunk::ChunkId,
    chunks::Chunks,
    error::{ErrorKind, Result},
    log::record::Backup,
    map::{
        BLOCK, Map,
        page::Content,
        read::{self, Numbered},
    },
    pack::Kind,
    session::Session,
    source::Source,
};

/// What came of healing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Healed {
    /// Chunks that are whole again.
    pub(crate) healed: u64,
    /// Chunks that are not.
    pub(crate) lost: u64,
}

/// Stores the damaged chunks of a backup again, as far as its snapshot yields them. Damaged pages of its map are an error.
pub(crate) async fn heal(session: &mut Session, chunks: &Chunks, backup: &Backup, source: &Source) -> Result<Healed> {
    let mut outcome = Healed::default();
    for (id, places) in damaged(chunks, Map::of(backup)?).await? {
        match content(source, &places).await? {
            Some(content) if session.name(&content) == id => {
                let _id = session.put(Kind::Data, content).await?;
                outcome.healed += 1;
            }
            _ => outcome.lost += 1,
        }
    }
    session.flush().await?;
    Ok(outcome)
}

/// Chunks of a map of which no copy is known to be whole: which block of the chunk is which of the volume.
async fn damaged(chunks: &Chunks, map: Map) -> Result<BTreeMap<ChunkId, BTreeMap<u16, u64>>> {
    let mut found: BTreeMap<ChunkId, BTreeMap<u16, u64>> = BTreeMap::new();
    let mut leaves = std::pin::pin!(read::leaves(chunks, map, 0));
    while let Some((leaf, _)) = leaves.next().await {
        let mut block = leaf.block();
        let Numbered { leaf, .. } = leaf;
        for run in leaf?.runs {
            if let Content::Data { chunk, first } = run.content
                && !has_whole_copy(chunks, &chunk)?
            {
                let places = found.entry(chunk).or_default();
                places.extend((0..run.blocks).map(|i| (first + i as u16, block + u64::from(i))));
            }
            block += u64::from(run.blocks);
        }
    }
    Ok(found)
}

fn has_whole_copy(chunks: &Chunks, id: &ChunkId) -> Result<bool> {
    Ok(chunks.copies(id)?.iter().any(|copy| !chunks.is_damaged(copy)))
}

/// The blocks of a chunk from its first on, if none is missing.
async fn content(source: &Source, places: &BTreeMap<u16, u64>) -> Result<Option<Vec<u8>>> {
    let mut content = Vec::with_capacity(places.len() * BLOCK as usize);
    for (expected, (at, block)) in (0..).zip(places) {
        if *at != expected {
            return Ok(None);
        }
        match source.read(*block, 1).await {
            Ok(bytes) => content.extend_from_slice(&bytes),
            Err(error) if error.kind() == ErrorKind::Corrupt => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    Ok(Some(content))
}
