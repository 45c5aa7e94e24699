//! Notices a connection on which no request gets on.
//!
//! Endpoints with a connection window no larger than a stream's are common, and there one request that the
//! app does not read takes the room of all others. What cannot be seen from here, a window of the peer,
//! shows in this: requests wait, and none moves, of those that wait or of the others.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

/// Requests may wait this long without one of them moving before new calls go around their connection.
const STUCK_AFTER: Duration = Duration::from_secs(1);

/// The requests of one connection that are amid their way and wait for the endpoint to make room.
#[derive(Debug, Default)]
pub(crate) struct Room {
    waiting: Cell<usize>,
    /// When any request of the connection last moved while one waited, or one began to wait alone.
    moved: Cell<Option<Instant>>,
}

impl Room {
    /// A request has to wait.
    pub(crate) fn begin(&self, now: Instant) {
        if self.waiting.get() == 0 {
            self.moved.set(Some(now));
        }
        self.waiting.set(self.waiting.get() + 1);
    }

    /// Whether any waits: only then need progress be told.
    pub(crate) fn is_waited_for(&self) -> bool {
        self.waiting.get() > 0
    }

    /// A request of the connection got on, whether it had waited or not.
    pub(crate) fn progress(&self, now: Instant) {
        self.moved.set(Some(now));
    }

    /// One waits no more, because it got on or is over.
    pub(crate) fn end(&self, now: Instant) {
        self.waiting.set(self.waiting.get() - 1);
        self.moved.set(Some(now));
    }

    /// Whether new calls had better go elsewhere.
    pub(crate) fn is_out(&self, now: Instant) -> bool {
        self.waiting.get() > 0
            && self.moved.get().is_some_and(|moved| now.saturating_duration_since(moved) >= STUCK_AFTER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_out_of_room_when_requests_wait_and_none_moves_for_a_second() {
        let began = Instant::now();
        let at = |millis| began + Duration::from_millis(millis);
        let room = Room::default();
        assert!(!room.is_out(at(5_000)), "nobody waits");
        room.begin(at(0));
        assert!(!room.is_out(at(999)));
        room.begin(at(500));
        assert!(room.is_out(at(1_000)), "a second one that waits is no sign of room");
        room.progress(at(1_100));
        assert!(!room.is_out(at(2_000)));
        assert!(room.is_out(at(2_100)));
        room.end(at(2_200));
        assert!(!room.is_out(at(3_100)), "one of the two got on");
        room.end(at(3_300));
        assert!(!room.is_out(at(9_000)));
    }
}
