//! Rows as loads of `cairn bench`: every target meets the same requests, by the same loop.

use std::time::Duration;

use cairn_bench::{Bench, Report, Target, run};
use cairn_engine::KIB;

use crate::row::{Kind, ROWS, Row};

/// The pattern of a row. What the targets hold is the comparison's own.
fn pattern(row: &Row, size: u64) -> Result<Bench, String> {
    let name = match row.kind {
        Kind::RandomWrite => "randwrite",
        Kind::RandomRead => "randread",
        Kind::Write => "write",
        Kind::Read => "read",
    };
    Ok(Bench {
        block: row.block,
        depth: row.depth,
        flush_every: row.fsync.then_some(1),
        size: Some(size),
        destroy: true,
        ..Bench::named(name).map_err(|e| e.to_string())?
    })
}

fn go(target: Target, bench: &Bench) -> Result<Report, String> {
    run(target, bench, &mut |_| true).map_err(|e| e.to_string())
}

/// Writes the whole target once, sequentially, and flushes.
///
/// # Errors
/// What the target says.
pub fn fill(target: Target, size: u64) -> Result<(), String> {
    let once = Bench {
        requests: Some(1),
        size: Some(size),
        fill: true,
        destroy: true,
        ..Bench::named("read").map_err(|e| e.to_string())?
    };
    go(target, &once).map(drop)
}

/// Overwrites the target block by block in any order, as many blocks as it has: most of them at least once. Then flushes.
///
/// # Errors
/// What the target says.
pub fn scatter(target: Target, size: u64) -> Result<(), String> {
    let row = Row { kind: Kind::RandomWrite, block: 4 * KIB, depth: 32, ..ROWS[0] };
    let overwrite = Bench { requests: Some(size / row.block), ..pattern(&row, size)? };
    go(target, &overwrite).map(drop)
}

/// Runs a row for `seconds`; requests a second. A write with its flush is one.
///
/// # Errors
/// What the target says.
pub fn measure(target: Target, row: &Row, size: u64, seconds: u32) -> Result<f64, String> {
    let bench = Bench { runtime: Some(Duration::from_secs(seconds.into())), ..pattern(row, size)? };
    go(target, &bench).map(|report| report.total.iops)
}
