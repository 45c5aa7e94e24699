//! What the client counts. Written on the control thread only.

use std::sync::atomic::{AtomicU64, Ordering};

use xds::Kind;

use crate::control::xds::lost::{REASONS, Reason};
use crate::metrics::counter::Counter;

/// What became of an answer: the label `result`.
pub(crate) const RESULTS: [&str; 2] = ["accepted", "refused"];

/// The counters of one client.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Connections over which the control plane has answered.
    pub(crate) connected: Counter,
    /// Ends of connections, and attempts in vain, by reason.
    lost: [Counter; REASONS.len()],
    /// Answers by kind and result.
    answers: [[Counter; RESULTS.len()]; Kind::ALL.len()],
    /// Answers about something that nobody asked for, and resources.
    pub(crate) unasked: Counter,
    pub(crate) received_bytes: Counter,
    /// Times that the next answer was left unread for a while, since there were too many.
    pub(crate) paced: Counter,
    /// Sets that were handed to the follower.
    pub(crate) published: Counter,
    /// When the last answer came, in seconds since the Unix epoch; 0: none has.
    heard: AtomicU64,
}

impl Counts {
    pub(crate) fn lose(&self, reason: Reason) {
        self.lost[reason as usize].add(1);
    }

    /// The row of a reason.
    pub(crate) fn lost(&self, reason: Reason) -> u64 {
        self.lost[reason as usize].value()
    }

    pub(crate) fn answer(&self, kind: Kind, is_refused: bool) {
        self.answers[kind as usize][usize::from(is_refused)].add(1);
    }

    /// The row of a kind and of a place in [`RESULTS`].
    pub(crate) fn answers(&self, kind: Kind, result: usize) -> u64 {
        self.answers[kind as usize][result].value()
    }

    pub(crate) fn hear(&self, unix: u64) {
        self.heard.store(unix, Ordering::Relaxed);
    }

    pub(crate) fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }
}
