//! What a volume may hold while requests overlap.
//!
//! The contract of an export: every request that changes blocks takes effect on each 4 KiB block at one moment between its
//! submission and its reply; a read sees each block as it was at one moment between its own. Different blocks of one request
//! may take effect at different moments. [`Block`] keeps every history that this allows, and [`Model`] the blocks of a
//! volume and its *observers*: what reads, snapshots and crashes may see, each from the moment it begins.
//!
//! At a quiet point (nothing in flight), a full read collapses every block to the one state that was read.

mod block;
mod volume;

pub use block::{Block, Effect, MOST_OPEN, SECTORS_PER_BLOCK, State, ZEROS};
pub use volume::{Change, Model, OperationId, states_of};
