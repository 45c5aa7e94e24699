//! What the threads of one sidecar share, and what one worker calls its own.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use config::model::Limits;
use config::spiffe::SpiffeId;

use crate::clock::{Clock, Nanos};
use crate::metrics::calls::Registry;
use crate::metrics::events::{Events, Limit, Side};
use crate::tables::Tables;

/// Shared by all threads.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) clock: Clock,
    pub(crate) limits: Limits,
    /// The current snapshot.
    pub(crate) tables: ArcSwap<Tables>,
    /// One for each worker.
    pub(crate) events: Box<[Events]>,
    pub(crate) calls: Registry,
    /// Who we are, as `by` of x-forwarded-client-cert; `None` without an identity.
    pub(crate) identity: Option<SpiffeId>,
    /// When our own certificate expires.
    pub(crate) expires: Option<SystemTime>,
    /// Set once, when the drain begins.
    pub(crate) draining: AtomicBool,
}

impl Shared {
    /// Whether the sum of a gauge over all workers has reached `limit`. Two workers may pass the last place
    /// at the same moment: the bound is soft by the number of workers, and costs no shared write.
    pub(crate) fn is_full(&self, limit: usize, gauge: impl Fn(&Events) -> u64) -> bool {
        self.events.iter().map(gauge).sum::<u64>() >= limit as u64
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
}

impl Context {
    pub(crate) fn new(index: usize, shared: Arc<Shared>) -> Self {
        Self { index, shared, random: RefCell::new(fastrand::Rng::new()) }
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
