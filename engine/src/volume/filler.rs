//! A volume that is filling, as its filler sees it: what it brings goes to holes, and nowhere else.
//!
//! That is looked at when the blocks enter the tree, and not left to fillers. A write that was given up ends some time all the same: by then
//! the range may have been brought once more, called filled, and written by users, and the volume may be full.

use std::rc::Rc;

use super::{LocalVolume, Role, Where, is_zero};
use crate::{
    error::{Result, invalid},
    space::Purpose,
    storage::{Part, buffer::IoBuf},
    units::{BLOCK, BLOCK_SIZE, VolumeId},
};

impl LocalVolume {
    /// Whether this handle was opened to fill the volume.
    pub(super) fn is_filler(&self) -> bool {
        matches!(self.attachment.role, Role::Filler)
    }

    /// The volume that this handle was opened to fill.
    pub(crate) fn filled_through(&self) -> Result<VolumeId> {
        if !self.is_filler() {
            return Err(invalid(format!(
                "{} was not opened to be filled: its filler says when it is full",
                self.name()
            )));
        }
        self.volume()
    }

    /// Holes are made by users, once the volume is full.
    pub(super) fn makes_holes(&self) -> Result<()> {
        if self.is_filler() {
            return Err(invalid(format!("{} was opened to be filled: this handle makes no holes", self.name())));
        }
        Ok(())
    }

    /// Writes where nothing is yet, and leaves out zeros. What is still on its way when the volume becomes full is left out, too.
    pub(super) async fn write_to_holes(&self, volume: VolumeId, offset: u64, data: Rc<IoBuf>) -> Result<()> {
        if !self.with_version(|v| v.options.filling)? {
            return Err(invalid(format!("{} is full by now: open it anew to write to it", self.name())));
        }
        let end = offset + data.len() as u64;
        if !offset.is_multiple_of(BLOCK) || !end.is_multiple_of(BLOCK) && end != self.with_version(|v| v.size)? {
            return Err(invalid(format!(
                "bytes {offset} to {end} of {}: a volume is filled in whole blocks of {BLOCK} bytes",
                self.name()
            )));
        }
        // Behind the end of the volume there are zeros.
        let mut whole = data;
        if !whole.len().is_multiple_of(BLOCK_SIZE) {
            let mut padded = IoBuf::zeroed(whole.len().next_multiple_of(BLOCK_SIZE));
            padded[..whole.len()].copy_from_slice(&whole);
            whole = Rc::new(padded);
        }
        let (data, mut at) = (whole, 0);
        for run in data.chunks(BLOCK_SIZE).collect::<Vec<_>>().chunk_by(|a, b| is_zero(a) == is_zero(b)) {
            let range = at..at + run.len() * BLOCK_SIZE;
            at = range.end;
            if !run.first().is_some_and(|block| is_zero(block)) {
                let block = (offset + range.start as u64) / BLOCK;
                let part = Part { buf: data.clone(), range };
                self.write_run(volume, block, part, Purpose::Data, Where::Holes).await?;
            }
        }
        Ok(())
    }
}
