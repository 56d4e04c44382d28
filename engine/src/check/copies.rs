//! Metadata of the pool that stands outside of all trees: the copies of the superblock, the pieces of the free map, the version table.
//!
//! All of it may be looked at while checkpoints are made. What a running checkpoint is about to overwrite is left to that checkpoint.

use std::rc::Rc;

use super::{verify, walk::Found};
use crate::{
    core::{Core, Inherited},
    error::{Error, ErrorKind},
    format::{
        pointer::Pointer,
        superblock::{Superblock, slot_block, slots_of},
    },
    units::{Epoch, PhysicalBlock},
};

/// Pieces of the free map read at once.
const PIECES: usize = 64;

/// A copy of the superblock that is not as it should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SlotFault {
    pub(crate) slot: u32,
    pub(crate) block: u64,
    pub(crate) cause: String,
    /// A crash in the middle of a checkpoint may have left it so. Then it is no problem, but a repair writes it again all the same.
    pub(crate) may_be_a_crash: bool,
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

/// What is wrong with what stands in `slot`, if anything, when `newest` is the last durable checkpoint, and whether a crash may have
/// left it so.
///
/// The newest checkpoint has two copies, and both must be there: with one of them the pool lives on luck. The other two slots hold the
/// checkpoint before it. A crash in the middle of a checkpoint may have torn those, or left an older copy in place of the newest (which
/// the next checkpoint but one heals), and cannot be told from damage. So an older copy counts only where this process wrote a newer
/// one, and a torn one of the checkpoint before only where it was whole since.
fn judge(
    slot: u32,
    copy: &Result<Superblock, String>,
    newest: &Superblock,
    inherited: Inherited,
) -> Option<(String, bool)> {
    let is_newest = slots_of(newest.checkpoint).contains(&slot);
    let expected = if is_newest { newest.checkpoint } else { newest.checkpoint - 1 };
    if expected == 0 {
        return None;
    }
    let written_here = expected > inherited.checkpoint;
    match copy {
        Ok(copy) if copy.uuid != newest.uuid => Some(("belongs to another pool".to_owned(), false)),
        Ok(copy) if copy.checkpoint == expected => None,
        Ok(copy) => {
            let cause = format!("holds checkpoint {} instead of {expected}: a write was lost", copy.checkpoint);
            Some((cause, copy.checkpoint < expected && !written_here))
        }
        Err(cause) => {
            let was_so = inherited.unusable.get(slot as usize) == Some(&true);
            Some((cause.clone(), !is_newest && !written_here && was_so))
        }
    }
}

/// Why a slot holds no copy of a superblock.
fn cause_of(slot: u32, error: &Error) -> String {
    let text = error.context();
    match error.kind() {
        ErrorKind::Invalid => "holds no superblock".to_owned(),
        _ => text.strip_prefix(&format!("superblock copy {slot} ")).unwrap_or(text).to_owned(),
    }
}

/// The copies of the superblock that are not as they should be.
pub(crate) async fn superblocks(core: &Rc<Core>) -> Vec<SlotFault> {
    loop {
        core.between_checkpoints().await;
        let newest = core.superblock.borrow().clone();
        let mut faults = Vec::new();
        for slot in 0..4 {
            let block = slot_block(slot, newest.total_blocks);
            let copy = match verify::block(core, block).await {
                Ok(bytes) => Superblock::decode(&bytes, slot).map_err(|error| cause_of(slot, &error)),
                Err(fault) => Err(fault.to_string()),
            };
            // The checkpoint that runs by now writes the slots of the other parity, or one that failed has.
            let being_written =
                (core.is_checkpointing() || !core.is_settled()) && !slots_of(newest.checkpoint).contains(&slot);
            let fault = judge(slot, &copy, &newest, core.inherited.get()).filter(|_| !being_written);
            faults.extend(fault.map(|(cause, may_be_a_crash)| SlotFault { slot, block, cause, may_be_a_crash }));
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
        let verdict = |slot, copy, inherited| judge(slot, &copy, &newest, inherited).map(|(_, crash)| crash);
        let (sound, damage, crash) = (None, Some(false), Some(true));
        for inherited in [opened(7, none), opened(6, none), opened(2, none)] {
            assert_eq!(verdict(1, copy(1, 7), inherited), sound);
            assert_eq!(verdict(2, copy(2, 6), inherited), sound);
            assert_eq!(verdict(1, torn(), inherited), damage, "the newest has two copies");
            assert_eq!(verdict(2, torn(), inherited), damage, "it was whole when the pool was opened");
            assert_eq!(verdict(2, copy(2, 8), inherited), damage, "newer than the newest");
        }
        // A crash between the two writes of checkpoint 7 leaves 5; so does a write that was lost after 6 was opened.
        assert_eq!(verdict(3, copy(3, 5), opened(7, none)), crash);
        assert_eq!(verdict(3, copy(3, 5), opened(6, none)), damage);
        // Torn when it was opened: by a crash in the middle of checkpoint 8. Written here since: damage.
        assert_eq!(verdict(2, torn(), opened(7, [false, false, true, false])), crash);
        assert_eq!(verdict(2, torn(), opened(6, [false, false, true, false])), crash);
        assert_eq!(verdict(2, torn(), opened(5, [false, false, true, false])), damage);
        let foreign = Ok(Superblock { uuid: *b"another pool's..", ..copy(2, 6).unwrap() });
        assert_eq!(verdict(2, foreign, opened(7, none)), damage);
        // The first checkpoint has nothing before it.
        let first = Superblock { checkpoint: 1, slot: 1, ..sample() };
        assert!(judge(0, &torn(), &first, opened(0, [true; 4])).is_none());
    }
}
