//! The retry budget: how many calls may be repeated, so that repeats never become a storm (Finagle's
//! RetryBudget; gRPC and Envoy know it too).

use crate::clock::Nanos;

/// The window over which calls are counted, in seconds.
const WINDOW_S: usize = 10;
/// Repeats allowed for each hundred calls of the window.
const PERCENT: u64 = 20;
/// Repeats allowed per second however few calls there are.
const MIN_PER_SECOND: u64 = 10;

const SECOND: Nanos = 1_000_000_000;

/// The budget of one service in one sidecar, over all workers.
///
/// Calls are not counted here, which would cost each of them: the caller brings the running total, and a
/// ring of totals at each second's beginning tells how many came within the window.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    /// The second of the newest slot.
    second: u64,
    /// Running totals of calls at the beginning of the last seconds.
    totals: [u64; WINDOW_S],
    /// Repeats in each of the last seconds.
    repeats: [u64; WINDOW_S],
}

impl Budget {
    /// Notes the running total of calls; to be called at least once a second.
    pub(crate) fn tick(&mut self, now: Nanos, total: u64) {
        let second = now / SECOND;
        let missed = second.saturating_sub(self.second).min(WINDOW_S as u64);
        for back in (0..missed).rev() {
            let slot = ((second - back) % WINDOW_S as u64) as usize;
            self.totals[slot] = total;
            self.repeats[slot] = 0;
        }
        self.second = self.second.max(second);
    }

    /// Whether one more call may be repeated at `now`, and if so counts it.
    pub(crate) fn take(&mut self, now: Nanos, total: u64) -> bool {
        self.tick(now, total);
        let oldest = self.totals[((self.second + 1) % WINDOW_S as u64) as usize];
        let calls = total.saturating_sub(oldest);
        let allowed = (calls * PERCENT / 100).max(MIN_PER_SECOND * WINDOW_S as u64);
        if self.repeats.iter().sum::<u64>() >= allowed {
            return false;
        }
        self.repeats[(self.second % WINDOW_S as u64) as usize] += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(budget: &mut Budget, now: Nanos, total: u64, wanted: u64) -> u64 {
        (0..wanted).filter(|_| budget.take(now, total)).count() as u64
    }

    #[test]
    fn few_calls_have_the_minimum_and_many_have_a_fifth() {
        let mut quiet = Budget::default();
        assert_eq!(taken(&mut quiet, 100 * SECOND, 5, 1_000), MIN_PER_SECOND * WINDOW_S as u64);
        let mut busy = Budget::default();
        for second in 100..110 {
            busy.tick(second * SECOND, (second - 100) * 1_000);
        }
        assert_eq!(taken(&mut busy, 109 * SECOND + 1, 10_000, 5_000), 2_000);
    }

    #[test]
    fn what_was_spent_comes_back_when_its_second_leaves_the_window() {
        let mut budget = Budget::default();
        let all = MIN_PER_SECOND * WINDOW_S as u64;
        assert_eq!(taken(&mut budget, 50 * SECOND, 0, all + 1), all);
        assert!(!budget.take(59 * SECOND + SECOND - 1, 0));
        assert!(budget.take(60 * SECOND, 0));
    }

    #[test]
    fn a_long_silence_leaves_no_credit_behind() {
        let mut budget = Budget::default();
        budget.tick(SECOND, 1_000_000);
        assert_eq!(taken(&mut budget, 1_000 * SECOND, 1_000_000, 1_000), MIN_PER_SECOND * WINDOW_S as u64);
    }
}
