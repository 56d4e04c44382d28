//! What a pool may show.

use super::{
    history::{Content, Contents},
    seen::{Block, Seen},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

/// One volume or snapshot.
pub(super) struct Expected {
    /// It must be there.
    pub(super) sure: bool,
    pub(super) size: u64,
    /// What blocks may be filled with, `None` for a hole; any other block is a hole.
    blocks: BTreeMap<u64, BTreeSet<Option<u64>>>,
}

/// All that may be there.
pub(super) struct Allowed(pub(super) BTreeMap<String, Expected>);

impl Expected {
    pub(super) fn empty(sure: bool, size: u64) -> Self {
        Self { sure, size, blocks: BTreeMap::new() }
    }

    fn only(content: &Content) -> Self {
        let blocks = content.blocks.iter().map(|(&block, &with)| (block, BTreeSet::from([Some(with)])));
        Self { blocks: blocks.collect(), ..Self::empty(true, content.size) }
    }

    /// Blocks were written anew, perhaps.
    pub(super) fn write(&mut self, blocks: Range<u64>, with: u64, sure: bool) {
        for block in blocks {
            let fills = self.blocks.entry(block).or_insert_with(|| BTreeSet::from([None]));
            if sure {
                fills.clear();
            }
            let _new = fills.insert(Some(with));
        }
    }

    fn allows(&self, block: u64, found: Block) -> bool {
        let fill = match found {
            Block::Unreadable => return true,
            Block::Hole => None,
            Block::Filled(with) => Some(with),
        };
        self.blocks.get(&block).map_or(fill.is_none(), |fills| fills.contains(&fill))
    }
}

impl Allowed {
    /// These contents and nothing else.
    pub(super) fn only(contents: &Contents) -> Self {
        Self(contents.iter().map(|(name, content)| (name.clone(), Expected::only(content))).collect())
    }

    /// Whether what is seen is allowed, or what is not.
    pub(super) fn matches(&self, seen: &Seen) -> Result<(), String> {
        if let Some(name) = seen.targets.keys().find(|name| !self.0.contains_key(*name)) {
            return Err(format!("{name} should not be there"));
        }
        for (name, expected) in &self.0 {
            match seen.targets.get(name) {
                None if expected.sure => return Err(format!("{name} is missing")),
                None => {}
                Some((size, _)) if *size != expected.size => {
                    return Err(format!("{name} has {size} bytes, not {}", expected.size));
                }
                Some((_, blocks)) => {
                    if let Some((block, found)) =
                        blocks.iter().find(|(block, found)| !expected.allows(**block, **found))
                    {
                        return Err(format!("{name}, block {block}: {found:?}, not {:?}", expected.blocks.get(block)));
                    }
                }
            }
        }
        Ok(())
    }
}
