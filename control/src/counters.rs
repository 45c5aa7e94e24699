//! What is counted of connections while it happens; `metrics` shows it. Relaxed atomics: each is a sum of its own.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Why a connection was not taken, or sent away: the label `limit` and, of all but `pages`, the key below `limits`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// There were `limits.connections` already.
    Connections,
    /// The oldest of `limits.handshakes` in the middle of TLS, for a new one.
    Handshakes,
    /// TLS took longer than `limits.handshake_timeout`.
    HandshakeTimeout,
    /// The oldest of the connections to the pages, for a new one.
    Pages,
    /// The oldest of `limits.unproven` connections without a certificate, for a new one.
    Unproven,
}

/// All of them, with the values of their label.
pub(crate) const REFUSALS: [(Refusal, &str); 5] = [
    (Refusal::Connections, "connections"),
    (Refusal::Handshakes, "handshakes"),
    (Refusal::HandshakeTimeout, "handshake_timeout"),
    (Refusal::Pages, "pages"),
    (Refusal::Unproven, "unproven"),
];

/// Why a TLS handshake came to a bad end: the label `reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The client showed none, and this control plane demands one.
    NoCertificate,
    /// No root that is trusted vouches for it.
    UnknownIssuer,
    /// Its time is over.
    Expired,
    /// Its time has not come.
    NotValidYet,
    /// It is of a foreign trust domain.
    TrustDomain,
    /// Not one SPIFFE id, a CA's, or for another use.
    NotAWorkload,
    /// Anything else of TLS.
    Tls,
    /// The client went away in the middle.
    Closed,
}

/// All of them, with the values of their label.
pub(crate) const FAILURES: [(Failure, &str); 8] = [
    (Failure::NoCertificate, "no_certificate"),
    (Failure::UnknownIssuer, "unknown_issuer"),
    (Failure::Expired, "expired"),
    (Failure::NotValidYet, "not_valid_yet"),
    (Failure::TrustDomain, "trust_domain"),
    (Failure::NotAWorkload, "not_a_workload"),
    (Failure::Tls, "tls"),
    (Failure::Closed, "closed"),
];

/// Sums since the start.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    refused: [AtomicU64; REFUSALS.len()],
    accepted: AtomicU64,
    failed: [AtomicU64; FAILURES.len()],
    untrusted: AtomicU64,
    worlds: AtomicU64,
    encoded: AtomicU64,
}

impl Counters {
    /// A connection was turned away.
    pub(crate) fn refuse(&self, refusal: Refusal) {
        self.refused[refusal as usize].fetch_add(1, Relaxed);
    }

    pub(crate) fn refused(&self, refusal: Refusal) -> u64 {
        self.refused[refusal as usize].load(Relaxed)
    }

    /// A connection to the xDS listener came so far that xDS can be spoken.
    pub(crate) fn accept(&self) {
        self.accepted.fetch_add(1, Relaxed);
    }

    pub(crate) fn accepted(&self) -> u64 {
        self.accepted.load(Relaxed)
    }

    /// A TLS handshake came to a bad end.
    pub(crate) fn fail(&self, failure: Failure) {
        self.failed[failure as usize].fetch_add(1, Relaxed);
    }

    pub(crate) fn failed(&self, failure: Failure) -> u64 {
        self.failed[failure as usize].load(Relaxed)
    }

    /// So many connections ended because nobody vouches for their certificates any more.
    pub(crate) fn distrust(&self, connections: u64) {
        self.untrusted.fetch_add(connections, Relaxed);
    }

    pub(crate) fn distrusted(&self) -> u64 {
        self.untrusted.load(Relaxed)
    }

    /// A world was made, and so many services were encoded for it, over all audiences.
    pub(crate) fn world(&self, encoded: usize) {
        self.worlds.fetch_add(1, Relaxed);
        self.encoded.fetch_add(encoded as u64, Relaxed);
    }

    pub(crate) fn worlds(&self) -> u64 {
        self.worlds.load(Relaxed)
    }

    pub(crate) fn encoded(&self) -> u64 {
        self.encoded.load(Relaxed)
    }
}
