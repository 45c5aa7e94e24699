//! Endpoints that sidecars announce of themselves, beside those of the files.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use config::model::{Endpoint, Mesh, Target};
use tokio::sync::watch;

/// An endpoint that a sidecar has announced, and may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// The service that it belongs to, which says `registration: true`.
    pub service: String,
    /// The namespace of that service.
    pub namespace: String,
    /// Where it is.
    pub endpoint: Endpoint,
}

/// Everything that is announced now. Written by the sessions, read when a world is made.
#[derive(Debug)]
pub struct Registrations {
    limit: usize,
    held: Mutex<Held>,
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Held {
    /// By proxy: which of all announcements it was, and what it says.
    proxies: BTreeMap<String, (u64, Vec<Registered>)>,
    announcements: u64,
    /// How many are held of each service, by namespace and name.
    services: HashMap<(String, String), usize>,
}

impl Held {
    /// Takes those out that are past what a service may have.
    fn cap(
        &mut self,
        known: &[Registered],
        endpoints: Vec<Registered>,
        limit: usize,
    ) -> (Vec<Registered>, Vec<Registered>) {
        for one in known {
            if let Some(held) = self.services.get_mut(&one.of()) {
                *held -= 1;
            }
        }
        let (good, past) = endpoints.into_iter().partition(|one| {
            let held = self.services.entry(one.of()).or_default();
            let fits = *held < limit;
            *held += usize::from(fits);
            fits
        });
        self.services.retain(|_, held| *held > 0);
        (good, past)
    }
}

impl Registered {
    fn of(&self) -> (String, String) {
        (self.namespace.clone(), self.service.clone())
    }
}

impl Default for Registrations {
    fn default() -> Self {
        Self::new(config::control::Limits::default().registrations)
    }
}

impl Registrations {
    /// None yet; `limit` (`limits.registrations`): endpoints of one service. Every client of the service is told all of them,
    /// so that a sidecar that makes up node ids must not add to them without end.
    pub fn new(limit: usize) -> Self {
        Self { limit, held: Mutex::default(), changes: watch::Sender::new(0) }
    }

    /// How many of them one service may have.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// What a proxy announces now, in place of all that it has announced before. Nothing happens where it is the same.
    /// Those are returned that are not taken: past [`Self::limit`].
    pub fn set(&self, proxy: &str, endpoints: Vec<Registered>) -> Vec<Registered> {
        let mut held = self.lock();
        let known = held.proxies.get(proxy).map_or_else(Vec::new, |(_, known)| known.clone());
        if known == endpoints {
            return Vec::new();
        }
        let (endpoints, past) = held.cap(&known, endpoints, self.limit);
        if known == endpoints {
            return past;
        }
        held.announcements += 1;
        let turn = held.announcements;
        match endpoints.is_empty() {
            true => drop(held.proxies.remove(proxy)),
            false => drop(held.proxies.insert(proxy.to_owned(), (turn, endpoints))),
        }
        drop(held);
        self.changes.send_modify(|changes| *changes += 1);
        past
    }

    /// A proxy's stream has been gone for the grace time: its endpoints are withdrawn.
    pub fn gone(&self, proxy: &str) {
        self.set(proxy, Vec::new());
    }

    /// Changes whenever an endpoint is announced or withdrawn.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// How many endpoints are announced.
    pub fn endpoints(&self) -> usize {
        self.lock().proxies.values().map(|(_, endpoints)| endpoints.len()).sum()
    }

    /// Adds what is announced to the services that want it, sorted, so that it does not matter who came first. Where two say
    /// the same address, the file wins over sidecars, and of two sidecars the one that spoke last: an address that was given
    /// to a new pod belongs to that.
    pub fn merge(&self, mesh: &mut Mesh) {
        let mut newest: BTreeMap<(String, String), BTreeMap<Target, (u64, Endpoint)>> = BTreeMap::new();
        for (turn, endpoints) in self.lock().proxies.values() {
            for registered in endpoints {
                let service = (registered.namespace.clone(), registered.service.clone());
                let known = newest.entry(service).or_default();
                let entry = (*turn, registered.endpoint.clone());
                let at = known.entry(registered.endpoint.target.clone()).or_insert_with(|| entry.clone());
                if at.0 < entry.0 {
                    *at = entry;
                }
            }
        }
        let services: HashMap<(String, String), usize> = mesh
            .services
            .iter()
            .enumerate()
            .filter(|(_, service)| service.registration)
            .map(|(at, service)| ((service.namespace.clone(), service.name.clone()), at))
            .collect();
        for (name, endpoints) in newest {
            let Some(service) = services.get(&name).map(|at| &mut mesh.services[*at]) else { continue };
            let written: HashSet<Target> =
                service.endpoints.iter().map(|endpoint| endpoint.target.clone()).collect();
            let announced = endpoints.into_values().map(|(_, endpoint)| endpoint);
            service.endpoints.extend(announced.filter(|endpoint| !written.contains(&endpoint.target)));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
