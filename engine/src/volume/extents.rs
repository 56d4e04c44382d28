//! What ranges hold, and what changed in them.

use std::rc::Rc;

use super::{LocalVolume, PAGE_CHANGES};
use crate::{
    core::Core,
    error::{Result, not_found},
    info::{Extent, ExtentKind, ExtentPage},
    names::Target,
    state::tree_of,
    tree::diff,
    units::{BLOCK, VersionId, blocks_for},
};

impl LocalVolume {
    /// What a range holds: a page of extents that starts at `offset` and covers everything up to `next`. While the volume fills, all is
    /// data to its users; its filler sees what is there.
    ///
    /// # Errors
    /// `Invalid` for a range outside, `Corrupt` for damaged metadata, `Io`.
    pub async fn extents(&self, offset: u64, length: u64) -> Result<ExtentPage> {
        self.check_range("extent list", offset, length)?;
        self.covering(None, offset, length).await
    }

    /// Like [`LocalVolume::extents`], but `Data` stands for blocks that differ from `snapshot` and `Hole` for those that do not.
    ///
    /// # Errors
    /// As [`LocalVolume::extents`], and `NotFound` for the snapshot.
    pub async fn changed_since(&self, snapshot: &Target, offset: u64, length: u64) -> Result<ExtentPage> {
        self.check_range("difference", offset, length)?;
        let old = self.core().state.borrow().lineage.resolve(snapshot)?;
        self.covering(Some(old), offset, length).await
    }

    async fn covering(&self, old: Option<VersionId>, offset: u64, length: u64) -> Result<ExtentPage> {
        let end = offset + length;
        if self.is_gated() {
            let mut page = ExtentPage { extents: Vec::new(), next: None };
            push(&mut page.extents, offset, end, ExtentKind::Data);
            return Ok(page);
        }
        // What is in memory is data, too.
        let _through = match self.volume() {
            Ok(volume) if !self.backlog().is_empty() => Some(self.core().go_around(volume, self.backlog()).await?),
            _ => None,
        };
        let new = || self.with_version(|v| v.id);
        let (changes, reached) = changes(self.core(), old, new, offset / BLOCK, blocks_for(end)).await?;
        let reached = (reached * BLOCK).min(end);
        let mut page = ExtentPage { extents: Vec::new(), next: (reached < end).then_some(reached) };
        let mut at = offset;
        for change in changes {
            let start = (change.block * BLOCK).clamp(at, reached);
            let stop = ((change.block + change.count) * BLOCK).clamp(start, reached);
            push(&mut page.extents, at, start, ExtentKind::Hole);
            let counts = change.data || old.is_some();
            push(&mut page.extents, start, stop, if counts { ExtentKind::Data } else { ExtentKind::Hole });
            at = stop;
        }
        push(&mut page.extents, at, reached, ExtentKind::Hole);
        Ok(page)
    }
}

/// A page of changes between two versions; both are looked up anew at each step, so either may be in use.
pub(crate) async fn changes(
    core: &Rc<Core>,
    old: Option<VersionId>,
    new: impl Fn() -> Result<VersionId>,
    start: u64,
    end: u64,
) -> Result<(Vec<diff::Change>, u64)> {
    loop {
        let result = {
            let id = new()?;
            let state = core.state.borrow();
            let gone = || not_found("a version was deleted while it was being compared");
            let new = state.lineage.get(id).filter(|v| v.is_visible()).ok_or_else(gone)?;
            let old = match old {
                Some(old) => Some(tree_of(state.lineage.get(old).filter(|v| v.is_visible()).ok_or_else(gone)?)),
                None => None,
            };
            diff::changes(&state.nodes, old, tree_of(new), start, end, PAGE_CHANGES)
        };
        match result {
            Ok(found) => return Ok(found),
            Err(missing) => core.load(missing).await?,
        }
    }
}

/// Appends an extent, joined with the last one where they are of a kind.
pub(crate) fn push(extents: &mut Vec<Extent>, start: u64, end: u64, kind: ExtentKind) {
    if start >= end {
        return;
    }
    match extents.last_mut() {
        Some(last) if last.kind == kind && last.offset + last.length == start => last.length += end - start,
        _ => extents.push(Extent { offset: start, length: end - start, kind }),
    }
}
