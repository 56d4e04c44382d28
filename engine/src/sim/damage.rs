//! Silent damage: blocks that read as something else than what was written there, within what the engine promises to survive.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use super::{
    media::{Block, Image, Unsynced},
    rng::Rng,
};
use crate::{format::superblock::slot_block, units::BLOCK};

/// Where a pool keeps what must not be damaged at will.
#[derive(Clone)]
pub(super) struct Layout {
    pub(super) total: u64,
    pub(super) journal: Range<u64>,
}

/// What reads return instead of what was written.
#[derive(Default)]
pub(super) struct Damage {
    pub(super) layout: Option<Layout>,
    overlay: BTreeMap<u64, Block>,
    /// When each block was written last, as numbers of writes; 0: never.
    written: BTreeMap<u64, u64>,
    /// Writes of superblocks: waiting for a sync, and the last two that are durable.
    unsynced_switch: Option<u64>,
    switches: [u64; 2],
}

impl Damage {
    pub(super) fn blocks(&self) -> Vec<u64> {
        self.overlay.keys().copied().collect()
    }

    pub(super) fn count(&self) -> usize {
        self.overlay.len()
    }

    pub(super) fn heal(&mut self) {
        self.overlay.clear();
    }

    /// What a read of `block` returns, and whether that is damaged.
    pub(super) fn read(&self, block: u64, visible: &Image) -> (Block, bool) {
        match self.overlay.get(&block) {
            Some(content) => (content.clone(), true),
            None => (visible.get(block), false),
        }
    }

    fn slot(&self, block: u64) -> Option<u32> {
        let total = self.layout.as_ref()?.total;
        (0..4).find(|slot| slot_block(*slot, total) == block)
    }

    /// Whether damage to a block is within what the engine promises to survive: not in the journal, one superblock copy at most.
    fn is_fair(&self, block: u64) -> bool {
        let Some(layout) = &self.layout else { return false };
        let copy = self.slot(block).is_some();
        let copies = self.overlay.keys().filter(|b| self.slot(**b).is_some()).count();
        !(layout.journal.contains(&block) || self.overlay.contains_key(&block) || copy && copies > 0)
    }

    /// Whether a block was written before the checkpoint before the last: no journal group can name it.
    fn is_old(&self, block: u64) -> bool {
        let written = self.written.get(&block).copied().unwrap_or(0);
        self.slot(block).is_some() || written < self.switches[0]
    }

    /// A write was done: what was damaged there is whole.
    pub(super) fn written(&mut self, write: &Unsynced, id: u64) {
        for i in 0..write.content.len() as u64 {
            let block = write.start + i;
            let _mended = self.overlay.remove(&block);
            let _before = self.written.insert(block, id);
            if self.slot(block).is_some() {
                let _first = self.unsynced_switch.get_or_insert(id);
            }
        }
    }

    pub(super) fn synced(&mut self) {
        if let Some(id) = self.unsynced_switch.take() {
            self.switches = [self.switches[1], id];
        }
    }

    /// A block in use that may be damaged.
    pub(super) fn victim(&self, visible: &Image, rng: &mut Rng) -> Option<u64> {
        let total = self.layout.as_ref()?.total;
        (0..64)
            .map(|_| rng.below(total))
            .find(|&block| visible.get(block).is_some() && self.is_fair(block) && self.is_old(block))
    }

    pub(super) fn rot(&mut self, block: u64, visible: &Image, rng: &mut Rng) {
        let mut bytes = visible.block(block);
        let bit = rng.below(BLOCK * 8) as usize;
        bytes[bit / 8] ^= 1 << (bit % 8);
        let _before = self.overlay.insert(block, Some(Arc::new(bytes)));
    }

    /// The last write of `block` never happened; says whether that makes a difference.
    pub(super) fn lose(&mut self, block: u64, before: Block) -> bool {
        if !self.is_fair(block) {
            return false;
        }
        let _damaged = self.overlay.insert(block, before);
        true
    }

    /// The last write of `block` went elsewhere.
    pub(super) fn misdirect(&mut self, block: u64, before: Block, visible: &Image, rng: &mut Rng) -> bool {
        let Some(victim) = self.victim(visible, rng).filter(|v| *v != block) else { return false };
        if !self.lose(block, before) {
            return false;
        }
        if self.is_fair(victim) {
            let _damaged = self.overlay.insert(victim, Some(Arc::new(visible.block(block))));
        }
        true
    }

    /// The damage that a crash leaves: what a journal group may name is whole again.
    pub(super) fn after_crash(&self) -> Self {
        let old = self.overlay.iter().filter(|(block, _)| self.is_old(**block));
        Self {
            layout: self.layout.clone(),
            overlay: old.map(|(block, content)| (*block, content.clone())).collect(),
            written: self.written.clone(),
            unsynced_switch: None,
            switches: self.switches,
        }
    }
}
