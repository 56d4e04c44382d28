//! The pieces that every request goes through, each by itself, for benches: a lookup in a tree, handing out blocks, journal records.
//!
//! Not part of the interface. Inputs are as production has them; what is asked of a piece is what the engine asks of it.

use std::{collections::VecDeque, rc::Rc};

use crate::{
    format::{group, node, pointer::Pointer, record::Record},
    journal::Pending,
    space::{Purpose, Space, bitmap::Run, reach::Reach},
    storage::buffer::IoBuf,
    tree::{
        Nodes,
        lookup::{self, Tree},
        slot_of,
    },
    units::{BLOCK, BLOCK_SIZE, BlockIndex, Epoch, GIB, PhysicalBlock, VersionId},
    versions::span,
};

/// Numbers that lie anywhere: splitmix64.
fn spread(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// The tree of a volume that was written in any order: neighbours lie anywhere in the pool. All of its nodes are in memory.
pub struct Lookup {
    nodes: Nodes,
    tree: Tree,
    blocks: u64,
    found: Vec<Pointer>,
}

impl Lookup {
    /// A volume of so many GiB; its leaves take 4 MiB of memory for each.
    #[must_use]
    pub fn scattered(gib: u64) -> Self {
        let blocks = gib * GIB / BLOCK;
        let depth = (1..).find(|depth| span(*depth) >= blocks).unwrap_or(1);
        let mut nodes = Nodes::new(blocks / 255 * BLOCK_SIZE as u64 + (1 << 20));
        let (mut next, mut seed) = (1, 1);
        let root = plant(&mut nodes, depth, blocks, &mut next, &mut seed);
        Self { nodes, tree: Tree { root, depth }, blocks, found: Vec::new() }
    }

    /// Blocks of the volume.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Looks up `count` blocks from `block` on; how many of them have data.
    pub fn range(&mut self, block: u64, count: u64) -> usize {
        self.found.clear();
        match lookup::range(&self.nodes, self.tree, block, count, &mut self.found) {
            Ok(()) => self.found.iter().filter(|pointer| !pointer.is_hole()).count(),
            Err(_) => 0,
        }
    }
}

/// Makes the node of `height` over the first `blocks` blocks that are left, with all that is under it.
fn plant(nodes: &mut Nodes, height: u32, blocks: u64, next: &mut u64, seed: &mut u64) -> Pointer {
    let mut bytes = node::empty();
    let below = span(height - 1);
    for index in 0..blocks.div_ceil(below) {
        let pointer = if height == 1 {
            Pointer::data(PhysicalBlock(spread(seed) >> 30), Epoch(1), *seed as u32)
        } else {
            plant(nodes, height - 1, below.min(blocks - index * below), next, seed)
        };
        node::set(&mut bytes, slot_of(index, 0), pointer);
    }
    let crc = crc32fast::hash(&bytes);
    *next += 1;
    // Nodes lie anywhere, too: a multiplication by an odd number, so that no two meet.
    let place = next.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 4;
    nodes.cache.insert(place, crc, Rc::new(bytes));
    Pointer::node(PhysicalBlock(place), Epoch(1), crc)
}

/// The blocks of a pool, of which as many are released as are handed out, as in overwriting.
pub struct Blocks {
    space: Space,
    /// What was handed out, the oldest first.
    runs: VecDeque<Run>,
    group: u64,
    /// Blocks since the last group was committed.
    since: u64,
}

/// Blocks between two commits.
const GROUP: u64 = 4096;

impl Blocks {
    /// A pool of so many GiB, in which `used` of each `of` blocks are in use, in stretches of that many: short ones make it fragmented.
    #[must_use]
    pub fn partly_used(gib: u64, used: u64, of: u64) -> Self {
        let total = gib * GIB / BLOCK;
        let (start, end) = (8192, total - 64);
        let mut reach = Reach::new(total);
        for at in (start..end - of).step_by(of as usize) {
            let _fresh = reach.add(Run { start: at, len: used });
        }
        let mut this =
            Self { space: Space::new(total, start, end, reach, false), runs: VecDeque::new(), group: 0, since: 0 };
        // Some groups in flight, as there always are.
        for _ in 0..4 * GROUP / 32 {
            let _blocks = this.hand_out(32);
        }
        this
    }

    /// Hands out up to `want` blocks and takes them into use; how many there were.
    fn hand_out(&mut self, want: u64) -> u64 {
        let Ok(run) = self.space.reserve_run(want, Purpose::Overwrite) else { return 0 };
        self.space.acquire(run);
        self.runs.push_back(run);
        run.len
    }

    /// Hands out `want` blocks, in as many runs as it takes, and releases as many; every few thousand a group is committed. How many runs.
    pub fn replace(&mut self, want: u64) -> u64 {
        let (mut left, mut runs) = (want, 0);
        while left > 0 {
            let got = self.hand_out(left);
            if got == 0 {
                return runs;
            }
            left -= got;
            runs += 1;
        }
        let mut back = want;
        while back > 0
            && let Some(mut run) = self.runs.pop_front()
        {
            let now = run.len.min(back);
            (run.start..run.start + now).for_each(|block| self.space.release_data(block));
            back -= now;
            run = Run { start: run.start + now, len: run.len - now };
            if run.len > 0 {
                self.runs.push_front(run);
            }
        }
        self.since += want;
        if self.since >= GROUP {
            self.since = 0;
            self.group += 1;
            self.space.seal(self.group);
            self.space.committed(self.group);
        }
        runs
    }
}

/// A journal group that is being filled.
#[derive(Default)]
pub struct Group {
    pending: Pending,
    crcs: Vec<u8>,
}

impl Group {
    /// Adds the record of a write of so many blocks.
    pub fn write(&mut self, block: u64, place: u64, blocks: usize) {
        self.crcs.resize(blocks * 4, 0x5a);
        let (version, block, place) = (VersionId(1), BlockIndex(block), PhysicalBlock(place));
        self.pending.append(&Record::Write { version, block, place, crcs: &self.crcs });
    }

    /// Closes the group, as a commit writes it.
    pub fn close(&mut self, number: u64) -> IoBuf {
        let (body, records) = self.pending.take();
        group::encode(b"0123456789abcdef", number, records, &body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_of_the_tree_is_found() {
        let mut lookup = Lookup::scattered(1);
        assert_eq!((lookup.blocks(), lookup.tree.depth), (262_144, 3));
        let mut seed = 7;
        for _ in 0..1000 {
            let block = spread(&mut seed) % lookup.blocks();
            assert_eq!(lookup.range(block, 1), 1, "{block}");
        }
        assert_eq!(lookup.range(256 * 9 + 3, 256), 256);
        assert_eq!(lookup.range(lookup.blocks(), 1), 0, "behind the end");
    }

    #[test]
    fn a_pool_goes_on_for_ever() {
        for (used, of, runs) in [(512, 1024, 1), (1, 2, 32)] {
            let mut blocks = Blocks::partly_used(1, used, of);
            let free = blocks.space.free() + blocks.space.releasing();
            let pool = blocks.space.capacity();
            // All of the pool passes through, several times.
            let mut most = 0;
            for _ in 0..3 * pool / 32 {
                let took = blocks.replace(32);
                assert!(took > 0, "the pool is full");
                most = most.max(took);
            }
            assert!(most >= runs, "{most}");
            assert_eq!(blocks.space.free() + blocks.space.releasing(), free, "as many come as go");
        }
    }

    #[test]
    fn groups_hold_what_was_written() {
        let mut group = Group::default();
        (0..100).for_each(|number| group.write(number, number + 5000, 32));
        let bytes = group.close(1);
        let header = group::GroupHeader::decode(&bytes, b"0123456789abcdef").unwrap();
        assert_eq!((header.records, header.seq), (100, 1));
        assert!(group::body(&bytes, &header).is_some() && group.pending.is_empty());
    }
}
