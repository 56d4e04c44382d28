//! The load generator of `cairn bench`: one pattern on a file or device, a volume in-process, an NBD export or a vhost-user-blk socket.
//!
//! [`Bench`] is what is asked for, [`Target`] is what it is asked of, [`run`] does it and gives a [`Report`]. The same loop drives every target:
//! targets differ only in how a request is handed over and how its end is learnt of.
//!
//! ```
//! use cairn_bench::{Bench, Target, Verify, run};
//! # fn main() -> cairn_engine::Result<()> {
//! # let dir = tempfile::tempdir().unwrap();
//! let target = Target::Scratch { directory: dir.path().to_owned() };
//! let bench = Bench { size: Some(4 << 20), requests: Some(500), verify: Verify::All, ..Bench::named("randwrite")? };
//! let report = run(target, &bench, &mut |_| true)?;
//! assert_eq!(report.write.requests, 500);
//! assert!(report.verify.is_some_and(|verify| verify.failures == 0));
//! # Ok(())
//! # }
//! ```
//!
//! `DESIGN.md` beside this crate's manifest tells what is measured and how, and has the formats of verified blocks and of the JSON.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod bench;
mod board;
mod drive;
mod lane;
mod noise;
mod places;
mod report;
mod run;
mod slice;
mod stats;
mod target;
mod verify;
mod work;

pub use crate::{
    bench::{Bench, Order, Spread, Verify},
    board::Live,
    report::{
        chart,
        json::{Flow, Latency, Moment, Pass, Pattern, Report, Subject, Verified},
        svg::svg,
        table::table,
    },
    run::run,
    target::{Target, nbd::uri::NbdUri},
};
