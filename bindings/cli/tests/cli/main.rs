//! The real program on real pools: every command, served and unserved, its refusals, its JSON, its exit codes.

mod commands;
mod harness;
mod images;
mod refusals;
mod serving;
mod sharing;
mod upkeep;
