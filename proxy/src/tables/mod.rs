//! The snapshot: everything that a call looks up, built once from the model and never changed.
//!
//! A call loads one snapshot and keeps to it. Whatever can be resolved before the first call is resolved
//! here: hosts to services, routes to clusters, header changes to header types, TLS settings to configs.

pub(crate) mod authorize;
pub(crate) mod headers;
pub(crate) mod hosts;
pub(crate) mod routes;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use config::model::{CallKind, Deadline, EndpointTls, Mesh, Service, Sidecar, Stream, Target, Unmatched};
use config::spiffe::SpiffeId;
use rustc_hash::FxHashMap;
use rustls::ClientConfig;

use crate::balance::budget::Budget;
use crate::balance::picker::Picker;
use crate::balance::weights::Weights;
use crate::endpoint::Endpoint;
use crate::metrics::events::Attempts;
use crate::tables::authorize::Authorization;
use crate::tables::headers::HeaderRules;
use crate::tables::hosts::Hosts;
use crate::tables::routes::{Route, Routes};
use crate::tls::Credentials;

/// The snapshot.
#[derive(Debug)]
pub(crate) struct Tables {
    pub(crate) hosts: Hosts,
    pub(crate) services: Vec<ServiceTable>,
    pub(crate) clusters: Vec<Cluster>,
    pub(crate) endpoints: Vec<Dial>,
    /// One for each entry of `inbound`, in its order.
    pub(crate) entries: Vec<Entry>,
    /// Who a caller is by its SPIFFE id, for the label `peer`.
    pub(crate) peers: FxHashMap<SpiffeId, Arc<str>>,
}

/// An endpoint and how to reach it.
#[derive(Debug)]
pub(crate) struct Dial {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) tls: Option<Arc<ClientConfig>>,
    pub(crate) upstream: config::model::Upstream,
}

/// What a call to a service goes by.
#[derive(Debug)]
pub(crate) struct ServiceTable {
    /// `NAME.NAMESPACE`.
    pub(crate) name: Arc<str>,
    pub(crate) ports: Vec<u16>,
    pub(crate) methods: Methods,
    pub(crate) routes: Routes,
    /// Where calls go that match no route; `None`: nowhere.
    pub(crate) unrouted: Option<Route>,
}

impl ServiceTable {
    /// Whether calls to it may name `port`, or none.
    pub(crate) fn has_port(&self, port: Option<u16>) -> bool {
        port.is_none_or(|port| self.ports.is_empty() || self.ports.contains(&port))
    }
}

/// What is known of a service's methods, by `package.Service/Method`.
pub(crate) type Methods = FxHashMap<Box<str>, MethodTable>;

/// What is known of one method; a block here wins over the route's.
#[derive(Debug, Default)]
pub(crate) struct MethodTable {
    pub(crate) kind: Option<CallKind>,
    pub(crate) deadline: Option<Deadline>,
    pub(crate) stream: Option<Stream>,
    pub(crate) headers: Option<HeaderRules>,
}

/// Some of a service's endpoints, and how one is picked.
#[derive(Debug)]
pub(crate) struct Cluster {
    /// Index into [`Tables::services`].
    pub(crate) service: usize,
    pub(crate) members: Vec<Arc<Endpoint>>,
    /// For each member, its index into [`Tables::endpoints`].
    pub(crate) dials: Vec<usize>,
    pub(crate) picker: Picker,
    pub(crate) policy: config::model::Balancing,
    /// The members' weights as configured.
    pub(crate) weights: Vec<u32>,
    /// `endpoints` of the service, or `app`: what stands behind an inbound port.
    pub(crate) purpose: &'static str,
    /// One for each worker.
    pub(crate) attempts: Box<[Attempts]>,
    /// Locked when a call is about to be repeated, and once a second.
    pub(crate) budget: Mutex<Budget>,
}

impl Cluster {
    /// One endpoint that no service of the mesh names.
    pub(crate) fn of_no_service(endpoint: Arc<Endpoint>, workers: usize) -> Self {
        let policy = config::model::Balancing::default();
        Self {
            service: usize::MAX,
            members: vec![endpoint],
            dials: vec![0],
            picker: Picker::new(policy, Weights::new(&[1])),
            policy,
            weights: vec![1],
            purpose: "passthrough",
            attempts: (0..workers).map(|_| Attempts::default()).collect(),
            budget: Mutex::default(),
        }
    }

    /// Calls that reached this cluster so far, over all workers.
    pub(crate) fn calls(&self) -> u64 {
        self.attempts.iter().map(|worker| worker.calls.value()).sum()
    }
}

/// One port of the app.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Index into [`Tables::services`].
    pub(crate) service: usize,
    /// Index into [`Tables::clusters`]: the app.
    pub(crate) cluster: usize,
    pub(crate) authorization: Authorization,
    /// The service's own deadline block, for its cap.
    pub(crate) deadline: Deadline,
}

impl Tables {
    /// Builds the snapshot. The configuration has been checked against the mesh; errors are of TLS only.
    pub(crate) fn build(
        sidecar: &Sidecar,
        mesh: &Mesh,
        credentials: Option<&Credentials>,
        workers: usize,
    ) -> Result<Self, String> {
        let mut tables = Self {
            hosts: Hosts::new(mesh),
            services: Vec::new(),
            clusters: Vec::new(),
            endpoints: Vec::new(),
            entries: Vec::new(),
            peers: FxHashMap::default(),
        };
        let mut subsets = Subsets { clusters: BTreeMap::new(), first_dial: Vec::new(), workers };
        for service in &mesh.services {
            subsets.first_dial.push(tables.endpoints.len());
            tables.add_endpoints(service, credentials)?;
            for id in &service.identities {
                tables.peers.insert(id.clone(), service.full_name().into());
            }
        }
        for (index, service) in mesh.services.iter().enumerate() {
            let table = tables.service(mesh, index, service, &mut subsets);
            tables.services.push(table);
        }
        for entry in &sidecar.inbound {
            let service = mesh.service(&entry.service, &sidecar.namespace).ok_or_else(|| {
                format!("service {}.{} is not in the mesh", entry.service, sidecar.namespace)
            })?;
            tables.add_entry(service, &mesh.services[service], entry.app, workers);
        }
        Ok(tables)
    }

    fn add_endpoints(&mut self, service: &Service, credentials: Option<&Credentials>) -> Result<(), String> {
        let tls = credentials.map(|own| own.client(&service.identities)).transpose()?;
        for endpoint in &service.endpoints {
            let tls = match endpoint.tls {
                Some(EndpointTls::None) => None,
                Some(EndpointTls::Mesh) if tls.is_none() => {
                    return Err(format!(
                        "endpoint {} of {} says `tls: mesh`, but this sidecar has no identity",
                        endpoint.target,
                        service.full_name()
                    ));
                }
                _ => tls.clone(),
            };
            let Target::Address(address) = endpoint.target else {
                return Err(format!("endpoint {}: names are not resolved yet", endpoint.target));
            };
            self.endpoints.push(Dial {
                endpoint: Arc::new(Endpoint::new(address, tls.is_some())),
                tls,
                upstream: service.upstream,
            });
        }
        Ok(())
    }

    fn service(
        &mut self,
        mesh: &Mesh,
        index: usize,
        service: &Service,
        subsets: &mut Subsets,
    ) -> ServiceTable {
        let own = self.cluster(mesh, index, &BTreeMap::new(), subsets);
        let routes = service
            .routes
            .iter()
            .map(|route| {
                let clusters: Vec<usize> = route
                    .backends
                    .iter()
                    .map(|backend| self.cluster(mesh, backend.service, &backend.labels, subsets))
                    .collect();
                let weights: Vec<u32> = route.backends.iter().map(|backend| backend.weight).collect();
                (route.matches.clone(), Route::new(clusters, &weights, &route.policy))
            })
            .collect();
        ServiceTable {
            name: service.full_name().into(),
            ports: service.ports.clone(),
            methods: service
                .methods
                .iter()
                .map(|(path, method)| (path.as_str().into(), method.into()))
                .collect(),
            routes: Routes::new(routes),
            unrouted: (service.unmatched == Unmatched::Forward)
                .then(|| Route::new(vec![own], &[1], &service.policy)),
        }
    }

    /// The cluster of a service's endpoints that carry `labels`; the same one for the same labels.
    fn cluster(
        &mut self,
        mesh: &Mesh,
        service: usize,
        labels: &BTreeMap<String, String>,
        subsets: &mut Subsets,
    ) -> usize {
        if let Some(known) = subsets.clusters.get(&(service, labels.clone())) {
            return *known;
        }
        let model = &mesh.services[service];
        let chosen: Vec<usize> = (0..model.endpoints.len())
            .filter(|i| labels.iter().all(|(key, value)| model.endpoints[*i].labels.get(key) == Some(value)))
            .collect();
        let dials: Vec<usize> = chosen.iter().map(|i| subsets.first_dial[service] + i).collect();
        let weights: Vec<u32> = chosen.iter().map(|i| model.endpoints[*i].weight).collect();
        let cluster =
            self.push_cluster(service, dials, &weights, model.balancing, "endpoints", subsets.workers);
        subsets.clusters.insert((service, labels.clone()), cluster);
        cluster
    }

    fn add_entry(&mut self, service: usize, model: &Service, app: std::net::SocketAddr, workers: usize) {
        self.endpoints.push(Dial {
            endpoint: Arc::new(Endpoint::plain(app)),
            tls: None,
            upstream: config::model::Upstream::default(),
        });
        let dial = self.endpoints.len() - 1;
        let cluster =
            self.push_cluster(service, vec![dial], &[1], config::model::Balancing::default(), "app", workers);
        self.entries.push(Entry {
            service,
            cluster,
            authorization: Authorization::new(model.authorization.as_deref()),
            deadline: model.policy.deadline,
        });
    }

    fn push_cluster(
        &mut self,
        service: usize,
        dials: Vec<usize>,
        weights: &[u32],
        policy: config::model::Balancing,
        purpose: &'static str,
        workers: usize,
    ) -> usize {
        self.clusters.push(Cluster {
            service,
            members: dials.iter().map(|dial| self.endpoints[*dial].endpoint.clone()).collect(),
            dials,
            picker: Picker::new(policy, Weights::new(weights)),
            policy,
            weights: weights.to_vec(),
            purpose,
            attempts: (0..workers).map(|_| Attempts::default()).collect(),
            budget: Mutex::default(),
        });
        self.clusters.len() - 1
    }
}

/// What is needed while clusters are made.
struct Subsets {
    clusters: BTreeMap<(usize, BTreeMap<String, String>), usize>,
    /// For each service, where its endpoints begin in [`Tables::endpoints`].
    first_dial: Vec<usize>,
    workers: usize,
}

impl From<&config::model::Method> for MethodTable {
    fn from(method: &config::model::Method) -> Self {
        Self {
            kind: method.kind,
            deadline: method.deadline,
            stream: method.stream,
            headers: method.headers.as_ref().map(HeaderRules::new),
        }
    }
}
