//! Peak-sensitive latency, as Finagle's PeakEwma balancer defines it: a rise counts at once, a fall
//! fades in with a time constant.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::{Nanos, nanos};

/// How fast an old latency fades.
const TIME_CONSTANT: Duration = Duration::from_secs(10);
/// What an endpoint with calls in flight and no answer yet is taken to cost: one second.
const UNKNOWN: f64 = 1e9;

/// An endpoint's latency in nanoseconds. Workers write it without a lock: of two writes at the same moment
/// one may be lost, which an average can bear.
#[derive(Debug, Default)]
pub(crate) struct Latency {
    cost: AtomicU64,
    stamp: AtomicU64,
}

impl Latency {
    /// Takes in an answer that came after `took`.
    pub(crate) fn observe(&self, now: Nanos, took: Duration) {
        let stamp = self.stamp.load(Ordering::Relaxed);
        let cost = fold(self.cost(), now.saturating_sub(stamp), nanos(took) as f64);
        self.cost.store(cost.to_bits(), Ordering::Relaxed);
        self.stamp.store(now, Ordering::Relaxed);
    }

    /// What one more call would cost there, with calls in flight as [`Weights::burden`] counts them.
    ///
    /// [`Weights::burden`]: crate::balance::weights::Weights::burden
    pub(crate) fn load(&self, now: Nanos, in_flight: f64) -> f64 {
        let stamp = self.stamp.load(Ordering::Relaxed);
        if stamp == 0 && in_flight > 0.0 {
            return UNKNOWN + in_flight;
        }
        fold(self.cost(), now.saturating_sub(stamp), 0.0) * (in_flight + 1.0)
    }

    fn cost(&self) -> f64 {
        f64::from_bits(self.cost.load(Ordering::Relaxed))
    }
}

fn fold(cost: f64, elapsed: Nanos, sample: f64) -> f64 {
    if sample > cost {
        return sample;
    }
    let keep = (-(elapsed as f64) / nanos(TIME_CONSTANT) as f64).exp();
    cost * keep + sample * (1.0 - keep)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_rise_counts_at_once_and_a_fall_by_a_factor_of_e_in_a_time_constant() {
        let latency = Latency::default();
        latency.observe(1, MS);
        latency.observe(2, 100 * MS);
        assert_eq!(latency.load(2, 0.0), 1e8);
        let later = 2 + nanos(TIME_CONSTANT);
        latency.observe(later, Duration::ZERO);
        assert!((latency.load(later, 0.0) - 1e8 / std::f64::consts::E).abs() < 1e3);
    }

    #[test]
    fn load_grows_with_calls_in_flight_and_an_endpoint_that_never_answered_is_last() {
        let (known, silent) = (Latency::default(), Latency::default());
        known.observe(5, 10 * MS);
        assert_eq!(known.load(5, 3.0), 4e7);
        assert_eq!(silent.load(5, 0.0), 0.0, "an idle newcomer is tried first");
        assert!(silent.load(5, 1.0) > known.load(5, 50.0));
    }

    /// Finagle's PeakEwma written down once more, sample by sample: `cost = cost * w + rtt * (1 - w)` with `w = e^(-elapsed / tau)`, or
    /// the sample itself where that is higher.
    #[test]
    fn any_sequence_of_answers_is_averaged_as_finagle_does() {
        let tau = nanos(TIME_CONSTANT) as f64;
        for seed in 0..100 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (latency, mut cost, mut now, mut highest) = (Latency::default(), 0.0_f64, 1, 0.0_f64);
            for _ in 0..500 {
                let elapsed = random.u64(1..20_000_000_000);
                now += elapsed;
                let sample = random.u64(1_000..5_000_000_000);
                latency.observe(now, Duration::from_nanos(sample));
                // The first answer comes after a silence in which nothing was known.
                let kept = (-(elapsed as f64) / tau).exp();
                let sample = sample as f64;
                cost = if sample > cost { sample } else { cost * kept + sample * (1.0 - kept) };
                highest = highest.max(sample);
                let got = latency.load(now, 0.0);
                assert!((got - cost).abs() <= cost * 1e-9, "seed {seed}: {got} for {cost}");
                assert!(got >= sample && got <= highest, "never below the newest, never above the highest");
                // In silence it fades, and each call in flight costs as much as the first.
                let later = now + random.u64(1..20_000_000_000);
                assert!(latency.load(later, 0.0) < got);
                assert!((latency.load(now, 3.0) - 4.0 * got).abs() <= got * 1e-9);
            }
        }
    }
}
