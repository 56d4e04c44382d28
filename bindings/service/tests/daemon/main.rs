//! `cairnd` as a process: what it answers over HTTP, what real clients make of it, and that it may be killed at any moment.

mod clients;
mod exports;
mod garbage;
mod harness;
mod keystone;
mod killed;
mod native;
mod people;
mod protocol;
mod racing;
mod records;
mod rules;
mod schema;
mod starting;
mod threads;
