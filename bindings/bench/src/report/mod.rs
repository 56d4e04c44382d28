//! What is told at the end: for programs, as a table, as a picture.

pub mod chart;
pub(crate) mod json;
pub(crate) mod svg;
pub(crate) mod table;
