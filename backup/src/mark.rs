//! Marking: which chunks some backups need. Kept in the index's database, so that memory does not grow with the repository.

use futures_util::{Stream, StreamExt, stream};

use crate::{
    chunk::ChunkId,
    chunks::Chunks,
    error::{Error, ErrorKind, Result},
    index::Index,
    job::Job,
    log::record::Backup,
    map::{
        Map,
        page::{Content, Leaf},
        read::{self, Step, Walk},
    },
    pack::Kind,
};

/// Leaves that are read at the same time.
const AHEAD: usize = 8;

/// A page that cannot be read, and the first backup that leads to it.
pub(crate) struct Unreadable {
    pub(crate) backup: String,
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
        let mut leaves = std::pin::pin!(new_leaves(chunks, Map::of(backup)?, index, job));
        while let Some(leaf) = leaves.next().await {
            match leaf {
                Ok(leaf) => {
                    for run in leaf.runs {
                        if let Content::Data { chunk, .. } = run.content {
                            let _new = index.mark(Kind::Data, &chunk)?;
                        }
                    }
                }
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    unreadable.push(Unreadable { backup: backup.id.clone(), error });
                }
                Err(error) => return Err(error),
            }
        }
    }
    Ok(unreadable)
}

/// Marks the pages of a map that bear no mark, and reads those of them that are leaves.
fn new_leaves(chunks: &Chunks, map: Map, index: &Index, job: &Job) -> impl Stream<Item = Result<Leaf>> + use<> {
    let state = (Walk::new(chunks, map), index.clone(), job.clone());
    let pages = stream::unfold(state, |(mut walk, index, job)| async move {
        // A page that was come by before has had everything below it marked.
        let decide = |page: &read::Page| {
            job.check()?;
            Ok(if index.mark(Kind::Page, &page.id)? { Step::Enter } else { Step::Skip })
        };
        match walk.next_leaf(decide).await {
            Ok(None) => None,
            Ok(Some(page)) => Some((Ok(page), (walk, index, job))),
            Err((_, error)) => Some((Err(error), (walk, index, job))),
        }
    });
    let chunks = chunks.clone();
    let leaves = pages.map(move |page| {
        let chunks = chunks.clone();
        async move { read::leaf(&chunks, &page?.id).await }
    });
    leaves.buffered(AHEAD)
}

/// Whether a chunk was marked as either kind.
pub(crate) fn is_marked(index: &Index, id: &ChunkId) -> Result<bool> {
    Ok(index.is_marked(Kind::Data, id)? || index.is_marked(Kind::Page, id)?)
}
