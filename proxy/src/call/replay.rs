//! What is kept of a request so that another attempt can begin with its first byte.

use std::mem::take;
use std::rc::Rc;

use bytes::Bytes;
use config::repeats::{REPLAY_LIMIT, Repeats};

use crate::call::queue::Queue;
use crate::context::Context;
use crate::metrics::events::Events;

/// What has been handed on of one request, in its order. Bounded by the call's own limit and by `limits.replay_buffer`, which
/// holds for all calls together.
#[derive(Debug)]
pub(crate) struct Replay {
    kept: Queue,
    /// Bytes that count, here and elsewhere.
    bytes: usize,
    limit: usize,
    context: Rc<Context>,
}

impl Replay {
    pub(crate) fn new(context: Rc<Context>, repeats: &Repeats) -> Self {
        let limit = match repeats {
            Repeats::Unprocessed => REPLAY_LIMIT,
            Repeats::Retries(rule) => rule.replay_limit,
            Repeats::Hedging(rule) => rule.replay_limit,
        };
        Self { kept: Queue::default(), bytes: 0, limit, context }
    }

    /// Whether `bytes` more can be kept.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        let shared = &self.context.shared;
        self.bytes + bytes <= self.limit
            && !shared.is_full((shared.limits.replay_buffer + 1).saturating_sub(bytes), |events: &Events| {
                events.replay_bytes.value()
            })
    }

    /// Keeps what is handed on.
    pub(crate) fn push(&mut self, chunk: Bytes) {
        self.note(chunk.len());
        self.kept.push(chunk);
    }

    /// Counts what somebody else keeps.
    pub(crate) fn note(&mut self, bytes: usize) {
        self.context.events().replay_bytes.add(bytes as u64);
        self.bytes += bytes;
    }

    /// Takes all of it out.
    pub(crate) fn take(&mut self) -> Queue {
        self.context.events().replay_bytes.sub(take(&mut self.bytes) as u64);
        take(&mut self.kept)
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        self.take();
    }
}
