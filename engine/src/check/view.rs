//! The pool at one moment, for a check: roots, dirty nodes and the map are taken by reference (changes copy them), and blocks released
//! meanwhile are not handed out again for as long as it is there.

use std::rc::Rc;

use rustc_hash::FxHashMap;

use super::walk::{Found, Root};
use crate::{
    core::{Core, ReadGuard},
    space::reach::Reach,
    storage::buffer::IoBuf,
    versions::{Lineage, State, Version},
};

/// One version to be walked.
pub(super) struct Tree {
    pub(super) name: String,
    pub(super) root: Root,
    /// Blocks before this one are given back already.
    pub(super) from: u64,
    /// Blocks of the volume; nothing may be stored behind them.
    pub(super) blocks: u64,
}

/// The state at the moment of the check.
pub(super) struct View {
    pub(super) dirty: FxHashMap<u32, Rc<IoBuf>>,
    pub(super) reach: Reach,
    pub(super) trees: Vec<Tree>,
    pub(super) table: Vec<Found>,
    _hold: ReadGuard,
}

impl View {
    /// Takes it; to be called between checkpoints.
    pub(super) fn take(core: &Rc<Core>) -> Self {
        let hold = core.hold();
        let state = core.state.borrow();
        let mut versions: Vec<&Version> = state.lineage.iter().collect();
        versions.sort_unstable_by_key(|v| v.id);
        Self {
            trees: versions.into_iter().map(|v| tree(&state.lineage, v)).collect(),
            dirty: state.nodes.dirty_view(),
            reach: state.space.reach.clone(),
            table: super::copies::table_pointers(core, &super::copies::table_blocks(core)),
            _hold: hold,
        }
    }
}

fn tree(lineage: &Lineage, v: &Version) -> Tree {
    let volume = lineage.live_of(v.volume).map(|live| live.name.as_str());
    let name = match (v.state, volume) {
        (State::Live, _) => format!("{:?} ({})", v.name, v.id),
        (State::Snapshot, Some(volume)) => format!("\"{volume}@{}\" ({})", v.name, v.id),
        (State::Snapshot, None) => format!("snapshot {:?} ({})", v.name, v.id),
        _ => format!("deleted version {}", v.id),
    };
    let without_parent = v.state == State::Detached || v.state == State::Deleting && v.parent.is_none();
    Tree {
        name,
        root: Root { pointer: v.root, height: v.depth, floor: without_parent.then_some(v.floor) },
        from: if lineage.children(v.id).len() < 2 { v.cursor } else { 0 },
        blocks: if v.is_visible() { v.blocks() } else { u64::MAX },
    }
}
