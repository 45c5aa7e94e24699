//! Reads a Listener.

use config::model::Allow;

use crate::decode::Own;
use crate::decode::routes::RoutesPart;
use crate::kind::Kind;
use crate::refusal::Refusal;

/// What a Listener says.
#[derive(Clone, Debug)]
pub enum ListenerPart {
    /// An API listener: a service that is called.
    Service(ServicePart),
    /// A socket listener of our own sidecar: what is asked of callers.
    Inbound(InboundPart),
}

/// What an API listener says of a service.
#[derive(Clone, Debug)]
pub struct ServicePart {
    /// The service's name.
    pub service: String,
    /// Its namespace.
    pub namespace: String,
    /// What our own control plane says beside it; a foreign one says nothing, and the hosts are the domains of the
    /// virtual host.
    pub said: Option<Said>,
    /// Where its routes are.
    pub routes: RoutesOf,
    /// The name that picks the virtual host: the resource's own, which may be an alias.
    pub resource: String,
}

/// What our own control plane says of a service in its listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// As [`config::model::Service::hosts`].
    pub hosts: Vec<String>,
    /// As [`config::model::Service::ports`].
    pub ports: Vec<u16>,
    /// The trust domain of the mesh.
    pub trust_domain: String,
}

/// Where the routes of a listener are.
#[derive(Clone, Debug)]
pub enum RoutesOf {
    /// In the RouteConfiguration of this name.
    Named(String),
    /// In the listener itself.
    Inline(RoutesPart),
}

/// What `inbound/SERVICE` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundPart {
    /// The service's name.
    pub service: String,
    /// Its namespace.
    pub namespace: String,
    /// As [`config::model::Service::authorization`].
    pub authorization: Option<Vec<Allow>>,
}

impl ListenerPart {
    /// The resources that it names.
    pub(crate) fn needs(&self) -> Vec<(Kind, String)> {
        match self {
            Self::Service(ServicePart { routes: RoutesOf::Named(name), .. }) => {
                vec![(Kind::Routes, name.clone())]
            }
            Self::Service(ServicePart { routes: RoutesOf::Inline(routes), .. }) => routes.needs(),
            Self::Inbound(_) => Vec::new(),
        }
    }
}

pub(crate) fn decode(_name: &str, _bytes: &[u8], _own: &Own) -> Result<ListenerPart, Refusal> {
    Err(Refusal::new("", "not yet"))
}
