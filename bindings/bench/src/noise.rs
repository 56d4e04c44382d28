//! Bytes that are written when nothing verifies them: without pattern, and no two blocks alike, so that neither compression nor deduplication nor
//! the detection of zeros shortens what is measured.

/// Distance of the marks that make blocks differ.
const STEP: usize = 4096;

/// A block of noise, and a count of the blocks made of it.
pub(crate) struct Noise {
    block: Vec<u8>,
    made: u64,
}

/// The next number of a splitmix64 sequence.
pub(crate) fn spread(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Noise {
    /// Noise for blocks of up to `length` bytes.
    pub(crate) fn new(length: usize, seed: u64) -> Self {
        let mut state = seed;
        let block = (0..length.div_ceil(8)).flat_map(|_| spread(&mut state).to_le_bytes()).take(length).collect();
        // Jobs begin far apart, so that none makes another's blocks.
        Self { block, made: spread(&mut state) }
    }

    /// Fills a buffer.
    pub(crate) fn fill(&self, buffer: &mut [u8]) {
        for (to, from) in buffer.chunks_mut(self.block.len()).zip(std::iter::repeat(&self.block)) {
            to.copy_from_slice(from.get(..to.len()).unwrap_or_default());
        }
    }

    /// Makes a buffer of noise differ from all that were made before.
    pub(crate) fn mark(&mut self, buffer: &mut [u8]) {
        for step in buffer.chunks_mut(STEP) {
            self.made = self.made.wrapping_add(1);
            if let Some(mark) = step.first_chunk_mut::<8>() {
                *mark = self.made.to_le_bytes();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_two_blocks_are_alike_and_none_is_zero() {
        let mut blocks = HashSet::new();
        for seed in 0..4 {
            let mut noise = Noise::new(16_384, seed);
            for _ in 0..100 {
                let mut buffer = vec![0; 16_384];
                noise.fill(&mut buffer);
                noise.mark(&mut buffer);
                for block in buffer.chunks(4096) {
                    assert!(blocks.insert(block.to_vec()) && block.iter().filter(|byte| **byte == 0).count() < 100);
                }
            }
        }
    }
}
