//! Reads a RouteConfiguration.

use std::collections::{BTreeMap, BTreeSet};

use config::model::{Match, Method, Policy, Unmatched};

use crate::decode::listener::ServicePart;
use crate::kind::Kind;
use crate::refusal::Refusal;

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
    pub fn of(&self, _service: &ServicePart) -> Option<&VirtualHostPart> {
        self.virtual_hosts.first()
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
    pub fn hosts_and_ports(&self, _service: &ServicePart) -> (Vec<String>, Vec<u16>) {
        (Vec::new(), Vec::new())
    }
}

pub(crate) fn decode(_name: &str, _bytes: &[u8]) -> Result<RoutesPart, Refusal> {
    Err(Refusal::new("", "not yet"))
}
