//! What of a connection's receive window is taken up by bytes that nobody fetches.
//!
//! DATA that was read and cannot be handed on keeps its window (see `call::pump`). So readers who stand
//! still can use up the window of the whole connection, and every other stream on it waits for them.

use std::cell::Cell;
use std::time::Duration;

use config::model::Limits;

/// The sum over all streams of one connection.
#[derive(Debug)]
pub(crate) struct Held {
    bytes: Cell<usize>,
    stream_window: usize,
    connection_window: usize,
    stall_timeout: Duration,
}

impl Held {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            bytes: Cell::new(0),
            stream_window: limits.stream_window as usize,
            connection_window: limits.connection_window as usize,
            stall_timeout: limits.stall_timeout,
        }
    }

    pub(crate) fn add(&self, bytes: usize) {
        self.bytes.set(self.bytes.get() + bytes);
    }

    pub(crate) fn sub(&self, bytes: usize) {
        self.bytes.set(self.bytes.get() - bytes);
    }

    /// A quarter of the window is taken: those that hold some of it are to be watched from now on.
    pub(crate) fn is_filling(&self) -> bool {
        self.bytes.get() * 4 > self.connection_window
    }

    /// Half of the window is taken: a new call is better off on another connection.
    pub(crate) fn is_crowded(&self) -> bool {
        self.bytes.get() * 2 > self.connection_window
    }

    /// A stream that moves cannot have its whole window any more: it waits for those that stand still.
    pub(crate) fn is_stalled(&self) -> bool {
        self.bytes.get() + self.stream_window > self.connection_window
    }

    /// How long a reader may stand still while [`Held::is_stalled`].
    pub(crate) fn stall_timeout(&self) -> Duration {
        self.stall_timeout
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(held: &Held) -> String {
        let all = [(held.is_filling(), 'f'), (held.is_crowded(), 'c'), (held.is_stalled(), 's')];
        all.map(|(holds, mark)| if holds { mark } else { ' ' }).iter().collect()
    }

    #[test]
    fn a_connection_fills_is_crowded_at_half_and_stalled_when_no_stream_window_is_left() {
        let limits = Limits { stream_window: 10, connection_window: 100, ..Limits::default() };
        let held = Held::new(&limits);
        let steps = [(25, "   "), (1, "f  "), (24, "f  "), (1, "fc "), (39, "fc "), (1, "fcs")];
        for (more, expected) in steps {
            held.add(more);
            assert_eq!(marks(&held), expected, "{held:?}");
        }
        held.sub(91);
        assert_eq!(marks(&held), "   ");
    }
}
