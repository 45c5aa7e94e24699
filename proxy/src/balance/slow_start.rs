//! Slow start: an endpoint that has just come takes its share of calls bit by bit, as Envoy defines it, so that caches,
//! connections and just-in-time compilers are warm when the whole of it comes.

use config::health::SlowStart;

use crate::clock::{Nanos, nanos};

/// Steps in which a weight grows over the window.
const STEPS: Nanos = 100;
/// The shortest step.
const STEP_MIN: Nanos = 1_000_000;

/// The part of its weight that an endpoint has, which came `since`: `max(min_weight, (elapsed / window) ^ (1 / aggression))`.
/// 1 for one that has always been there (`since` 0).
pub(crate) fn factor(rule: &SlowStart, since: Nanos, now: Nanos) -> f64 {
    let (elapsed, window) = (now.saturating_sub(since), nanos(rule.window));
    if since == 0 || elapsed >= window {
        return 1.0;
    }
    let part = (elapsed as f64 / window as f64).powf(1.0 / rule.aggression);
    part.max(f64::from(rule.min_weight_ppm) / 1e6).min(1.0)
}

/// After how long weights are made anew while some endpoint starts slowly.
pub(crate) fn step(rule: &SlowStart) -> Nanos {
    (nanos(rule.window) / STEPS).max(STEP_MIN)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: Nanos = 1_000_000_000;

    fn rule(aggression: f64, min_weight_ppm: u32) -> SlowStart {
        SlowStart { window: Duration::from_secs(60), aggression, min_weight_ppm }
    }

    /// Points of Envoy's formula, worked out by hand: 15 of 60 seconds are a quarter.
    #[test]
    fn the_ramp_is_envoys() {
        for (aggression, at_a_quarter) in
            [(1.0, 0.25), (2.0, 0.5), (0.5, 0.0625), (4.0, std::f64::consts::FRAC_1_SQRT_2)]
        {
            let got = factor(&rule(aggression, 0), SECOND, 16 * SECOND);
            assert!((got - at_a_quarter).abs() < 1e-9, "aggression {aggression}: {got}");
        }
    }

    #[test]
    fn it_begins_at_the_least_weight_never_falls_and_is_whole_at_the_end_of_the_window() {
        for aggression in [0.1, 0.5, 1.0, 1.5, 10.0, 100.0] {
            for min_weight_ppm in [0, 1, 100_000, 1_000_000] {
                let rule = rule(aggression, min_weight_ppm);
                let least = f64::from(min_weight_ppm) / 1e6;
                assert_eq!(factor(&rule, SECOND, SECOND), least);
                let mut before = 0.0;
                for step in 0..=600 {
                    let part = factor(&rule, SECOND, SECOND + step * SECOND / 10);
                    assert!(part >= before && part >= least && part <= 1.0, "{aggression} {step}: {part}");
                    before = part;
                }
                assert_eq!(before, 1.0);
                assert_eq!(factor(&rule, SECOND, 1_000 * SECOND), 1.0);
            }
        }
    }

    #[test]
    fn who_was_always_there_does_not_start_slowly() {
        assert_eq!(factor(&rule(1.0, 0), 0, 1), 1.0);
    }
}
