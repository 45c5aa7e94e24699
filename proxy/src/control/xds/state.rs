//! What the client of the control plane and the follower tell each other.
//!
//! Both ways are a `watch`: each sees the newest word of the other and none in between, so that nothing piles up.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use xds::Kind;

use crate::control::xds::held::Held;

/// What the client has: the resources to go by, and how the connection fares.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    /// The newest set of which every listener has all that it names; a listener that has not keeps what it had.
    pub(crate) held: Held,
    /// Grows by one with each new `held`; 0: that which it was started with.
    pub(crate) generation: u64,
    /// The control plane has answered everything that it was asked at first, since this process began. What is not in
    /// `held` then is not in the mesh, or is asked for by name.
    pub(crate) synced: bool,
    /// Hosts and services asked for by name that do not exist, says the control plane.
    pub(crate) absent: Arc<BTreeSet<String>>,
    /// Resources that cannot be honoured, as they came last. The version before, if there was one, stays in `held`.
    pub(crate) refused: Arc<BTreeMap<(Kind, String), Refused>>,
    /// Resources that wait for what they name, or go by what they were before because of it; what they lack.
    pub(crate) incomplete: Arc<Lacks>,
    /// How the connection fares.
    pub(crate) connection: Connection,
}

/// What a resource lacks at last, by its kind and name.
pub(crate) type Lacks = BTreeMap<(Kind, String), (Kind, String)>;

/// A resource that is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) version: Arc<str>,
    /// Path and reason.
    pub(crate) why: String,
    /// When it came first in this version.
    pub(crate) at: SystemTime,
}

/// How a host that was asked for by name fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Host<'s> {
    /// Nothing is known yet.
    Open,
    /// Its service is in `held`.
    Here,
    /// There is no such service.
    Absent,
    /// There is, but it cannot be used.
    Refused(&'s Refused),
}

impl State {
    /// How a host, or a service by its full name, fares.
    pub(crate) fn host(&self, name: &str) -> Host<'_> {
        if self.held.holds(Kind::Listener, name) {
            return Host::Here;
        }
        if self.absent.contains(name) {
            return Host::Absent;
        }
        self.refused.get(&(Kind::Listener, name.to_owned())).map_or(Host::Open, Host::Refused)
    }
}

/// The connection to the control plane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Connection {
    pub(crate) phase: Phase,
    /// The address that is meant, as `mesh.control` has it.
    pub(crate) address: String,
    /// Since when it has been in this phase.
    pub(crate) since: Option<SystemTime>,
    /// What the other side calls itself; empty: nothing.
    pub(crate) identifier: String,
    /// Why the last connection, or attempt at one, ended; and when.
    pub(crate) lost: Option<(SystemTime, Arc<str>)>,
}

/// Where a connection is.
///
/// ```text
/// Connecting --first answer--> Connected --end--> Waiting --back-off--> Connecting
///      `------------------failure-------------------^
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    #[default]
    Connecting,
    /// The control plane has answered over it.
    Connected,
    /// The next attempt is made in a while.
    Waiting,
}

impl Phase {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Connected => "connected",
            Self::Waiting => "waiting",
        }
    }
}

/// What the follower wants of the control plane; each word replaces the one before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Want {
    /// Hosts (`host` or `host:port`) and services that calls ask for. One that is taken out is let go again, unless the
    /// control plane sends it anyway.
    pub(crate) hosts: BTreeSet<String>,
    /// Endpoints to announce; none: those that were announced are withdrawn.
    pub(crate) endpoints: Vec<Announced>,
    /// Why what the control plane has sent makes no mesh, though each resource by itself is good; `None`: it does.
    pub(crate) turned_down: Option<Arc<str>>,
}

/// An endpoint that this sidecar announces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Announced {
    /// The name of its service, which is in our namespace.
    pub(crate) service: String,
    pub(crate) address: SocketAddr,
    pub(crate) zone: Option<String>,
    pub(crate) labels: BTreeMap<String, String>,
}
