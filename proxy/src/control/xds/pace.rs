//! How many answers are looked at in a second. Pure: time is an argument.
//!
//! A control plane that changes its mind ten thousand times a second must not take the CPU that calls need. What is not
//! read stays in its own windows; a good one then sends its newest word only.

use std::time::Duration;

use tokio::time::Instant;

/// Between two answers, on average.
const APART: Duration = Duration::from_millis(5);
/// Answers that may come at once: what a sidecar asks for at the start comes in many.
const BURST: u32 = 500;

/// A bucket of answers (the generic cell rate algorithm, ITU-T I.371).
#[derive(Debug)]
pub(crate) struct Pace {
    /// When the bucket will be full again.
    full_at: Instant,
}

impl Pace {
    pub(crate) fn new(now: Instant) -> Self {
        Self { full_at: now }
    }

    /// Takes one answer.
    pub(crate) fn take(&mut self, now: Instant) {
        self.full_at = self.full_at.max(now) + APART;
    }

    /// From when on the next answer may be read.
    pub(crate) fn ready_at(&self, now: Instant) -> Instant {
        let ahead = self.full_at.saturating_duration_since(now);
        now + ahead.saturating_sub(APART * BURST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_two_hundred_a_second() {
        let began = Instant::now();
        let (mut pace, mut now, mut taken) = (Pace::new(began), began, 0);
        while now - began < Duration::from_secs(10) {
            match pace.ready_at(now) {
                at if at <= now => {
                    pace.take(now);
                    taken += 1;
                }
                at => now = at,
            }
        }
        assert!((2_450..=2_510).contains(&taken), "{taken}");
    }

    #[test]
    fn who_sends_little_never_waits() {
        let began = Instant::now();
        let mut pace = Pace::new(began);
        for answer in 0..10_000 {
            let now = began + 10 * Duration::from_millis(answer);
            assert_eq!(pace.ready_at(now), now);
            pace.take(now);
        }
    }
}
