//! A volume that is filling, as its users see it: what they touch is filled first, and a hole never hides what they wrote.
//!
//! Until the volume is full, a hole means that the backup's content belongs there (it may be zeros), and data means that the block is as it
//! should be. So whoever goes on with the filling, after a crash too, fills holes and nothing else. Zeros that users write keep to that:
//! where there is a hole, it stands for zeros already; where there is data, zeros are stored as data.

use std::rc::Rc;

use super::{LocalVolume, Role, changes};
use crate::{
    error::Result,
    gate::Gate,
    sabotage::{Sabotage, broken},
    storage::{Part, buffer::IoBuf},
    units::{BLOCK, BLOCK_SIZE, VolumeId},
};

/// Blocks of zeros written at once: what a leaf covers.
const ZEROS: u64 = 256;

impl LocalVolume {
    /// Whether holes may stand for content that is still to come. Once this says no, it does for good, and what follows in the journal
    /// is behind the record that says so.
    pub(super) fn is_gated(&self) -> bool {
        self.gate().is_some()
    }

    /// Whether zeros that users write become holes. Once they do, they do for good.
    pub(super) fn zeros_are_holes(&self) -> bool {
        !self.is_gated() || broken(Sabotage::HolesWhileFilling)
    }

    /// The gate, while it stands.
    fn gate(&self) -> Option<&Rc<Gate>> {
        match &self.attachment.role {
            Role::User(gate) if gate.stands() => Some(gate),
            _ => None,
        }
    }

    /// Has the blocks of a range filled. To be awaited before anything is looked at, with nothing held.
    pub(super) async fn fill(&self, offset: u64, end: u64) -> Result<()> {
        let Some(gate) = self.gate().filter(|_| offset < end && !broken(Sabotage::PassTheGate)) else {
            return Ok(());
        };
        let size = self.with_version(|v| v.size)?;
        let (start, end) = (offset / BLOCK * BLOCK, end.next_multiple_of(BLOCK).min(size));
        let filling = gate.filler(&self.attachment.name)?.fill(start, end - start);
        match filling.await {
            Ok(()) => Ok(()),
            // It became full while this waited, and its filler went.
            Err(_) if !gate.stands() => Ok(()),
            Err(error) => Err(error.within(format_args!(
                "{}: bytes {start} to {end} cannot be filled from the backup",
                self.attachment.name
            ))),
        }
    }

    /// What [`LocalVolume::clear`] is while the volume fills.
    pub(super) async fn clear_gated(&self, volume: VolumeId, start: u64, end: u64) -> Result<u64> {
        let whole = (end / BLOCK).max(start);
        let zeros = Rc::new(IoBuf::zeroed((whole - start).min(ZEROS) as usize * BLOCK_SIZE));
        let mut at = start;
        while at < whole {
            let (found, reached) = changes(self.core(), None, || self.live(), at, whole).await?;
            for run in found.iter().filter(|run| run.data) {
                let stop = (run.block + run.count).min(whole);
                let mut block = run.block.max(at);
                while block < stop {
                    let n = (stop - block).min(ZEROS);
                    let part = Part { buf: zeros.clone(), range: 0..n as usize * BLOCK_SIZE };
                    self.write_data(volume, block, part).await?;
                    block += n;
                }
            }
            at = reached;
        }
        // The short last block: what is behind its end may be written meanwhile, if the volume becomes full and grows.
        let rest = (end % BLOCK) as usize;
        if rest == 0 || whole * BLOCK >= end || end != self.with_version(|v| v.size)? {
            return Ok(whole);
        }
        self.merge(volume, whole, 0, &[0; BLOCK_SIZE][..rest]).await?;
        Ok(whole + 1)
    }
}
