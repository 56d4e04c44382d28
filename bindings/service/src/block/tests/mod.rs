//! The service over a real pool and catalog: rules, races, and an end at each boundary between steps.

mod attaching;
mod backing_up;
mod boundaries;
mod cancelling;
mod crash;
mod crash_images;
mod crash_native;
mod crowding;
mod default_types;
mod filling;
mod groups;
mod images;
mod limits;
mod past;
mod quota;
mod racing;
mod rules;
mod transferring;
mod world;
