//! Bytes of images, without a pool, a catalog or a network: their hashes, and qcow2 both ways.
//!
//! Images are foreign bytes, read by the process that serves everybody. So what is kept in memory of one is bounded whatever its tables say,
//! and no image chooses what else is read.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod hash;
pub(crate) mod qcow2;

pub(crate) use hash::Hashing;

/// Bytes of one piece of data.
pub(crate) const PIECE: usize = 1 << 20;

/// Where bytes are read.
pub(crate) trait Source: Sync {
    /// How many there are.
    fn length(&self) -> u64;

    /// Fills `buffer` from `offset` on. What lies behind the end is zeros.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> impl Future<Output = crate::fault::Answer<()>> + Send;
}

/// Whether all is zero.
pub(crate) fn is_zero(data: &[u8]) -> bool {
    // Zero first, and every byte equal to its neighbour: two plain memory comparisons.
    match data {
        [] => true,
        [first, rest @ ..] => *first == 0 && data.get(..rest.len()) == Some(rest),
    }
}

#[cfg(any(test, feature = "fuzzing"))]
impl Source for &[u8] {
    fn length(&self) -> u64 {
        self.len() as u64
    }

    async fn read(&self, offset: u64, buffer: &mut [u8]) -> crate::fault::Answer<()> {
        buffer.fill(0);
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(self.len());
        let there = self.get(from..).unwrap_or_default();
        buffer.iter_mut().zip(there).for_each(|(to, from)| *to = *from);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_zero_everywhere() {
        assert!(is_zero(&[]) && is_zero(&[0]) && is_zero(&vec![0; PIECE]));
        for place in [0, 1, 511, PIECE / 2, PIECE - 1] {
            let mut data = vec![0; PIECE];
            data[place] = 1;
            assert!(!is_zero(&data), "{place}");
        }
        assert!(!is_zero(&[7; 3]));
    }
}
