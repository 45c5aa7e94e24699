//! What Listeners and RouteConfigurations say, once they are read.

use std::collections::{BTreeMap, BTreeSet};

use config::model::{Authorization, Match, Method, Policy, Unmatched};

use crate::decode::domains;
use crate::kind::Kind;
use crate::names;

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
    /// As [`config::model::Service::registration`].
    pub registration: bool,
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
    pub authorization: Option<Authorization>,
}

impl ListenerPart {
    /// The resources that it names.
    pub(crate) fn needs(&self) -> Vec<(Kind, String)> {
        match self {
            Self::Service(part) => {
                let mut needs = match &part.routes {
                    RoutesOf::Named(name) => vec![(Kind::Routes, name.clone())],
                    RoutesOf::Inline(routes) => routes.needs(),
                };
                // A service of ours has a cluster, even if none of its routes leads there.
                let cluster = (Kind::Cluster, names::service(&part.service, &part.namespace));
                if part.said.is_some() && !needs.contains(&cluster) {
                    needs.push(cluster);
                }
                needs
            }
            Self::Inbound(_) => Vec::new(),
        }
    }
}

/// What a RouteConfiguration says.
#[derive(Clone, Debug)]
pub struct RoutesPart {
    /// Its virtual hosts; a service takes the one that [`RoutesPart::of`] finds.
    pub virtual_hosts: Vec<VirtualHostPart>,
}

/// What a virtual host says of the service that takes it.
#[derive(Clone, Debug)]
pub struct VirtualHostPart {
    /// `host`, `host:PORT`, `host:*`, `*.domain`, or `*`; in lower case.
    pub domains: Vec<String>,
    /// Ordered; the first match wins.
    pub routes: Vec<RoutePart>,
    /// What happens to a call that matches none of them.
    pub unmatched: Unmatched,
    /// What holds for its calls.
    pub policy: Policy,
    /// What is known of methods.
    pub methods: BTreeMap<String, Method>,
}

/// One route.
#[derive(Clone, Debug)]
pub struct RoutePart {
    /// What a call must look like.
    pub matches: Match,
    /// Where it goes.
    pub backends: Vec<BackendPart>,
    /// What holds for it.
    pub policy: Policy,
}

/// A weighted target of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendPart {
    /// The name of a Cluster; `names::parse_cluster` tells service and labels apart.
    pub cluster: String,
    /// Relative to its siblings.
    pub weight: u32,
}

impl RoutesPart {
    /// The virtual host that a service takes: the one whose domain fits best to the name of its listener (gRFC A27: exact,
    /// then `*` in front, then `*` behind, the longer first, then `*` alone).
    pub fn of(&self, service: &ServicePart) -> Option<&VirtualHostPart> {
        let domains = self.virtual_hosts.iter().map(|host| host.domains.as_slice());
        domains::best(domains, &service.resource).and_then(|index| self.virtual_hosts.get(index))
    }

    /// The clusters that it names.
    pub(crate) fn needs(&self) -> Vec<(Kind, String)> {
        let routes = self.virtual_hosts.iter().flat_map(|host| &host.routes);
        let clusters: BTreeSet<&str> =
            routes.flat_map(|route| &route.backends).map(|backend| backend.cluster.as_str()).collect();
        clusters.into_iter().map(|cluster| (Kind::Cluster, cluster.to_owned())).collect()
    }
}

impl VirtualHostPart {
    /// Hosts and ports of the service, where a foreign control plane says them by its domains only. A domain that stands for
    /// many hosts gives none: then the listener's own name is the host.
    pub fn hosts_and_ports(&self, service: &ServicePart) -> (Vec<String>, Vec<u16>) {
        domains::hosts_and_ports(&self.domains, &service.resource)
    }
}
