//! The mesh as a control plane sends it: what of it is to be in force, what calls ask for by name, what is announced.
//!
//! ```text
//! client --State--> follower: hold back -> assemble -> check -> snapshot -> in force -> cache
//! client <--Want--- follower: hosts that calls ask for, endpoints of ours
//! ```
//!
//! The client (`control::xds`) speaks with the control plane and says which resources are good, each by itself; here is
//! what makes a mesh of them.

pub(crate) mod begin;
pub(crate) mod cache;
pub(crate) mod fate;
pub(crate) mod grace;
pub(crate) mod hosts;
pub(crate) mod intake;
pub(crate) mod keeper;
pub(crate) mod resume;
pub(crate) mod subsets;
pub(crate) mod told;
pub(crate) mod verdict;
