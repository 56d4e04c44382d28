//! Walks over random families, against the rule of deletion word by word.

use super::*;
use crate::{
    rng::Rng,
    tree::forest::{Forest, Held, Live},
};

/// Blocks around the ends of leaves and of nodes of leaves, in a few leaves.
const BLOCKS: [u64; 10] = [0, 1, 255, 256, 700, 65_535, 65_536, 66_000, 131_071, 131_072];

/// A version with a parent and children, all of which share.
struct Family {
    forest: Forest,
    parent: Live,
    version: Live,
    children: Vec<Live>,
}

fn scribble(forest: &mut Forest, live: &mut Live, rng: &mut Rng) {
    for _ in 0..2 + rng.below(4) {
        let block = rng.pick(&BLOCKS) % span(live.tree.depth);
        match rng.below(5) {
            0 => forest.clear(live, block, block + 1),
            _ => forest.write(live, block),
        }
    }
}

fn family(rng: &mut Rng, children: u64) -> Family {
    let mut family = unwritten_family(rng, children);
    family.checkpoint();
    family.forest.evict();
    let Family { forest, children, .. } = &mut family;
    children.iter_mut().for_each(|child| scribble(forest, child, rng));
    family
}

/// One that no checkpoint has written.
fn unwritten_family(rng: &mut Rng, children: u64) -> Family {
    let mut forest = Forest::new();
    let mut live = forest.plant(1 + rng.below(3) as u32);
    scribble(&mut forest, &mut live, rng);
    let parent = forest.snapshot(&mut live);
    scribble(&mut forest, &mut live, rng);
    let version = forest.snapshot(&mut live);
    let mut children: Vec<Live> = (0..children).map(|_| live.clone()).collect();
    for child in &mut children {
        let depth = child.tree.depth + rng.below(2) as u32;
        forest.grow(child, depth);
        scribble(&mut forest, child, rng);
    }
    Family { forest, parent, version, children }
}

impl Family {
    fn checkpoint(&mut self) {
        let Self { forest, parent, version, children } = self;
        forest.freeze();
        forest.thaw([parent, version].into_iter().chain(children).map(|v| &mut v.tree.root));
    }

    fn trees(&self) -> Vec<Tree> {
        self.children.iter().map(|c| c.tree).collect()
    }

    /// What the rule of deletion says to be the version's alone.
    fn alone(&self) -> (Held, Vec<u64>, u64) {
        let Self { forest, version, .. } = self;
        let places = forest.disk.alone(&forest.nodes, version.tree, &self.trees(), version.floor.above);
        let mut held = Held::default();
        assert!(places.values().all(|pointer| held.note(*pointer)), "one block at two places");
        let data: Vec<u64> = places.keys().filter(|(height, _)| *height == 0).map(|(_, base)| *base).collect();
        let nodes = places.len() - data.len();
        (held, data, nodes as u64)
    }

    /// The whole walk, in steps as they come while a pool is open, or as a replay repeats them. Each step must take of `alone` what lies
    /// where it went. Returns how many nodes were taken, and what was found.
    /// With `written`, checkpoints come between the steps.
    fn walk(&mut self, mode: Mode, alone: &[u64], written: bool, rng: &mut Rng) -> (u64, Vec<u64>) {
        let (mut from, mut nodes, mut all, mut known) = (0, 0, Vec::new(), Known::default());
        while from != u64::MAX {
            let (until, leaves) = match rng.below(2) {
                0 => (u64::MAX, 1 + rng.below(3) as u32),
                _ => ((from / 256 + 1 + rng.below(300)) * 256, u32::MAX),
            };
            let others = self.trees();
            let (tree, floor) = (self.version.tree, self.version.floor.above);
            let (reached, data, found) = self.forest.step(|n, space| {
                let task = Task { mode, floor, from, until, leaves };
                let mut sweep = Sweep::new(n, space, &mut known, task);
                let reached = match sweep.run(tree, &others) {
                    Outcome::Done => u64::MAX,
                    Outcome::Stopped(at) => at,
                    Outcome::Missing(missing) => return Err(missing),
                };
                nodes += sweep.node_count;
                Ok((reached, sweep.data, std::mem::take(&mut sweep.found)))
            });
            assert!(reached > from, "no way forward from {from}");
            let went = from..reached.min(until);
            assert_eq!(data, alone.iter().filter(|b| went.contains(b)).count() as u64, "in {went:?}");
            assert!(found.iter().all(|b| b / 256 == found[0] / 256), "of one leaf: {found:?}");
            for &block in &found {
                self.forest.clear(&mut self.version, block, block + 1);
            }
            all.extend(found);
            from = reached;
            if written && rng.below(2) == 0 {
                self.checkpoint();
            }
        }
        (nodes, all)
    }

    fn check(&self, rest: &[&Live]) {
        for version in rest.iter().copied().chain([&self.parent]).chain(&self.children) {
            assert_eq!(self.forest.content(version.tree), version.content);
        }
        let kept = rest.iter().copied().chain([&self.parent]).chain(&self.children);
        self.forest.check_exact(kept.map(|v| v.tree));
    }
}

fn seeds() -> std::ops::RangeInclusive<u64> {
    1..=if cfg!(miri) { 1 } else { 300 }
}

#[test]
fn a_walk_frees_exactly_what_is_the_versions_alone() {
    for seed in seeds() {
        let mut rng = Rng::new(seed);
        let mut family = family(&mut rng, seed % 2);
        let (alone, data, nodes) = family.alone();
        let before = Held::by_count(&family.forest.nodes, &family.forest.space);
        assert_eq!(family.walk(Mode::Free, &data, false, &mut rng), (nodes, Vec::new()), "seed {seed}");
        let after = Held::by_count(&family.forest.nodes, &family.forest.space);
        assert_eq!(&before.blocks - &after.blocks, alone.blocks, "seed {seed}");
        assert_eq!(&before.slots - &after.slots, alone.slots, "seed {seed}");
        family.check(&[]);
    }
}

#[test]
fn checkpoints_in_the_midst_of_a_walk_write_sound_nodes() {
    for seed in seeds() {
        let mut rng = Rng::new(seed);
        let mut family = unwritten_family(&mut rng, seed % 2);
        let (_, data, nodes) = family.alone();
        assert_eq!(family.walk(Mode::Free, &data, true, &mut rng), (nodes, Vec::new()), "seed {seed}");
        family.check(&[]);
    }
}

#[test]
fn counting_changes_nothing() {
    for seed in seeds() {
        let mut rng = Rng::new(seed);
        let mut family = family(&mut rng, seed % 4);
        let (_, data, nodes) = family.alone();
        assert_eq!(family.walk(Mode::Count, &data, false, &mut rng), (nodes, Vec::new()), "seed {seed}");
        family.check(&[&family.version]);
    }
}

#[test]
fn pruning_finds_the_data_that_no_child_holds() {
    for seed in seeds() {
        let mut rng = Rng::new(seed);
        let mut family = family(&mut rng, 2 + seed % 2);
        let (_, data, _) = family.alone();
        assert_eq!(family.walk(Mode::Prune, &data, false, &mut rng), (0, data), "seed {seed}");
        assert_eq!(family.alone().1, [], "seed {seed}");
        family.check(&[&family.version]);
    }
}
