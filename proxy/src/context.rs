//! What the threads of one sidecar share, and what one worker calls its own.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::{ArcSwap, ArcSwapOption};
use config::model::{Limits, Unknown};
use config::spiffe::SpiffeId;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::clock::{Clock, Nanos};
use crate::demand::{Demand, PATIENCE};
use crate::dial::Dialled;
use crate::dns::Resolver;
use crate::inherited::Inherited;
use crate::metrics::calls::{Registry, Series};
use crate::metrics::events::{Events, Limit, Side};
use crate::record::Recorder;
use crate::socket;
use crate::tables::Tables;
use crate::trace::context::Formats;

/// Shared by all threads.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) clock: Clock,
    pub(crate) limits: Limits,
    /// The current snapshot; see [`Shared::publish`].
    pub(crate) tables: ArcSwap<Tables>,
    /// Tells workers that there is a newer one, so that idle ones let go of the old.
    pub(crate) published: watch::Sender<()>,
    /// One for each worker.
    pub(crate) events: Box<[Events]>,
    pub(crate) calls: Registry,
    /// Who we are, or will be as soon as there is a certificate, as `by` of x-forwarded-client-cert; `None` without an identity.
    pub(crate) identity: Option<SpiffeId>,
    /// Why there is no certificate, where there is to be one; `None`: there is.
    pub(crate) no_identity: ArcSwapOption<String>,
    /// Has names resolved, on the control thread.
    pub(crate) resolver: Resolver,
    /// Asks the control plane for services that the snapshot does not have.
    pub(crate) demand: Demand,
    /// The services behind the entries of `inbound`, as metrics name them.
    pub(crate) entries: Box<[Arc<str>]>,
    /// The connections that we opened.
    pub(crate) dialled: Dialled,
    /// Where we listen for calls, as bound.
    pub(crate) listeners: OnceLock<Vec<SocketAddr>>,
    /// Ports on which nothing is detected.
    pub(crate) opaque_ports: Vec<u16>,
    /// Some entry of `inbound` is strict.
    pub(crate) strict: bool,
    /// What happens to what is not for a service of the mesh.
    pub(crate) unknown: Unknown,
    /// The headers that a trace which begins here is told in.
    pub(crate) propagate: Formats,
    /// The deadlines of inbound calls, for what the app calls on their behalf.
    pub(crate) inherited: Inherited,
    /// Spans and the access log; `None`: nothing is recorded.
    pub(crate) recorder: Option<Recorder>,
    /// Set once, when the drain begins.
    pub(crate) draining: AtomicBool,
    /// The same, for who waits for it.
    pub(crate) leaving: watch::Sender<bool>,
}

impl Shared {
    /// Whether the sum of a gauge over all workers has reached `limit`. Two workers may pass the last place
    /// at the same moment: the bound is soft by the number of workers, and costs no shared write.
    pub(crate) fn is_full(&self, limit: usize, gauge: impl Fn(&Events) -> u64) -> bool {
        self.events.iter().map(gauge).sum::<u64>() >= limit as u64
    }

    /// Whether a connection to `address` would come back to us.
    pub(crate) fn is_ourselves(&self, address: SocketAddr) -> bool {
        let address = socket::canonical(address);
        self.listeners.get().into_iter().flatten().any(|own| {
            own.port() == address.port()
                && (own.ip() == address.ip()
                    || (own.ip().is_unspecified() || address.ip().is_unspecified())
                        && socket::is_local(address.ip()))
        })
    }

    /// Whether a connection that was going from `peer` to `original` would come back to us, or came from us.
    pub(crate) fn is_loop(&self, peer: SocketAddr, original: SocketAddr) -> bool {
        self.is_ourselves(original) || self.dialled.holds(peer, original)
    }

    /// Puts a snapshot in force: for calls that begin from now on.
    pub(crate) fn publish(&self, tables: Arc<Tables>) {
        self.tables.store(tables);
        self.published.send_replace(());
    }

    /// Waits until there is a mesh, for [`PATIENCE`] at most; whether there is one.
    pub(crate) async fn has_mesh(&self) -> bool {
        // Before the first look, so that none is missed.
        let mut published = self.published.subscribe();
        let here = async {
            while !self.tables.load().has_mesh {
                if published.changed().await.is_err() {
                    return false;
                }
            }
            true
        };
        timeout(PATIENCE, here).await.unwrap_or(false)
    }

    /// Begins the drain.
    pub(crate) fn leave(&self) {
        self.draining.store(true, Ordering::Relaxed);
        self.leaving.send_replace(true);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}

/// One worker's own; never leaves its thread.
#[derive(Debug)]
pub(crate) struct Context {
    /// Which worker this is.
    pub(crate) index: usize,
    pub(crate) shared: Arc<Shared>,
    pub(crate) random: RefCell<fastrand::Rng>,
    /// Where messages are counted that are none: those of requests that are not gRPC.
    pub(crate) unshown: Arc<Series>,
}

impl Context {
    pub(crate) fn new(index: usize, shared: Arc<Shared>) -> Self {
        let random = RefCell::new(fastrand::Rng::new());
        Self { index, shared, random, unshown: Arc::default() }
    }

    /// This worker's counters.
    pub(crate) fn events(&self) -> &Events {
        &self.shared.events[self.index]
    }

    pub(crate) fn refuse(&self, limit: Limit) {
        self.events().refuse(limit);
    }

    pub(crate) fn now(&self) -> Nanos {
        self.shared.clock.nanos(tokio::time::Instant::now())
    }

    pub(crate) fn draw(&self) -> u64 {
        self.random.borrow_mut().u64(..)
    }
}

/// An open connection, counted until it is dropped.
#[derive(Debug)]
pub(crate) struct OpenConnection {
    context: Rc<Context>,
    side: Side,
    mtls: bool,
}

impl Context {
    /// Counts a connection that has opened.
    pub(crate) fn count_connection(self: &Rc<Self>, side: Side, mtls: bool) -> OpenConnection {
        let (side_index, security) = (side as usize, usize::from(mtls));
        self.events().connections[side_index][security].add(1);
        self.events().connections_total[side_index][security].add(1);
        OpenConnection { context: self.clone(), side, mtls }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.context.events().connections[self.side as usize][usize::from(self.mtls)].sub(1);
    }
}
