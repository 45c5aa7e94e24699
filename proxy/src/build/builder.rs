//! A snapshot in the making: services with their endpoints, routes and clusters.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use config::model::{
    Deadline, Endpoint as Line, EndpointTls, Mesh, Method, Policy, Service, Sidecar, Target, Unmatched,
};
use config::repeats::RetryBudget;
use config::spiffe::SpiffeId;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::balance::detector::Detector;
use crate::balance::fitness::{Fitness, Rules};
use crate::balance::picker::Picker;
use crate::balance::standing::{EJECTED, Marks, UNHEALTHY};
use crate::balance::weights::Weights;
use crate::clock::Nanos;
use crate::dns::{Answer, Answers};
use crate::endpoint::Endpoint;
use crate::metrics::median::Median;
use crate::tables::faults::Faults;
use crate::tables::hosts::Hosts;
use crate::tables::ledger::Subject;
use crate::tables::routes::{Blocks, Route, Routes};
use crate::tables::{Cluster, Dial, MethodTable, Purpose, ServiceTable, Tables};
use crate::tls::credentials::{Client, Credentials};

/// All that a snapshot is made of.
pub(crate) struct Parts<'a> {
    pub(crate) sidecar: &'a Sidecar,
    pub(crate) mesh: &'a Mesh,
    /// Full names of this sidecar's services of which nobody has said who may call them.
    pub(crate) unruled: &'a BTreeSet<String>,
    pub(crate) credentials: Option<&'a Arc<Credentials>>,
    pub(crate) answers: &'a Answers,
    pub(crate) workers: usize,
    /// The snapshot in force. What has not changed since is kept: endpoints with what is known of them, TLS
    /// settings, counters, budgets.
    pub(crate) before: Option<&'a Tables>,
    pub(crate) now: Nanos,
}

/// A snapshot in the making.
pub(super) struct Builder<'a> {
    pub(super) parts: &'a Parts<'a>,
    pub(super) tables: Tables,
    known: FxHashMap<Whereabouts<'a>, &'a Arc<Endpoint>>,
    /// The services of the snapshot before, by name.
    services: FxHashMap<&'a str, &'a ServiceTable>,
    /// Those of them that looked for outliers; `None`: there was no snapshot before.
    watched: Option<FxHashSet<&'a str>>,
    /// For each service, its endpoints.
    members: Vec<Vec<Member<'a>>>,
    /// For each service, what finds its outliers.
    detectors: Vec<Option<Arc<Detector>>>,
    /// The clusters by service and labels.
    subsets: BTreeMap<(usize, BTreeMap<String, String>), usize>,
}

/// What makes an endpoint the same in two snapshots: its service, its address, and whether it is spoken to by TLS.
type Whereabouts<'a> = (&'a str, SocketAddr, bool);

/// An endpoint of a service: its index into [`Tables::endpoints`], and the line of the mesh file it comes from.
#[derive(Clone, Copy)]
struct Member<'a> {
    dial: usize,
    line: &'a Line,
}

/// The endpoints of the services of a snapshot.
fn known(tables: &Tables) -> FxHashMap<Whereabouts<'_>, &Arc<Endpoint>> {
    let clusters = tables.clusters.iter().filter(|cluster| cluster.purpose == Purpose::Endpoints);
    let all = clusters.flat_map(|cluster| {
        let members = cluster.members.iter();
        members.map(|endpoint| ((&*cluster.service, endpoint.address, endpoint.mesh), endpoint))
    });
    all.collect()
}

fn services(tables: &Tables) -> FxHashMap<&str, &ServiceTable> {
    tables.services.iter().map(|service| (&*service.name, service)).collect()
}

fn watched(tables: &Tables) -> FxHashSet<&str> {
    tables.detectors.iter().map(|detector| &*detector.service).collect()
}

impl<'a> Builder<'a> {
    /// One with nothing in it but what all of its services share.
    pub(super) fn new(parts: &'a Parts<'a>) -> Self {
        let Parts { mesh, before, .. } = *parts;
        Self {
            tables: Tables {
                has_mesh: true,
                hosts: Hosts::new(mesh),
                ..Tables::blank(parts.credentials.cloned(), before)
            },
            parts,
            known: before.map(known).unwrap_or_default(),
            services: before.map(services).unwrap_or_default(),
            watched: before.map(watched),
            members: Vec::new(),
            detectors: Vec::new(),
            subsets: BTreeMap::new(),
        }
    }

    pub(super) fn add_endpoints(&mut self, service: &'a Service) -> Result<(), String> {
        let name = service.full_name();
        let tls = self.client(&service.identities)?;
        let label: Arc<str> = name.as_str().into();
        let set = self.tables.ledger.endpoint_set(&label);
        let health = service.health.clone().map(Arc::new);
        let subject = Subject { service: label.clone(), app: None, labels: BTreeMap::new() };
        let purse = self.tables.ledger.account(subject, self.parts.workers).purse;
        let mut members = Vec::new();
        let (mut kept, mut new) = (false, Vec::new());
        let mut seen = FxHashMap::default();
        for line in &service.endpoints {
            let tls = match line.tls {
                Some(EndpointTls::None) => None,
                Some(EndpointTls::Mesh) if tls.is_none() => {
                    return Err(format!(
                        "endpoint {} of {name} says `tls: mesh`, but this sidecar has no identity",
                        line.target
                    ));
                }
                _ => tls.clone(),
            };
            let (addresses, host) = self.addresses(&line.target);
            for address in addresses {
                // An address that two lines lead to is one endpoint, by the first of them.
                if seen.insert(address, ()).is_some() {
                    continue;
                }
                let mesh = tls.is_some();
                let endpoint = match self.known.get(&(&*name, address, mesh)) {
                    Some(endpoint) => {
                        kept = true;
                        (*endpoint).clone()
                    }
                    None => {
                        let endpoint = Arc::new(Endpoint::new(address, mesh, set.changes.clone()));
                        new.push(endpoint.clone());
                        endpoint
                    }
                };
                members.push(Member { dial: self.tables.endpoints.len(), line });
                let (tls, host, upstream) = (tls.clone(), host.clone(), service.upstream);
                let (purse, health) = (Some(purse.clone()), health.clone());
                self.tables.endpoints.push(Dial { endpoint, tls, upstream, purse, health, host });
            }
        }
        // Where all are new, there is nobody to do the work while they start slowly.
        if kept {
            new.iter().for_each(|endpoint| endpoint.standing.join(self.parts.now));
        }
        let was_unwatched = self.watched.as_ref().is_some_and(|watched| !watched.contains(&*label));
        if service.outliers.is_some() && was_unwatched {
            // What an earlier rule found out is long past.
            set.begin_anew();
            for member in &members {
                let endpoint = &self.tables.endpoints[member.dial].endpoint;
                endpoint.tally.clear();
                endpoint.standing.unmark(EJECTED, self.parts.now);
            }
        }
        let all = || members.iter().map(|member| self.tables.endpoints[member.dial].endpoint.clone());
        let detector = service
            .outliers
            .map(|rule| Arc::new(Detector { service: label, rule, endpoints: all().collect(), set }));
        self.tables.detectors.extend(detector.clone());
        self.detectors.push(detector);
        self.members.push(members);
        Ok(())
    }

    /// The TLS settings towards servers that prove one of `identities`.
    fn client(&mut self, identities: &[SpiffeId]) -> Result<Option<Arc<Client>>, String> {
        let Some(own) = self.parts.credentials else { return Ok(None) };
        if let Some(made) = self.tables.clients.get(identities) {
            return Ok(Some(made.clone()));
        }
        let kept = self.parts.before.and_then(|before| {
            let same = before.credentials.as_ref().is_some_and(|theirs| Arc::ptr_eq(theirs, own));
            before.clients.get(identities).filter(|_| same)
        });
        let client = match kept {
            Some(kept) => kept.clone(),
            None => own.client(identities)?,
        };
        self.tables.clients.insert(identities.to_vec(), client.clone());
        Ok(Some(client))
    }

    fn addresses(&self, target: &Target) -> (Vec<SocketAddr>, Option<Arc<str>>) {
        match target {
            Target::Address(address) => (vec![*address], None),
            Target::Name { host, port } => {
                let addresses = match self.parts.answers.of(host) {
                    Answer::Addresses(addresses) => {
                        addresses.iter().map(|ip| SocketAddr::new(*ip, *port)).collect()
                    }
                    Answer::Unknown(_) => Vec::new(),
                };
                (addresses, Some(host.as_str().into()))
            }
        }
    }

    pub(super) fn add_service(&mut self, index: usize, service: &'a Service) {
        let own = self.cluster(index, &BTreeMap::new());
        let before = self.services.get(&*service.full_name()).copied();
        let routes = service
            .routes
            .iter()
            .enumerate()
            .map(|(place, route)| {
                let clusters: Vec<usize> = route
                    .backends
                    .iter()
                    .map(|backend| self.cluster(backend.service, &backend.labels))
                    .collect();
                let weights: Vec<u32> = route.backends.iter().map(|backend| backend.weight).collect();
                let mut made = Route::new(clusters, &weights, &route.policy);
                made.own = Blocks::differing(&route.policy, &service.policy);
                if route.policy.deadline.shed_below_median {
                    made.says = format!("{:?} {:?}", route.matches, route.backends).into();
                }
                self.keep(&mut made, &route.policy, before.and_then(|before| before.routes.at(place)));
                (route.matches.clone(), made)
            })
            .collect();
        let methods = service
            .methods
            .iter()
            .map(|(path, method)| {
                let before = before.and_then(|before| before.methods.get(path.as_str()));
                (path.as_str().into(), self.method(method, before))
            })
            .collect();
        let unrouted = (service.unmatched == Unmatched::Forward).then(|| {
            let mut made = Route::new(vec![own], &[1], &service.policy);
            self.keep(&mut made, &service.policy, before.and_then(|before| before.unrouted.as_ref()));
            made
        });
        let table = ServiceTable {
            name: service.full_name().into(),
            ports: service.ports.clone(),
            methods,
            routes: Routes::new(routes),
            unrouted,
        };
        self.tables.services.push(table);
    }

    /// Takes over for a route what that at the same place in the file before knew.
    fn keep(&mut self, route: &mut Route, policy: &Policy, before: Option<&Route>) {
        route.faults = Faults::of(&policy.injection, before.and_then(|before| before.faults.as_ref()));
        // What was at the same place may have been another route.
        let same = before.filter(|before| before.says == route.says);
        route.median = self.median(policy.deadline, same.and_then(|same| same.median.as_ref()));
    }

    fn method(&mut self, method: &Method, before: Option<&MethodTable>) -> MethodTable {
        let mut made = MethodTable::from(method);
        let faults = before.and_then(|before| before.faults.as_ref()?.as_ref());
        made.faults = method.injection.as_ref().map(|injection| Faults::of(injection, faults));
        let median = before.and_then(|before| before.median.as_ref());
        made.median = method.deadline.and_then(|deadline| self.median(deadline, median));
        made
    }

    /// The median for calls with this deadline, if that needs one.
    fn median(&mut self, deadline: Deadline, before: Option<&Arc<Median>>) -> Option<Arc<Median>> {
        self.tables.inherits |= deadline.inherit;
        if !deadline.shed_below_median {
            return None;
        }
        let median = before.cloned().unwrap_or_else(|| Arc::new(Median::new(self.parts.workers)));
        self.tables.medians.push(median.clone());
        Some(median)
    }

    /// The names of these lines that have no address yet, in words.
    fn unresolved<'l>(&self, lines: impl Iterator<Item = &'l Line>) -> Option<Box<str>> {
        let said: Vec<String> = lines
            .filter_map(|line| {
                let Target::Name { host, .. } = &line.target else { return None };
                let Answer::Unknown(why) = self.parts.answers.of(host) else { return None };
                Some(format!("{host} has not been resolved yet: {why}"))
            })
            .collect();
        (!said.is_empty()).then(|| said.join("; ").into())
    }

    /// The cluster of a service's endpoints that carry `labels`; the same one for the same labels.
    fn cluster(&mut self, service: usize, labels: &BTreeMap<String, String>) -> usize {
        if let Some(known) = self.subsets.get(&(service, labels.clone())) {
            return *known;
        }
        let model = &self.parts.mesh.services[service];
        let chosen: Vec<Member<'a>> =
            self.members[service].iter().filter(|member| member.line.carries(labels)).copied().collect();
        let weights: Vec<u32> = chosen.iter().map(|member| member.line.weight).collect();
        let dials = chosen.iter().map(|member| member.dial).collect();
        let subject = Subject { service: model.full_name().into(), app: None, labels: labels.clone() };
        let cluster = self.push_cluster(dials, &weights, model.balancing.policy, subject);
        let unresolved = self.unresolved(model.endpoints.iter().filter(|line| line.carries(labels)));
        let table = &mut self.tables.clusters[cluster];
        table.unresolved = unresolved;
        table.fitness = fitness(model).map(|rules| Fitness::new(rules, table.set.changes.clone()));
        table.detector = self.detectors[service].clone();
        table.retry_budget = model.retry_budget;
        table.throttle = table.purse.throttle(model.retry_throttling);
        self.subsets.insert((service, labels.clone()), cluster);
        cluster
    }

    pub(super) fn push_cluster(
        &mut self,
        dials: Vec<usize>,
        weights: &[u32],
        policy: config::model::BalancingPolicy,
        subject: Subject,
    ) -> usize {
        let purpose = if subject.app.is_some() { Purpose::App } else { Purpose::Endpoints };
        let (service, labels) = (subject.service.clone(), subject.labels.clone());
        let set = self.tables.ledger.endpoint_set(&service);
        let account = self.tables.ledger.account(subject, self.parts.workers);
        let tables = &mut self.tables;
        tables.clusters.push(Cluster {
            service,
            labels,
            purpose,
            members: dials.iter().map(|dial| tables.endpoints[*dial].endpoint.clone()).collect(),
            dials,
            picker: Picker::new(policy, Weights::new(weights)),
            policy,
            weights: weights.to_vec(),
            attempts: account.attempts,
            purse: account.purse,
            retry_budget: RetryBudget::default(),
            throttle: None,
            set,
            fitness: None,
            detector: None,
            unresolved: None,
        });
        tables.clusters.len() - 1
    }
}

/// What a service's clusters look at to say who is fit, if at anything.
fn fitness(service: &Service) -> Option<Rules> {
    let mark = |mark: Marks, counts: bool| if counts { mark } else { 0 };
    let marks = mark(UNHEALTHY, service.health.is_some()) | mark(EJECTED, service.outliers.is_some());
    let slow_start = service.balancing.slow_start;
    let rules = Rules { marks, panic_ppm: service.balancing.panic_ppm, slow_start };
    (marks != 0 || slow_start.is_some()).then_some(rules)
}
