//! Descriptor chains: read once, checked, and then used as they were read.

use crate::memory::{Fault, Memory};
use virtio_queue::desc::split::Descriptor;
use vm_memory::GuestAddress;

/// Bytes of a descriptor in a table.
const DESCRIPTOR: u32 = 16;
/// Descriptors of one chain at most, wherever they stand.
pub(crate) const MAX_DESCRIPTORS: u32 = 1024;

/// A chain that says nothing that could be done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

/// A part of guest memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    address: u64,
    length: u32,
}

/// What one request of a driver consists of: bytes to read, then bytes to write, each in any number of segments.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Chain {
    segments: Vec<Segment>,
    /// Where in `segments` those to write begin.
    first_writable: usize,
    /// A descriptor to write was seen, of however many bytes.
    writing: bool,
    pub(crate) readable: u64,
    pub(crate) writable: u64,
    /// How many were read, in all tables.
    pub(crate) descriptors: u32,
}

impl Chain {
    /// Reads the chain that begins at `head` of a table of `size` descriptors.
    pub(crate) fn read(memory: &Memory, table: GuestAddress, size: u16, head: u16) -> Result<Self, Malformed> {
        let mut chain = Self { segments: Vec::with_capacity(4), ..Self::default() };
        let (mut table, mut size, mut index) = (table, u32::from(size), head);
        let mut indirect = false;
        // A chain that comes back to itself is longer than its table.
        let mut left = size;
        loop {
            if left == 0 {
                return Err(Malformed("a descriptor chain is longer than its table: it goes in a circle"));
            }
            left -= 1;
            chain.descriptors += 1;
            if u32::from(index) >= size {
                return Err(Malformed("a descriptor's number is beyond its table"));
            }
            let address = table.0.checked_add(u64::from(index) * u64::from(DESCRIPTOR));
            let address = address.ok_or(Malformed("a descriptor table goes beyond the last address"))?;
            let descriptor: Descriptor = memory
                .read_value(GuestAddress(address))
                .map_err(|Fault| Malformed("a descriptor is outside of the guest's memory"))?;
            if descriptor.refers_to_indirect_table() {
                if indirect || descriptor.has_next() {
                    return Err(Malformed("an indirect descriptor within an indirect table, or with a successor"));
                }
                let length = descriptor.len();
                if length == 0 || !length.is_multiple_of(DESCRIPTOR) || length / DESCRIPTOR > MAX_DESCRIPTORS {
                    return Err(Malformed("an indirect table is not 1 to 1024 descriptors long"));
                }
                (indirect, table, size, index) = (true, descriptor.addr(), length / DESCRIPTOR, 0);
                left = size;
                continue;
            }
            chain.push(descriptor)?;
            if !descriptor.has_next() {
                return Ok(chain);
            }
            index = descriptor.next();
        }
    }

    fn push(&mut self, descriptor: Descriptor) -> Result<(), Malformed> {
        let length = descriptor.len();
        if descriptor.is_write_only() {
            self.writing = true;
            self.writable += u64::from(length);
        } else {
            if self.writing {
                return Err(Malformed("a descriptor to read behind one to write"));
            }
            self.readable += u64::from(length);
            self.first_writable += usize::from(length > 0);
        }
        if self.readable + self.writable > u64::from(u32::MAX) {
            return Err(Malformed("a descriptor chain of more than 4 GiB"));
        }
        if length > 0 {
            self.segments.push(Segment { address: descriptor.addr().0, length });
        }
        Ok(())
    }

    /// Bytes of memory that it takes.
    pub(crate) fn footprint(&self) -> usize {
        self.segments.capacity() * size_of::<Segment>()
    }

    /// Copies what the driver gives, from byte `skip` on.
    pub(crate) fn copy_in(&self, memory: &Memory, skip: u64, to: &mut [u8]) -> Result<(), Fault> {
        let segments = self.segments.get(..self.first_writable).unwrap_or_default();
        let mut done = 0;
        each_piece(segments, skip, to.len(), |address, n| {
            let piece = to.get_mut(done..done + n).ok_or(Fault)?;
            done += n;
            memory.read(address, piece)
        })
    }

    /// Copies to where the driver expects it, from byte `skip` on.
    pub(crate) fn copy_out(&self, memory: &Memory, skip: u64, from: &[u8]) -> Result<(), Fault> {
        let segments = self.segments.get(self.first_writable..).unwrap_or_default();
        let mut done = 0;
        each_piece(segments, skip, from.len(), |address, n| {
            let piece = from.get(done..done + n).ok_or(Fault)?;
            done += n;
            memory.write(address, piece)
        })
    }
}

/// Calls `f` for the pieces of `length` bytes behind the first `skip` bytes of the segments.
fn each_piece(
    segments: &[Segment],
    mut skip: u64,
    mut length: usize,
    mut f: impl FnMut(GuestAddress, usize) -> Result<(), Fault>,
) -> Result<(), Fault> {
    for segment in segments {
        if length == 0 {
            break;
        }
        let size = u64::from(segment.length);
        if skip >= size {
            skip -= size;
            continue;
        }
        let n = usize::try_from(size - skip).map_or(length, |rest| rest.min(length));
        let address = segment.address.checked_add(skip).ok_or(Fault)?;
        f(GuestAddress(address), n)?;
        skip = 0;
        length -= n;
    }
    if length == 0 { Ok(()) } else { Err(Fault) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::tests::memory;
    use proptest::prelude::*;

    const NEXT: u16 = 1;
    const WRITE: u16 = 2;
    const INDIRECT: u16 = 4;
    const TABLE: GuestAddress = GuestAddress(0x1000);

    type Entry = (u64, u32, u16, u16);

    fn put(memory: &Memory, table: u64, entries: &[Entry]) {
        for (i, &(address, length, flags, next)) in entries.iter().enumerate() {
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&address.to_le_bytes());
            bytes[8..12].copy_from_slice(&length.to_le_bytes());
            bytes[12..14].copy_from_slice(&flags.to_le_bytes());
            bytes[14..].copy_from_slice(&next.to_le_bytes());
            memory.write(GuestAddress(table + i as u64 * 16), &bytes).unwrap();
        }
    }

    fn read(entries: &[Entry]) -> Result<Chain, Malformed> {
        let memory = memory(0x10000);
        put(&memory, TABLE.0, entries);
        Chain::read(&memory, TABLE, 8, 0)
    }

    #[test]
    fn segments_are_copied_in_order_across_their_bounds() {
        let memory = memory(0x10000);
        // Numbers out of order, an empty segment, and the second half in an indirect table.
        put(&memory, TABLE.0, &[(0x4000, 3, NEXT, 3), (0, 0, 0, 0), (0x8000, 48, INDIRECT, 0), (0x5000, 5, NEXT, 2)]);
        put(&memory, 0x8000, &[(0x6000, 0, NEXT, 1), (0x6100, 4, NEXT | WRITE, 2), (0x6200, 6, WRITE, 0)]);
        let chain = Chain::read(&memory, TABLE, 8, 0).unwrap();
        assert_eq!((chain.readable, chain.writable), (8, 10));
        // Only what has bytes is kept, and all that was read is counted.
        assert_eq!((chain.segments.len(), chain.descriptors), (4, 6));
        memory.write(GuestAddress(0x4000), b"abc").unwrap();
        memory.write(GuestAddress(0x5000), b"defgh").unwrap();
        let mut out = [0; 6];
        chain.copy_in(&memory, 2, &mut out).unwrap();
        assert_eq!(&out, b"cdefgh");
        assert_eq!(chain.copy_in(&memory, 3, &mut out), Err(Fault), "one byte too many");
        chain.copy_out(&memory, 3, b"1234567").unwrap();
        let mut there = [0; 7];
        memory.read(GuestAddress(0x6103), &mut there[..1]).unwrap();
        memory.read(GuestAddress(0x6200), &mut there[1..]).unwrap();
        assert_eq!(&there, b"1234567");
        assert_eq!(chain.copy_out(&memory, 10, b"x"), Err(Fault));
    }

    #[test]
    fn what_was_read_stays_whatever_the_guest_does() {
        let memory = memory(0x10000);
        put(&memory, TABLE.0, &[(0x4000, 4, 0, 0)]);
        let chain = Chain::read(&memory, TABLE, 8, 0).unwrap();
        put(&memory, TABLE.0, &[(0x9_0000, 4000, WRITE | NEXT, 99)]);
        let mut out = [0; 4];
        assert_eq!(chain.copy_in(&memory, 0, &mut out), Ok(()));
    }

    #[test]
    fn malformed_chains_are_refused_with_their_reason() {
        let circle: Vec<Entry> = (0..8).map(|i| (0x4000, 1, NEXT, (i + 1) % 8)).collect();
        let cases: [(&[Entry], &str); 10] = [
            (&circle, "circle"),
            (&[(0x4000, 1, NEXT, 0)], "circle"),
            (&[(0x4000, 1, NEXT, 8)], "beyond its table"),
            (&[(0x4000, 1, NEXT | WRITE, 1), (0x4000, 1, 0, 0)], "behind one to write"),
            (&[(0x4000, 0, NEXT | WRITE, 1), (0x4000, 0, 0, 0)], "behind one to write"),
            (&[(0x8000, 0, INDIRECT, 0)], "1 to 1024"),
            (&[(0x8000, 17, INDIRECT, 0)], "1 to 1024"),
            (&[(0x8000, 1025 * 16, INDIRECT, 0)], "1 to 1024"),
            (&[(0x8000, 16, INDIRECT | NEXT, 1)], "with a successor"),
            (&[(0xf_ff00, 16, INDIRECT, 0)], "outside of the guest's memory"),
        ];
        for (entries, why) in cases {
            let Malformed(text) = read(entries).unwrap_err();
            assert!(text.contains(why), "{text}");
        }
        let large: Vec<Entry> = (0..4).map(|i| (0, u32::MAX / 2, if i < 3 { NEXT } else { 0 }, i + 1)).collect();
        assert!(read(&large).unwrap_err().0.contains("4 GiB"));
        let memory = memory(0x10000);
        put(&memory, TABLE.0, &[(0x8000, 32, INDIRECT, 0)]);
        put(&memory, 0x8000, &[(0x8000, 16, INDIRECT, 0)]);
        assert!(Chain::read(&memory, TABLE, 8, 0).unwrap_err().0.contains("within an indirect"));
        assert!(Chain::read(&memory, TABLE, 8, 8).unwrap_err().0.contains("beyond its table"));
        assert!(Chain::read(&memory, GuestAddress(u64::MAX - 7), 8, 1).is_err());
    }

    proptest! {
        /// Mostly valid chains: whatever is read, its lengths add up and copying keeps within them.
        #[test]
        fn hostile_chains_are_bounded(
            entries in proptest::collection::vec(
                (0u64..0x11000, prop_oneof![0u32..9000, any::<u32>()], prop_oneof![4 => 0u16..4, 1 => any::<u16>()], 0u16..9), 8),
            head in 0u16..9,
        ) {
            let memory = memory(0x10000);
            put(&memory, TABLE.0, &entries);
            if let Ok(chain) = Chain::read(&memory, TABLE, 8, head) {
                prop_assert!(chain.segments.len() <= 1032 && chain.descriptors <= 1032);
                prop_assert!(chain.segments.len() * 16 <= chain.footprint());
                let sum: u64 = chain.segments.iter().map(|s| u64::from(s.length)).sum();
                prop_assert_eq!(sum, chain.readable + chain.writable);
                let mut some = vec![0; 4096];
                let _copied = chain.copy_in(&memory, 1, &mut some);
                prop_assert_eq!(chain.copy_in(&memory, chain.readable, &mut some[..1]), Err(Fault));
                prop_assert_eq!(chain.copy_out(&memory, chain.writable, &some[..1]), Err(Fault));
            }
        }
    }
}
