//! From one resource to what it says of the model. What cannot be honoured is refused, with its path: a resource is taken
//! as a whole or not at all.

pub(crate) mod at;
mod fault;
mod manager;
mod matches;
mod patterns;
mod permissions;
mod policy;
mod rbac;
mod retries;
mod route;
pub(crate) mod unknown;

mod balancing;
pub mod cluster;
mod domains;
pub mod endpoints;
mod listener;
pub mod parts;
mod routes;
mod transport;
mod upkeep;

pub use crate::decode::cluster::ClusterPart;
pub use crate::decode::endpoints::EndpointsPart;
pub use crate::decode::parts::{ListenerPart, RoutesPart};
pub use crate::own::Own;

use crate::kind::Kind;
use crate::refusal::Refusal;

/// What one resource says.
#[derive(Clone, Debug)]
pub enum Part {
    /// What a service is called, or what is asked of its callers.
    Listener(ListenerPart),
    /// Which cluster takes a call.
    Routes(RoutesPart),
    /// How the endpoints of a service, or of some of its labels, are called.
    Cluster(ClusterPart),
    /// Where a cluster is.
    Endpoints(EndpointsPart),
}

impl Part {
    /// Of which kind the resource is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Listener(_) => Kind::Listener,
            Self::Routes(_) => Kind::Routes,
            Self::Cluster(_) => Kind::Cluster,
            Self::Endpoints(_) => Kind::Endpoints,
        }
    }

    /// The resources that it names, each once.
    pub fn needs(&self) -> Vec<(Kind, String)> {
        match self {
            Self::Listener(part) => part.needs(),
            Self::Routes(part) => part.needs(),
            Self::Cluster(part) => part.needs(),
            Self::Endpoints(_) => Vec::new(),
        }
    }
}

/// Reads the resource `name` of a kind. The refusal names the place and the reason.
pub fn decode(kind: Kind, name: &str, bytes: &[u8], own: &Own) -> Result<Part, Refusal> {
    match kind {
        Kind::Listener => listener::decode(name, bytes, own).map(Part::Listener),
        Kind::Routes => routes::decode(name, bytes).map(Part::Routes),
        Kind::Cluster => cluster::decode(name, bytes, own).map(Part::Cluster),
        Kind::Endpoints => endpoints::decode(name, bytes).map(Part::Endpoints),
    }
}
