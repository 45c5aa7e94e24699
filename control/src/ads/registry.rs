//! Every connected proxy, and what it holds.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use xds::Resource;

use crate::ads::channel::{Channel, Nack, Now};
use crate::ads::session::Session;
use crate::ads::view::Entry;
use crate::peer::Peer;

/// Who is connected now.
#[derive(Default)]
pub struct Registry {
    proxies: Mutex<BTreeMap<u64, Arc<Proxy>>>,
    serials: AtomicU64,
    streams: AtomicUsize,
}

/// One ADS stream that has told who it is.
pub(crate) struct Proxy {
    pub(crate) serial: u64,
    pub(crate) peer: Peer,
    pub(crate) connected: SystemTime,
    session: Mutex<Session>,
    /// What its registrations were refused for.
    refused: Mutex<Vec<String>>,
}

/// How many proxies there are of a kind, and how they stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Of that kind.
    pub connected: usize,
    /// Those of them that refuse something.
    pub refusing: usize,
    /// Those of them that have a response they have not answered, or that are to be sent one.
    pub behind: usize,
}

impl Registry {
    /// Every proxy, as `/proxies` shows it: a list, the one that is connected longest first.
    pub fn page(&self) -> Value {
        self.all().iter().map(|proxy| proxy.page()).collect()
    }

    /// What the proxy of this id is to hold: all that it has asked for, in the newest version. `None`: there is no such proxy.
    /// Where several streams have the id, the newest one.
    pub fn resources(&self, id: &str) -> Option<Vec<Resource>> {
        let proxy = self.all().into_iter().rev().find(|proxy| proxy.session().caller.id == id)?;
        let session = proxy.session();
        let all = session.wanted();
        let resource = |(kind, entry): (_, Arc<Entry>)| Resource {
            kind,
            name: entry.name.to_string(),
            version: entry.version.clone(),
            bytes: entry.bytes.clone(),
        };
        Some(all.into_iter().map(resource).collect())
    }

    /// The proxies by kind (`outrigger`, `grpc`, `envoy`, and `herald` where there are some), and how they stand.
    pub fn standing(&self) -> BTreeMap<&'static str, Standing> {
        let mut kinds =
            BTreeMap::from(["outrigger", "grpc", "envoy"].map(|kind| (kind, Standing::default())));
        for proxy in self.all() {
            let session = proxy.session();
            let kind = kinds.entry(session.caller.kind()).or_default();
            kind.connected += 1;
            let refuses = session.channels.iter().flatten().any(|channel| channel.nack.is_some());
            kind.refusing += usize::from(refuses || session.caller.turned_down.is_some());
            kind.behind += usize::from(session.channels.iter().flatten().any(Channel::behind));
        }
        kinds
    }

    /// Streams of every service, those that have not told who they are among them.
    pub fn streams(&self) -> usize {
        self.streams.load(Relaxed)
    }

    pub(crate) fn all(&self) -> Vec<Arc<Proxy>> {
        self.lock().values().cloned().collect()
    }

    /// Counts a stream for as long as what it returns lives.
    pub(crate) fn enter(&self) -> (StreamPlace<'_>, usize) {
        let streams = self.streams.fetch_add(1, Relaxed) + 1;
        (StreamPlace(&self.streams), streams)
    }

    pub(crate) fn add(&self, peer: Peer, session: Session) -> Listed<'_> {
        let serial = self.serials.fetch_add(1, Relaxed);
        let connected = SystemTime::now();
        let (session, refused) = (Mutex::new(session), Mutex::default());
        let proxy = Arc::new(Proxy { serial, peer, connected, session, refused });
        self.lock().insert(serial, proxy.clone());
        Listed { registry: self, proxy }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Proxy>>> {
        self.proxies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A counted stream.
pub(crate) struct StreamPlace<'a>(&'a AtomicUsize);

impl Drop for StreamPlace<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// A proxy's line in the registry.
pub(crate) struct Listed<'a> {
    registry: &'a Registry,
    pub(crate) proxy: Arc<Proxy>,
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.registry.lock().remove(&self.proxy.serial);
    }
}

impl Proxy {
    /// Held for moments only, and never while something is awaited.
    pub(crate) fn session(&self) -> MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how many of them are new.
    pub(crate) fn set_refused(&self, refused: Vec<String>) -> usize {
        let mut known = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let new = refused.iter().filter(|why| !known.contains(why)).count();
        *known = refused;
        new
    }

    fn page(&self) -> Value {
        // Found at the first ask, which takes its time for a large mesh; the stream must not wait for it.
        let view = self.session().view.clone();
        let known = view.notes();
        let session = self.session();
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = session.waiting(Now::read());
        let waiting = waiting.first().map(|name| {
            format!(
                "endpoints that wait until sidecars had registration.grace to announce theirs again: {}, such as those of {name}",
                waiting.len()
            )
        });
        let own: Vec<String> =
            session.caller.faults.iter().chain(refused.iter()).cloned().chain(waiting).collect();
        let notes: Vec<&String> = own.iter().chain(known).collect();
        json!({
            "id": session.caller.id,
            "kind": session.caller.kind(),
            "user_agent": session.caller.user_agent,
            "peer": self.peer.address.to_string(),
            "spiffe": self.peer.identity.as_ref().map(|id| id.as_str()),
            "connected_since": unix(self.connected),
            "protocol": session.protocol.name(),
            "types": session.channels.iter().flatten().map(of_type).collect::<Value>(),
            "turned_down": session.caller.turned_down,
            "notes": notes,
        })
    }
}

fn of_type(channel: &Channel) -> Value {
    json!({
        "type": channel.kind.type_url(),
        "sent_version": channel.sent_version,
        "sent_at": channel.sent_at.map(unix),
        "acked_version": channel.acked.as_ref().map(|(version, _)| version),
        "acked_at": channel.acked.as_ref().map(|(_, at)| unix(*at)),
        "nack": channel.nack.as_ref().map(nack),
        "subscribed": if channel.wildcard { json!("*") } else { json!(channel.named.len()) },
    })
}

fn nack(nack: &Nack) -> Value {
    json!({ "version": nack.version, "reason": nack.reason, "at": unix(nack.at) })
}

/// Seconds since 1970, with milliseconds.
fn unix(time: SystemTime) -> f64 {
    let millis = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    millis as f64 / 1_000.0
}
