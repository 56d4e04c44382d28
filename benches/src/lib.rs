//! Side-by-side measurements: the raw file, a volume in-process, and volumes over NBD, each driven with the same pattern.

pub mod fio;
pub mod in_process;
pub mod peers;
pub mod row;
pub mod table;
