//! Random lives of blocks against a plain list of what each block is: a block is handed out only when it may be, and comes back when
//! nothing holds it any more.

use std::collections::BTreeSet;

use super::{Purpose, Reach, Run, SEGMENT, Shortage, Space};
use crate::rng::Rng;

const TOTAL: u64 = 4 * SEGMENT;
const START: u64 = 64;
const END: u64 = TOTAL - 64;
/// Blocks reserved or released at once, at most.
const MANY: u64 = if cfg!(miri) { 20 } else { 400 };

/// What must be over before a released block may be handed out again: for data, a commit after the one of its group; for nodes, a
/// checkpoint; for both, the reads that were under way.
#[derive(Clone, PartialEq, Debug)]
enum Block {
    Free,
    Reserved,
    InUse,
    Data {
        group: u64,
        reads: BTreeSet<u64>,
    },
    Node {
        checkpoint: u64,
        reads: BTreeSet<u64>,
    },
    /// In a segment that is being given back.
    Leaving,
}

struct World {
    space: Space,
    blocks: Vec<Block>,
    backed: Vec<bool>,
    leaving: Vec<u64>,
    reserved: Vec<Run>,
    /// The open group, and how many are committed.
    group: u64,
    committed: u64,
    /// The next checkpoint that will be frozen, and how many are durable.
    checkpoint: u64,
    durable: u64,
    /// Reads under way, with their eras.
    reads: Vec<(u64, u64)>,
    next_read: u64,
}

impl World {
    fn new(thin: bool) -> Self {
        Self {
            space: Space::new(TOTAL, START, END, Reach::new(TOTAL), thin),
            blocks: vec![Block::Free; TOTAL as usize],
            backed: vec![!thin; (TOTAL / SEGMENT) as usize],
            leaving: Vec::new(),
            reserved: Vec::new(),
            group: 1,
            committed: 0,
            checkpoint: 1,
            durable: 0,
            reads: Vec::new(),
            next_read: 0,
        }
    }

    fn under_way(&self) -> BTreeSet<u64> {
        self.reads.iter().map(|(read, _)| *read).collect()
    }

    fn may_be_handed_out(&self, block: u64) -> bool {
        let over = |reads: &BTreeSet<u64>| reads.is_disjoint(&self.under_way());
        self.backed[(block / SEGMENT) as usize]
            && match &self.blocks[block as usize] {
                Block::Free => true,
                Block::Data { group, reads } => *group < self.committed && over(reads),
                Block::Node { checkpoint, reads } => *checkpoint <= self.durable && over(reads),
                _ => false,
            }
    }

    fn fill(&mut self, run: Run, with: &Block) {
        self.blocks[run.start as usize..run.end() as usize].fill(with.clone());
    }

    fn reserve(&mut self, rng: &mut Rng) {
        let purpose = rng.pick(&[Purpose::Data, Purpose::Overwrite, Purpose::Metadata]);
        let want = 1 + rng.below(MANY);
        match self.space.reserve_run(want, purpose) {
            Ok(run) => {
                assert!((1..=want).contains(&run.len) && run.start >= START && run.end() <= END);
                assert!((run.start..run.end()).all(|b| self.may_be_handed_out(b)), "{run:?}");
                assert!(purpose == Purpose::Metadata || self.space.free() >= self.space.reserve() / 2, "{run:?}");
                self.fill(run, &Block::Reserved);
                self.reserved.push(run);
            }
            Err(Shortage::Unbacked) if rng.below(3) == 0 => {
                let segment = self.space.segments_to_back(1).unwrap().start;
                self.space.refuse_backing(segment);
            }
            Err(Shortage::Unbacked) => {
                let segments = self.space.segments_to_back(1 + rng.below(3)).unwrap();
                for segment in segments.start..segments.end() {
                    assert!(!std::mem::replace(&mut self.backed[segment as usize], true));
                }
                self.space.set_backed(segments);
            }
            Err(Shortage::Releasing | Shortage::Full) => {}
        }
    }

    fn use_or_forfeit(&mut self, rng: &mut Rng) {
        let Some(run) = self.reserved.pop() else { return };
        if rng.below(4) == 0 {
            self.space.forfeit(run);
            self.fill(run, &Block::Free);
        } else {
            self.space.acquire(run);
            self.fill(run, &Block::InUse);
        }
    }

    /// Releases neighbouring blocks in use, from some block on.
    fn release(&mut self, rng: &mut Rng) {
        let from = rng.below(TOTAL);
        let used = |b: &u64| self.blocks[*b as usize] == Block::InUse;
        let Some(start) = (from..TOTAL).find(used) else { return };
        let found: Vec<u64> = (start..TOTAL).take_while(used).take(1 + rng.below(MANY) as usize).collect();
        let kind = rng.below(3);
        // What the running checkpoint replaces is free with it, if one is running.
        let frozen = self.checkpoint - self.durable > 1;
        let reads = self.under_way();
        for block in found {
            self.blocks[block as usize] = match kind {
                0 | 1 => {
                    self.space.release_data(block);
                    Block::Data { group: self.group, reads: reads.clone() }
                }
                _ if frozen && rng.below(2) == 0 => {
                    self.space.release_frozen(block);
                    Block::Node { checkpoint: self.checkpoint - 1, reads: reads.clone() }
                }
                _ => {
                    self.space.release_node(block);
                    Block::Node { checkpoint: self.checkpoint, reads: reads.clone() }
                }
            };
        }
    }

    fn commit(&mut self) {
        self.space.seal(self.group);
        self.group += 1;
        self.committed += 1;
        self.space.committed(self.committed);
    }

    /// Freezes a checkpoint, or ends the one that is under way.
    fn checkpoint(&mut self) {
        if self.checkpoint - self.durable == 1 {
            self.space.freeze();
            self.checkpoint += 1;
        } else {
            self.durable += 1;
            self.space.checkpointed();
        }
    }

    fn give_back(&mut self) {
        if self.leaving.is_empty() {
            for segment in self.space.take_empty_segments(2) {
                let run = Run { start: segment * SEGMENT, len: SEGMENT };
                assert!((run.start..run.end()).all(|b| self.may_be_handed_out(b)), "{run:?}");
                self.fill(run, &Block::Leaving);
                self.backed[segment as usize] = false;
                self.leaving.push(segment);
            }
        }
        for segment in std::mem::take(&mut self.leaving) {
            self.space.gave_back(segment);
            self.fill(Run { start: segment * SEGMENT, len: SEGMENT }, &Block::Free);
        }
    }

    fn step(&mut self, rng: &mut Rng) {
        match rng.below(20) {
            0..=5 => self.reserve(rng),
            6..=9 => self.use_or_forfeit(rng),
            10..=12 => self.release(rng),
            13 | 14 => self.commit(),
            15 => self.checkpoint(),
            16 => {
                let era = self.space.begin_read();
                self.reads.push((self.next_read, era));
                self.next_read += 1;
            }
            17 | 18 if !self.reads.is_empty() => {
                let at = rng.below(self.reads.len() as u64) as usize;
                self.space.end_read(self.reads.swap_remove(at).1);
            }
            17 => self.space.retry_backing(),
            _ => self.give_back(),
        }
    }

    fn check(&self) {
        let count = |wanted: fn(&Block) -> bool| self.blocks.iter().filter(|b| wanted(b)).count() as u64;
        assert_eq!(self.space.reach.count(), count(|b| *b == Block::InUse));
        for block in START..END {
            assert_eq!(self.space.reach.contains(block), self.blocks[block as usize] == Block::InUse, "block {block}");
        }
        let backed = |segment: u64| self.backed[segment as usize];
        let free =
            (START..END).filter(|b| self.space.taken.all_clear(Run { start: *b, len: 1 }) && backed(*b / SEGMENT));
        assert_eq!(self.space.backed_free, free.count() as u64);
        let held = count(|b| matches!(b, Block::InUse | Block::Reserved | Block::Leaving));
        assert_eq!(self.space.free() + self.space.releasing() + held, self.space.capacity());
    }

    /// Nothing holds released blocks any more: all are free.
    fn settle(&mut self) {
        for (_, era) in std::mem::take(&mut self.reads) {
            self.space.end_read(era);
        }
        for _ in 0..4 {
            self.checkpoint();
            self.commit();
        }
        assert_eq!(self.space.releasing(), 0);
        assert!(!self.space.has_sealed());
    }
}

fn live(seeds: u64, steps: u64) {
    for seed in 1..=seeds {
        let mut rng = Rng::new(seed);
        let mut world = World::new(seed % 2 == 0);
        for step in 1..=steps {
            world.step(&mut rng);
            if !cfg!(miri) && step % 10 == 0 {
                world.check();
            }
        }
        world.settle();
        world.check();
    }
}

#[test]
fn blocks_are_handed_out_when_nothing_holds_them() {
    let (seeds, steps) = if cfg!(miri) { (2, 40) } else { (100, 400) };
    live(seeds, steps);
}

/// Each rule of handing blocks out is broken in turn, and these lives notice.
#[cfg(all(feature = "sim", not(miri)))]
#[test]
fn broken_rules_are_noticed() {
    use crate::sabotage::{Sabotage::*, notices};
    for rule in [FreeDataEarly, FreeDataOneGroupEarly, FreeNodesEarly, IgnoreReads, NoReserve] {
        assert!(notices(rule, || live(20, 400)), "{rule:?}");
    }
}

#[test]
fn a_full_pool_keeps_its_reserve_for_those_who_free_something() {
    let mut space = Space::new(TOTAL, START, END, Reach::new(TOTAL), false);
    space.set_promised(10);
    let fill = |space: &mut Space, purpose| {
        loop {
            match space.reserve_run(u64::MAX, purpose) {
                Ok(run) => space.acquire(run),
                Err(shortage) => return (shortage, space.free()),
            }
        }
    };
    let reserve = space.reserve();
    assert_eq!(fill(&mut space, Purpose::Data), (Shortage::Full, reserve + 10));
    assert!(space.is_tight(1) && !space.is_short_of(reserve));
    assert_eq!(fill(&mut space, Purpose::Overwrite), (Shortage::Full, reserve / 2 + 10));
    assert_eq!(fill(&mut space, Purpose::Metadata), (Shortage::Full, 0));
    assert!(space.is_short_of(1));
    space.release_data(START);
    assert_eq!(space.reserve_run(1, Purpose::Metadata), Err(Shortage::Releasing));
    for group in 1..=2 {
        space.seal(group);
        space.committed(group);
    }
    assert_eq!(space.reserve_run(9, Purpose::Metadata), Ok(Run { start: START, len: 1 }));
}

#[test]
fn a_file_system_that_refuses_is_asked_again_when_something_changed() {
    let mut space = Space::new(TOTAL, START, END, Reach::new(TOTAL), true);
    assert_eq!(space.reserve_run(1, Purpose::Metadata), Err(Shortage::Unbacked));
    assert!(space.wants_backing(1));
    space.refuse_backing(0);
    assert_eq!(
        space.segments_to_back(9),
        Some(Run { start: 1, len: 9.min(END.div_ceil(SEGMENT) - 1) }),
        "others may have room"
    );
    for segment in 1..END.div_ceil(SEGMENT) {
        space.refuse_backing(segment);
    }
    assert_eq!((space.segments_to_back(9), space.wants_backing(1)), (None, false));
    assert_eq!(space.reserve_run(1, Purpose::Metadata), Err(Shortage::Full));
    space.retry_backing();
    assert_eq!(space.segments_to_back(2), Some(Run { start: 0, len: 2 }));
    space.set_backed(Run { start: 0, len: 2 });
    assert_eq!(space.reserve_run(1, Purpose::Metadata), Ok(Run { start: START, len: 1 }));
}

/// All blocks of a space that can be handed out, in the order in which they are.
fn all(space: &mut Space) -> Vec<u64> {
    let mut blocks = Vec::new();
    while let Ok(run) = space.reserve_run(64, Purpose::Metadata) {
        blocks.extend(run.start..run.end());
    }
    blocks
}

#[test]
fn a_long_run_that_comes_later_is_found_where_there_was_none() {
    let mut space = Space::new(TOTAL, START, END, Reach::new(TOTAL), true);
    space.set_backed(Run { start: 0, len: 2 });
    let taken = all(&mut space);
    assert_eq!(taken.len() as u64, 2 * SEGMENT - START);
    assert_eq!(space.reserve_run(1, Purpose::Metadata), Err(Shortage::Unbacked));
    let single = |block| Run { start: block, len: 1 };
    (2..4).for_each(|segment| space.refuse_backing(segment));
    (START..START + 100).step_by(2).for_each(|block| space.forfeit(single(block)));
    assert_eq!(space.reserve_run(64, Purpose::Metadata), Ok(single(START)));
    // Of the run that comes free here the last block comes last.
    let (first, last) = (SEGMENT, SEGMENT + 63);
    (first..last).for_each(|block| space.forfeit(single(block)));
    assert_eq!(space.reserve_run(1, Purpose::Metadata).map(|run| run.start), Ok(START + 2), "63 are not many");
    space.forfeit(single(last));
    assert_eq!(space.reserve_run(64, Purpose::Metadata), Ok(Run { start: first, len: 64 }));
    assert_eq!(space.reserve_run(64, Purpose::Metadata).map(|run| run.len), Ok(1));
    // And what comes with a segment that the file system has given after all.
    space.set_backed(Run { start: 2, len: 1 });
    assert_eq!(space.reserve_run(64, Purpose::Metadata), Ok(Run { start: 2 * SEGMENT, len: 64 }));
}

#[test]
fn growing_leaves_alone_what_is_being_given_back() {
    let total = 32 * SEGMENT;
    let mut space = Space::new(total, 64, total, Reach::new(total), true);
    space.set_backed(Run { start: 0, len: 32 });
    let leaving = space.take_empty_segments(4);
    assert_eq!(leaving, [16, 17, 18, 19]);
    // A write finds little room while the file system punches.
    assert_eq!(space.segments_to_back(16), None, "room would be set aside and punched");
    for &segment in &leaving {
        space.gave_back(segment);
    }
    assert_eq!(space.segments_to_back(16), Some(Run { start: 16, len: 4 }));
    space.set_backed(Run { start: 16, len: 4 });
    assert_eq!(space.backed_free, space.free());
    assert_eq!(space.take_empty_segments(4), leaving);
    let counted = (space.backed_count, space.backed_free);
    space.count_backed();
    assert_eq!(counted, (space.backed_count, space.backed_free));
}

#[test]
fn what_is_being_given_back_is_no_reason_to_call_a_pool_full() {
    let total = 32 * SEGMENT;
    let mut space = Space::new(total, 64, total, Reach::new(total), true);
    space.set_backed(Run { start: 0, len: 32 });
    let leaving = space.take_empty_segments(16);
    while let Ok(run) = space.reserve_run(super::LONGEST_RUN, Purpose::Metadata) {
        space.acquire(run);
    }
    assert_eq!(space.reserve_run(1, Purpose::Metadata), Err(Shortage::Releasing));
    leaving.iter().for_each(|&segment| space.gave_back(segment));
    assert_eq!(space.reserve_run(1, Purpose::Metadata), Err(Shortage::Unbacked));
}

#[test]
fn claimed_blocks_are_not_handed_out_and_do_not_become_free() {
    let mut reach = Reach::new(4096);
    let _count = reach.add(Run { start: 100, len: 60 });
    let mut space = Space::new(4096, 64, 4032, reach, false);
    let free = space.free();
    // Some are on their way to being free, some are free and next in line, some are in use.
    for block in 110..115 {
        space.release_node(block);
    }
    space.release_data(150);
    let run = space.reserve_run(8, Purpose::Metadata).unwrap();
    space.acquire(run);
    let next = Run { start: run.end() + 2, len: 4 };
    space.claim(&[Run { start: 112, len: 1 }, Run { start: 150, len: 1 }, Run { start: 100, len: 3 }, next]);
    assert_eq!((space.releasing(), space.free()), (4, free - 8 - 4));
    space.seal(1);
    space.freeze();
    space.checkpointed();
    space.committed(3);
    assert_eq!((space.releasing(), space.free()), (0, free - 8 - 4 + 4));
    assert!([112, 150, next.start].iter().all(|&block| space.reach.contains(block)));
    // All that is left can be handed out, and nothing twice.
    let mut handed = 0;
    while let Ok(run) = space.reserve_run(4096, Purpose::Metadata) {
        assert!((run.start..run.end()).all(|block| !space.reach.contains(block)), "{run:?}");
        space.acquire(run);
        handed += run.len;
    }
    assert_eq!((handed, space.free()), (free - 8 - 4 + 4, 0));
}

#[test]
fn claimed_blocks_of_a_segment_that_is_being_given_back_stay_in_use() {
    let mut space = Space::new(TOTAL * 8, START, TOTAL * 8 - 64, Reach::new(TOTAL * 8), true);
    space.set_backed(Run { start: 0, len: 32 });
    let leaving = space.take_empty_segments(32);
    let segment = *leaving.first().unwrap();
    let claimed = Run { start: segment * SEGMENT + 5, len: 1 };
    space.claim(&[claimed]);
    space.gave_back(segment);
    assert!(space.reach.contains(claimed.start));
    assert!(!space.taken.all_clear(claimed), "a block in use may be handed out");
}
