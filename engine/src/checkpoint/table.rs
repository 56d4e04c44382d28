//! Where the pages of the version table are: a tree of pointers, rewritten along the paths that changed.

use std::collections::BTreeSet;

use crate::{
    format::{node::FANOUT, pointer::Pointer},
    storage::buffer::IoBuf,
    versions::table::encode_pointers,
};

/// Pointers to the pages (level 0), to the nodes that hold those (level 1), and so on to a single root.
#[derive(Default)]
pub(crate) struct Table {
    pub(crate) levels: Vec<Vec<Pointer>>,
}

impl Table {
    /// The root: a page, a node, or a hole when there are no pages.
    pub(crate) fn root(&self) -> Pointer {
        self.levels.last().and_then(|l| l.first()).copied().unwrap_or(Pointer::HOLE)
    }

    /// Makes room for `pages` pages; returns nothing, changes no pointer.
    pub(crate) fn resize(&mut self, pages: usize) {
        let mut need = pages;
        let mut level = 0;
        while need > 0 {
            if self.levels.len() <= level {
                self.levels.push(Vec::new());
            }
            if self.levels[level].len() < need {
                self.levels[level].resize(need, Pointer::HOLE);
            }
            if need == 1 {
                break;
            }
            need = need.div_ceil(FANOUT);
            level += 1;
        }
    }

    /// The node of `level` (1 and up) number `index`, from the pointers below it.
    pub(crate) fn node(&self, level: usize, index: usize) -> IoBuf {
        let below = &self.levels[level - 1];
        let end = below.len().min((index + 1) * FANOUT);
        encode_pointers(&below[index * FANOUT..end])
    }

    /// Numbers of the nodes of `level` above the changed ones below it. A level that was added has to be written whole.
    pub(crate) fn changed_above(&self, level: usize, below: &BTreeSet<usize>) -> BTreeSet<usize> {
        let fresh = self.levels[level].iter().enumerate().filter(|(_, p)| p.is_hole()).map(|(i, _)| i);
        below.iter().map(|i| i / FANOUT).chain(fresh).collect()
    }
}
