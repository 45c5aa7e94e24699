//! Which calls are recorded.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::Nanos;
use crate::trace::b3::Decision;

const SECOND: Nanos = 1_000_000_000;

/// Decides about calls of all workers.
#[derive(Debug)]
pub(crate) struct Sampler {
    /// The caller's decision is kept, where it brings one.
    parent: bool,
    /// Traces whose last 63 bits are below this are recorded.
    bound: u64,
    rate: Option<Rate>,
}

impl Sampler {
    /// `ratio_ppm` in parts per million; `rate` per second.
    pub(crate) fn new(parent: bool, ratio_ppm: u32, rate: Option<u32>) -> Self {
        let bound = ((u128::from(ratio_ppm) << 63) / 1_000_000) as u64;
        Self { parent, bound, rate: rate.map(Rate::new) }
    }

    /// Whether a call of the trace `trace` is recorded, whose caller decided `decision`.
    ///
    /// By the same bits of the trace's id as TraceIdRatioBased of OpenTelemetry's SDKs in Go and Rust, so that all who
    /// take the same share take the same traces.
    pub(crate) fn decide(&self, decision: Option<Decision>, trace: u128, now: Nanos) -> bool {
        if let (true, Some(decision)) = (self.parent, decision) {
            return decision != Decision::Deny;
        }
        (trace as u64) >> 1 < self.bound && self.rate.as_ref().is_none_or(|rate| rate.take(now))
    }
}

/// A token bucket that holds one second's worth, as one number: when it would be full again. On cache lines of its
/// own, because all workers write it.
#[derive(Debug)]
#[repr(align(128))]
struct Rate {
    full_at: AtomicU64,
    interval: Nanos,
}

impl Rate {
    fn new(per_second: u32) -> Self {
        Self { full_at: AtomicU64::new(0), interval: SECOND / Nanos::from(per_second.max(1)) }
    }

    fn take(&self, now: Nanos) -> bool {
        let next = |full_at: Nanos| {
            let full_at = full_at.max(now) + self.interval;
            (full_at - now <= SECOND).then_some(full_at)
        };
        self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_decision_is_kept_and_others_are_left_to_the_ratio() {
        let sampler = Sampler::new(true, 0, None);
        assert!(sampler.decide(Some(Decision::Accept), 1, 1));
        assert!(sampler.decide(Some(Decision::Debug), 1, 1));
        assert!(!sampler.decide(None, 1, 1));
        let sampler = Sampler::new(true, 1_000_000, None);
        assert!(!sampler.decide(Some(Decision::Deny), 1, 1));
        assert!(sampler.decide(None, u128::MAX, 1));
        let sampler = Sampler::new(false, 1_000_000, None);
        assert!(sampler.decide(Some(Decision::Deny), 1, 1), "a decision that does not count");
    }

    #[test]
    fn a_share_is_taken_by_the_traces_id_and_smaller_shares_lie_within_larger_ones() {
        let (small, large) = (Sampler::new(true, 10_000, None), Sampler::new(true, 200_000, None));
        let mut random = fastrand::Rng::with_seed(7);
        let traces: Vec<u128> = (0..100_000).map(|_| random.u128(1..)).collect();
        let taken = |sampler: &Sampler| {
            traces.iter().copied().filter(|trace| sampler.decide(None, *trace, 1)).collect::<Vec<_>>()
        };
        let (few, many) = (taken(&small), taken(&large));
        assert!((800..1_200).contains(&few.len()), "{}", few.len());
        assert!((19_000..21_000).contains(&many.len()), "{}", many.len());
        assert!(few.iter().all(|trace| many.contains(trace)));
    }

    #[test]
    fn a_rate_is_kept_over_time_and_a_second_may_be_saved_up() {
        let sampler = Sampler::new(true, 1_000_000, Some(10));
        let at = |now: Nanos| sampler.decide(None, 1, now);
        assert_eq!((0..100).filter(|_| at(1)).count(), 10);
        assert_eq!((0..100).filter(|_| at(1 + SECOND / 2)).count(), 5);
        assert_eq!((0..100).filter(|_| at(100 * SECOND)).count(), 10, "no more than a second's worth");
        assert!(
            sampler.decide(Some(Decision::Accept), 1, 100 * SECOND),
            "the caller's decision takes no place"
        );
    }

    #[test]
    fn a_rate_of_one_and_one_of_a_million_are_what_they_say() {
        for rate in [1, 1_000_000] {
            let sampler = Sampler::new(true, 1_000_000, Some(rate));
            let taken = (0..3 * rate).filter(|_| sampler.decide(None, 1, 1)).count();
            assert_eq!(taken, rate as usize);
        }
    }
}
