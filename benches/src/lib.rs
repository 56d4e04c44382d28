//! Measurements beside peers.
