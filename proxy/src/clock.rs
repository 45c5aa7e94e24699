//! Time as a number, so that it fits an atomic and that decisions take it as an argument.

use std::time::Duration;

use tokio::time::Instant;

/// Nanoseconds since the sidecar started. 0 means "never" where a field says so.
pub(crate) type Nanos = u64;

/// Turns instants into [`Nanos`]; one epoch for all workers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    epoch: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { epoch: Instant::now() }
    }

    /// `at` in nanoseconds since the start, at least 1.
    pub(crate) fn nanos(&self, at: Instant) -> Nanos {
        (at.saturating_duration_since(self.epoch).as_nanos() as Nanos).max(1)
    }
}

/// A duration as [`Nanos`], saturating after 584 years.
pub(crate) fn nanos(duration: Duration) -> Nanos {
    Nanos::try_from(duration.as_nanos()).unwrap_or(Nanos::MAX)
}
