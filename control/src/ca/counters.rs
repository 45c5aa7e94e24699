//! What the CA counts. Relaxed atomics: each is a sum of its own, and nothing is decided by them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::ca::reason::Reason;

/// What a certificate was given for: the label `by`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    Token,
    Certificate,
}

impl By {
    pub(crate) const ALL: [Self; 2] = [Self::Token, Self::Certificate];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Certificate => "certificate",
        }
    }
}

/// Sums since the start.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    issued: [AtomicU64; By::ALL.len()],
    refused: [AtomicU64; Reason::ALL.len()],
    /// Calls of other services than the CA's by whom nobody vouches.
    unauthenticated: [AtomicU64; Reason::ALL.len()],
    /// Versions of the folder that could not be used.
    pub(crate) rejected: AtomicU64,
    /// Lines of the audit that could not be written.
    pub(crate) unaudited: AtomicU64,
    /// Times that clients were told of another set of roots.
    pub(crate) trust_changes: AtomicU64,
}

impl Counters {
    pub(crate) fn issue(&self, by: By) {
        self.issued[by as usize].fetch_add(1, Relaxed);
    }

    pub(crate) fn issued(&self, by: By) -> u64 {
        self.issued[by as usize].load(Relaxed)
    }

    pub(crate) fn refuse(&self, reason: Reason) {
        self.refused[reason as usize].fetch_add(1, Relaxed);
    }

    pub(crate) fn refused(&self, reason: Reason) -> u64 {
        self.refused[reason as usize].load(Relaxed)
    }

    pub(crate) fn turn_away(&self, reason: Reason) {
        self.unauthenticated[reason as usize].fetch_add(1, Relaxed);
    }

    pub(crate) fn turned_away(&self, reason: Reason) -> u64 {
        self.unauthenticated[reason as usize].load(Relaxed)
    }
}
