//! Counting the data blocks of a tree, a stretch at a time.

use super::{Nodes, diff, lookup::Tree, nodes::Step};

/// Data blocks in `start..end`, as far as one step goes: the number, and where it stopped.
pub(crate) fn data_blocks(nodes: &Nodes, tree: Tree, start: u64, end: u64) -> Step<(u64, u64)> {
    let (changes, reached) = diff::changes(nodes, None, tree, start, end, usize::MAX)?;
    Ok((changes.iter().filter(|c| c.data).map(|c| c.count).sum(), reached))
}
