//! Metadata of the pool that stands outside of all trees: the copies of the superblock, the pieces of the free map, the version table.
//!
//! All of it may be looked at while checkpoints are made. What a running checkpoint is about to overwrite is left to that checkpoint.

use std::rc::Rc;

use super::{verify, walk::Found};
use crate::{
    core::{Core, Inherited},
    error::Error,
    format::{
        pointer::Pointer,
        superblock::{Superblock, slot_block, slots_of},
    },
    units::{Epoch, PhysicalBlock},
};

/// Pieces of the free map read at once.
const PIECES: usize = 64;

/// A damaged copy of the superblock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SlotFault {
    pub(crate) slot: u32,
    pub(crate) block: u64,
    pub(crate) cause: String,
}

/// A piece of the free map: level and index.
pub(crate) type Piece = (usize, usize);

/// A damaged piece of the free map.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PieceFault {
    pub(crate) piece: Piece,
    pub(crate) block: u64,
    pub(crate) cause: String,
}

/// What is wrong with what stands in `slot`, if anything, when `newest` is the last durable checkpoint.
///
/// The newest checkpoint has two copies, and both must be there: with one of them the pool lives on luck. The other two slots hold the
/// checkpoint before it. A crash in the middle of a checkpoint may have torn those, or left an older copy in place of the newest (which
/// the next checkpoint but one heals), and cannot be told from damage. So an older copy counts only where this process wrote a newer
/// one, and a torn one of the checkpoint before only where it was whole since.
fn judge(slot: u32, copy: &Result<Superblock, String>, newest: &Superblock, inherited: Inherited) -> Option<String> {
    let is_newest = slots_of(newest.checkpoint).contains(&slot);
    let expected = if is_newest { newest.checkpoint } else { newest.checkpoint - 1 };
    if expected == 0 {
        return None;
    }
    let written_here = expected > inherited.checkpoint;
    match copy {
        Ok(copy) if copy.uuid != newest.uuid => Some("belongs to another pool".to_owned()),
        Ok(copy) if copy.checkpoint == expected => None,
        Ok(copy) if copy.checkpoint < expected && !written_here => None,
        Ok(copy) => {
            Some(format!("holds checkpoint {} instead of {expected}: a write was lost or misdirected", copy.checkpoint))
        }
        Err(cause) => {
            let torn = !is_newest && !written_here && inherited.unusable.get(slot as usize) == Some(&true);
            (!torn).then(|| cause.clone())
        }
    }
}

/// The damaged copies of the superblock.
pub(crate) async fn superblocks(core: &Rc<Core>) -> Vec<SlotFault> {
    loop {
        core.between_checkpoints().await;
        let newest = core.superblock.borrow().clone();
        let mut faults = Vec::new();
        for slot in 0..4 {
            let block = slot_block(slot, newest.total_blocks);
            let copy = match verify::block(core, block).await {
                Ok(bytes) => Superblock::decode(&bytes, slot).map_err(|e: Error| e.context().to_owned()),
                Err(fault) => Err(format!("superblock copy {slot} {fault}")),
            };
            // The checkpoint that runs by now writes the slots of the other parity.
            let being_written = core.is_checkpointing() && !slots_of(newest.checkpoint).contains(&slot);
            if let Some(cause) = judge(slot, &copy, &newest, core.inherited.get()).filter(|_| !being_written) {
                faults.push(SlotFault { slot, block, cause });
            }
        }
        if faults.is_empty() || core.superblock.borrow().checkpoint == newest.checkpoint {
            return faults;
        }
    }
}

/// All pieces of the free map that were ever written.
pub(crate) fn pieces(core: &Core) -> Vec<Piece> {
    let map = core.map.borrow();
    let levels = map.levels.iter().enumerate();
    levels
        .flat_map(|(level, entries)| {
            entries.iter().enumerate().filter(|(_, entry)| entry.place != 0).map(move |(index, _)| (level, index))
        })
        .collect()
}

/// The damaged ones of these pieces. A piece stays where it is for one checkpoint after it was written anew.
pub(crate) async fn damaged_pieces(core: &Rc<Core>, pieces: &[Piece]) -> Vec<PieceFault> {
    let mut faults = Vec::new();
    for batch in pieces.chunks(PIECES) {
        loop {
            core.between_checkpoints().await;
            let checkpoint = core.superblock.borrow().checkpoint;
            let found = read_pieces(core, batch).await;
            if found.is_empty() || core.superblock.borrow().checkpoint == checkpoint {
                faults.extend(found);
                break;
            }
        }
    }
    faults
}

async fn read_pieces(core: &Rc<Core>, batch: &[Piece]) -> Vec<PieceFault> {
    let list: Vec<(Piece, u64, u32)> = {
        let map = core.map.borrow();
        let entry = |&(level, index): &Piece| (map.levels[level][index], level, index);
        let written = batch.iter().map(entry).filter(|(entry, ..)| entry.place != 0);
        written.map(|(entry, level, i)| ((level, i), map.block(level, i, entry.place), entry.crc)).collect()
    };
    let mut faults = Vec::new();
    let pointer = |block, crc| Pointer::data(PhysicalBlock(block), Epoch(0), crc);
    let pointers: Vec<Found> =
        list.iter().map(|&(_, block, crc)| Found { pointer: pointer(block, crc), height: 0, base: 0 }).collect();
    for (found, fault) in verify::blocks(core, &pointers).await {
        if let Some(&(piece, block, _)) = list.iter().find(|(_, block, _)| found.block() == Some(*block)) {
            faults.push(PieceFault { piece, block, cause: fault.to_string() });
        }
    }
    faults
}

/// Where the blocks of the version table are: level and index.
pub(crate) fn table_blocks(core: &Core) -> Vec<(usize, usize)> {
    let table = core.table.borrow();
    let levels = table.levels.iter().enumerate().rev();
    levels.flat_map(|(level, pointers)| (0..pointers.len()).map(move |index| (level, index))).collect()
}

/// The pointers of some blocks of the version table as they are now. Between checkpoints only: a checkpoint names blocks here that it has
/// not written yet.
pub(crate) fn table_pointers(core: &Core, places: &[(usize, usize)]) -> Vec<Found> {
    let table = core.table.borrow();
    let pointer = |&(level, index): &(usize, usize)| table.levels.get(level)?.get(index).copied();
    let pointers = places.iter().filter_map(pointer).filter(|pointer| !pointer.is_hole());
    pointers.map(|pointer| Found { pointer, height: 0, base: 0 }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::superblock::sample;

    fn copy(slot: u32, checkpoint: u64) -> Result<Superblock, String> {
        Ok(Superblock { slot, checkpoint, ..sample() })
    }

    #[test]
    fn what_a_crash_leaves_is_no_damage_and_what_it_cannot_leave_is() {
        // Checkpoint 7 is the newest: slots 1 and 3; slots 0 and 2 hold 6.
        let newest = sample();
        let opened = |checkpoint, unusable| Inherited { checkpoint, unusable };
        let none = [false; 4];
        let torn = || Err("torn".to_owned());
        let is_fault = |slot, copy, inherited| judge(slot, &copy, &newest, inherited).is_some();
        for inherited in [opened(7, none), opened(6, none), opened(2, none)] {
            assert!(!is_fault(1, copy(1, 7), inherited) && !is_fault(2, copy(2, 6), inherited), "{inherited:?}");
            assert!(is_fault(1, torn(), inherited), "the newest has two copies");
            assert!(is_fault(2, torn(), inherited), "it was whole when the pool was opened");
            assert!(is_fault(2, copy(2, 8), inherited), "newer than the newest");
        }
        // A crash between the two writes of checkpoint 7 leaves 5; so does a write that was lost after 6 was opened.
        assert!(!is_fault(3, copy(3, 5), opened(7, none)));
        assert!(is_fault(3, copy(3, 5), opened(6, none)));
        // Torn when it was opened: by a crash in the middle of checkpoint 8. Written here since: damage.
        assert!(!is_fault(2, torn(), opened(7, [false, false, true, false])));
        assert!(!is_fault(2, torn(), opened(6, [false, false, true, false])));
        assert!(is_fault(2, torn(), opened(5, [false, false, true, false])));
        let foreign = Ok(Superblock { uuid: *b"another pool's..", ..copy(2, 6).unwrap() });
        assert!(is_fault(2, foreign, opened(7, none)));
        // The first checkpoint has nothing before it.
        let first = Superblock { checkpoint: 1, slot: 1, ..sample() };
        assert!(judge(0, &torn(), &first, opened(0, [true; 4])).is_none());
    }
}
