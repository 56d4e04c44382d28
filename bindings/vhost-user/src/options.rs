//! How a server is to behave.

use cairn_engine::{Error, ErrorKind, Result};

/// Options of a server. The defaults serve a VM host.
///
/// ```
/// let options = cairn_vhost_user::Options { queues: 4, ..Default::default() };
/// assert_eq!(options.in_flight_bytes, 64 << 20);
/// ```
#[derive(Clone, Debug)]
pub struct Options {
    /// Rings that a front-end may use, 1 to 64. It chooses how many of them it does, as a rule one for each virtual processor.
    pub queues: u16,
    /// Descriptors in a ring at most: a power of two from 2 to 32,768. So many requests of a ring can be in flight.
    pub queue_size: u16,
    /// Bytes that the requests of one front-end may hold, in buffers and as descriptor chains; beyond that, requests wait in its rings. At
    /// least 4 MiB.
    pub in_flight_bytes: usize,
    /// Whether a write is committed before it is answered, whenever the front-end keeps the books of what is in flight (as QEMU does). Then
    /// a server that is killed and started again has lost nothing. Otherwise writes since the last flush can be lost with it as in a
    /// power cut, of which the guest, which goes on running, knows nothing: choose that only for guests that end with their server. With it, a
    /// volume's `cache=writeback` makes no difference to such front-ends.
    pub survive_kill: bool,
    /// Whether drivers may only read, whatever they are served.
    pub read_only: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { queues: 16, queue_size: 1024, in_flight_bytes: 64 << 20, survive_kill: true, read_only: false }
    }
}

impl Options {
    /// Refuses values that cannot work.
    pub(crate) fn validate(&self) -> Result<()> {
        let invalid = |text: String| Err(Error::new(ErrorKind::Invalid, text));
        if !(1..=64).contains(&self.queues) {
            return invalid(format!("{} rings for a front-end: choose 1 to 64", self.queues));
        }
        if !(2..=32768).contains(&self.queue_size) || !self.queue_size.is_power_of_two() {
            return invalid(format!("rings of {}: choose a power of two from 2 to 32768", self.queue_size));
        }
        if (self.in_flight_bytes as u64) < crate::blk::PIECE {
            return invalid(format!("{} bytes in flight are less than 4 MiB", self.in_flight_bytes));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_options_are_refused() {
        assert!(Options::default().validate().is_ok());
        for bad in [
            Options { queues: 0, ..Default::default() },
            Options { queues: 65, ..Default::default() },
            Options { queue_size: 100, ..Default::default() },
            Options { queue_size: 1, ..Default::default() },
            Options { in_flight_bytes: 1 << 20, ..Default::default() },
        ] {
            assert_eq!(bad.validate().unwrap_err().kind(), ErrorKind::Invalid, "{bad:?}");
        }
    }
}
