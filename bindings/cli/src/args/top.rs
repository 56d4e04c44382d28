//! `cairn top`.

use clap::{Args, ValueEnum};
use std::time::Duration;

/// What lines are in order of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SortKey {
    /// Name
    Name,
    /// Reads and writes a second
    Iops,
    /// Reads a second
    Read,
    /// Writes a second
    Write,
    /// Bytes a second
    Bandwidth,
    /// What 99 % of requests were done within
    Latency,
    /// Requests that wait now
    Waiting,
    /// What was held back the longest
    Held,
    /// Space that is taken
    Allocated,
}

#[derive(Args, Debug)]
pub(crate) struct TopArgs {
    /// Between two looks: 0.1 to 3600
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = interval)]
    pub(crate) interval: Duration,
    /// End after so many intervals
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// What comes first: the greatest, or by name
    #[arg(long, value_name = "KEY", default_value = "iops")]
    pub(crate) sort: SortKey,
}

fn interval(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("a number of seconds from 0.1 to 3600 is needed".to_owned()),
    }
}
