//! The model of the mesh: YAML into one validated model. No I/O, no clock, no async.
//!
//! A file goes through three stages: [`parse_sidecar`] and [`parse_mesh`] read YAML into a tree that knows
//! the place of every value, walk that tree along the table of keys (`sidecar_keys`, `mesh_keys`, `policy_keys`), and build
//! the [`model`] from what the walk let through. Every stage goes on after a fault, so that all faults of a
//! file are told at once. The JSON Schema comes from the same tables.

pub mod check;
pub mod code;
pub mod collector;
pub mod control;
pub mod fault;
pub mod health;
pub mod identity;
pub mod injection;
pub mod mesh_source;
pub mod meshes;
pub mod model;
pub mod parse;
pub mod repeats;
pub mod schema;
pub mod spiffe;
pub mod time;
pub mod words;

mod authorization;
mod control_keys;
mod cross;
mod keys;
mod mesh;
mod mesh_keys;
mod outline;
mod policy;
mod policy_keys;
mod routes;
mod scalar;
mod service;
mod sidecar;
mod sidecar_keys;
mod spell;
mod text;
mod together;
mod url;
mod walk;
mod yaml;

pub use crate::fault::{Fault, Faults};
pub use crate::meshes::{MeshFile, Meshes, parse_meshes, settle_meshes};
pub use crate::parse::{
    Source, cross_check, cross_check_sent, named_mesh, parse_control, parse_mesh, parse_sidecar,
};
pub use crate::schema::{leaf_keys, schema};
pub use crate::together::{Group, check, check_groups};
