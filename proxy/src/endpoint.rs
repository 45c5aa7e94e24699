//! An endpoint: an address to dial, and what all workers know of how it fares.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::balance::cooling::Cooling;
use crate::balance::ewma::Latency;
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
    /// Its checks say that it is not well. Written by the control thread.
    unhealthy: AtomicBool,
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct Padded(AtomicU32);

impl Endpoint {
    pub(crate) fn new(address: SocketAddr, mesh: bool) -> Self {
        Self {
            address,
            mesh,
            name: address.to_string(),
            in_flight: Padded::default(),
            latency: Latency::default(),
            cooling: Cooling::default(),
            unhealthy: AtomicBool::new(false),
        }
    }

    /// One without TLS.
    pub(crate) fn plain(address: SocketAddr) -> Self {
        Self::new(address, false)
    }

    /// What its checks came to; healthy where there are none.
    pub(crate) fn is_healthy(&self) -> bool {
        !self.unhealthy.load(Ordering::Relaxed)
    }

    /// Notes what its checks have come to at `now`.
    #[allow(dead_code, reason = "the checks come with a change of their own")]
    pub(crate) fn set_healthy(&self, healthy: bool, _now: Nanos) {
        self.unhealthy.store(!healthy, Ordering::Relaxed);
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
