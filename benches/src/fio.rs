//! fio as the client of raw files and NBD exports.

use std::{path::Path, process::Command};

use crate::row::{Kind, Row};

/// What fio talks to.
pub enum Target<'a> {
    /// A file, with direct I/O through io_uring.
    File(&'a Path),
    /// An NBD URI.
    Nbd(&'a str),
}

fn base(target: &Target<'_>, size: u64) -> Command {
    let mut fio = Command::new("fio");
    let _args =
        fio.args(["--name=row", "--output-format=json", "--norandommap", "--randrepeat=0", "--refill_buffers=0"]);
    let _args = fio.arg(format!("--size={size}"));
    let _args = match target {
        Target::File(path) => {
            fio.args(["--ioengine=io_uring", "--direct=1"]).arg(format!("--filename={}", path.display()))
        }
        Target::Nbd(uri) => fio.arg("--ioengine=nbd").arg(format!("--uri={uri}")),
    };
    fio
}

/// Runs `fio` and returns requests a second of the direction that it ran.
fn run(mut fio: Command) -> Result<f64, String> {
    let output = fio.output().map_err(|e| format!("cannot run fio ({e}): run scripts/setup"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        return Err(format!("fio failed: {text}{}", String::from_utf8_lossy(&output.stderr)));
    }
    let start = text.find('{').ok_or("fio printed no JSON")?;
    let json: serde_json::Value = serde_json::from_str(&text[start..]).map_err(|e| format!("fio's JSON: {e}"))?;
    let job = &json["jobs"][0];
    let iops = |direction: &str| job[direction]["iops"].as_f64().unwrap_or(0.0);
    Ok(iops("read") + iops("write"))
}

/// Writes the whole target once, sequentially.
///
/// # Errors
/// What fio says.
pub fn fill(target: &Target<'_>, size: u64) -> Result<(), String> {
    let mut fio = base(target, size);
    let _args = fio.args(["--rw=write", "--bs=1M", "--iodepth=8", "--end_fsync=1"]);
    run(fio).map(drop)
}

/// Runs a row for `seconds`; requests a second.
///
/// # Errors
/// What fio says.
pub fn measure(target: &Target<'_>, row: &Row, size: u64, seconds: u32) -> Result<f64, String> {
    let mut fio = base(target, size);
    let rw = match row.kind {
        Kind::RandomWrite => "randwrite",
        Kind::RandomRead => "randread",
        Kind::Write => "write",
        Kind::Read => "read",
    };
    let _args = fio.arg(format!("--rw={rw}")).arg(format!("--bs={}", row.block));
    let _args = fio.arg(format!("--iodepth={}", row.depth)).args(["--time_based", &format!("--runtime={seconds}")]);
    if row.fsync {
        let _args = fio.arg("--fsync=1");
    }
    run(fio)
}
