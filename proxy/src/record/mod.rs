//! What is told of a call once it has ended (or goes on and on): to spans and to the access log.
//!
//! Workers fill a [`call::CallRecord`] and offer it to bounded queues; the other end turns it into OTLP or JSON. Nothing
//! here waits, and without a [`Recorder`] none of it costs more than a branch.

pub(crate) mod call;
pub(crate) mod queue;

use std::sync::Arc;
use std::time::Duration;

use crate::metrics::counter::Counter;
use crate::record::queue::Queue;
use crate::trace::sampling::Sampler;

/// What is recorded of calls; the sidecar has none if nothing is.
#[derive(Debug)]
pub(crate) struct Recorder {
    pub(crate) spans: Option<Spans>,
    pub(crate) lines: Option<Lines>,
    pub(crate) fates: Arc<Fates>,
}

/// Spans on their way to the exporter.
#[derive(Debug)]
pub(crate) struct Spans {
    pub(crate) sampler: Sampler,
    pub(crate) queue: Queue,
}

/// Lines on their way to the access log.
#[derive(Debug)]
pub(crate) struct Lines {
    /// The share of calls that are logged, in parts per million.
    pub(crate) sample_ppm: u32,
    /// How often a call that goes on is logged meanwhile.
    pub(crate) streams: Option<Duration>,
    pub(crate) queue: Queue,
}

/// What became of spans and lines behind their queues. Each counter has one writer: the exporter, or the log's thread.
#[derive(Debug, Default)]
pub(crate) struct Fates {
    pub(crate) exported: Counter,
    /// By [`Lost`].
    pub(crate) lost: [Counter; LOST.len()],
    pub(crate) lines: Counter,
    /// Lines that could not be written.
    pub(crate) unwritten: Counter,
}

/// Why a span that was taken into the queue did not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Lost {
    /// The collector was away, or too slow, for as long as an export may take.
    Unavailable,
    /// It answered that it will not have them.
    Refused,
    /// It took the rest of the batch.
    Rejected,
    /// The sidecar had to go.
    Exit,
}

/// Every reason's label, in the order of its number.
pub(crate) const LOST: [&str; 4] = ["unavailable", "refused", "rejected", "exit"];
/// The label of spans that found no place in the queue.
pub(crate) const QUEUE_FULL: &str = "queue_full";
