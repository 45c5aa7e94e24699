//! Until when a connection may be used on which certificates were shown: a handshake is the only time that TLS looks at them.
//!
//! ```text
//! Good --half a minute (or a tenth of the rest) before the first of them ends--> Leaving --it ends--> Over
//! ```
//!
//! Two clocks say so, and the one that is ahead decides. The clock on the wall may be set while the connection is open, and a
//! machine that slept wakes up with its steady clock behind. So the wall is looked at again and again. A clock that was
//! wrong ends connections too early at worst; others are opened in their place.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// Calls have this long to end before a certificate does, or a tenth of what is left of its life.
const MARGIN: Duration = Duration::from_secs(30);
/// At the latest after so long the clock on the wall is looked at again.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(30);

/// The end of the first of the certificates that were shown on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expiry {
    /// No calls begin after this.
    leaves: Moment,
    /// Nothing goes on after this.
    ends: Moment,
}

/// A point in time, by both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Moment {
    wall: SystemTime,
    steady: Instant,
}

/// What the clocks say, read together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub(crate) wall: SystemTime,
    pub(crate) steady: Instant,
}

impl Now {
    /// Reads both.
    pub(crate) fn read() -> Self {
        Self { wall: SystemTime::now(), steady: Instant::now() }
    }
}

/// How a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// Calls may begin.
    Good,
    /// Those that are open may end.
    Leaving,
    /// Nobody has proved anything any more.
    Over,
}

impl Expiry {
    /// Of a connection made at `now`, by the ends of the two sides' certificates.
    pub(crate) fn new(one: SystemTime, other: SystemTime, now: Now) -> Self {
        let end = one.min(other);
        let left = end.duration_since(now.wall).unwrap_or_default();
        let margin = MARGIN.min(left / 10);
        let at = |after: Duration| Moment { wall: now.wall + after, steady: now.steady + after };
        Self { leaves: at(left - margin), ends: at(left) }
    }

    /// How the connection stands at `now`, and when that is to be looked at again.
    pub(crate) fn look(&self, now: Now) -> (Stage, Instant) {
        let (stage, next) = match () {
            () if self.ends.is_past(now) => (Stage::Over, self.ends),
            () if self.leaves.is_past(now) => (Stage::Leaving, self.ends),
            () => (Stage::Good, self.leaves),
        };
        // What is left by each clock, and no longer than it may take to see that one of them was set.
        let by_wall = next.wall.duration_since(now.wall).unwrap_or_default();
        let by_steady = next.steady.saturating_duration_since(now.steady);
        (stage, now.steady + by_wall.min(by_steady).min(LOOK_EVERY))
    }

    /// The same for who asks anyway before using the connection.
    pub(crate) fn stage(&self, now: Now) -> Stage {
        self.look(now).0
    }
}

impl Moment {
    fn is_past(&self, now: Now) -> bool {
        self.wall <= now.wall || self.steady <= now.steady
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    const HOUR: u64 = 3_600;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// A connection made an hour after the epoch of both clocks, and what they say so long after that.
    fn made(one: u64, other: u64) -> (Expiry, impl Fn(u64, u64) -> Now) {
        let epoch = Instant::now();
        let now = move |wall, steady| Now {
            wall: UNIX_EPOCH + seconds(HOUR + wall),
            steady: epoch + seconds(steady),
        };
        let end = |left: u64| UNIX_EPOCH + seconds(HOUR + left);
        (Expiry::new(end(one), end(other), now(0, 0)), now)
    }

    #[test]
    fn calls_cease_to_begin_half_a_minute_or_a_tenth_of_the_rest_before_the_first_of_both_ends() {
        for (one, other, leaves, ends) in
            [(HOUR, 2 * HOUR, 3_570, 3_600), (2 * HOUR, HOUR, 3_570, 3_600), (100, 200, 90, 100)]
        {
            let (expiry, now) = made(one, other);
            let stage = |at| expiry.stage(now(at, at));
            assert_eq!([stage(0), stage(leaves - 1)], [Stage::Good; 2]);
            assert_eq!([stage(leaves), stage(ends - 1)], [Stage::Leaving; 2]);
            assert_eq!([stage(ends), stage(ends + HOUR)], [Stage::Over; 2]);
        }
    }

    #[test]
    fn what_had_expired_before_it_was_made_is_over_at_once() {
        let epoch = Instant::now();
        let now = Now { wall: UNIX_EPOCH + seconds(HOUR), steady: epoch };
        let expiry = Expiry::new(UNIX_EPOCH + seconds(HOUR - 5), UNIX_EPOCH + seconds(2 * HOUR), now);
        assert_eq!(expiry.look(now), (Stage::Over, epoch));
    }

    #[test]
    fn a_clock_that_is_set_forward_past_the_end_ends_the_connection_at_the_next_look() {
        let (expiry, now) = made(24 * HOUR, 24 * HOUR);
        let (stage, again) = expiry.look(now(10, 10));
        assert_eq!((stage, again), (Stage::Good, now(10, 10).steady + LOOK_EVERY));
        assert_eq!(expiry.stage(now(25 * HOUR, 40)), Stage::Over);
    }

    #[test]
    fn a_clock_that_is_set_back_lengthens_nothing() {
        let (expiry, now) = made(2 * HOUR, 2 * HOUR);
        // An hour before it was made, by the wall.
        let back = |steady| Now { wall: UNIX_EPOCH, ..now(0, steady) };
        assert_eq!(expiry.stage(back(HOUR)), Stage::Good);
        assert_eq!(expiry.stage(back(2 * HOUR - 10)), Stage::Leaving);
        assert_eq!(expiry.stage(back(2 * HOUR)), Stage::Over);
    }

    #[test]
    fn a_clock_that_is_put_right_again_lets_the_connection_be() {
        let (expiry, now) = made(2 * HOUR, 2 * HOUR);
        assert_eq!(expiry.stage(now(2 * HOUR - 10, 5)), Stage::Leaving);
        assert_eq!(expiry.stage(now(10, 10)), Stage::Good);
    }

    #[test]
    fn a_look_is_never_further_away_than_the_next_stage() {
        let (expiry, now) = made(100, 100);
        let mut at = 0;
        let mut stages = Vec::new();
        loop {
            let (stage, again) = expiry.look(now(at, at));
            if stages.last() != Some(&(stage, at)) {
                stages.push((stage, at));
            }
            if stage == Stage::Over {
                break;
            }
            let wait = again.duration_since(now(at, at).steady);
            assert!(wait > Duration::ZERO && wait <= LOOK_EVERY);
            at += wait.as_secs();
        }
        assert!(
            stages.contains(&(Stage::Leaving, 90)) && stages.last() == Some(&(Stage::Over, 100)),
            "{stages:?}"
        );
    }
}
