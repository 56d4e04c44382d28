//! Reading blocks from the pool, past all caches, and comparing them with the checksums that stand in their pointers.

use std::{collections::VecDeque, fmt, rc::Rc};

use super::walk::Found;
use crate::{
    core::Core,
    format::node,
    storage::{Completion, Op, buffer::IoBuf},
    units::{BLOCK, BLOCK_SIZE},
};

/// Longest run of neighbouring blocks read at once, in blocks.
const RUN: usize = 64;
/// Reads under way at once.
const DEPTH: usize = 64;

/// What is wrong with a block.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    Unreadable(String),
    Checksum,
    /// Its checksum is right, and it holds what no node of its level can hold.
    Level,
    /// Its pointer names a place where no such block can be.
    Place,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(error) => write!(f, "cannot be read: {error}"),
            Self::Checksum => f.write_str("fails its checksum"),
            Self::Level => f.write_str("is not a node of its level"),
            Self::Place => f.write_str("lies outside of the data area"),
        }
    }
}

/// Blocks of one read, or why there are none.
fn bytes_of(done: Completion) -> Result<IoBuf, Fault> {
    match (done.op, done.result) {
        (_, Err(error)) => Err(Fault::Unreadable(error.to_string())),
        (Op::Read { buf, .. }, Ok(n)) if n == buf.len() => Ok(buf),
        (_, Ok(n)) => Err(Fault::Unreadable(format!("only {n} bytes are there"))),
    }
}

/// Reads one block.
pub(crate) async fn block(core: &Core, block: u64) -> Result<IoBuf, Fault> {
    bytes_of(core.reactor.submit(Op::Read { offset: block * BLOCK, buf: IoBuf::with_len(BLOCK_SIZE) }).await)
}

/// Reads nodes, all at once.
pub(crate) async fn nodes(core: &Core, list: &[Found]) -> Vec<(Found, Result<Rc<IoBuf>, Fault>)> {
    let reads: Vec<_> = list
        .iter()
        .map(|found| {
            let offset = found.block().unwrap_or(0) * BLOCK;
            core.reactor.submit(Op::Read { offset, buf: IoBuf::with_len(BLOCK_SIZE) })
        })
        .collect();
    let mut out = Vec::with_capacity(list.len());
    for (found, read) in list.iter().zip(reads) {
        let outcome = bytes_of(read.await).and_then(|bytes| {
            if crc32fast::hash(&bytes) != found.pointer.crc() {
                Err(Fault::Checksum)
            } else if !node::is_sound(&bytes, found.height - 1) {
                Err(Fault::Level)
            } else {
                Ok(Rc::new(bytes))
            }
        });
        out.push((*found, outcome));
    }
    out
}

/// Reads blocks whose checksum is all that is known of them (data, blocks of the version table), in the order in which they lie;
/// returns those that are damaged.
pub(crate) async fn blocks(core: &Core, list: &[Found]) -> Vec<(Found, Fault)> {
    let mut damaged = Vec::new();
    let sorted = in_order(list);
    each(
        core,
        &neighbours(&sorted),
        || DEPTH,
        |found, bytes| match bytes {
            Ok(bytes) if crc32fast::hash(bytes) == found.pointer.crc() => {}
            Ok(_) => damaged.push((*found, Fault::Checksum)),
            Err(fault) => damaged.push((*found, fault)),
        },
    )
    .await;
    damaged
}

/// Blocks in the order in which they lie.
pub(crate) fn in_order(list: &[Found]) -> Vec<Found> {
    let mut list: Vec<Found> = list.to_vec();
    list.sort_unstable_by_key(Found::block);
    list
}

/// Reads runs of neighbouring blocks, so many at a time, and hands out each block, or why it cannot be read. Checksums are left to `take`.
pub(crate) async fn each(
    core: &Core,
    runs: &[&[Found]],
    at_a_time: impl Fn() -> usize,
    mut take: impl FnMut(&Found, Result<&[u8], Fault>),
) {
    let mut runs: VecDeque<&[Found]> = runs.iter().copied().collect();
    while !runs.is_empty() {
        let reads: Vec<_> = runs
            .drain(..runs.len().min(at_a_time().max(1)))
            .map(|run| {
                let offset = run[0].block().unwrap_or(0) * BLOCK;
                (run, core.reactor.submit(Op::Read { offset, buf: IoBuf::with_len(run.len() * BLOCK_SIZE) }))
            })
            .collect();
        for (run, read) in reads {
            match bytes_of(read.await) {
                Ok(bytes) => run.iter().zip(bytes.chunks_exact(BLOCK_SIZE)).for_each(|(found, b)| take(found, Ok(b))),
                Err(fault) if run.len() == 1 => take(&run[0], Err(fault)),
                // It cannot be read as a whole: most of its blocks may be sound.
                Err(_) => {
                    for found in run {
                        match block(core, found.block().unwrap_or(0)).await {
                            Ok(bytes) => take(found, Ok(&bytes)),
                            Err(fault) => take(found, Err(fault)),
                        }
                    }
                }
            }
        }
    }
}

/// Runs of blocks that lie beside one another.
pub(crate) fn neighbours(list: &[Found]) -> Vec<&[Found]> {
    let mut runs = Vec::new();
    for run in list.chunk_by(|a, b| a.block().map(|block| block + 1) == b.block()) {
        runs.extend(run.chunks(RUN));
    }
    runs
}
