//! Which page of the version table holds which entry (a version, or a sheet), and which pages changed since the last checkpoint.
//!
//! Invariant: the records of a page never take more than [`PAGE_CAPACITY`] bytes; a record that grows too long moves.

use std::collections::BTreeSet;

use rustc_hash::FxHashMap;

use super::table::PAGE_CAPACITY;
use crate::units::VersionId;

/// A page with this much room takes any version, and most sheets.
const ROOMY: usize = 704;

#[derive(Default)]
struct Page {
    ids: Vec<VersionId>,
    bytes: usize,
}

#[derive(Default)]
pub(crate) struct Layout {
    pages: Vec<Page>,
    page_of: FxHashMap<VersionId, u32>,
    roomy: BTreeSet<u32>,
    changed: BTreeSet<u32>,
    /// Blocks that the checkpoint under way needs for the table at most.
    frozen: u64,
}

/// Pointers in a node of the version table.
const FANOUT: u64 = 256;

impl Layout {
    pub(crate) fn pages(&self) -> usize {
        self.pages.len()
    }

    pub(crate) fn ids(&self, page: u32) -> &[VersionId] {
        self.pages.get(page as usize).map_or(&[], |p| &p.ids)
    }

    /// What a checkpoint has to write.
    pub(crate) fn take_changed(&mut self) -> BTreeSet<u32> {
        self.frozen = self.blocks_for(0);
        std::mem::take(&mut self.changed)
    }

    /// The checkpoint is durable.
    pub(crate) fn checkpointed(&mut self) {
        self.frozen = 0;
    }

    /// Blocks that checkpoints need for changed pages and the nodes above them at most, if so many versions change as well.
    pub(crate) fn promised(&self, versions: u64) -> u64 {
        self.frozen + self.blocks_for(versions)
    }

    /// A version that changes is in one page, may move to another one, and may change its parent's.
    fn blocks_for(&self, versions: u64) -> u64 {
        let mut there = self.pages.len() as u64 + versions;
        let changed = (self.changed.len() as u64 + versions * 3).min(there);
        let mut blocks = changed;
        while there > 1 {
            there = there.div_ceil(FANOUT);
            blocks += changed.min(there);
        }
        blocks
    }

    /// The record of `id` will be written again.
    pub(crate) fn touch(&mut self, id: VersionId) {
        if let Some(&page) = self.page_of.get(&id) {
            let _new = self.changed.insert(page);
        }
    }

    /// Finds a page for a new record of `len` bytes.
    pub(crate) fn place(&mut self, id: VersionId, len: usize) {
        let page = self.roomy.iter().copied().find(|page| self.room(*page) >= len);
        let page = page.unwrap_or(self.pages.len() as u32);
        self.load(id, len, page);
        let _new = self.changed.insert(page);
    }

    /// Notes that `page` holds a record.
    pub(crate) fn load(&mut self, id: VersionId, len: usize, page: u32) {
        // The pages between may be empty for good: then they have room.
        for new in self.pages.len() as u32..=page {
            self.pages.push(Page::default());
            self.note_room(new);
        }
        let entry = &mut self.pages[page as usize];
        entry.ids.push(id);
        entry.bytes += len;
        let _old = self.page_of.insert(id, page);
        self.note_room(page);
    }

    pub(crate) fn remove(&mut self, id: VersionId, len: usize) {
        let Some(page) = self.page_of.remove(&id) else { return };
        let entry = &mut self.pages[page as usize];
        entry.ids.retain(|i| *i != id);
        entry.bytes -= len;
        let _new = self.changed.insert(page);
        self.note_room(page);
    }

    /// A record changed its length; it moves if its page cannot hold it any more.
    pub(crate) fn resize(&mut self, id: VersionId, old: usize, new: usize) {
        let Some(&page) = self.page_of.get(&id) else { return };
        if self.pages[page as usize].bytes - old + new > PAGE_CAPACITY {
            self.remove(id, old);
            self.place(id, new);
            return;
        }
        let entry = &mut self.pages[page as usize];
        entry.bytes = entry.bytes - old + new;
        let _new = self.changed.insert(page);
        self.note_room(page);
    }

    fn room(&self, page: u32) -> usize {
        PAGE_CAPACITY.saturating_sub(self.pages[page as usize].bytes)
    }

    fn note_room(&mut self, page: u32) {
        if self.room(page) >= ROOMY {
            let _new = self.roomy.insert(page);
        } else {
            let _was = self.roomy.remove(&page);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_stay_within_pages_and_move_when_they_grow() {
        let mut layout = Layout::default();
        for i in 1..=200 {
            layout.place(VersionId(i), 120);
        }
        assert!(layout.pages() >= 6 && layout.pages() <= 8, "{}", layout.pages());
        let page = layout.page_of[&VersionId(1)];
        let _changed = layout.take_changed();
        for &id in layout.ids(page).to_vec().iter().take(8) {
            layout.resize(id, 120, 630);
        }
        assert!(layout.pages.iter().all(|p| p.bytes <= PAGE_CAPACITY));
        assert!(!layout.take_changed().is_empty());
        for i in 1..=200 {
            let page = layout.page_of[&VersionId(i)];
            assert!(layout.ids(page).contains(&VersionId(i)));
        }
    }

    #[test]
    fn pages_that_are_empty_at_opening_are_used_again() {
        let mut layout = Layout::default();
        layout.load(VersionId(1), 120, 3);
        for i in 2..=8 {
            layout.place(VersionId(i), 1000);
        }
        assert_eq!(layout.pages(), 4);
        assert_eq!([0, 1, 2].map(|page| layout.ids(page).len()), [4, 3, 0]);
    }
}
