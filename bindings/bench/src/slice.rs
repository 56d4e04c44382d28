//! The part of a target that a job works on.

/// A range of whole places, each of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slice {
    /// First byte, in the target.
    pub(crate) offset: u64,
    /// Places of `block` bytes.
    pub(crate) places: u64,
    /// Bytes of a place.
    pub(crate) block: u64,
}

impl Slice {
    /// Bytes.
    pub(crate) fn length(&self) -> u64 {
        self.places * self.block
    }

    /// Contiguous shares of jobs: none empty if there are as many places, none larger than another by more than a place.
    pub(crate) fn share(&self, jobs: u64) -> impl Iterator<Item = Self> {
        let whole = *self;
        let at = move |job: u64| (u128::from(whole.places) * u128::from(job) / u128::from(jobs)) as u64;
        (0..jobs).map(move |job| Self {
            offset: whole.offset + at(job) * whole.block,
            places: at(job + 1) - at(job),
            block: whole.block,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_cover_everything_once() {
        for (places, jobs) in [(1, 1), (7, 3), (256, 256), (1000, 7), (u64::MAX >> 12, 5)] {
            let whole = Slice { offset: 512, places, block: 4096 };
            let shares: Vec<_> = whole.share(jobs).collect();
            let mut next = whole.offset;
            for share in &shares {
                assert_eq!(share.offset, next);
                assert!(share.places >= places / jobs && share.places <= places / jobs + 1);
                next += share.places * share.block;
            }
            assert_eq!(shares.iter().map(|s| s.places).sum::<u64>(), places);
        }
    }
}
