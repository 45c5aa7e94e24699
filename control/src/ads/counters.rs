//! What the ADS port counts. Relaxed atomics: each is a sum of its own, and nothing is decided by them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use xds::Kind;

/// Which limit refused something; the label `limit`, and where there is one the key below `limits`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// `Settings::streams`.
    Streams,
    /// `Settings::subscriptions`, or a name that is too long.
    Subscriptions,
    /// `Settings::request`.
    Request,
    /// `Settings::requests_per_second`: once per pause.
    RequestRate,
    /// Endpoints past `limits.registrations`, or past those that one sidecar may announce: once for each node that has them.
    Registrations,
    /// `Settings::first_words`.
    FirstWords,
    /// More audiences at a time than are served.
    Audiences,
    /// A connection on which neither a certificate nor a token was shown in time.
    Unspoken,
}

impl Limit {
    /// All of them, with the values of their label.
    pub const ALL: [(Self, &'static str); 8] = [
        (Self::Streams, "streams"),
        (Self::Subscriptions, "subscriptions"),
        (Self::Request, "request"),
        (Self::RequestRate, "requests_per_second"),
        (Self::Registrations, "registrations"),
        (Self::FirstWords, "first_words"),
        (Self::Audiences, "audiences"),
        (Self::Unspoken, "unproven_timeout"),
    ];
}

/// Sums since the start.
#[derive(Debug, Default)]
pub struct Counters {
    responses: [AtomicU64; 4],
    resources: [AtomicU64; 4],
    response_bytes: [AtomicU64; 4],
    acks: [AtomicU64; 4],
    nacks: [AtomicU64; 4],
    refused: [AtomicU64; Limit::ALL.len()],
    /// Streams that began.
    pub streams: AtomicU64,
    /// Requests that were read.
    pub requests: AtomicU64,
    /// Requests whose nonce was not that of the last response.
    pub stale_nonces: AtomicU64,
    /// First requests for a type that we do not serve.
    pub unknown_types: AtomicU64,
    /// Messages that were no request.
    pub garbage: AtomicU64,
    /// Pings that were sent to see whether the peer is there.
    pub pings: AtomicU64,
    /// Peers that did not answer a ping in time.
    pub dead_peers: AtomicU64,
    /// Endpoints that were announced and may not be.
    pub registrations_refused: AtomicU64,
    /// Bundles of roots that clients rejected.
    pub secrets_refused: AtomicU64,
}

impl Counters {
    pub(crate) fn sent(&self, kind: Kind, resources: usize, bytes: usize) {
        self.responses[slot(kind)].fetch_add(1, Relaxed);
        self.resources[slot(kind)].fetch_add(resources as u64, Relaxed);
        self.response_bytes[slot(kind)].fetch_add(bytes as u64, Relaxed);
    }

    pub(crate) fn answered(&self, kind: Kind, ack: bool) {
        let sums = if ack { &self.acks } else { &self.nacks };
        sums[slot(kind)].fetch_add(1, Relaxed);
    }

    pub(crate) fn refuse(&self, limit: Limit) {
        self.refused[limit as usize].fetch_add(1, Relaxed);
    }

    /// Responses of a kind, resources in them, and their bytes before TLS and HTTP/2.
    pub fn responses(&self, kind: Kind) -> (u64, u64, u64) {
        let of = |sums: &[AtomicU64; 4]| sums[slot(kind)].load(Relaxed);
        (of(&self.responses), of(&self.resources), of(&self.response_bytes))
    }

    /// ACKs and NACKs of a kind.
    pub fn answers(&self, kind: Kind) -> (u64, u64) {
        (self.acks[slot(kind)].load(Relaxed), self.nacks[slot(kind)].load(Relaxed))
    }

    /// What a limit has refused.
    pub fn refused(&self, limit: Limit) -> u64 {
        self.refused[limit as usize].load(Relaxed)
    }
}

/// The kind's place in an array of four.
pub(crate) fn slot(kind: Kind) -> usize {
    match kind {
        Kind::Cluster => 0,
        Kind::Endpoints => 1,
        Kind::Listener => 2,
        Kind::Routes => 3,
    }
}
