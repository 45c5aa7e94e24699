//! What changes while a sidecar runs: the mesh file, the identity, and the addresses of names.

mod faults;
mod health;
mod identity;
mod kit;
mod mesh;
mod names;
mod newcomers;
mod swaps;
