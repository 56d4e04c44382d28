//! Differences of random versions, in pages, against maps.

use super::*;
use crate::{
    rng::Rng,
    tree::forest::{Content, Forest, Live},
};

/// The changes of `start..end`, collected in pages of `page` runs.
fn diff(forest: &mut Forest, old: Option<Tree>, new: Tree, start: u64, end: u64, page: usize) -> Vec<Change> {
    let mut all: Vec<Change> = Vec::new();
    let mut at = start;
    while at < end {
        let (changes, reached) = forest.step(|nodes, _| changes(nodes, old, new, at, end, page));
        assert!(changes.len() <= page && (reached > at || !changes.is_empty()), "no way forward from {at}");
        assert!(changes.iter().all(|c| (at..reached).contains(&c.block) && c.block + c.count <= reached));
        for change in changes {
            match all.last_mut() {
                Some(last) if last.block + last.count == change.block && last.data == change.data => {
                    last.count += change.count;
                }
                _ => all.push(change),
            }
        }
        at = reached;
    }
    all
}

/// The same from two maps. No content is written twice, so equal content means equal pointers.
fn expected(old: &Content, new: &Content, start: u64, end: u64) -> Vec<Change> {
    let mut all: Vec<Change> = Vec::new();
    let mut blocks: Vec<u64> = old.keys().chain(new.keys()).copied().collect();
    blocks.sort_unstable();
    blocks.dedup();
    for block in blocks.into_iter().filter(|b| (start..end).contains(b) && old.get(b) != new.get(b)) {
        let data = new.contains_key(&block);
        match all.last_mut() {
            Some(last) if last.block + last.count == block && last.data == data => last.count += 1,
            _ => all.push(Change { block, count: 1, data }),
        }
    }
    all
}

/// Versions of two volumes, one of which grows, with their nodes partly on disk.
fn versions(forest: &mut Forest, rng: &mut Rng) -> Vec<Live> {
    let mut versions = Vec::new();
    for depth in [1, 3] {
        let mut live = forest.plant(depth);
        for _ in 0..4 {
            for _ in 0..4 {
                let block = (rng.below(4) * 65_700 + rng.below(20)) % (span(live.tree.depth) - 4);
                match rng.below(4) {
                    0 => forest.clear(&mut live, block / 4 * 4, block / 4 * 4 + 4),
                    _ => (block..block + 1 + rng.below(3)).for_each(|b| forest.write(&mut live, b)),
                }
            }
            versions.push(forest.snapshot(&mut live));
            if live.tree.depth < 3 {
                let depth = live.tree.depth + 1;
                forest.grow(&mut live, depth);
            }
        }
    }
    forest.freeze();
    forest.thaw(versions.iter_mut().map(|v| &mut v.tree.root));
    versions
}

#[test]
fn random_versions_differ_as_their_maps_do() {
    let (seeds, pairs) = if cfg!(miri) { (1, 2) } else { (100, 30) };
    for seed in 1..=seeds {
        let mut rng = Rng::new(seed);
        let mut forest = Forest::new();
        let versions = versions(&mut forest, &mut rng);
        let nothing = forest.plant(1);
        for _ in 0..pairs {
            let all: Vec<&Live> = versions.iter().chain([&nothing]).collect();
            let (old, new) = (rng.pick(&all), rng.pick(&all));
            let tree = (!old.content.is_empty()).then_some(old.tree);
            let (start, end) = rng.pick(&[(0, span(3)), (2, 300), (65_700, 65_712), (5, 200_000)]);
            let page = 1 + rng.below(5) as usize;
            forest.evict();
            let found = diff(&mut forest, tree, new.tree, start, end, page);
            assert_eq!(found, expected(&old.content, &new.content, start, end), "seed {seed} {start}..{end}");
        }
    }
}

#[test]
fn what_two_versions_share_is_not_looked_at() {
    let mut forest = Forest::new();
    let mut live = forest.plant(3);
    let blocks = [0, 256, 512, 65_536, 65_792, 131_072];
    blocks.iter().for_each(|&block| forest.write(&mut live, block));
    let old = forest.snapshot(&mut live);
    forest.write(&mut live, 65_792);
    forest.freeze();
    let mut old = old.tree;
    forest.thaw([&mut old.root, &mut live.tree.root].into_iter());
    forest.evict();
    let found = diff(&mut forest, Some(old), live.tree, 0, span(3), 8);
    assert_eq!(found, [Change { block: 65_792, count: 1, data: true }]);
    let loaded = forest.nodes.cache.bytes() / 4096;
    assert_eq!(loaded, 6, "of each version the root, one node under it and one leaf");
}

/// A walk visits a bounded number of leaves and then says how far it came.
#[test]
#[cfg(not(miri))]
fn long_walks_stop_on_the_way() {
    let mut forest = Forest::new();
    let mut live = forest.plant(3);
    (0..1200).for_each(|leaf| forest.write(&mut live, leaf * 256));
    let (changes, reached) = forest.step(|nodes, _| changes(nodes, None, live.tree, 0, span(3), usize::MAX));
    assert_eq!((changes.len(), reached), (512, 512 * 256));
    assert_eq!(diff(&mut forest, None, live.tree, 0, span(3), usize::MAX).len(), 1200);
}
