//! The real program on real pools: every command, served and unserved, its refusals, its JSON, its exit codes.

mod attach;
mod backups;
mod bench;
mod commands;
mod harness;
mod images;
mod qos;
mod refusals;
mod regroup;
mod s3;
mod serving;
mod sharing;
mod top;
mod up;
mod upkeep;
