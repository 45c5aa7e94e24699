//! Who a workload is: what its certificate says, what belongs to it, where it comes from, and when it is renewed.
//!
//! Both the sidecar and the control plane go by this, and so does whoever keeps certificates for other programs. Imports go
//! down this list only, or stay within a line.
//!
//! ```text
//! agent         gets an identity and keeps it new
//! renew         from the CA of control planes
//! attempt       one try at a certificate: which control plane, by certificate or token
//! ca, trust     the two things that a control plane is asked
//! workload      from the SPIFFE Workload API
//! cache         what is kept over a restart
//! keep          what is in force, and how it is told
//! reach         the way to a control plane
//! rpc           gRPC as a client
//! check         what others hand us, checked whole
//! state         how it stands with it, and what has failed
//! plan          when a certificate is renewed, and how loud its age is told
//! dial          how control planes are reached
//! chain         who signed whom, and when each of them ends
//! material      certificate, key and roots, checked to belong together
//! leaf, pem     what a certificate says; certificates and keys in PEM
//! ```

pub mod agent;
pub mod chain;
pub mod dial;
pub mod leaf;
pub mod material;
pub mod pem;
pub mod plan;
pub mod state;

mod attempt;
mod ca;
mod cache;
mod check;
mod keep;
mod reach;
mod renew;
mod rpc;
mod trust;
mod workload;
