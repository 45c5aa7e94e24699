//! Endpoints that sidecars announce over their streams: who may, and how long they stay.
//!
//! ```text
//! announced --stream ends--> waiting for the sidecar to come back (grace) --> withdrawn
//!     ^-------- same sidecar on another stream --------'
//! ```

use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use config::model::{Endpoint, Target};

use crate::ads::audience::Announced;
use crate::peer::Peer;
use crate::registrations::{Registered, Registrations};
use crate::world::World;

/// Whether what a sidecar announces may stand: the endpoints that may, and why the others may not.
///
/// The stream must have proved one of the identities of the service, and the service must want to be registered.
pub(crate) fn judge(announced: &[Announced], peer: &Peer, world: &World) -> (Vec<Registered>, Vec<String>) {
    let (mut good, mut refused) = (Vec::new(), Vec::new());
    for one in announced {
        match judge_one(one, peer, world) {
            Ok(()) => good.push(Registered {
                service: one.service.clone(),
                namespace: one.namespace.clone(),
                endpoint: endpoint(one),
            }),
            Err(why) => refused.push(not_registered(&one.address, &one.service, &one.namespace, &why)),
        }
    }
    (good, refused)
}

/// Why an endpoint may not stand for which there is no place.
pub(crate) fn no_place(one: &Registered, limit: usize) -> String {
    let why =
        format!("the service has {limit} announced endpoints, as many as it may (limits.registrations)");
    not_registered(&one.endpoint.target, &one.service, &one.namespace, &why)
}

fn not_registered(address: &impl Display, service: &str, namespace: &str, why: &str) -> String {
    format!("the endpoint {address} of {service}.{namespace} is not registered: {why}")
}

fn judge_one(one: &Announced, peer: &Peer, world: &World) -> Result<(), String> {
    let service = world.service(&one.service, &one.namespace).and_then(|at| world.mesh.services.get(at));
    let service = service.ok_or("the mesh has no such service")?;
    if !service.registration {
        return Err("the service does not say `registration: true`".to_owned());
    }
    let identity = peer.identity.as_ref().ok_or("the stream is plain text and proves no identity")?;
    if !service.identities.contains(identity) {
        return Err(format!("{} is none of the service's `identities`", identity.as_str()));
    }
    let to = one.address.ip().to_canonical();
    if one.address.port() == 0 || to.is_unspecified() || to.is_multicast() {
        return Err("nobody can dial that address".to_owned());
    }
    if to.is_loopback() && !peer.address.ip().to_canonical().is_loopback() {
        return Err("only its own host can dial an address of loopback".to_owned());
    }
    Ok(())
}

fn endpoint(one: &Announced) -> Endpoint {
    let mut labels: BTreeMap<String, String> = one.labels.iter().cloned().collect();
    if let Some(zone) = &one.zone {
        labels.entry("zone".to_owned()).or_insert_with(|| zone.clone());
    }
    Endpoint { target: Target::Address(one.address), tls: None, weight: 1, labels }
}

/// Which stream stands for which sidecar.
#[derive(Debug, Default)]
pub(crate) struct Owners {
    owners: Mutex<HashMap<String, Owner>>,
}

#[derive(Debug)]
struct Owner {
    stream: u64,
    /// When that stream ended.
    gone: Option<Instant>,
}

impl Owners {
    /// Whether a sidecar has announced something on any stream.
    pub(crate) fn knows(&self, key: &str) -> bool {
        self.lock().contains_key(key)
    }

    /// A stream says what its sidecar announces now. Of two streams the younger one has the word: the older one is half open,
    /// and nobody has told us yet. `key` tells sidecars apart: what the stream has proved and its
    /// `node.id`, so that nobody can withdraw for another. Those are returned for which there is no place.
    pub(crate) fn announce(
        &self,
        key: &str,
        stream: u64,
        endpoints: Vec<Registered>,
        registrations: &Registrations,
    ) -> Vec<Registered> {
        let mut owners = self.lock();
        if owners.get(key).is_some_and(|owner| owner.stream > stream) {
            return Vec::new();
        }
        // Who announces nothing stays the owner, so that an older stream does not take the word again.
        owners.insert(key.to_owned(), Owner { stream, gone: None });
        // Below the lock, so that two streams of one sidecar are heard in one order.
        registrations.set(key, endpoints)
    }

    /// A stream has ended. Another one may have taken over already.
    pub(crate) fn leave(&self, key: &str, stream: u64, now: Instant) {
        if let Some(owner) = self.lock().get_mut(key).filter(|owner| owner.stream == stream) {
            owner.gone = Some(now);
        }
    }

    /// Withdraws what has been gone for `grace`.
    pub(crate) fn sweep(&self, now: Instant, grace: Duration, registrations: &Registrations) {
        let mut owners = self.lock();
        let over = |owner: &Owner| owner.gone.is_some_and(|gone| now >= gone + grace);
        let gone: Vec<String> =
            owners.iter().filter(|(_, owner)| over(owner)).map(|(key, _)| key.clone()).collect();
        for key in gone {
            owners.remove(&key);
            registrations.gone(&key);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Owner>> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use crate::ads::registration::*;

    const GRACE: Duration = Duration::from_secs(30);

    fn at(address: &str) -> Vec<Registered> {
        let target = Target::Address(address.parse().unwrap());
        let endpoint = Endpoint { target, tls: None, weight: 1, labels: BTreeMap::new() };
        vec![Registered { service: "s".to_owned(), namespace: "n".to_owned(), endpoint }]
    }

    #[test]
    fn an_older_stream_that_is_half_open_does_not_take_the_word_again() {
        let (owners, registrations) = (Owners::default(), Registrations::default());
        owners.announce("a", 1, at("10.0.0.1:1"), &registrations);
        owners.announce("a", 2, at("10.0.0.1:1"), &registrations);
        owners.announce("a", 2, Vec::new(), &registrations);
        // A new world has every stream say once more what it announces.
        owners.announce("a", 1, at("10.0.0.1:1"), &registrations);
        assert_eq!(registrations.endpoints(), 0, "it was withdrawn on the younger stream");
        let now = Instant::now();
        owners.leave("a", 1, now);
        owners.announce("a", 2, at("10.0.0.1:2"), &registrations);
        owners.sweep(now + GRACE, GRACE, &registrations);
        assert_eq!(registrations.endpoints(), 1, "the end of the older one is not the sidecar's");
        owners.leave("a", 2, now);
        owners.sweep(now + GRACE, GRACE, &registrations);
        assert_eq!(registrations.endpoints(), 0);
        assert!(!owners.knows("a"), "nothing is kept of who has gone");
    }
}
