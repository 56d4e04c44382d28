//! Who reads what a scrub has found damaged: every volume and every snapshot, with the range that it cannot read.
//!
//! A block stands at the same place (height and first block) in every version that refers to it, since versions inherit whole trees. So
//! a version is asked only for the paths to the damaged places, and what a node that versions share leads to is remembered: the pass
//! costs what differs on these paths.

use std::{collections::BTreeMap, ops::Range, rc::Rc};

use rustc_hash::FxHashMap;

use crate::{
    check::walk::Found,
    core::Core,
    format::{
        node,
        pointer::{Place, Pointer},
    },
    reactor::notify::yield_now,
    state::tree_of,
    tree::{Missing, Nodes, slot_of},
    units::{BLOCK, VersionId},
    upkeep::{Damage, DamageKind},
    versions::{State, Version, span},
};

/// Damaged ranges listed at most.
const MOST_RANGES: usize = 1000;

/// A damaged block, and where it stands in the trees.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub(super) found: Found,
    pub(super) cause: String,
}

impl Fault {
    fn what(&self) -> DamageKind {
        if self.found.height == 0 { DamageKind::Data } else { DamageKind::Node }
    }

    /// The range that cannot be read, of a version of `size` bytes.
    fn damage(&self, volume: Option<String>, snapshot: Option<String>, size: u64) -> Damage {
        let offset = self.found.base.saturating_mul(BLOCK);
        let end = offset.saturating_add(span(self.found.height).saturating_mul(BLOCK)).min(size);
        Damage {
            volume,
            snapshot,
            offset,
            length: end.saturating_sub(offset),
            physical: self.found.block().unwrap_or(0),
            blocks: 1,
            what: self.what(),
            cause: self.cause.clone(),
        }
    }
}

/// Ranges in order, joined, as many as are listed.
#[derive(Default)]
pub(crate) struct Ranges {
    pub(crate) listed: Vec<Damage>,
    pub(crate) left_out: u64,
}

impl Ranges {
    /// Adds ranges of one version, in order of their offsets.
    pub(crate) fn add(&mut self, ranges: impl IntoIterator<Item = Damage>) {
        let mut joined: Vec<Damage> = Vec::new();
        for next in ranges {
            match joined.last_mut() {
                Some(last) if follows(last, &next) => {
                    last.length += next.length;
                    last.blocks += next.blocks;
                }
                _ => joined.push(next),
            }
        }
        let room = MOST_RANGES.saturating_sub(self.listed.len()).min(joined.len());
        self.left_out += (joined.len() - room) as u64;
        self.listed.extend(joined.into_iter().take(room));
    }
}

/// Whether two ranges are one: neighbours in the volume and in the pool, with the same damage.
fn follows(last: &Damage, next: &Damage) -> bool {
    last.offset + last.length == next.offset
        && last.physical + last.blocks == next.physical
        && (last.what, &last.cause) == (next.what, &next.cause)
}

/// A node that has to be loaded before the search goes on.
struct Needed(Found, Missing);

struct Search {
    faults: Vec<Fault>,
    /// Numbers of faults in order of their first blocks.
    order: Vec<usize>,
    /// Faults that a clean node leads to.
    known: FxHashMap<u64, (Pointer, Rc<[usize]>)>,
}

impl Search {
    fn new(faults: Vec<Fault>) -> Self {
        let mut this = Self { faults, order: Vec::new(), known: FxHashMap::default() };
        this.sort();
        this
    }

    fn sort(&mut self) {
        let faults = &self.faults;
        self.order = (0..faults.len()).collect();
        self.order.sort_by_key(|&i| faults[i].found.base);
        self.known.clear();
    }

    fn base(&self, at: usize) -> u64 {
        self.faults[self.order[at]].found.base
    }

    /// Faults among `range` (of `order`) that the tree under `found` refers to.
    fn under(&mut self, nodes: &Nodes, found: Found, range: Range<usize>) -> Result<Rc<[usize]>, Needed> {
        if found.pointer.is_hole() || range.is_empty() {
            return Ok(Rc::from([]));
        }
        let mut here = range.clone().take_while(|&at| self.base(at) == found.base).map(|at| self.order[at]);
        if let Some(fault) = here.find(|&i| self.faults[i].found == found) {
            return Ok(Rc::from([fault]));
        }
        if found.height == 0 {
            return Ok(Rc::from([]));
        }
        let block = match found.pointer.place() {
            Place::Node(block) => Some(block.0),
            _ => None,
        };
        if let Some((pointer, hits)) = block.and_then(|block| self.known.get(&block))
            && *pointer == found.pointer
        {
            return Ok(hits.clone());
        }
        let height = found.height - 1;
        let bytes = nodes.get(found.pointer, height).map_err(|missing| Needed(found, missing))?.clone();
        let mut hits = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let index = slot_of(self.base(at), height);
            let base = found.base + index as u64 * span(height);
            let end = (at..range.end).find(|&i| self.base(i) >= base + span(height)).unwrap_or(range.end);
            let child = Found { pointer: node::get(&bytes, index), height, base };
            hits.extend_from_slice(&self.under(nodes, child, at..end)?);
            at = end;
        }
        let hits: Rc<[usize]> = hits.into();
        if let Some(block) = block {
            let _older = self.known.insert(block, (found.pointer, hits.clone()));
        }
        Ok(hits)
    }

    /// Faults that a version refers to, in order of their first blocks.
    async fn of_version(&mut self, core: &Rc<Core>, id: VersionId) -> Option<Vec<usize>> {
        loop {
            let needed = {
                let state = core.state.borrow();
                let tree = tree_of(state.lineage.get(id).filter(|v| v.is_visible())?);
                let root = Found { pointer: tree.root, height: tree.depth, base: 0 };
                let end = (0..self.order.len()).take_while(|&at| self.base(at) < span(tree.depth)).count();
                match self.under(&state.nodes, root, 0..end) {
                    Ok(hits) => return Some(hits.to_vec()),
                    Err(needed) => needed,
                }
            };
            let Needed(found, missing) = needed;
            if let Err(error) = core.load(missing).await {
                // It could be read a moment ago.
                self.faults.push(Fault { found, cause: error.to_string() });
                self.sort();
            }
        }
    }
}

/// A version's place in the report: by volume, the volume itself before its snapshots, those by age.
fn rank(v: &Version, volume: &str) -> (String, bool, u32, u64) {
    (volume.to_owned(), v.state == State::Snapshot, v.epoch.0, v.id.0)
}

/// Adds to `ranges` what cannot be read on account of `faults`, by volume and snapshot, and last what nobody reads any more.
pub(super) async fn locate(core: &Rc<Core>, faults: Vec<Fault>, ranges: &mut Ranges) {
    let versions: BTreeMap<_, VersionId> = {
        let state = core.state.borrow();
        let visible = state.lineage.iter().filter(|v| v.is_visible());
        let named = visible.filter_map(|v| Some((v, state.lineage.live_of(v.volume)?)));
        named.map(|(v, live)| (rank(v, &live.name), v.id)).collect()
    };
    let mut search = Search::new(faults);
    let mut read = vec![false; search.faults.len()];
    for id in versions.into_values() {
        let Some(hits) = search.of_version(core, id).await else { continue };
        read.resize(search.faults.len(), false);
        let name = {
            let state = core.state.borrow();
            let version = state.lineage.get(id).filter(|v| v.is_visible());
            version.and_then(|v| {
                let live = state.lineage.live_of(v.volume)?;
                Some((live.name.clone(), (v.id != live.id).then(|| v.name.clone()), v.size))
            })
        };
        let Some((volume, snapshot, size)) = name else { continue };
        for &hit in &hits {
            read[hit] = true;
        }
        let damage = |&i: &usize| search.faults[i].damage(Some(volume.clone()), snapshot.clone(), size);
        ranges.add(hits.iter().map(damage).filter(|d| d.length > 0));
        yield_now().await;
    }
    for &i in search.order.iter().filter(|&&i| !read[i]) {
        let mut damage = search.faults[i].damage(None, None, u64::MAX);
        damage.cause += "; no volume or snapshot reads it any more";
        ranges.add([damage]);
    }
}
