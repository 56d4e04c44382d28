//! Writing maps: changes in order of blocks make a new root; pages that no change touches are shared with the old one.

use super::{
    BLOCK, Map, covers,
    page::{Content, FANOUT, Inner, LEAF, Leaf, empty_inner, encode_inner},
    read,
};
use crate::{chunk::ChunkId, chunks::Chunks, error::Result, pack::Kind, session::Session};

/// A page of a level that is being changed.
struct Open {
    /// Its place among the pages of its level.
    index: u64,
    page: Inner,
}

/// Makes a map from another one and changes to it.
pub(crate) struct Writer {
    chunks: Chunks,
    /// What is changed, as tall as the new one.
    old: Map,
    /// Pages of the old map on the way to the present leaf, lowest first.
    read: Vec<Option<Open>>,
    /// The same of the new map.
    open: Vec<Option<Open>>,
    leaf: u64,
    changes: Vec<(u32, u32, Content)>,
    root: ChunkId,
}

impl Writer {
    /// Changes to `old`, of a volume that has `size` bytes now, and had no more before.
    pub(crate) async fn new(chunks: &Chunks, old: Option<Map>, size: u64, session: &mut Session) -> Result<Self> {
        let new = Map::empty(size.div_ceil(BLOCK));
        let old = match old {
            Some(old) => taller(old, new.height, session).await?,
            None => new,
        };
        let levels = || (0..old.height).map(|_| None).collect();
        Ok(Self {
            chunks: chunks.clone(),
            old,
            read: levels(),
            open: levels(),
            leaf: 0,
            changes: Vec::new(),
            root: old.root,
        })
    }

    /// The blocks from `block` on hold something else now. In order of blocks, none twice.
    pub(crate) async fn set(&mut self, session: &mut Session, block: u64, count: u64, content: Content) -> Result<()> {
        let (mut at, end) = (block, block + count);
        while at < end {
            let leaf = at / u64::from(LEAF);
            if leaf != self.leaf {
                self.finish_leaf(session).await?;
                self.leaf = leaf;
            }
            let first = (at % u64::from(LEAF)) as u32;
            let blocks = u64::from(LEAF - first).min(end - at) as u32;
            self.changes.push((first, blocks, content.after((at - block) as u32)));
            at += u64::from(blocks);
        }
        Ok(())
    }

    /// The new map.
    pub(crate) async fn finish(mut self, session: &mut Session) -> Result<Map> {
        self.finish_leaf(session).await?;
        for level in 0..self.open.len() {
            self.close(level, session).await?;
        }
        Ok(Map { root: self.root, height: self.old.height })
    }

    async fn finish_leaf(&mut self, session: &mut Session) -> Result<()> {
        if self.changes.is_empty() {
            return Ok(());
        }
        let changes = std::mem::take(&mut self.changes);
        let old = self.old_page(0, self.leaf).await?;
        if old.is_none() && changes.iter().all(|(_, _, content)| *content == Content::Unallocated) {
            return Ok(());
        }
        // A leaf of one piece need not be read first.
        let leaf = match changes[..] {
            [(0, LEAF, _)] => Leaf::empty().changed(&changes),
            _ => read::leaf(&self.chunks, &old).await?.changed(&changes),
        };
        let new = match leaf.is_empty() {
            true => ChunkId::NONE,
            false => session.put(Kind::Page, leaf.encode()).await?,
        };
        if new == old { Ok(()) } else { self.put(0, self.leaf, new, session).await }
    }

    /// A page of the old map: leaves are of level 0.
    async fn old_page(&mut self, level: usize, index: u64) -> Result<ChunkId> {
        // From the root down to the first page that is not at hand.
        let mut id = self.old.root;
        for above in (level..self.read.len()).rev() {
            let place = index / (FANOUT as u64).pow((above - level) as u32 + 1);
            let known = self.read[above].as_ref().is_some_and(|open| open.index == place);
            if !known {
                let page = read::inner(&self.chunks, &id).await?;
                self.read[above] = Some(Open { index: place, page });
            }
            let slot = index / (FANOUT as u64).pow((above - level) as u32) % FANOUT as u64;
            id = self.read[above].as_ref().map_or(ChunkId::NONE, |open| open.page[slot as usize]);
        }
        Ok(id)
    }

    /// A page of a level is another one now.
    async fn put(&mut self, level: usize, index: u64, id: ChunkId, session: &mut Session) -> Result<()> {
        if level == self.open.len() {
            self.root = id;
            return Ok(());
        }
        let (above, slot) = (index / FANOUT as u64, (index % FANOUT as u64) as usize);
        if self.open[level].as_ref().is_none_or(|open| open.index != above) {
            Box::pin(self.close(level, session)).await?;
            let old = self.old_page(level + 1, above).await?;
            let page = read::inner(&self.chunks, &old).await?;
            self.open[level] = Some(Open { index: above, page });
        }
        if let Some(open) = &mut self.open[level] {
            open.page[slot] = id;
        }
        Ok(())
    }

    /// The page of a level has had its last change.
    async fn close(&mut self, level: usize, session: &mut Session) -> Result<()> {
        let Some(Open { index, page }) = self.open[level].take() else { return Ok(()) };
        let id = match *page == *empty_inner() {
            true => ChunkId::NONE,
            false => session.put(Kind::Page, encode_inner(&page)).await?,
        };
        self.put(level + 1, index, id, session).await
    }
}

/// The same map for a volume that has grown.
async fn taller(map: Map, height: u32, session: &mut Session) -> Result<Map> {
    let mut root = map.root;
    for _ in map.height..height {
        if !root.is_none() {
            let mut page = empty_inner();
            page[0] = root;
            root = session.put(Kind::Page, encode_inner(&page)).await?;
        }
    }
    if root != map.root {
        // They are read before the new map is finished.
        session.flush().await?;
    }
    debug_assert!(map.height <= height && covers(height) >= covers(map.height));
    Ok(Map { root, height })
}
