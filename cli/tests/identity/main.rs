//! Sidecars whose identity a control plane signs, or a Workload API hands out: what they do without one, while certificates and roots change under load, and
//! while nobody signs.

mod away;
mod ground;
mod keys;
#[path = "../parts/loopback.rs"]
mod loopback;
mod rotation;
mod streams;
mod workload;
