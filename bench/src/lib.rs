//! The test kit and the measuring bench of Outrigger.
//!
//! [`client`], [`server`], [`certs`], [`tls`] and [`process`] are what the proxy's own tests stand on: a gRPC
//! client and a scripted gRPC server written on `h2` directly, so that a test says which frame it sends and
//! sees which frame came back, and a handle on a sidecar process. The other modules are behind the `bench`
//! program: load, forwarders to compare with, and the figures.
//!
//! Nothing here depends on another crate of the workspace: what is measured cannot share a fault with what
//! measures it.

pub mod ads;
pub mod authority;
pub mod call;
pub mod certs;
pub mod client;
pub mod closed;
pub mod compare;
pub mod control;
pub mod dns;
pub mod figures;
pub mod flow;
pub mod forward;
pub mod grpc;
pub mod http1;
pub mod instructions;
pub mod joiner;
pub mod load;
pub mod maze;
pub mod measure;
pub mod metrics;
pub mod otlp;
pub mod outcome;
pub mod peer;
pub mod pin;
pub mod plane;
pub mod process;
pub mod raw;
pub mod record;
pub mod script;
pub mod sections;
pub mod server;
pub mod site;
pub mod spiffe;
pub mod subscriber;
pub mod taken;
pub mod target;
pub mod tls;
pub mod vigil;
pub mod wait;

mod echo;
mod farewell;
mod tap;
mod utter;
