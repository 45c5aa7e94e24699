//! One type on one stream: what the client asks for, what it holds, and what is on its way.
//!
//! ```text
//! dirty --response--> in flight --ACK--> held, acknowledged
//!   ^                     |-----NACK--> held back until it changes
//!   '-- a newer view, a new subscription
//! ```
//!
//! At most one response is in flight. What changes meanwhile makes names dirty, so that a slow client gets the newest state
//! and never a queue. Delta and state-of-the-world differ in how requests name resources and in what a response must
//! repeat: those are the two halves of `delta` and `sotw`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use xds::Kind;

use crate::ads::audience::clip;
use crate::ads::limits::REASON_BYTES_MAX;
use crate::ads::view::{Entry, View, is_wild};
use crate::set::GRPC_SERVER;

/// The time, for deadlines and for people.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub(crate) at: Instant,
    pub(crate) wall: SystemTime,
}

impl Now {
    pub(crate) fn read() -> Self {
        Self { at: tokio::time::Instant::now().into_std(), wall: SystemTime::now() }
    }
}

/// A response that the client has not answered yet.
#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) nonce: String,
    pub(crate) version: String,
    pub(crate) names: Vec<Arc<str>>,
    pub(crate) sent: Instant,
}

/// A refusal that stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Nack {
    /// Of the response that was refused.
    pub(crate) version: String,
    /// What the client says.
    pub(crate) reason: String,
    /// When it said so.
    pub(crate) at: SystemTime,
}

/// What becomes of a client's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Ack,
    Nack,
}

#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) kind: Kind,
    pub(crate) wildcard: bool,
    pub(crate) named: HashSet<Arc<str>>,
    /// Whether names were ever given: before that an empty list means everything (state of the world).
    pub(crate) ever_named: bool,
    /// The version of what was sent last, or of what the client said it has.
    pub(crate) held: HashMap<Arc<str>, u64>,
    /// Of `held`, what the client has from before this stream.
    pub(crate) brought: HashSet<Arc<str>>,
    /// Whether the client has something from before, and does not say of which names (state of the world).
    pub(crate) comes_back: bool,
    /// What must be looked at. `true`: the client asked for it, and is answered whatever it holds.
    pub(crate) dirty: BTreeMap<Arc<str>, bool>,
    /// Whether a response is due even if there is nothing in it.
    pub(crate) owed: bool,
    /// What is gone and may not be removed yet, or is asked for by name still; a response of the whole state repeats it.
    pub(crate) lingering: BTreeMap<Arc<str>, Arc<Entry>>,
    pub(crate) flight: Option<Flight>,
    pub(crate) last_nonce: String,
    pub(crate) sent_version: Option<String>,
    pub(crate) sent_at: Option<SystemTime>,
    pub(crate) acked: Option<(String, SystemTime)>,
    pub(crate) nack: Option<Nack>,
    /// What the client holds in another version than was sent, by its own words.
    pub(crate) rejected: HashSet<Arc<str>>,
    /// The refusal names none of its resources, so that any later ACK ends it.
    vague: bool,
}

impl Channel {
    pub(crate) fn new(kind: Kind) -> Self {
        Self {
            kind,
            wildcard: false,
            named: HashSet::new(),
            ever_named: false,
            held: HashMap::new(),
            brought: HashSet::new(),
            comes_back: false,
            dirty: BTreeMap::new(),
            owed: true,
            lingering: BTreeMap::new(),
            flight: None,
            last_nonce: String::new(),
            sent_version: None,
            sent_at: None,
            acked: None,
            nack: None,
            rejected: HashSet::new(),
            vague: false,
        }
    }

    /// Whether the client is to hold a resource of that name, if there is one.
    pub(crate) fn wants(&self, view: &View, name: &str) -> bool {
        self.named.contains(name)
            || self.wildcard && is_wild(self.kind, name) && (view.wide || self.held.contains_key(name))
    }

    /// Whether what the client has of that name may be newer than this process.
    pub(crate) fn may_know_more(&self, name: &str) -> bool {
        self.brought.contains(name) || self.comes_back && !self.held.contains_key(name)
    }

    /// Names to look at again, `fresh` where the client is to be answered whatever it holds.
    pub(crate) fn mark(&mut self, name: &Arc<str>, fresh: bool) {
        match self.dirty.get_mut(name) {
            Some(known) => *known |= fresh,
            None => drop(self.dirty.insert(name.clone(), fresh)),
        }
    }

    /// Subscribes to everything.
    pub(crate) fn widen(&mut self, view: &View) {
        self.wildcard = true;
        if view.wide {
            for entry in view.wild(self.kind) {
                self.mark(&entry.name, false);
            }
        }
        let held: Vec<Arc<str>> = self.held.keys().cloned().collect();
        held.iter().for_each(|name| self.mark(name, false));
    }

    /// Ends the wildcard: the client drops what it did not name.
    pub(crate) fn narrow(&mut self) {
        self.wildcard = false;
        let gone: Vec<Arc<str>> =
            self.held.keys().filter(|name| !self.named.contains(*name)).cloned().collect();
        gone.iter().for_each(|name| self.forget(name));
    }

    /// The client no longer holds it.
    pub(crate) fn forget(&mut self, name: &str) {
        self.held.remove(name);
        self.brought.remove(name);
        self.dirty.remove(name);
        self.lingering.remove(name);
        self.rejected.remove(name);
        self.settle();
    }

    /// Marks what differs between the view that the stream had and the newest one. `keep`: what is gone is kept until its
    /// removal may be told.
    pub(crate) fn advance(&mut self, old: &View, new: &View, keep: bool) {
        let of_kind = |kind| new.since(old.serial, kind).map(|names| names.cloned().collect::<Vec<_>>());
        let changed = if new.wide && !old.wide { None } else { of_kind(self.kind) };
        match &changed {
            Some(changed) => {
                for name in changed {
                    if self.wants(new, name) {
                        self.mark(name, false);
                    }
                }
            }
            None => {
                let known = self.named.iter().chain(self.held.keys()).cloned().collect::<Vec<_>>();
                known.iter().for_each(|name| self.mark(name, false));
                if self.wildcard {
                    self.widen(new);
                }
            }
        }
        // Listeners that are made when they are asked for are in no list. Those under other names follow the listeners and
        // routes of their services; those of proxyless servers also hold who may call, which only they tell.
        if self.kind == Kind::Listener {
            let other = changed.is_none_or(|names| !names.is_empty())
                || of_kind(Kind::Routes).is_none_or(|names| !names.is_empty());
            let made = |name: &&Arc<str>| {
                (other || name.starts_with(GRPC_SERVER)) && new.entry(self.kind, name).is_none()
            };
            let made: Vec<Arc<str>> = self.named.iter().filter(made).cloned().collect();
            made.iter().for_each(|name| self.mark(name, false));
        }
        if keep {
            for name in self.dirty.keys().filter(|name| self.held.contains_key(*name)) {
                match (new.entry(self.kind, name), old.entry(self.kind, name)) {
                    (Some(_), _) => drop(self.lingering.remove(name)),
                    (None, Some(gone)) => drop(self.lingering.insert(name.clone(), gone.clone())),
                    (None, None) => {}
                }
            }
        }
    }

    /// Takes what a response holds as held.
    pub(crate) fn sent(&mut self, nonce: &str, version: &str, names: Vec<Arc<str>>, now: Now) {
        self.owed = false;
        nonce.clone_into(&mut self.last_nonce);
        self.sent_version = Some(version.to_owned());
        self.sent_at = Some(now.wall);
        let (nonce, version) = (nonce.to_owned(), version.to_owned());
        self.flight = Some(Flight { nonce, version, names, sent: now.at });
    }

    /// The client answers a response. `None`: it is not the one in flight, and says nothing.
    pub(crate) fn answer(&mut self, nonce: &str, error: Option<&str>, now: Now) -> Option<Answer> {
        let flight = self.flight.take_if(|flight| flight.nonce == nonce)?;
        let Some(error) = error else {
            self.acked = Some((flight.version, now.wall));
            match self.vague {
                true => self.rejected.clear(),
                false => self.rejected.retain(|name| !flight.names.contains(name)),
            }
            self.settle();
            return Some(Answer::Ack);
        };
        // First, because each name of the response is looked for in it.
        let reason = clip(error, REASON_BYTES_MAX);
        let named: Vec<_> = flight.names.iter().filter(|name| reason.contains(&***name)).cloned().collect();
        self.vague = named.is_empty();
        self.rejected.extend(if self.vague { flight.names } else { named });
        self.nack = Some(Nack { version: flight.version, reason, at: now.wall });
        Some(Answer::Nack)
    }

    /// A refusal that names nothing any more is over. One of an empty response stays until the next ACK.
    fn settle(&mut self) {
        if self.rejected.is_empty() {
            self.nack = None;
            self.vague = false;
        }
    }

    /// Whether the client has answered everything there is, and refuses nothing.
    pub(crate) fn settled(&self) -> bool {
        self.flight.is_none() && self.dirty.is_empty() && self.nack.is_none()
    }

    /// Whether there is something that the client has not answered.
    pub(crate) fn behind(&self) -> bool {
        self.flight.is_some() || !self.dirty.is_empty()
    }
}
