//! The guest's memory: regions of files in memory, mapped. The front-end and its guest may change every byte of it at any time.
//!
//! Invariants:
//! - Everything is read by copying, once: what was checked is what is used.
//! - A [`Memory`] never changes. When the front-end changes its regions, requests under way keep those that they began with.
//! - No access can end the process ([`bus`]); what was read from a mapping counts only while [`Memory::is_whole`].
//! - Nothing is touched where something was lost: what is there instead is this process's own, and each page of it would cost one.

use crate::{
    bus,
    descriptors::Foreign,
    mapping::{Budget, MAX_BYTES, Mapping},
    protocol::Region,
};
use std::{cell::Cell, sync::Arc};
use vm_memory::{ByteValued, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestRegionMmap, VolatileSlice};

pub(crate) use crate::mapping::MAX_REGIONS;

/// Bytes outside of the guest's memory, or memory that was taken away.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fault;

/// A mapped region.
#[derive(Clone)]
struct Slot {
    region: Region,
    mapping: Arc<Mapping>,
    /// The bytes of `mapping`.
    bytes: Arc<GuestRegionMmap>,
}

impl Slot {
    fn new(region: Region, file: &Foreign, budget: &Arc<Budget>) -> Result<Self, String> {
        let fits = |start: u64| start.checked_add(region.size).is_some();
        if !fits(region.guest) || !fits(region.user) {
            return Err(format!("a region of {} bytes goes beyond the last address", region.size));
        }
        let mapping = Mapping::of(file, region.offset, region.size, budget)?;
        let bytes =
            GuestRegionMmap::new(mapping.bytes()?, GuestAddress(region.guest)).ok_or("a region has no place")?;
        Ok(Self { region, mapping: Arc::new(mapping), bytes: Arc::new(bytes) })
    }
}

/// The regions of a front-end at one time.
#[derive(Default)]
pub(crate) struct Memory {
    /// The bytes of the slots.
    pub(crate) guest: GuestMemoryMmap,
    slots: Vec<Slot>,
    /// Losses of the process when nothing here was lost, as far as is known.
    losses: Cell<Option<u64>>,
}

impl Memory {
    /// Maps a whole table.
    pub(crate) fn map(table: Vec<(Region, Foreign)>, budget: &Arc<Budget>) -> Result<Self, String> {
        let mapped = total(table.iter().map(|(region, _)| region.size));
        if mapped > MAX_BYTES {
            return Err(format!("{mapped} bytes of memory: {MAX_BYTES} are the most"));
        }
        let slots = table.iter().map(|(region, file)| Slot::new(*region, file, budget));
        Self::of(slots.collect::<Result<_, _>>()?)
    }

    fn of(mut slots: Vec<Slot>) -> Result<Self, String> {
        slots.sort_by_key(|slot| slot.region.guest);
        let regions: Vec<_> = slots.iter().map(|slot| Arc::clone(&slot.bytes)).collect();
        let guest = match regions.is_empty() {
            true => GuestMemoryMmap::new(),
            false => GuestMemoryMmap::from_arc_regions(regions).map_err(|e| format!("memory regions: {e}"))?,
        };
        Ok(Self { guest, slots, losses: Cell::default() })
    }

    /// With one region more.
    pub(crate) fn with(&self, region: Region, file: Foreign, budget: &Arc<Budget>) -> Result<Self, String> {
        if self.slots.len() >= MAX_REGIONS {
            return Err(format!("more than {MAX_REGIONS} regions of memory"));
        }
        if total(self.slots.iter().map(|slot| slot.region.size).chain([region.size])) > MAX_BYTES {
            return Err(format!("more than {MAX_BYTES} bytes of memory"));
        }
        let slot = Slot::new(region, &file, budget)?;
        Self::of(self.slots.iter().cloned().chain([slot]).collect())
    }

    /// Without one of its regions.
    pub(crate) fn without(&self, region: Region) -> Result<Self, String> {
        let same = |slot: &&Slot| {
            let there = slot.region;
            (there.guest, there.size, there.user) == (region.guest, region.size, region.user)
        };
        if !self.slots.iter().any(|slot| same(&slot)) {
            return Err(format!("there is no region of {} bytes at {:#x}", region.size, region.guest));
        }
        Self::of(self.slots.iter().filter(|slot| !same(slot)).cloned().collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Where the guest has what the front-end has at `user`.
    pub(crate) fn guest_address(&self, user: u64) -> Option<GuestAddress> {
        self.slots.iter().map(|slot| slot.region).find_map(|region| {
            let into = user.checked_sub(region.user).filter(|&into| into < region.size)?;
            Some(GuestAddress(region.guest + into))
        })
    }

    /// Whether no mapping has lost its file's bytes so far: otherwise, zeros may have been read.
    pub(crate) fn is_whole(&self) -> bool {
        // Before the look at the slots: what is lost after it makes a difference.
        let losses = bus::losses();
        if self.losses.get() == Some(losses) {
            return true;
        }
        let whole = self.slots.iter().all(|slot| slot.mapping.is_whole());
        self.losses.set(whole.then_some(losses));
        whole
    }

    /// Copies out of the guest. Where some of that is lost meanwhile, zeros are copied: see [`is_whole`](Self::is_whole).
    pub(crate) fn read(&self, address: GuestAddress, to: &mut [u8]) -> Result<(), Fault> {
        let mut rest = to;
        self.each_slice(address, rest.len(), |slice| {
            let (piece, behind) = std::mem::take(&mut rest).split_at_mut_checked(slice.len()).ok_or(Fault)?;
            slice.copy_to(piece);
            rest = behind;
            Ok(())
        })
    }

    /// Copies into the guest.
    pub(crate) fn write(&self, address: GuestAddress, from: &[u8]) -> Result<(), Fault> {
        let mut rest = from;
        self.each_slice(address, rest.len(), |slice| {
            let (piece, behind) = rest.split_at_checked(slice.len()).ok_or(Fault)?;
            slice.copy_from(piece);
            rest = behind;
            Ok(())
        })
    }

    /// Copies a value out of the guest, as [`read`](Self::read).
    pub(crate) fn read_value<T: ByteValued + Default>(&self, address: GuestAddress) -> Result<T, Fault> {
        let mut value = T::default();
        self.read(address, value.as_mut_slice())?;
        Ok(value)
    }

    /// Calls `copy` for the parts of a range, one in each region that it is in, for as long as nothing was lost.
    fn each_slice(
        &self,
        address: GuestAddress,
        length: usize,
        mut copy: impl FnMut(VolatileSlice<'_>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        for slice in self.guest.get_slices(address, length) {
            if !self.is_whole() {
                return Err(Fault);
            }
            copy(slice.map_err(|_| Fault)?)?;
        }
        Ok(())
    }
}

fn total(sizes: impl Iterator<Item = u64>) -> u64 {
    sizes.fold(0, u64::saturating_add)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    use std::os::fd::AsFd;

    fn file(size: u64) -> Foreign {
        let file = memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, size).unwrap();
        file.into()
    }

    /// Memory of one region that begins at 0 for the guest.
    pub(crate) fn memory(size: u64) -> Memory {
        let region = Region { guest: 0, size, user: 0x7000_0000, offset: 0 };
        Memory::map(vec![(region, file(size))], &Arc::default()).unwrap()
    }

    const fn region(guest: u64, size: u64, offset: u64) -> Region {
        Region { guest, size, user: 0x7000_0000u64.wrapping_add(guest), offset }
    }

    #[test]
    fn regions_are_found_by_both_of_their_addresses() {
        let memory = Memory::map(
            vec![(region(0x10000, 0x2000, 0x1000), file(0x3000)), (region(0, 0x1000, 0), file(0x1000))],
            &Arc::default(),
        )
        .unwrap();
        assert_eq!(memory.guest_address(0x7001_1fff), Some(GuestAddress(0x11fff)));
        assert_eq!(memory.guest_address(0x7001_2000), None);
        assert_eq!(memory.guest_address(0), None);
        memory.write(GuestAddress(0xffc), &[1; 4]).unwrap();
        assert_eq!(memory.write(GuestAddress(0xffd), &[1; 4]), Err(Fault), "over the end of a region");
        let more = memory.with(region(0x1000, 0x1000, 0), file(0x1000), &Arc::default()).unwrap();
        more.write(GuestAddress(0xffd), &[2; 6]).unwrap();
        let mut four = [0; 4];
        memory.read(GuestAddress(0xffc), &mut four).unwrap();
        assert_eq!(four, [1, 2, 2, 2], "both see the same memory");
        let less = more.without(region(0, 0x1000, 7)).unwrap();
        assert_eq!(less.read(GuestAddress(0), &mut four), Err(Fault));
        assert!(less.without(region(0, 0x1000, 0)).is_err());
        assert!(less.with(region(0x1800, 0x1000, 0), file(0x1000), &Arc::default()).is_err(), "overlapping");
    }

    #[test]
    fn files_that_do_not_hold_their_region_are_refused() {
        let bad = [
            (region(0, 0, 0), 0x1000),
            (region(0, 0x1001, 0), 0x1000),
            (region(0, 0x1000, 0x1000), 0x1000),
            (region(0, 0x1000, 0x800), 0x2000),
            (region(u64::MAX - 0xfff, 0x1000, 0), 0x1000),
            (region(0, u64::MAX, 0), 0x1000),
            (region(0, 0x1000, u64::MAX), 0x1000),
            (region(0, 8 << 40, 0), 16 << 40),
        ];
        for (region, size) in bad {
            assert!(Memory::map(vec![(region, file(size))], &Arc::default()).is_err(), "{region:?}");
        }
    }

    #[test]
    fn what_is_still_in_use_counts_until_it_is_unmapped() {
        let budget = Arc::default();
        let table = || Memory::map(vec![(region(0, 4 << 40, 0), file(4 << 40))], &budget);
        let (first, _second) = (table().unwrap(), table().unwrap());
        assert!(table().is_err(), "a third one");
        drop(first);
        while table().is_err() {
            std::thread::yield_now();
        }
        let mut many = Memory::default();
        let page = |i| region(i << 12, 0x1000, 0);
        for i in 0..MAX_REGIONS as u64 {
            many = many.with(page(i), file(0x1000), &Arc::default()).unwrap();
        }
        assert!(many.with(page(64), file(0x1000), &Arc::default()).is_err());
    }

    #[test]
    fn memory_that_is_cut_off_is_noticed_and_ends_nothing() {
        let file = file(0x4000);
        let kept = file.as_fd().try_clone_to_owned().unwrap();
        let memory = Memory::map(vec![(region(0, 0x4000, 0), file)], &Arc::default()).unwrap();
        let other = self::memory(0x1000);
        memory.write(GuestAddress(0x3000), &[7; 8]).unwrap();
        assert!(memory.is_whole());
        ftruncate(&kept, 0x1000).unwrap();
        let mut bytes = [1; 8];
        memory.read(GuestAddress(0x3000), &mut bytes).unwrap();
        assert_eq!(bytes, [0; 8]);
        assert!(!memory.is_whole(), "what was read is not the guest's");
        assert!(other.is_whole());
        let with_more = memory.with(region(0x8000, 0x1000, 0), self::file(0x1000), &Arc::default()).unwrap();
        assert!(!with_more.is_whole(), "nor does it become so");
        assert!(with_more.without(region(0, 0x4000, 0)).unwrap().is_whole());
        assert_eq!(memory.write(GuestAddress(0), &[7; 8]), Err(Fault), "nor is any of it touched");
        drop(memory);
        other.write(GuestAddress(0), &[7; 8]).unwrap();
    }
}
