//! The model on the wire: the model of the mesh as xDS v3 resources, and back. Pure: no I/O, no clock.
//!
//! `encode` writes what Envoy's API can say the way that Envoy says it, so that Envoy and proxyless gRPC take the same
//! resources as our sidecars; the rest stands beside it as TypedStruct of our own type URL, where foreign clients skip it
//! (`private`). `decode` reads one resource by itself and refuses what we cannot honour, with its path; `assemble` puts
//! what was read together to a mesh.

pub mod assemble;
pub mod audience;
pub mod decode;
pub mod encode;
pub mod kind;
pub mod names;
pub mod own;
pub mod refusal;
pub mod resource;

mod filters;
mod marks;
mod pb;
mod private;
mod retry_on;
mod roles;
mod share;
mod wire;

pub use crate::audience::{Audience, Client};
pub use crate::decode::Part;
pub use crate::kind::Kind;
pub use crate::own::Own;
pub use crate::refusal::Refusal;
pub use crate::resource::Resource;
