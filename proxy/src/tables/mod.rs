//! The snapshot: everything that a call looks up, built once from the model and never changed.
//!
//! A call loads one snapshot and keeps to it. Whatever can be resolved before the first call is resolved
//! here: hosts to services, routes to clusters, header changes to header types, TLS settings to configs.

pub(crate) mod authorize;
pub(crate) mod faults;
pub(crate) mod headers;
pub(crate) mod hosts;
pub(crate) mod ledger;
pub(crate) mod routes;
pub(crate) mod rules;
pub(crate) mod seen;
pub(crate) mod tallies;

use std::collections::BTreeMap;
use std::sync::Arc;

use config::model::{CallKind, Deadline, Stream};
use config::repeats::{Repeats, RetryBudget};
use config::spiffe::SpiffeId;
use rustc_hash::FxHashMap;

use crate::balance::detector::{Detector, EndpointSet};
use crate::balance::fitness::{Fitness, View};
use crate::balance::picker::Picker;
use crate::balance::throttle::Throttle;
use crate::balance::weights::Weights;
use crate::clock::Nanos;
use crate::endpoint::Endpoint;
use crate::grpc::status::Code;
use crate::metrics::events::Attempts;
use crate::metrics::median::Median;
use crate::tables::authorize::Authorization;
use crate::tables::faults::Faults;
use crate::tables::headers::HeaderRules;
use crate::tables::hosts::Hosts;
use crate::tables::ledger::{Account, Ledger, Purse};
use crate::tables::routes::{Route, Routes};
use crate::tables::tallies::Tallies;
use crate::tls::credentials::{Client, Credentials};

/// The snapshot.
#[derive(Debug)]
pub(crate) struct Tables {
    /// `false`: no mesh has come yet, and nothing is known of anybody.
    pub(crate) has_mesh: bool,
    /// There is a mesh, and it waits for our certificate: without one it would be a mesh of plaintext.
    pub(crate) waits_for_identity: bool,
    pub(crate) hosts: Hosts,
    pub(crate) services: Vec<ServiceTable>,
    pub(crate) clusters: Vec<Cluster>,
    pub(crate) endpoints: Vec<Dial>,
    /// One for each entry of `inbound`, in its order; none while there is no mesh.
    pub(crate) entries: Vec<Entry>,
    /// Who a caller is by its SPIFFE id, for the label `peer`.
    pub(crate) peers: FxHashMap<SpiffeId, Arc<str>>,
    /// Our own identity: new handshakes go by it.
    pub(crate) credentials: Option<Arc<Credentials>>,
    /// The client side of TLS, by the identities that a server may prove.
    pub(crate) clients: FxHashMap<Vec<SpiffeId>, Arc<Client>>,
    /// Of the services that look for outliers.
    pub(crate) detectors: Vec<Arc<Detector>>,
    /// Some call takes the deadline of the inbound call that it is made for.
    pub(crate) inherits: bool,
    /// The medians of all routes and methods that have one; ticked by the control thread.
    pub(crate) medians: Vec<Arc<Median>>,
    /// How often rules decided, in all snapshots.
    pub(crate) tallies: Arc<Tallies>,
    /// What this snapshot shares with those before and after it.
    pub(crate) ledger: Arc<Ledger>,
}

impl Tables {
    /// Whether a mesh has been taken over, be it that it is not in force yet.
    pub(crate) fn knows_mesh(&self) -> bool {
        self.has_mesh || self.waits_for_identity
    }

    /// What is in force before the first mesh: nobody is known, and nobody let in.
    pub(crate) fn blank(credentials: Option<Arc<Credentials>>, before: Option<&Tables>) -> Self {
        Self {
            has_mesh: false,
            waits_for_identity: false,
            hosts: Hosts::default(),
            services: Vec::new(),
            clusters: Vec::new(),
            endpoints: Vec::new(),
            entries: Vec::new(),
            peers: FxHashMap::default(),
            credentials,
            clients: FxHashMap::default(),
            detectors: Vec::new(),
            inherits: false,
            medians: Vec::new(),
            tallies: before.map(|before| before.tallies.clone()).unwrap_or_default(),
            ledger: before.map(|before| before.ledger.clone()).unwrap_or_default(),
        }
    }
}

/// An endpoint and how to reach it.
#[derive(Debug)]
pub(crate) struct Dial {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) tls: Option<Arc<Client>>,
    pub(crate) upstream: config::model::Upstream,
    /// Of its service; `None` where there is nobody else whom calls could go to.
    pub(crate) purse: Option<Arc<Purse>>,
    /// Whether and how it is asked how it is.
    pub(crate) health: Option<Arc<config::health::Health>>,
    /// The name that it is an address of.
    pub(crate) host: Option<Arc<str>>,
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
#[derive(Debug)]
pub(crate) struct MethodTable {
    pub(crate) kind: Option<CallKind>,
    pub(crate) deadline: Option<Deadline>,
    pub(crate) stream: Option<Stream>,
    pub(crate) headers: Option<HeaderRules>,
    pub(crate) repeats: Option<Repeats>,
    /// It may be processed more than once.
    pub(crate) idempotent: bool,
    /// `Some(None)`: its own block injects nothing.
    pub(crate) faults: Option<Option<Arc<Faults>>>,
    /// How long its calls took lately, if its own deadline asks for that.
    pub(crate) median: Option<Arc<Median>>,
}

/// What a cluster stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Endpoints of a service.
    Endpoints,
    /// What stands behind an inbound port.
    App,
    /// Where a redirected connection was going, and no service of the mesh is.
    Passthrough,
}

impl Purpose {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Endpoints => "endpoints",
            Self::App => "app",
            Self::Passthrough => "passthrough",
        }
    }
}

/// Some of a service's endpoints, and how one is picked.
#[derive(Debug)]
pub(crate) struct Cluster {
    /// `NAME.NAMESPACE`, or what stands for it where there is no service.
    pub(crate) service: Arc<str>,
    /// What its endpoints carry; empty: all of the service's are in it.
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) purpose: Purpose,
    pub(crate) members: Vec<Arc<Endpoint>>,
    /// For each member, its index into [`Tables::endpoints`].
    pub(crate) dials: Vec<usize>,
    pub(crate) picker: Picker,
    pub(crate) policy: config::model::BalancingPolicy,
    /// The members' weights as configured.
    pub(crate) weights: Vec<u32>,
    /// One for each worker; of all snapshots that have this cluster.
    pub(crate) attempts: Arc<[Attempts]>,
    /// What repeats of calls to its service may come to.
    pub(crate) purse: Arc<Purse>,
    pub(crate) retry_budget: RetryBudget,
    pub(crate) throttle: Option<Arc<Throttle>>,
    /// What is shared by all clusters of the service.
    pub(crate) set: Arc<EndpointSet>,
    /// Who is fit for calls; `None`: nothing is looked at that could speak against one.
    pub(crate) fitness: Option<Fitness>,
    /// Takes in how attempts end, where outliers are looked for.
    pub(crate) detector: Option<Arc<Detector>>,
    /// The names among its endpoints that have no address yet, and why.
    pub(crate) unresolved: Option<Box<str>>,
}

impl Cluster {
    /// One endpoint that no service of the mesh names; `label` stands for the service.
    pub(crate) fn of_no_service(label: &str, endpoint: Arc<Endpoint>, account: Account) -> Self {
        let policy = config::model::BalancingPolicy::default();
        Self {
            service: label.into(),
            labels: BTreeMap::new(),
            purpose: Purpose::Passthrough,
            members: vec![endpoint],
            dials: vec![0],
            picker: Picker::new(policy, Weights::new(&[1])),
            policy,
            weights: vec![1],
            attempts: account.attempts,
            purse: account.purse,
            retry_budget: RetryBudget::default(),
            throttle: None,
            set: Arc::default(),
            fitness: None,
            detector: None,
            unresolved: None,
        }
    }

    /// Whether calls go to a member while there are others: it is fit, or so few are that all are used.
    pub(crate) fn is_in_use(&self, member: usize, now: Nanos) -> bool {
        self.look(now, |view| view.is_none_or(|view| view.weights.is_in(member)))
    }

    /// Hands over who takes calls at `now`; `None`: every member by its weight.
    pub(crate) fn look<T>(&self, now: Nanos, then: impl FnOnce(Option<&View>) -> T) -> T {
        match &self.fitness {
            Some(fitness) => fitness.look(&self.members, &self.weights, now, then),
            None => then(None),
        }
    }

    /// Whether something speaks against a member that this cluster minds.
    pub(crate) fn is_unfit(&self, member: &Endpoint) -> bool {
        self.fitness.as_ref().is_some_and(|fitness| fitness.is_unfit(member))
    }

    /// The part of its weight that a member has come to.
    pub(crate) fn part(&self, member: &Endpoint, now: Nanos) -> f64 {
        self.fitness.as_ref().map_or(1.0, |fitness| fitness.part(member, now))
    }

    /// Tells who looks for outliers what an attempt on one of the members came to; `None`: no answer.
    pub(crate) fn report(&self, member: &Endpoint, told: Option<Code>, now: impl FnOnce() -> Nanos) {
        if let Some(detector) = &self.detector {
            detector.report(member, told, now());
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
    /// `false`: the mesh does not have its service, or does not say who may call it. Nobody is let in then.
    pub(crate) in_mesh: bool,
    /// Index into [`Tables::services`].
    pub(crate) service: usize,
    /// Index into [`Tables::clusters`]: the app.
    pub(crate) cluster: usize,
    /// The same one in the next snapshot, unless it changes.
    pub(crate) authorization: Arc<Authorization>,
    /// The service's own deadline block, for its cap.
    pub(crate) deadline: Deadline,
}

impl From<&config::model::Method> for MethodTable {
    fn from(method: &config::model::Method) -> Self {
        Self {
            kind: method.kind,
            deadline: method.deadline,
            stream: method.stream,
            headers: method.headers.as_ref().map(HeaderRules::new),
            repeats: method.repeats,
            idempotent: method.idempotent,
            faults: method.injection.as_ref().map(|injection| Faults::of(injection, None)),
            median: None,
        }
    }
}
