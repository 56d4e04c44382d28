//! `cairnd` as a process: what it answers over HTTP, what real clients make of it, and that it may be killed at any moment.

mod clients;
mod harness;
mod killed;
mod protocol;
