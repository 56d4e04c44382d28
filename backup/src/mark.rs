//! Marking: which chunks some backups need. Kept in the index's database, so that memory does not grow with the repository.

use std::sync::Arc;

use futures_util::{StreamExt, stream};

use crate::{
    chunk::ChunkId,
    chunks::Chunks,
    error::{Error, Result},
    index::Index,
    job::Job,
    log::record::Backup,
    map::{
        Map, covers,
        page::{Content, LEAF},
        read::{self, Step, Walk},
    },
    pack::Kind,
};

/// Leaves that are read at the same time.
const AHEAD: usize = 8;

/// A page that cannot be read, and what it stands for.
pub(crate) struct Unreadable {
    pub(crate) backup: String,
    /// Blocks that nothing is known of.
    pub(crate) first: u64,
    pub(crate) blocks: u64,
    pub(crate) error: Error,
}

/// Marks what backups need, page by page; pages that several share are read once. Pages that cannot be read are answered.
pub(crate) async fn mark<'a>(
    chunks: &Chunks,
    index: &Index,
    backups: impl IntoIterator<Item = &'a Backup>,
    job: &Job,
) -> Result<Vec<Unreadable>> {
    let mut unreadable = Vec::new();
    for backup in backups {
        let walk = Walk::new(chunks, Map::from_record(&backup.root)?);
        let state = (walk, index.clone(), job.clone());
        let pages = stream::unfold(state, |(mut walk, index, job)| async move {
            // A page that was come by before has had everything below it marked.
            let decide = |page: &read::Page| {
                job.check()?;
                Ok(if index.mark(Kind::Page, &page.id)? { Step::Enter } else { Step::Skip })
            };
            match walk.next_leaf(decide).await {
                Ok(None) => None,
                Ok(Some(page)) => Some((Ok(page), (walk, index, job))),
                Err(failed) => Some((Err(failed), (walk, index, job))),
            }
        });
        let chunks = Arc::new(chunks.clone());
        let leaves = pages.map(|page| {
            let chunks = chunks.clone();
            async move {
                match page {
                    Ok(page) => match read::leaf(&chunks, &page.id).await {
                        Ok(leaf) => Ok(leaf),
                        Err(error) => Err((page, error)),
                    },
                    Err(failed) => Err(failed),
                }
            }
        });
        let mut leaves = std::pin::pin!(leaves.buffered(AHEAD));
        while let Some(leaf) = leaves.next().await {
            match leaf {
                Ok(leaf) => {
                    for run in leaf.runs {
                        if let Content::Data { chunk, .. } = run.content {
                            let _new = index.mark(Kind::Data, &chunk)?;
                        }
                    }
                }
                Err((page, error)) if error.kind() == crate::ErrorKind::Corrupt => unreadable.push(Unreadable {
                    backup: backup.id.clone(),
                    first: page.leaf * u64::from(LEAF),
                    blocks: covers(page.height),
                    error,
                }),
                Err((_, error)) => return Err(error),
            }
        }
    }
    Ok(unreadable)
}

/// Whether a chunk was marked as either kind.
pub(crate) fn is_marked(index: &Index, id: &ChunkId) -> Result<bool> {
    Ok(index.is_marked(Kind::Data, id)? || index.is_marked(Kind::Page, id)?)
}
