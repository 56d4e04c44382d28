//! Reading maps: page by page in order, one alone or two side by side.

use futures_util::{Stream, StreamExt, stream};

use super::{
    Map, covers,
    page::{FANOUT, Inner, LEAF, Leaf, decode_inner, empty_inner},
};
use crate::{
    chunk::ChunkId,
    chunks::Chunks,
    error::{Error, Result},
};

/// Leaves that are read ahead.
const AHEAD: usize = 8;

/// A leaf of a map that has one there: its number counts from the start of the volume.
pub(crate) struct Numbered {
    pub(crate) number: u64,
    /// Or why it cannot be read.
    pub(crate) leaf: Result<Leaf>,
}

impl Numbered {
    /// The first block that it covers.
    pub(crate) fn block(&self) -> u64 {
        self.number * u64::from(LEAF)
    }
}

/// A page that a walk has come to.
pub(crate) struct Page {
    /// Levels above the leaves.
    pub(crate) height: u32,
    /// The first leaf below it, or itself.
    pub(crate) leaf: u64,
    pub(crate) id: ChunkId,
}

/// A walk over pages, those before others that have lower numbers. Pages below a page that is left out are not come to.
pub(crate) struct Walk {
    chunks: Chunks,
    stack: Vec<Page>,
}

/// What a walk does about a page.
pub(crate) enum Step {
    /// Look below.
    Enter,
    /// Nothing below is of interest.
    Skip,
}

impl Walk {
    pub(crate) fn new(chunks: &Chunks, map: Map) -> Self {
        let stack = match map.root.is_none() {
            true => Vec::new(),
            false => vec![Page { height: map.height, leaf: 0, id: map.root }],
        };
        Self { chunks: chunks.clone(), stack }
    }

    /// The next leaf. Pages over it are shown to `decide`; those that cannot be read are errors, after which the walk can go on beside them.
    pub(crate) async fn next_leaf(
        &mut self,
        mut decide: impl FnMut(&Page) -> Result<Step>,
    ) -> Result<Option<Page>, (Page, Error)> {
        while let Some(page) = self.stack.pop() {
            match decide(&page) {
                Ok(Step::Enter) => {}
                Ok(Step::Skip) => continue,
                Err(error) => return Err((page, error)),
            }
            if page.height == 0 {
                return Ok(Some(page));
            }
            let below = match inner(&self.chunks, &page.id).await {
                Ok(below) => below,
                Err(error) => return Err((page, error)),
            };
            let step = covers(page.height - 1) / u64::from(LEAF);
            for (slot, id) in below.iter().enumerate().rev().filter(|(_, id)| !id.is_none()) {
                self.stack.push(Page { height: page.height - 1, leaf: page.leaf + slot as u64 * step, id: *id });
            }
        }
        Ok(None)
    }
}

pub(crate) async fn inner(chunks: &Chunks, id: &ChunkId) -> Result<Inner> {
    match id.is_none() {
        true => Ok(empty_inner()),
        false => decode_inner(&chunks.get(id).await?),
    }
}

pub(crate) async fn leaf(chunks: &Chunks, id: &ChunkId) -> Result<Leaf> {
    match id.is_none() {
        true => Ok(Leaf::empty()),
        false => Leaf::decode(&chunks.get(id).await?),
    }
}

/// All leaves of a map from one on, in order, some read ahead. A page that cannot be read is told as a leaf that cannot, with the number of
/// the first below it, and how many.
pub(crate) fn leaves(chunks: &Chunks, map: Map, from: u64) -> impl Stream<Item = (Numbered, u64)> + use<> {
    let walk = Walk::new(chunks, map);
    let pages = stream::unfold(walk, move |mut walk| async move {
        let below = |page: &Page| page.leaf + covers(page.height) / u64::from(LEAF) > from;
        let decide = |page: &Page| Ok(if below(page) { Step::Enter } else { Step::Skip });
        match walk.next_leaf(decide).await {
            Ok(None) => None,
            Ok(Some(page)) => Some((Ok(page), walk)),
            Err(failed) => Some((Err(failed), walk)),
        }
    });
    let chunks = chunks.clone();
    pages
        .map(move |page| {
            let chunks = chunks.clone();
            async move {
                match page {
                    Ok(Page { leaf: number, id, .. }) => (Numbered { number, leaf: leaf(&chunks, &id).await }, 1),
                    Err((page, error)) => {
                        let leaves = covers(page.height) / u64::from(LEAF);
                        (Numbered { number: page.leaf, leaf: Err(error) }, leaves)
                    }
                }
            }
        })
        .buffered(AHEAD)
}

/// Leaves of two maps of one height that differ, by number; equal pages are not looked into.
pub(crate) async fn differing(chunks: &Chunks, a: Map, b: Map) -> Result<Vec<(u64, ChunkId, ChunkId)>> {
    let mut found = Vec::new();
    let mut stack = vec![(a.height, 0, a.root, b.root)];
    while let Some((height, number, a, b)) = stack.pop() {
        if a == b {
            continue;
        }
        if height == 0 {
            found.push((number, a, b));
            continue;
        }
        let (a, b) = (inner(chunks, &a).await?, inner(chunks, &b).await?);
        let step = covers(height - 1) / u64::from(LEAF);
        stack.extend((0..FANOUT).rev().map(|slot| (height - 1, number + slot as u64 * step, a[slot], b[slot])));
    }
    Ok(found)
}
