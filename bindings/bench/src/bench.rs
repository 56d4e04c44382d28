//! What is asked for: the pattern, how much of it, and what the user agreed to.

use std::{fmt, str::FromStr, time::Duration};

use cairn_engine::{Error, ErrorKind, Result};

/// Largest request in bytes.
pub(crate) const MAX_BLOCK: u64 = 32 << 20;
/// Unit of offsets and lengths in bytes.
pub(crate) const SECTOR: u64 = 512;
/// Most requests of a job in flight.
const MAX_DEPTH: u32 = 4096;
/// Most jobs.
const MAX_JOBS: u32 = 256;
/// Most bytes of buffers, over all jobs.
const MAX_BUFFERS: u64 = 4 << 30;

/// Where requests follow one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Each behind the one before, beginning again at the end of the working set.
    Sequential,
    /// As [`Spread`] says.
    Random,
}

/// How random requests are spread over the working set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Spread {
    /// Each place as often as any other.
    Uniform,
    /// The k-th most frequent place as often as `1 / k^theta`; frequent places lie scattered.
    Zipf(f64),
}

impl FromStr for Spread {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let theta = |text: &str| text.parse::<f64>().ok().filter(|theta| (0.01..=10.0).contains(theta));
        match (text, text.strip_prefix("zipf:")) {
            ("uniform", _) => Ok(Self::Uniform),
            (_, Some(rest)) if theta(rest).is_some() => Ok(Self::Zipf(theta(rest).unwrap_or(1.0))),
            _ => Err(invalid(format!(
                "distribution {text:?} is not known: write uniform, or zipf:THETA with a theta from 0.01 to 10 (zipf:1.1)"
            ))),
        }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uniform => f.write_str("uniform"),
            Self::Zipf(theta) => write!(f, "zipf:{theta}"),
        }
    }
}

/// How much of what is written is compared with what is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// Nothing.
    Off,
    /// What the pattern's own reads meet.
    Reads,
    /// That, and at the end everything that was written.
    All,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Bench {
    /// Sequential or random.
    pub order: Order,
    /// Reads among a hundred requests; the others are writes.
    pub read_percent: u8,
    /// Bytes of a request.
    pub block: u64,
    /// Requests that a job keeps in flight.
    pub depth: u32,
    /// Threads, each with a connection, ring or queue of its own (in-process: tasks of the reactor).
    pub jobs: u32,
    /// A job flushes after so many of its writes.
    pub flush_every: Option<u64>,
    /// First byte of the working set.
    pub offset: u64,
    /// Bytes of the working set; none: all behind the offset.
    pub size: Option<u64>,
    /// How random requests are spread.
    pub spread: Spread,
    /// Whether what is read is compared with what was written.
    pub verify: Verify,
    /// Write the whole working set once before measuring.
    pub fill: bool,
    /// How long to measure. With [`requests`](Self::requests) too, whichever comes first; with neither, ten seconds.
    pub runtime: Option<Duration>,
    /// How many requests to make, over all jobs, flushes not counted.
    pub requests: Option<u64>,
    /// Load that comes before and is not counted.
    pub warm_up: Duration,
    /// Requests a second over all jobs, begun when they are due whether or not others have ended; none: as fast as they go.
    pub rate: Option<f64>,
    /// For random numbers and for the bytes that are written; none: another one in each run.
    pub seed: Option<u64>,
    /// Between two points of the report's series.
    pub interval: Duration,
    /// The user agrees to the loss of what the target holds.
    pub destroy: bool,
}

impl Bench {
    /// A pattern by the name that fio gives it: `read`, `write`, `rw`, `randread`, `randwrite`, `randrw`; 4 KiB at a depth of 32
    /// if random, 1 MiB at a depth of 8 if sequential; mixed ones half reads.
    ///
    /// # Errors
    /// `Invalid` for other names.
    pub fn named(name: &str) -> Result<Self> {
        let (order, rest) = match name.strip_prefix("rand") {
            Some(rest) => (Order::Random, rest),
            None => (Order::Sequential, name),
        };
        let read_percent = match rest {
            "read" => 100,
            "write" => 0,
            "rw" => 50,
            _ => {
                return Err(invalid(format!(
                    "pattern {name:?} is not known: write read, write, rw, randread, randwrite or randrw"
                )));
            }
        };
        let (block, depth) = if order == Order::Random { (4096, 32) } else { (1 << 20, 8) };
        Ok(Self {
            order,
            read_percent,
            block,
            depth,
            jobs: 1,
            flush_every: None,
            offset: 0,
            size: None,
            spread: Spread::Uniform,
            verify: Verify::Off,
            fill: false,
            runtime: None,
            requests: None,
            warm_up: Duration::ZERO,
            rate: None,
            seed: None,
            interval: Duration::from_secs(1),
            destroy: false,
        })
    }

    /// The pattern's name, as fio has it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match (self.order, self.read_percent) {
            (Order::Sequential, 100) => "read",
            (Order::Sequential, 0) => "write",
            (Order::Sequential, _) => "rw",
            (Order::Random, 100) => "randread",
            (Order::Random, 0) => "randwrite",
            (Order::Random, _) => "randrw",
        }
    }

    /// Whether the target's content changes.
    pub(crate) fn writes(&self) -> bool {
        self.read_percent < 100 || self.fill
    }

    /// How long to measure at most.
    pub(crate) fn limit(&self) -> Option<Duration> {
        self.runtime.or(self.requests.is_none().then_some(Duration::from_secs(10)))
    }

    /// Refuses what cannot be done on any target.
    pub(crate) fn check(&self) -> Result<()> {
        let rules = [
            (
                self.block == 0 || !self.block.is_multiple_of(SECTOR) || self.block > MAX_BLOCK,
                "bs must be a multiple of 512 bytes and at most 32MiB",
            ),
            (!(1..=MAX_DEPTH).contains(&self.depth), "depth must be from 1 to 4096"),
            (!(1..=MAX_JOBS).contains(&self.jobs), "jobs must be from 1 to 256"),
            (
                u64::from(self.depth) * u64::from(self.jobs) > MAX_BUFFERS / self.block.max(1),
                "bs x depth x jobs must be at most 4 GiB, since each request in flight has a buffer: lower one of them",
            ),
            (self.read_percent > 100, "rwmix must be from 0 to 100, the percentage of reads"),
            (self.flush_every == Some(0), "fsync must be at least 1: so many writes go between two flushes"),
            (
                self.flush_every.is_some() && self.read_percent == 100,
                "fsync needs a pattern that writes: choose another rw, or leave fsync out",
            ),
            (!self.offset.is_multiple_of(SECTOR), "offset must be a multiple of 512 bytes"),
            (self.runtime == Some(Duration::ZERO), "runtime must be more than 0 seconds"),
            (self.requests == Some(0), "requests must be at least 1"),
            (
                self.rate.is_some_and(|rate| !(0.001..=1e9).contains(&rate)),
                "iops must be from 0.001 to 1000000000 requests a second",
            ),
            (
                self.order == Order::Sequential && self.spread != Spread::Uniform,
                "dist is for random patterns: choose randread, randwrite or randrw, or leave dist out",
            ),
            (
                self.interval < Duration::from_millis(10) || self.interval > Duration::from_secs(3600),
                "interval must be from 0.01 to 3600 seconds",
            ),
        ];
        match rules.into_iter().find(|(broken, _)| *broken) {
            Some((_, text)) => Err(invalid(text)),
            None => Ok(()),
        }
    }
}

pub(crate) fn invalid(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        for name in ["read", "write", "rw", "randread", "randwrite", "randrw"] {
            assert_eq!(Bench::named(name).unwrap().name(), name);
            Bench::named(name).unwrap().check().unwrap();
        }
        for name in ["", "rand", "randomread", "trim", "Read"] {
            assert_eq!(Bench::named(name).unwrap_err().kind(), ErrorKind::Invalid, "{name}");
        }
    }

    #[test]
    fn distributions_go_both_ways() {
        for text in ["uniform", "zipf:1.1", "zipf:0.5"] {
            assert_eq!(text.parse::<Spread>().unwrap().to_string(), text);
        }
        for text in ["", "zipf", "zipf:", "zipf:0", "zipf:-1", "zipf:nan", "zipf:11", "pareto:1"] {
            assert!(text.parse::<Spread>().unwrap_err().to_string().contains("zipf:THETA"), "{text}");
        }
    }

    #[test]
    fn refusals_name_the_key() {
        let base = || Bench::named("randwrite").unwrap();
        let cases: [(&str, Bench); 15] = [
            ("bs ", Bench { block: 0, ..base() }),
            ("bs ", Bench { block: 1000, ..base() }),
            ("bs ", Bench { block: 64 << 20, ..base() }),
            ("depth ", Bench { depth: 0, ..base() }),
            ("jobs ", Bench { jobs: 0, ..base() }),
            ("4 GiB", Bench { block: 32 << 20, depth: 256, ..base() }),
            ("rwmix ", Bench { read_percent: 101, ..base() }),
            ("fsync ", Bench { flush_every: Some(0), ..base() }),
            ("fsync ", Bench { flush_every: Some(1), ..Bench::named("read").unwrap() }),
            ("offset ", Bench { offset: 100, ..base() }),
            ("runtime ", Bench { runtime: Some(Duration::ZERO), ..base() }),
            ("requests ", Bench { requests: Some(0), ..base() }),
            ("iops ", Bench { rate: Some(0.0), ..base() }),
            ("dist ", Bench { spread: Spread::Zipf(1.0), ..Bench::named("write").unwrap() }),
            ("interval ", Bench { interval: Duration::ZERO, ..base() }),
        ];
        for (key, bench) in cases {
            let error = bench.check().unwrap_err();
            assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains(key), "{key}: {error}");
        }
    }
}
