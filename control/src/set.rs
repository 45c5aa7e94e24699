//! What one audience is told of a world: its resources, encoded once and shared.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use config::model::Mesh;
use rustc_hash::FxHashMap;
use xds::{Audience, Client, Kind, Resource, encode, names};

use crate::changed::{changed, rerouted};
use crate::directory::Directory;
use crate::notes;

/// Names under which clients ask for listeners that are not the service's own; past it they are encoded at each ask.
const ALIASES_MAX: usize = 4_096;

/// What a proxyless gRPC server asks for, before the address that it listens on: the template
/// `grpc/server?xds.resource.listening_address=%s` of gRFC A36.
pub const GRPC_SERVER: &str = "grpc/server?xds.resource.listening_address=";

/// Names of listeners that a sidecar asks for by name only: `inbound/S`.
pub const INBOUND: &str = "inbound/";

/// Sets made by this process, to number them.
static SETS: AtomicU64 = AtomicU64::new(1);

/// What one audience is told.
#[derive(Debug)]
pub struct Set {
    /// Whom it is for.
    pub audience: Audience,
    number: u64,
    mesh: Arc<Mesh>,
    directory: Arc<Directory>,
    /// What was made of each service, in the order of the mesh.
    slots: Vec<Arc<Slot>>,
    /// What was made of all services together (Envoy's own listener).
    joined: Vec<Arc<Resource>>,
    /// By [`Kind`], each sorted by name.
    kinds: [Arc<[Arc<Resource>]>; Kind::ALL.len()],
    changes: Option<Changes>,
    encoded: usize,
    aliases: Mutex<BTreeMap<String, Resource>>,
    notes: OnceLock<Vec<String>>,
}

/// What differs from an earlier set of the same audience.
#[derive(Debug, Default)]
pub struct Changes {
    /// The number of that set.
    pub since: u64,
    names: [Vec<String>; Kind::ALL.len()],
}

impl Changes {
    /// The names of resources that are new, other ones, or gone (then [`Set::get`] has none); sorted. A listener that has
    /// changed is here by its own name, and not by its aliases.
    pub fn names(&self, kind: Kind) -> &[String] {
        &self.names[place(kind)]
    }
}

/// The resources of one service.
#[derive(Debug)]
struct Slot {
    resources: Vec<Arc<Resource>>,
}

impl Set {
    /// Encodes what `before`, an earlier set of the same audience, does not have already.
    pub(crate) fn new(
        audience: Audience,
        mesh: Arc<Mesh>,
        directory: Arc<Directory>,
        before: Option<&Self>,
    ) -> Self {
        let stale =
            before.map_or_else(|| vec![true; mesh.services.len()], |before| changed(&before.mesh, &mesh));
        let encoded_service = encode::services(&mesh, &audience);
        let mut encoded = 0;
        let mut slots = Vec::with_capacity(mesh.services.len());
        for (index, stale) in stale.into_iter().enumerate() {
            let old = before.and_then(|before| {
                let at = before.directory.service(directory.full_name(index)?)?;
                before.slots.get(at)
            });
            slots.push(match old {
                Some(old) if !stale => old.clone(),
                old => {
                    encoded += 1;
                    Slot::shared(encoded_service(index), old)
                }
            });
        }
        drop(encoded_service);
        let mut set = Self {
            audience,
            number: SETS.fetch_add(1, Ordering::Relaxed),
            mesh,
            directory,
            slots,
            joined: Vec::new(),
            kinds: Kind::ALL.map(|_| Arc::from(Vec::new())),
            changes: None,
            encoded,
            aliases: Mutex::default(),
            notes: OnceLock::new(),
        };
        set.join(before);
        set.sort(before);
        set.changes = before.map(|before| set.changes_since(before));
        set
    }

    /// Counted over all sets of the process: what tells one from another.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// A resource by name. As the name of a listener any host of a service will do, with a port or without
    /// (`payments.shop.svc:50051`), and what a proxyless gRPC server asks for once it is bound to a service: see
    /// [`Self::grpc_server`].
    pub fn get(&self, kind: Kind, name: &str) -> Option<Resource> {
        match self.get_own(kind, name) {
            Some(resource) => Some(resource.clone()),
            None if kind == Kind::Listener => self.alias(name),
            None => None,
        }
    }

    /// A resource by its own name.
    pub fn get_own(&self, kind: Kind, name: &str) -> Option<&Resource> {
        let resources = &self.kinds[place(kind)];
        let at = resources.binary_search_by(|resource| resource.name.as_str().cmp(name)).ok()?;
        Some(&resources[at])
    }

    /// All resources of a kind, by name; aliases are not among them.
    pub fn all(&self, kind: Kind) -> impl Iterator<Item = &Resource> {
        self.kinds[place(kind)].iter().map(AsRef::as_ref)
    }

    /// What a wildcard subscription brings: all of a kind, but for listeners that concern one sidecar only ([`INBOUND`]).
    pub fn wildcard(&self, kind: Kind) -> impl Iterator<Item = &Resource> {
        self.all(kind).filter(move |resource| kind != Kind::Listener || !resource.name.starts_with(INBOUND))
    }

    /// Whether not one resource of this kind differs.
    pub fn same(&self, kind: Kind, other: &Self) -> bool {
        Arc::ptr_eq(&self.kinds[place(kind)], &other.kinds[place(kind)])
    }

    /// What differs from the set before; `None` for the first one of an audience. Whoever holds another set than that must
    /// look through all names.
    pub fn changes(&self) -> Option<&Changes> {
        self.changes.as_ref()
    }

    /// How many services the mesh has.
    pub fn services(&self) -> usize {
        self.mesh.services.len()
    }

    /// The listener of a proxyless gRPC server that stands for a service of the mesh; `name` as it asks for it, [`GRPC_SERVER`] and its address.
    pub fn grpc_server(&self, service: &str, namespace: &str, name: &str) -> Option<Resource> {
        let address: SocketAddr = name.strip_prefix(GRPC_SERVER)?.parse().ok()?;
        let index = self.directory.service(&format!("{service}.{namespace}"))?;
        Some(encode::grpc_server(&self.mesh, index, name, address, &self.audience))
    }

    /// How many endpoints stand in the assignment of that name, if they are those of a service that sidecars announce some of.
    pub(crate) fn announced(&self, name: &str) -> Option<usize> {
        let (service, labels) = names::parse_cluster(name)?;
        let service = self.mesh.services.get(self.directory.service(service)?)?;
        let those = service.endpoints.iter().filter(|endpoint| endpoint.carries(&labels));
        service.registration.then(|| those.count())
    }

    /// What of the mesh this audience cannot be told, a line for each, with the services that it is true of.
    pub fn notes(&self) -> &[String] {
        self.notes.get_or_init(|| {
            let notes = encode::notes_of_services(&self.mesh, &self.audience);
            let of = |index| (self.directory.full_name(index).unwrap_or_default(), notes(index));
            notes::lines((0..self.mesh.services.len()).map(of))
        })
    }

    /// Bytes of all its resources.
    pub(crate) fn bytes(&self) -> usize {
        self.kinds.iter().flat_map(|resources| resources.iter()).map(|resource| resource.bytes.len()).sum()
    }

    /// How many services were encoded to make it; the others were taken over from the set before.
    pub fn encoded(&self) -> usize {
        self.encoded
    }

    fn alias(&self, name: &str) -> Option<Resource> {
        let index = self.directory.find(name)?;
        let mut aliases = self.aliases.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = aliases.get(name) {
            return Some(known.clone());
        }
        let own = self.get_own(Kind::Listener, self.directory.full_name(index)?)?;
        let alias = encode::alias(own, name);
        if aliases.len() < ALIASES_MAX {
            aliases.insert(name.to_owned(), alias.clone());
        }
        Some(alias)
    }

    /// Orders the resources of all slots by kind and name.
    fn sort(&mut self, before: Option<&Self>) {
        let mut kinds: [Vec<Arc<Resource>>; Kind::ALL.len()] = Default::default();
        for resource in self.slots.iter().flat_map(|slot| &slot.resources).chain(&self.joined) {
            kinds[place(resource.kind)].push(resource.clone());
        }
        for (kind, mut resources) in kinds.into_iter().enumerate() {
            // Stable: of two with one name the one of the earlier service stays, in every process.
            resources.sort_by(|a, b| a.name.cmp(&b.name));
            resources.dedup_by(|later, earlier| later.name == earlier.name);
            let as_before = before.map(|before| &before.kinds[kind]).filter(|old| {
                old.len() == resources.len()
                    && old.iter().zip(&resources).all(|(old, new)| Arc::ptr_eq(old, new))
            });
            self.kinds[kind] = as_before.map_or_else(|| resources.into(), Arc::clone);
        }
    }

    /// Adds what only all services together make: Envoy's listener for the app's own calls, and its routes.
    fn join(&mut self, before: Option<&Self>) {
        if !matches!(self.audience.client, Client::Envoy { .. }) {
            return;
        }
        self.joined = match before.filter(|before| !rerouted(&before.mesh, &self.mesh)) {
            Some(before) => before.joined.clone(),
            None => {
                let joined = encode::outbound(&self.mesh, &self.audience);
                shared(joined, before.map_or(&[], |before| &before.joined))
            }
        };
    }

    fn changes_since(&self, before: &Self) -> Changes {
        let mut changes = Changes { since: before.number, ..Changes::default() };
        for kind in 0..Kind::ALL.len() {
            let (old, new) = (&before.kinds[kind], &self.kinds[kind]);
            if Arc::ptr_eq(old, new) {
                continue;
            }
            let held: FxHashMap<&str, &Arc<Resource>> =
                old.iter().map(|old| (old.name.as_str(), old)).collect();
            let other =
                |new: &&Arc<Resource>| held.get(new.name.as_str()).is_none_or(|old| !Arc::ptr_eq(old, new));
            let mut names: Vec<String> = new.iter().filter(other).map(|new| new.name.clone()).collect();
            let here = |name: &str| new.binary_search_by(|new| new.name.as_str().cmp(name)).is_ok();
            names.extend(old.iter().filter(|old| !here(&old.name)).map(|old| old.name.clone()));
            names.sort_unstable();
            changes.names[kind] = names;
        }
        changes
    }
}

impl Slot {
    /// What was encoded, with everything taken over that has not changed.
    fn shared(resources: Vec<Resource>, old: Option<&Arc<Self>>) -> Arc<Self> {
        let resources = shared(resources, old.map_or(&[], |old| &old.resources));
        match old {
            Some(old)
                if old.resources.len() == resources.len()
                    && old.resources.iter().zip(&resources).all(|(old, new)| Arc::ptr_eq(old, new)) =>
            {
                old.clone()
            }
            _ => Arc::new(Self { resources }),
        }
    }
}

/// The same resources, those of `old` where nothing of them has changed.
fn shared(resources: Vec<Resource>, old: &[Arc<Resource>]) -> Vec<Arc<Resource>> {
    let known = |new: &Resource| old.iter().find(|old| ***old == *new).cloned();
    resources.into_iter().map(|new| known(&new).unwrap_or_else(|| Arc::new(new))).collect()
}

/// Where a kind stands in the arrays here.
fn place(kind: Kind) -> usize {
    kind as usize
}
