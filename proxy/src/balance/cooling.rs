//! Back-off of an endpoint that could not be reached, has gone silent, or turned a call away unprocessed.
//!
//! A cooling endpoint is passed over while another one is there; when all cool, the one that has cooled
//! longest is tried all the same, so that no call fails that could have been saved.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::{Nanos, nanos};

/// After the first failure.
const FIRST: Duration = Duration::from_millis(50);
/// After many.
const LONGEST: Duration = Duration::from_secs(5);
/// Doublings after which the back-off is longer than [`LONGEST`] anyway.
const DOUBLINGS_MAX: u32 = 10;
/// Whoever finds out whether an endpoint is back begins so long before its back-off ends: no call is to come between.
pub(crate) const EARLY: Duration = Duration::from_millis(10);

/// Shared by all workers; only failures write it.
#[derive(Debug, Default)]
pub(crate) struct Cooling {
    /// 0: not cooling.
    until: AtomicU64,
    /// Somebody finds out how it is: nobody else need try before that; 0: nobody does.
    held: AtomicU64,
    failures: AtomicU32,
}

impl Cooling {
    /// Whether calls should go elsewhere at `now`.
    pub(crate) fn is_cooling(&self, now: Nanos) -> bool {
        now < self.until()
    }

    /// When it ends; 0 when it never began.
    pub(crate) fn until(&self) -> Nanos {
        self.backs_off_until().max(self.held.load(Ordering::Relaxed))
    }

    /// When the back-off of its last failure ends; 0: there was none.
    pub(crate) fn backs_off_until(&self) -> Nanos {
        self.until.load(Ordering::Relaxed)
    }

    /// Notes a failure at `now`. Failures during a back-off are of the same trouble and do not lengthen it, but for those
    /// at the very end of it.
    pub(crate) fn fail(&self, now: Nanos, random: u64) {
        if now + nanos(EARLY) < self.backs_off_until() {
            return;
        }
        let failures = self.failures.fetch_add(1, Ordering::Relaxed);
        self.until.store(now + back_off(failures, random), Ordering::Relaxed);
        self.release();
    }

    /// Has calls go elsewhere until `until`, while it is found out how the endpoint is.
    pub(crate) fn hold(&self, until: Nanos) {
        self.held.fetch_max(until, Ordering::Relaxed);
    }

    /// It has been found out; a back-off goes on.
    pub(crate) fn release(&self) {
        self.held.store(0, Ordering::Relaxed);
    }

    /// Notes that the endpoint answered. A read in the usual case.
    pub(crate) fn succeed(&self) {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
            self.until.store(0, Ordering::Relaxed);
        }
    }

    /// Notes that it has been found to be there.
    pub(crate) fn is_back(&self) {
        self.release();
        self.succeed();
    }
}

/// Exponential, between half and the whole of it, so that workers and sidecars do not come back together.
fn back_off(failures_before: u32, random: u64) -> Nanos {
    let whole = nanos(FIRST) << failures_before.min(DOUBLINGS_MAX);
    let whole = whole.min(nanos(LONGEST));
    whole / 2 + random % (whole / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn back_off_doubles_to_its_bound_and_spreads_over_its_upper_half() {
        for (failures, whole) in [(0, 50), (1, 100), (2, 200), (6, 3_200), (7, 5_000), (100, 5_000)] {
            for random in [0, 1, u64::MAX / 2, u64::MAX] {
                let ms = back_off(failures, random) / 1_000_000;
                assert!((whole / 2..=whole).contains(&ms), "{failures} failures: {ms} ms");
            }
        }
    }

    #[test]
    fn failures_of_one_trouble_count_once_and_an_answer_ends_it() {
        let cooling = Cooling::default();
        assert!(!cooling.is_cooling(1));
        cooling.fail(1_000, 7);
        let until = cooling.until();
        cooling.fail(2_000, 9);
        assert_eq!(cooling.until(), until);
        assert!(cooling.is_cooling(until - 1) && !cooling.is_cooling(until));
        cooling.fail(until, 7);
        assert!(cooling.until() - until >= nanos(FIRST));
        cooling.succeed();
        assert!(!cooling.is_cooling(until));
    }

    #[test]
    fn while_it_is_found_out_how_an_endpoint_is_calls_go_elsewhere() {
        let cooling = Cooling::default();
        cooling.fail(1_000, 7);
        let backs_off_until = cooling.until();
        // Just before its end somebody begins to find out, and fails at once.
        let early = backs_off_until - nanos(EARLY);
        cooling.hold(early + nanos(LONGEST));
        assert!(cooling.is_cooling(backs_off_until) && cooling.is_cooling(early + nanos(LONGEST) - 1));
        cooling.fail(early, 7);
        assert!(cooling.until() > backs_off_until && cooling.until() < early + nanos(LONGEST));
        cooling.hold(early + nanos(LONGEST));
        cooling.release();
        assert!(cooling.is_cooling(backs_off_until), "the back-off goes on");
        cooling.is_back();
        assert!(!cooling.is_cooling(early));
    }
}
