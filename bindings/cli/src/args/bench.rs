//! `cairn bench`.

use clap::{Args, ValueEnum, builder::PossibleValuesParser};
use std::{path::PathBuf, time::Duration};

use crate::size;

/// What `cairn bench --help` says after the options.
pub(crate) const BENCH_HELP: &str = "TARGET is one of
  VOLUME, VOLUME@SNAPSHOT     of the pool, which must not be served: this process opens it, and requests are made within it
  ./FILE, /dev/DEVICE         by io_uring and direct I/O: what the disk does without an engine; a file is made if --size is given
  nbd://HOST:PORT/EXPORT      or nbd+unix:///EXPORT?socket=/PATH, by a client of its own
  vhost-user:/PATH            a disk of a virtual machine (cairn attach), by a driver of its own, without the machine
and without TARGET a new volume in a scratch pool in --dir, which is removed at the end.

Reading changes nothing. Patterns that write, and --fill, destroy what the working set holds: they are refused unless the target
was made for this run, is a volume to which nothing was ever written, or --destroy is given. Not even then is a mounted device, or
a pool that is open, written to.

IOPS and BANDWIDTH are of requests that were begun after the warm-up. Latencies go from before a request is handed over to after
its end is learnt of; with --iops from when it was due, so that a target that stalls is charged for all that it kept waiting. What
is measured over NBD or vhost-user-blk includes the client, and shares the processors with a server on this machine.

Ends with 7 if verification finds something wrong. Ctrl-C ends the run early and tells what there is.

Examples:
  cairn bench
  cairn bench db --rw randread --runtime 30
  cairn bench ./raw --size 4GiB --rw randwrite --depth 128
  cairn bench /dev/vdb --rw randrw --rwmix 70 --bs 16KiB --jobs 4 --destroy
  cairn bench nbd+unix:///db?socket=/run/main.sock --rw randwrite --fsync 1 --depth 1 --destroy
  cairn bench vhost-user:/run/cairn/vhost/db.sock --rw read --svg read.svg
  cairn bench db --rw randrw --verify --dist zipf:1.1 --requests 1000000 --destroy
  cairn bench db --rw randread --iops 5000 --runtime 60 --svg latency.svg
  cairn --json bench db --rw randread | jq .read.latency.p99";

/// What is read is compared with what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum VerifyWhat {
    /// What the pattern's reads meet
    Reads,
    /// That, and at the end everything that was written
    All,
}

#[derive(Args, Debug)]
pub(crate) struct BenchArgs {
    /// What to measure: VOLUME, ./FILE, /dev/DEVICE, an NBD URL, or vhost-user:/PATH; a scratch volume when left out
    pub(crate) target: Option<String>,
    /// The pattern: sequential or random, reads or writes or both
    #[arg(long, value_name = "PATTERN", default_value = "randread",
        value_parser = PossibleValuesParser::new(["read", "write", "rw", "randread", "randwrite", "randrw"]))]
    pub(crate) rw: String,
    /// Bytes of a request [default: 4KiB, sequential ones 1MiB]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub(crate) bs: Option<u64>,
    /// Requests that each job keeps in flight [default: 32, sequential ones 8]
    #[arg(long, alias = "iodepth", value_name = "NUMBER")]
    pub(crate) depth: Option<u32>,
    /// Threads with a ring, connection or queue each; those that go in order or verify have a part of the working set each
    #[arg(long, alias = "numjobs", value_name = "NUMBER", default_value_t = 1)]
    pub(crate) jobs: u32,
    /// Reads among a hundred requests, with rw and randrw [default: 50]
    #[arg(long, alias = "rwmixread", value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(crate) rwmix: Option<u8>,
    /// Flush after so many writes of a job
    #[arg(long, value_name = "NUMBER")]
    pub(crate) fsync: Option<u64>,
    /// Where the working set begins
    #[arg(long, value_name = "OFFSET", value_parser = size::parse, default_value = "0")]
    pub(crate) offset: u64,
    /// Bytes of the working set [default: all behind the offset; 1GiB of a scratch volume]
    #[arg(long, value_parser = size::parse)]
    pub(crate) size: Option<u64>,
    /// How random requests are spread: uniform, or zipf:THETA with few places met often
    #[arg(long, value_name = "DISTRIBUTION", default_value = "uniform")]
    pub(crate) dist: String,
    /// Write blocks that describe themselves and compare them when they are read; by itself: all
    #[arg(long, value_name = "WHAT", num_args = 0..=1, require_equals = true, default_missing_value = "all")]
    pub(crate) verify: Option<VerifyWhat>,
    /// Write the whole working set once before measuring
    #[arg(long)]
    pub(crate) fill: bool,
    /// How long to measure [default: 10, unless --requests is given]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) runtime: Option<Duration>,
    /// How many requests to make
    #[arg(long, value_name = "NUMBER")]
    pub(crate) requests: Option<u64>,
    /// Load before the measurement, which is not counted
    #[arg(long, alias = "ramp_time", value_name = "SECONDS", value_parser = seconds, default_value = "0")]
    pub(crate) warm_up: Duration,
    /// Begin so many requests a second, whether or not earlier ones have ended
    #[arg(long, value_name = "RATE")]
    pub(crate) iops: Option<f64>,
    /// Makes the same requests and bytes again
    #[arg(long, value_name = "NUMBER")]
    pub(crate) seed: Option<u64>,
    /// Between two points of the series, in JSON and in the picture
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "1")]
    pub(crate) interval: Duration,
    /// Draw requests, bytes and latencies over time
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    /// What the working set holds may be lost
    #[arg(long)]
    pub(crate) destroy: bool,
    /// Where a scratch pool is made
    #[arg(long, value_name = "DIRECTORY", default_value = "/var/tmp")]
    pub(crate) dir: PathBuf,
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=31_536_000.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("a number of seconds is needed, at most a year".to_owned()),
    }
}
