//! Clusters and endpoints: what foreign clients need to find in ours, and what is made of those of other control planes.
#![allow(deprecated, reason = "some of what is refused or written is what Envoy has deprecated")]

mod foreign;
mod refused;
mod written;
