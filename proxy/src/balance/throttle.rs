//! Throttling by tokens (gRFC A6): while calls fail, retries and hedges pause; successes bring them back.

use std::sync::atomic::{AtomicI64, Ordering};

use config::repeats::RetryThrottling;

/// A token, in the unit that is counted: A6 takes up to three decimals of `token_ratio` into account.
const TOKEN: i64 = 1_000;

/// The tokens of one service in one sidecar, over all workers. Written by calls that fail, and by those that succeed while
/// tokens are missing.
#[derive(Debug)]
pub(crate) struct Throttle {
    rule: RetryThrottling,
    max: i64,
    ratio: i64,
    tokens: AtomicI64,
}

impl Throttle {
    /// Full, or as full as `before` is.
    pub(crate) fn new(rule: RetryThrottling, before: Option<&Self>) -> Self {
        let max = i64::from(rule.max_tokens) * TOKEN;
        let tokens = before.map_or(max, |before| before.tokens.load(Ordering::Relaxed) * max / before.max);
        let ratio = (rule.token_ratio * TOKEN as f64).round() as i64;
        Self { rule, max, ratio, tokens: AtomicI64::new(tokens) }
    }

    /// What it goes by.
    pub(crate) fn rule(&self) -> &RetryThrottling {
        &self.rule
    }

    pub(crate) fn is_for(&self, rule: &RetryThrottling) -> bool {
        self.rule == *rule
    }

    /// Whether a call may go out again: more than half of the tokens are there.
    pub(crate) fn allows(&self) -> bool {
        self.tokens.load(Ordering::Relaxed) > self.max / 2
    }

    /// Tokens there are, and the most there can be.
    pub(crate) fn tokens(&self) -> (f64, u32) {
        (self.tokens.load(Ordering::Relaxed) as f64 / TOKEN as f64, self.rule.max_tokens)
    }

    /// A call failed in a way that retries are for, or its server asked for none.
    pub(crate) fn fail(&self) {
        self.change(|tokens| (tokens - TOKEN).max(0));
    }

    /// A call succeeded. A read in the usual case.
    pub(crate) fn succeed(&self) {
        if self.tokens.load(Ordering::Relaxed) < self.max {
            self.change(|tokens| (tokens + self.ratio).min(self.max));
        }
    }

    fn change(&self, to: impl Fn(i64) -> i64) {
        let _ = self.tokens.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |tokens| Some(to(tokens)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn throttle(max_tokens: u32, token_ratio: f64) -> Throttle {
        Throttle::new(RetryThrottling { max_tokens, token_ratio }, None)
    }

    #[test]
    fn repeats_need_more_than_half_of_the_tokens() {
        let throttle = throttle(10, 0.1);
        for _ in 0..4 {
            throttle.fail();
            assert!(throttle.allows());
        }
        throttle.fail();
        assert!(!throttle.allows(), "five of ten are not more than half");
        throttle.succeed();
        assert!(throttle.allows());
    }

    #[test]
    fn tokens_follow_the_rule_of_a6_whatever_happens() {
        let mut random = fastrand::Rng::with_seed(21);
        for _ in 0..200 {
            let (max, thousandths) = (random.u32(1..=1_000), random.u32(1..=3_000));
            let throttle = throttle(max, f64::from(thousandths) / 1e3);
            let mut expected = i64::from(max) * 1_000;
            for _ in 0..500 {
                if random.bool() {
                    throttle.fail();
                    expected = (expected - 1_000).max(0);
                } else {
                    throttle.succeed();
                    expected = (expected + i64::from(thousandths)).min(i64::from(max) * 1_000);
                }
                assert_eq!(throttle.tokens(), (expected as f64 / 1e3, max));
                assert_eq!(throttle.allows(), expected * 2 > i64::from(max) * 1_000);
            }
        }
    }

    #[test]
    fn a_new_rule_keeps_the_share_that_is_left() {
        let before = throttle(10, 0.1);
        before.fail();
        let rule = RetryThrottling { max_tokens: 100, token_ratio: 1.0 };
        let after = Throttle::new(rule, Some(&before));
        assert_eq!(after.tokens(), (90.0, 100));
        assert!(after.is_for(&rule) && !before.is_for(&rule));
    }
}
