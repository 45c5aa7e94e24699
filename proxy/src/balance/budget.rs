//! The retry budget: how many calls may be repeated, so that repeats never become a storm (Finagle's
//! RetryBudget; gRPC and Envoy know it too).

use config::repeats::RetryBudget;

use crate::clock::Nanos;

/// The window over which calls are counted, in seconds.
const WINDOW_S: usize = 10;

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

/// What a budget comes to at some moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Balance {
    /// Repeats in the window.
    pub(crate) spent: u64,
    /// The most there may be.
    pub(crate) allowed: u64,
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
    pub(crate) fn take(&mut self, rule: &RetryBudget, now: Nanos, total: u64) -> bool {
        let Balance { spent, allowed } = self.balance(rule, now, total);
        if spent >= allowed {
            return false;
        }
        self.repeats[(self.second % WINDOW_S as u64) as usize] += 1;
        true
    }

    /// What there is at `now`.
    pub(crate) fn balance(&mut self, rule: &RetryBudget, now: Nanos, total: u64) -> Balance {
        self.tick(now, total);
        let oldest = self.totals[((self.second + 1) % WINDOW_S as u64) as usize];
        let calls = total.saturating_sub(oldest);
        let share = calls.saturating_mul(rule.share_ppm.into()) / 1_000_000;
        let least = u64::from(rule.min_per_second) * WINDOW_S as u64;
        Balance { spent: self.repeats.iter().sum(), allowed: share.max(least) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: RetryBudget = RetryBudget { share_ppm: 200_000, min_per_second: 10 };
    const LEAST: u64 = 10 * WINDOW_S as u64;

    fn taken(budget: &mut Budget, now: Nanos, total: u64, wanted: u64) -> u64 {
        (0..wanted).filter(|_| budget.take(&RULE, now, total)).count() as u64
    }

    #[test]
    fn few_calls_have_the_minimum_and_many_have_a_fifth() {
        let mut quiet = Budget::default();
        assert_eq!(taken(&mut quiet, 100 * SECOND, 5, 1_000), LEAST);
        let mut busy = Budget::default();
        for second in 100..110 {
            busy.tick(second * SECOND, (second - 100) * 1_000);
        }
        assert_eq!(taken(&mut busy, 109 * SECOND + 1, 10_000, 5_000), 2_000);
    }

    #[test]
    fn what_was_spent_comes_back_when_its_second_leaves_the_window() {
        let mut budget = Budget::default();
        assert_eq!(taken(&mut budget, 50 * SECOND, 0, LEAST + 1), LEAST);
        assert!(!budget.take(&RULE, 59 * SECOND + SECOND - 1, 0));
        assert!(budget.take(&RULE, 60 * SECOND, 0));
    }

    #[test]
    fn a_long_silence_leaves_no_credit_behind() {
        let mut budget = Budget::default();
        budget.tick(SECOND, 1_000_000);
        assert_eq!(taken(&mut budget, 1_000 * SECOND, 1_000_000, 1_000), LEAST);
    }

    /// Against a budget that remembers every call and every repeat: what is granted never exceeds the share of the calls
    /// of the last ten seconds, and what a window of nine would grant is granted.
    #[test]
    fn over_any_ten_seconds_repeats_stay_within_the_share_whatever_the_load() {
        let mut random = fastrand::Rng::with_seed(31);
        for _ in 0..60 {
            let rule = RetryBudget {
                share_ppm: random.u32(0..=1_000_000),
                min_per_second: if random.bool() { 0 } else { random.u32(0..20) },
            };
            let (mut budget, mut now, mut total) = (Budget::default(), SECOND * random.u64(0..1_000), 0);
            let (mut calls, mut repeats) = (Vec::<Nanos>::new(), Vec::<Nanos>::new());
            for _ in 0..3_000 {
                now += if random.u32(..100) == 0 {
                    SECOND * random.u64(0..15)
                } else {
                    random.u64(0..20_000_000)
                };
                // As the control thread does, each second.
                budget.tick(now, total);
                let burst = random.u64(0..5);
                total += burst;
                calls.extend(std::iter::repeat_n(now, burst as usize));
                let within = |times: &[Nanos], seconds: u64| {
                    let from = (now / SECOND).saturating_sub(seconds - 1) * SECOND;
                    times.iter().rev().take_while(|at| **at >= from).count() as u64
                };
                let least = u64::from(rule.min_per_second) * WINDOW_S as u64;
                let most = (within(&calls, 10) * u64::from(rule.share_ppm) / 1_000_000).max(least);
                let sure = (within(&calls, 9) * u64::from(rule.share_ppm) / 1_000_000).max(least);
                let spent = within(&repeats, 10);
                let granted = budget.take(&rule, now, total);
                assert!(!granted || spent < most, "{rule:?}: {spent} of {most}");
                assert!(granted || spent >= sure, "{rule:?}: refused at {spent} of {sure}");
                if granted {
                    repeats.push(now);
                }
            }
        }
    }
}
