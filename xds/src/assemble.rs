//! What resources say, put together to a mesh.
//!
//! A service is what a listener names, with the routes that the listener asks for, and the cluster of the same name. A
//! cluster that has no listener is a service as well: nobody can ask for it by name, and routes lead to it. What is not all
//! there is left out, and told.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use config::model::{Backend, Endpoint, Mesh, Policy, Route, Service, Unmatched};
use config::spiffe::SpiffeId;

use crate::decode::cluster::{Location, Whole};
use crate::decode::parts::{RoutePart, RoutesOf, ServicePart, VirtualHostPart};
use crate::decode::{ClusterPart, EndpointsPart, ListenerPart, Part};
use crate::kind::Kind;
use crate::names;
use crate::own::Own;

/// Labels that a route asks for.
type Labels = BTreeMap<String, String>;

/// All resources that are here, by kind and name.
pub type Parts = BTreeMap<(Kind, String), Part>;

/// What the resources come to.
#[derive(Clone, Debug, PartialEq)]
pub struct Assembly {
    /// The services that are all there, in the order of their full names.
    pub mesh: Mesh,
    /// Resources that others name and that are not here, each once. Services that need one of them are not in the mesh.
    pub missing: Vec<(Kind, String)>,
    /// The full names of the services that have a listener and are not all here. They are not in the mesh, or in it without
    /// hosts, if others lead there.
    pub left_out: Vec<String>,
    /// What does not go together, in plain words: two services of one name, two that claim a host, and the like.
    pub conflicts: Vec<String>,
}

/// Puts a mesh together.
pub fn assemble(parts: &Parts, own: &Own) -> Assembly {
    let mut conflicts = Vec::new();
    let clusters = Clusters::of(parts, own, &mut conflicts);
    let mut drafts: BTreeMap<String, Draft<'_>> = BTreeMap::new();
    let mut left_out = Vec::new();
    for (full, part) in listeners(parts, &mut conflicts) {
        match Draft::of(part, &full, parts, &clusters, &mut conflicts) {
            Some(draft) => {
                drafts.insert(full, draft);
            }
            None => left_out.push(full),
        }
    }
    for (full, cluster) in &clusters.services {
        drafts.entry(full.clone()).or_insert(Draft { listener: None, cluster: Some(cluster) });
    }
    let trust_domain = trust_domain(parts, own, &mut conflicts);
    let order: HashMap<&str, usize> = drafts.keys().map(String::as_str).zip(0..).collect();
    let index = |full: &str| order.get(full).copied();
    let built = drafts.iter().map(|(full, draft)| draft.build(full, &trust_domain, own, &clusters, &index));
    let mut services: Vec<Service> = built.collect();
    enforce(parts, &mut services, &index, &mut conflicts);
    share_hosts(&mut services, &mut conflicts);
    Assembly { mesh: Mesh { trust_domain, services }, missing: missing(parts), left_out, conflicts }
}

/// What parts name that is not here.
fn missing(parts: &Parts) -> Vec<(Kind, String)> {
    let needs: BTreeSet<(Kind, String)> = parts.values().flat_map(Part::needs).collect();
    needs.into_iter().filter(|need| !parts.contains_key(need)).collect()
}

/// The listeners of services by full name, each service once.
fn listeners<'a>(parts: &'a Parts, conflicts: &mut Vec<String>) -> BTreeMap<String, &'a ServicePart> {
    let mut listeners: BTreeMap<String, &ServicePart> = BTreeMap::new();
    for part in parts.values() {
        let Part::Listener(ListenerPart::Service(part)) = part else { continue };
        let full = names::service(&part.service, &part.namespace);
        match listeners.get(&full) {
            None => {
                listeners.insert(full, part);
            }
            // The same service under a host that somebody asked for: the resource of its own name goes first.
            Some(first) if first.said.is_some() && first.said == part.said => {
                if part.resource == full {
                    listeners.insert(full, part);
                }
            }
            Some(first) => conflicts.push(format!(
                "the listeners `{}` and `{}` are both the service `{full}`; the first counts",
                first.resource, part.resource
            )),
        }
    }
    listeners
}

/// The trust domain that listeners say; one that says another is told.
fn trust_domain(parts: &Parts, own: &Own, conflicts: &mut Vec<String>) -> String {
    let mut domain: Option<&str> = None;
    for part in parts.values() {
        let Part::Listener(ListenerPart::Service(ServicePart { said: Some(said), resource, .. })) = part
        else {
            continue;
        };
        match domain {
            None => domain = Some(&said.trust_domain),
            Some(first) if first == said.trust_domain => {}
            Some(first) => conflicts.push(format!(
                "the listener `{resource}` is of the trust domain `{}`, others are of `{first}`, which counts",
                said.trust_domain
            )),
        }
    }
    domain.unwrap_or(&own.trust_domain).to_owned()
}

/// A cluster, and where it is.
#[derive(Debug)]
struct Complete<'a> {
    whole: &'a Whole,
    endpoints: &'a EndpointsPart,
}

/// The clusters that are all here.
#[derive(Debug)]
struct Clusters<'a> {
    parts: &'a Parts,
    /// By the full name of the service that each is.
    services: BTreeMap<String, Complete<'a>>,
    /// From a cluster's name to that of its service.
    names: HashMap<&'a str, String>,
}

impl<'a> Clusters<'a> {
    fn of(parts: &'a Parts, own: &Own, conflicts: &mut Vec<String>) -> Self {
        let mut clusters = Self { parts, services: BTreeMap::new(), names: HashMap::new() };
        for ((kind, name), part) in parts {
            let (Kind::Cluster, Part::Cluster(ClusterPart::Whole(whole))) = (kind, part) else { continue };
            let Some(endpoints) = endpoints(parts, whole) else { continue };
            let (service, namespace) = names::parse_service(name, &own.namespace);
            let full = names::service(service, namespace);
            if clusters.services.contains_key(&full) {
                conflicts.push(format!(
                    "the cluster `{name}` is the service `{full}`, as another is already; routes to it are left out"
                ));
                continue;
            }
            clusters.services.insert(full.clone(), Complete { whole, endpoints });
            clusters.names.insert(name, full);
        }
        clusters
    }

    /// Where a route to the cluster `name` leads: a service, and the labels that are asked for. `None`: it is not all here.
    fn resolve(&self, name: &str) -> Option<(&str, Labels)> {
        match self.parts.get(&(Kind::Cluster, name.to_owned()))? {
            Part::Cluster(ClusterPart::Subset { service, labels }) => {
                self.names.get(service.as_str()).map(|full| (full.as_str(), labels.clone()))
            }
            _ => self.names.get(name).map(|full| (full.as_str(), Labels::new())),
        }
    }
}

fn endpoints<'a>(parts: &'a Parts, whole: &'a Whole) -> Option<&'a EndpointsPart> {
    match &whole.location {
        Location::Inline(endpoints) => Some(endpoints),
        Location::Eds(name) => match parts.get(&(Kind::Endpoints, name.clone()))? {
            Part::Endpoints(endpoints) => Some(endpoints),
            _ => None,
        },
    }
}

/// A service that is all here.
#[derive(Debug)]
struct Draft<'a> {
    /// Its listener and routes; `None` for a cluster that nobody can ask for by name.
    listener: Option<(&'a ServicePart, &'a VirtualHostPart)>,
    /// `None`: it has routes only, to others.
    cluster: Option<&'a Complete<'a>>,
}

impl<'a> Draft<'a> {
    fn of(
        part: &'a ServicePart,
        full: &str,
        parts: &'a Parts,
        clusters: &'a Clusters<'a>,
        conflicts: &mut Vec<String>,
    ) -> Option<Self> {
        let routes = match &part.routes {
            RoutesOf::Inline(routes) => routes,
            RoutesOf::Named(name) => match parts.get(&(Kind::Routes, name.clone()))? {
                Part::Routes(routes) => routes,
                _ => return None,
            },
        };
        let Some(host) = routes.of(part) else {
            conflicts.push(format!("no virtual host of its routes is for the listener `{}`", part.resource));
            return None;
        };
        let named = host.routes.iter().flat_map(|route| &route.backends);
        for backend in named {
            clusters.resolve(&backend.cluster)?;
        }
        let cluster = clusters.services.get(full);
        // A service of ours has a cluster, even if none of its routes leads there.
        if part.said.is_some() && cluster.is_none() {
            return None;
        }
        Some(Self { listener: Some((part, host)), cluster })
    }

    fn build(
        &self,
        full: &str,
        trust_domain: &str,
        own: &Own,
        clusters: &Clusters<'_>,
        index: &impl Fn(&str) -> Option<usize>,
    ) -> Service {
        let (name, namespace) = match self.listener {
            Some((part, _)) => (part.service.clone(), part.namespace.clone()),
            None => {
                let (name, namespace) = names::parse_service(full, &own.namespace);
                (name.to_owned(), namespace.to_owned())
            }
        };
        let mut service = nothing(name, namespace, trust_domain);
        if let Some((part, host)) = self.listener {
            (service.hosts, service.ports) = hosts_and_ports(part, host);
            service.registration = part.said.as_ref().is_some_and(|said| said.registration);
            service.methods = host.methods.clone();
            service.policy = host.policy.clone();
            service.unmatched = host.unmatched;
            service.routes = host.routes.iter().map(|route| self::route(route, clusters, index)).collect();
        }
        if let Some(Complete { whole, endpoints }) = self.cluster {
            if !whole.identities.is_empty() {
                service.identities = whole.identities.clone();
            }
            let spoken_to =
                |endpoint: &Endpoint| Endpoint { tls: endpoint.tls.or(whole.tls), ..endpoint.clone() };
            service.endpoints = endpoints.endpoints.iter().map(spoken_to).collect();
            service.balancing = whole.balancing;
            service.upstream = whole.upstream;
            service.health = whole.health.clone();
            service.outliers = whole.outliers;
            service.retry_budget = whole.retry_budget;
            service.retry_throttling = whole.retry_throttling;
        }
        service
    }
}

/// A service of which nothing is known but its name.
fn nothing(name: String, namespace: String, trust_domain: &str) -> Service {
    Service {
        ports: Vec::new(),
        hosts: Vec::new(),
        identities: vec![SpiffeId::of_account(trust_domain, &namespace, &name)],
        endpoints: Vec::new(),
        registration: false,
        methods: BTreeMap::new(),
        balancing: Default::default(),
        upstream: Default::default(),
        health: None,
        outliers: None,
        retry_budget: Default::default(),
        retry_throttling: None,
        policy: Policy::default(),
        routes: Vec::new(),
        unmatched: Unmatched::Forward,
        authorization: None,
        name,
        namespace,
    }
}

fn hosts_and_ports(part: &ServicePart, host: &VirtualHostPart) -> (Vec<String>, Vec<u16>) {
    if let Some(said) = &part.said {
        return (said.hosts.clone(), said.ports.clone());
    }
    host.hosts_and_ports(part)
}

/// Its backends are all here: else the service would have been left out.
fn route(part: &RoutePart, clusters: &Clusters<'_>, index: &impl Fn(&str) -> Option<usize>) -> Route {
    let backends = part.backends.iter().filter_map(|backend| {
        let (full, labels) = clusters.resolve(&backend.cluster)?;
        Some(Backend { service: index(full)?, labels, weight: backend.weight })
    });
    Route { matches: part.matches.clone(), backends: backends.collect(), policy: part.policy.clone() }
}

/// What the sidecars of services ask of callers. Two names may mean one service; then rules win over none.
fn enforce(
    parts: &Parts,
    services: &mut [Service],
    index: &impl Fn(&str) -> Option<usize>,
    conflicts: &mut Vec<String>,
) {
    let mut told: HashMap<usize, &str> = HashMap::new();
    for ((_, name), part) in parts {
        let Part::Listener(ListenerPart::Inbound(inbound)) = part else { continue };
        let Some(index) = index(&names::service(&inbound.service, &inbound.namespace)) else { continue };
        let service = &mut services[index];
        match told.insert(index, name) {
            Some(before) if service.authorization != inbound.authorization => {
                conflicts.push(format!(
                    "`{before}` and `{name}` ask different things of the callers of `{}`",
                    service.full_name()
                ));
                service.authorization = service.authorization.take().or(inbound.authorization.clone());
            }
            _ => service.authorization = inbound.authorization.clone(),
        }
    }
}

/// A host leads to one service: the first that claims it.
fn share_hosts(services: &mut [Service], conflicts: &mut Vec<String>) {
    let mut owners: HashMap<String, String> = HashMap::new();
    for service in services {
        let full = service.full_name();
        service.hosts.retain(|host| match owners.get(host) {
            None => {
                owners.insert(host.clone(), full.clone());
                true
            }
            Some(owner) => {
                conflicts
                    .push(format!("the host `{host}` of `{full}` belongs to `{owner}`, and leads there"));
                false
            }
        });
    }
}
