//! An endpoint: an address to dial, and what all workers know of how it fares.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::balance::cooling::Cooling;
use crate::balance::ewma::Latency;
use crate::balance::outlier::{Record, Tally};
use crate::balance::standing::{Changes, Standing, UNHEALTHY};
use crate::clock::Nanos;

/// One endpoint of one service. Shared by all workers; what they write stands on cache lines of its own.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    /// Spoken to by TLS 1.3 with our identity; else plain h2c.
    pub(crate) mesh: bool,
    /// The address as text, for errors and `/clusters`.
    pub(crate) name: String,
    in_flight: Padded,
    pub(crate) latency: Latency,
    pub(crate) cooling: Cooling,
    /// Whether it is fit for calls.
    pub(crate) standing: Standing,
    /// What its calls came to, where outliers are looked for.
    pub(crate) tally: Tally,
    /// Its ejections.
    pub(crate) record: Record,
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct Padded(AtomicU32);

impl Endpoint {
    /// One of the service whose changes these are.
    pub(crate) fn new(address: SocketAddr, mesh: bool, changes: Arc<Changes>) -> Self {
        Self {
            address,
            mesh,
            name: address.to_string(),
            in_flight: Padded::default(),
            latency: Latency::default(),
            cooling: Cooling::default(),
            standing: Standing::new(changes),
            tally: Tally::default(),
            record: Record::default(),
        }
    }

    /// One without TLS, of no service that others have a part in.
    pub(crate) fn plain(address: SocketAddr) -> Self {
        Self::new(address, false, Arc::default())
    }

    /// What its checks came to; healthy where there are none.
    pub(crate) fn is_healthy(&self) -> bool {
        !self.standing.has(UNHEALTHY)
    }

    /// Notes what its checks have come to at `now`.
    pub(crate) fn set_healthy(&self, healthy: bool, now: Nanos) {
        match healthy {
            true => self.standing.unmark(UNHEALTHY, now),
            false => self.standing.mark(UNHEALTHY),
        }
    }

    /// Attempts on it that have begun and not ended, over all workers.
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.0.load(Ordering::Relaxed)
    }

    /// Counts an attempt that begins.
    pub(crate) fn begin(&self) {
        self.in_flight.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an attempt that ends.
    pub(crate) fn end(&self) {
        self.in_flight.0.fetch_sub(1, Ordering::Relaxed);
    }
}
