//! How long a call waits before it goes out again (gRFC A6).

use std::time::Duration;

use config::repeats::Backoff;

/// A fifth more or less, so that calls that failed together do not come back together.
const JITTER: f64 = 0.2;

/// The wait before retry `n`, which is 0 for the first: `min(initial * multiplier^n, max)`, a fifth more or less.
pub(crate) fn back_off(rule: &Backoff, n: u32, random: u64) -> Duration {
    let exponent = i32::try_from(n).unwrap_or(i32::MAX);
    let whole = rule.initial.as_secs_f64() * rule.multiplier.powi(exponent);
    let whole = whole.min(rule.max.as_secs_f64());
    let share = random as f64 / u64::MAX as f64;
    Duration::from_secs_f64(whole * (1.0 - JITTER + 2.0 * JITTER * share))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_wait_grows_by_the_multiplier_to_its_bound_and_spreads_by_a_fifth() {
        let mut random = fastrand::Rng::with_seed(11);
        for _ in 0..10_000 {
            let initial = random.u32(1..2_000) * MS;
            let rule = Backoff {
                initial,
                max: initial + random.u32(0..60_000) * MS,
                multiplier: 1.0 + random.f64() * 9.0,
            };
            let n = random.u32(0..30);
            // By repeated multiplication, as A6 has it in words.
            let mut whole = initial.as_secs_f64();
            for _ in 0..n {
                whole = (whole * rule.multiplier).min(rule.max.as_secs_f64());
            }
            let within = |wait: Duration, share: f64| (wait.as_secs_f64() / whole - share).abs() < 1e-6;
            assert!(within(back_off(&rule, n, 0), 0.8), "{rule:?} {n}");
            assert!(within(back_off(&rule, n, u64::MAX), 1.2), "{rule:?} {n}");
            let wait = back_off(&rule, n, random.u64(..)).as_secs_f64() / whole;
            assert!((0.799_999..=1.200_001).contains(&wait), "{rule:?} {n}: {wait}");
        }
    }

    #[test]
    fn waits_are_spread_evenly() {
        let rule = Backoff { initial: 100 * MS, max: 100 * MS, multiplier: 1.0 };
        let mut random = fastrand::Rng::with_seed(12);
        let mut tenths = [0_u32; 10];
        for _ in 0..10_000 {
            let ms = back_off(&rule, 0, random.u64(..)).as_secs_f64() * 1e3;
            tenths[((ms - 80.0) / 4.0).clamp(0.0, 9.0) as usize] += 1;
        }
        // Five standard deviations of a binomial with p = 0.1.
        assert!(tenths.iter().all(|count| (850..=1_150).contains(count)), "{tenths:?}");
    }
}
