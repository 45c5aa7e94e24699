//! The model of the mesh: YAML into one validated model. No I/O, no clock, no async.

pub mod model;
pub mod spiffe;
