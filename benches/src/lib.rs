//! Side-by-side measurements: the raw file, a volume in-process, and volumes over NBD and vhost-user-blk, each driven with the same pattern.

pub mod aging;
pub mod load;
pub mod machine;
pub mod median;
pub mod neighbours;
pub mod peers;
pub mod probe;
pub mod requests;
pub mod row;
pub mod section;
pub mod stored;
