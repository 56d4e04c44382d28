//! The service over a real pool and catalog: rules, races, and an end at each boundary between steps.

mod attaching;
mod backing_up;
mod crash;
mod quota;
mod rules;
mod world;
