//! Tests of the whole: the command `cairn` as users run it, and real NBD clients against its exports.
//!
//! This library holds what the tests in `tests/` share:
//!
//! - [`tool`] runs programs with a deadline; one that is missing is a failure that says how to install it, never a skip.
//! - [`fixture`] makes pools in temporary directories and serves them by real `cairn serve` processes, which can be killed.
//! - [`guest`] boots a virtual machine on disks that are exports.
//! - [`nbd`] is an NBD client that keeps many requests in flight, independent of the server's own code.
//! - [`model`] says what each block may hold, however the requests that were in flight together were ordered.
//! - [`driver`] brings the two together: seeded random histories over NBD, with control commands and kills among them.
//! - [`pattern`] makes sectors that tell where they belong and who wrote them.

pub mod driver;
pub mod fixture;
pub mod guest;
pub mod model;
pub mod nbd;
pub mod pattern;
pub mod tool;

/// The examples of the README compile.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
