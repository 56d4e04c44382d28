//! Backups as a whole: chains against a model, crashes, damage, several programs at once.

#![allow(missing_docs, clippy::unwrap_used)]

mod again;
mod basics;
mod bounds;
mod chains;
mod checkpoints;
mod copies;
mod crash;
mod damage;
mod faulty;
mod golden;
mod grounds;
mod hostile;
mod instant;
mod readback;
mod reference;
mod shorter;
mod together;
mod unfinished;
mod world;
