#![doc = include_str!("../README.md")]

mod alive;
#[cfg(test)]
mod allocated;
mod chains;
mod chunk;
mod chunks;
mod collect;
mod create;
mod crypt;
mod envelope;
mod error;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod heal;
mod import;
mod index;
mod instant;
mod job;
mod keyring;
mod log;
mod map;
mod mark;
mod pack;
#[cfg(feature = "pieces")]
#[doc(hidden)]
pub mod pieces;
mod policy;
mod ranges;
mod repository;
mod restore;
mod session;
mod source;
mod store;
mod unfinished;
mod verify;

pub use chains::Deleted;
pub use chunk::ChunkId;
pub use collect::{CollectOptions, Collected};
pub use create::{CreateOptions, Mode, SNAPSHOT_PREFIX};
pub use crypt::{Secret, Stretch, Wrap};
pub use error::{Error, ErrorKind, Result};
pub use instant::Filling;
pub use job::{Job, Progress};
pub use log::record::{Backup, Origin, Root, Statistics};
pub use policy::{Policy, Verdict};
pub use repository::{Identity, InitOptions, Location, Repository};
pub use restore::{Hole, RestoreOptions, Restored};
pub use verify::{DamagedChunk, DamagedRange, Verified, VerifyOptions};
