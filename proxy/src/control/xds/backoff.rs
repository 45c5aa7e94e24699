//! How long to wait before the control plane is tried again: full jitter, so that sidecars that lost it together do not
//! come back together (AWS Architecture Blog, "Exponential Backoff And Jitter").

use std::time::Duration;

/// The bound of the first wait.
const BASE: Duration = Duration::from_secs(1);
/// The bound of any wait.
const CAP: Duration = Duration::from_secs(30);
/// A connection that lived as long was a good one: what failed before it is forgotten.
pub(crate) const GOOD: Duration = Duration::from_secs(60);

/// Failures in a row.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// A connection, or an attempt at one, has ended; `answered_for` is how long the control plane answered over it.
    /// The wait until the next one, between nothing and `min(30 s, 1 s * 2^n)`, where `n` counts how often all
    /// `addresses` in turn were in vain.
    pub(crate) fn ended(
        &mut self,
        answered_for: Option<Duration>,
        addresses: usize,
        random: u64,
    ) -> Duration {
        if answered_for.is_some_and(|lived| lived >= GOOD) {
            self.failures = 0;
        }
        let rounds = self.failures / (addresses.max(1) as u32);
        self.failures = self.failures.saturating_add(1);
        let bound = BASE.saturating_mul(2_u32.saturating_pow(rounds.min(16))).min(CAP);
        bound.mul_f64(random as f64 / u64::MAX as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    /// The longest waits of failures in a row.
    fn bounds(backoff: &mut Backoff, addresses: usize, count: usize) -> Vec<u64> {
        (0..count).map(|_| backoff.ended(None, addresses, u64::MAX).as_secs()).collect()
    }

    #[test]
    fn the_bound_doubles_up_to_its_cap() {
        assert_eq!(bounds(&mut Backoff::default(), 1, 8), [1, 2, 4, 8, 16, 30, 30, 30]);
        let mut long = Backoff { failures: u32::MAX };
        assert_eq!(bounds(&mut long, 1, 2), [30, 30]);
    }

    #[test]
    fn each_address_is_tried_once_before_the_bound_grows() {
        assert_eq!(bounds(&mut Backoff::default(), 3, 7), [1, 1, 1, 2, 2, 2, 4]);
    }

    #[test]
    fn a_good_minute_forgets_failures_and_a_short_life_does_not() {
        let mut backoff = Backoff::default();
        bounds(&mut backoff, 1, 4);
        assert_eq!(
            backoff.ended(Some(59 * S), 1, u64::MAX).as_secs(),
            16,
            "as of a server that says GOAWAY at once"
        );
        assert_eq!(backoff.ended(Some(60 * S), 1, u64::MAX).as_secs(), 1);
        assert_eq!(backoff.ended(None, 1, u64::MAX).as_secs(), 2);
    }

    #[test]
    fn waits_are_spread_over_the_whole_of_the_bound() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut tenths = [0_u32; 10];
        for _ in 0..10_000 {
            let wait = Backoff::default().ended(None, 1, random.u64(..));
            assert!(wait <= S);
            tenths[((wait.as_secs_f64() * 10.0) as usize).min(9)] += 1;
        }
        // Five standard deviations of a binomial with p = 0.1.
        assert!(tenths.iter().all(|count| (850..=1_150).contains(count)), "{tenths:?}");
    }
}
