//! Outlier detection, as Envoy does it and gRFC A50 describes it: what is counted of an endpoint, which endpoints are outliers, how
//! long they are left alone.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use config::health::{FailurePercentage, Outliers, SuccessRate};

use crate::clock::{Nanos, nanos};

/// Why an endpoint was ejected: the label `reason` of `outrigger_ejections_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Ejected {
    ConsecutiveErrors,
    SuccessRate,
    FailurePercentage,
}

/// Every such reason's label, in the order of its number.
pub(crate) const EJECTIONS: [&str; 3] = ["consecutive_errors", "success_rate", "failure_percentage"];

/// What calls wrote of one endpoint since its counts were taken. All workers write it, on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Tally {
    successes: AtomicU64,
    failures: AtomicU64,
    /// Errors without a success between them.
    run: AtomicU32,
}

impl Tally {
    pub(crate) fn succeed(&self) {
        self.successes.fetch_add(1, Ordering::Relaxed);
        if self.run.load(Ordering::Relaxed) != 0 {
            self.run.store(0, Ordering::Relaxed);
        }
    }

    /// Notes an error; returns how many there were in a row with it.
    pub(crate) fn fail(&self) -> u32 {
        self.failures.fetch_add(1, Ordering::Relaxed);
        self.run.fetch_add(1, Ordering::Relaxed).saturating_add(1)
    }

    /// Errors count from one again: they have been acted upon.
    pub(crate) fn end_run(&self) {
        self.run.store(0, Ordering::Relaxed);
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) {
        self.take();
        self.end_run();
    }

    /// Takes the counts out.
    pub(crate) fn take(&self) -> Counts {
        Counts {
            successes: self.successes.swap(0, Ordering::Relaxed),
            failures: self.failures.swap(0, Ordering::Relaxed),
        }
    }
}

/// What an endpoint's calls came to in an interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) successes: u64,
    pub(crate) failures: u64,
}

impl Counts {
    fn total(self) -> u64 {
        self.successes + self.failures
    }
}

/// An endpoint's ejections. Written while those of its service are decided upon, read by whoever shows it.
#[derive(Debug, Default)]
pub(crate) struct Record {
    /// When the last one began.
    since: AtomicU64,
    /// How many times the base time the last one lasts: one more with each, one less with each interval without.
    multiplier: AtomicU32,
    ejections: AtomicU64,
    /// The counts of the last interval.
    successes: AtomicU64,
    failures: AtomicU64,
}

impl Record {
    pub(crate) fn eject(&self, rule: &Outliers, now: Nanos) {
        self.since.store(now, Ordering::Relaxed);
        let multiplier = self.multiplier.load(Ordering::Relaxed);
        // Past the longest time it grows no more, as in Envoy, so that what was is forgiven within a bounded time.
        if multiplier == 0 || ejection_time(rule, multiplier) < longest(rule) {
            self.multiplier.store(multiplier + 1, Ordering::Relaxed);
        }
        self.ejections.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes an interval in which it was not ejected.
    pub(crate) fn forgive(&self) {
        let multiplier = self.multiplier.load(Ordering::Relaxed);
        self.multiplier.store(multiplier.saturating_sub(1), Ordering::Relaxed);
    }

    /// When the last ejection is over.
    pub(crate) fn until(&self, rule: &Outliers) -> Nanos {
        let lasts = ejection_time(rule, self.multiplier.load(Ordering::Relaxed));
        self.since.load(Ordering::Relaxed).saturating_add(lasts)
    }

    pub(crate) fn ejections(&self) -> u64 {
        self.ejections.load(Ordering::Relaxed)
    }

    pub(crate) fn note_interval(&self, counts: Counts) {
        self.successes.store(counts.successes, Ordering::Relaxed);
        self.failures.store(counts.failures, Ordering::Relaxed);
    }

    pub(crate) fn last_interval(&self) -> Counts {
        Counts {
            successes: self.successes.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
        }
    }
}

/// How long an ejection lasts: `min(base * multiplier, max(base, longest))` (gRFC A50).
fn ejection_time(rule: &Outliers, multiplier: u32) -> Nanos {
    nanos(rule.base_ejection_time).saturating_mul(u64::from(multiplier)).min(longest(rule))
}

fn longest(rule: &Outliers) -> Nanos {
    nanos(rule.base_ejection_time.max(rule.max_ejection_time))
}

/// Whether one more of `all` endpoints may be ejected while `ejected` are. One may always be; with more than that, no more than the
/// share are, as in Envoy with `always_eject_one_host`. (gRFC A50 asks before the ejection whether the share is reached, and passes it
/// by one.)
pub(crate) fn may_eject(rule: &Outliers, ejected: usize, all: usize) -> bool {
    ejected == 0 || (ejected as u64 + 1) * 1_000_000 <= u64::from(rule.max_ejected_ppm) * all as u64
}

/// Those whose share of successes is below the mean by more than `stdev_factor` standard deviations, of endpoints with enough calls.
pub(crate) fn below_the_others(rule: &SuccessRate, counts: &[Counts]) -> Vec<usize> {
    let rates = rates(counts, rule.request_volume, |counts| counts.successes);
    if rates.is_empty() || rates.len() < rule.minimum_hosts as usize {
        return Vec::new();
    }
    let n = rates.len() as f64;
    let mean = rates.iter().map(|(_, rate)| rate).sum::<f64>() / n;
    let variance = rates.iter().map(|(_, rate)| (rate - mean).powi(2)).sum::<f64>() / n;
    let bound = mean - rule.stdev_factor * variance.sqrt();
    rates.into_iter().filter(|(_, rate)| *rate < bound).map(|(i, _)| i).collect()
}

/// Those that fail at least as often as the threshold says, of endpoints with enough calls.
pub(crate) fn failing(rule: &FailurePercentage, counts: &[Counts]) -> Vec<usize> {
    let rates = rates(counts, rule.request_volume, |counts| counts.failures);
    if rates.len() < rule.minimum_hosts as usize {
        return Vec::new();
    }
    let threshold = f64::from(rule.threshold_ppm) / 1e6;
    rates.into_iter().filter(|(_, rate)| *rate >= threshold).map(|(i, _)| i).collect()
}

/// The share of some of their calls, of endpoints with at least `volume` calls.
fn rates(counts: &[Counts], volume: u32, some: impl Fn(&Counts) -> u64) -> Vec<(usize, f64)> {
    let busy = counts.iter().enumerate().filter(|(_, counts)| counts.total() >= u64::from(volume));
    busy.map(|(i, counts)| (i, some(counts) as f64 / counts.total().max(1) as f64)).collect()
}

/// Whether an outlier is ejected by this draw.
pub(crate) fn is_enforced(enforcement_ppm: u32, random: u64) -> bool {
    random % 1_000_000 < u64::from(enforcement_ppm)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use config::code::Codes;

    use super::*;

    const SECOND: Nanos = 1_000_000_000;

    fn rule(base_s: u64, max_s: u64, max_ejected_ppm: u32) -> Outliers {
        Outliers {
            codes: Codes::TROUBLE,
            consecutive_errors: 5,
            interval: Duration::from_secs(10),
            base_ejection_time: Duration::from_secs(base_s),
            max_ejection_time: Duration::from_secs(max_s),
            max_ejected_ppm,
            success_rate: None,
            failure_percentage: None,
        }
    }

    fn counts(of: &[(u64, u64)]) -> Vec<Counts> {
        of.iter().map(|(successes, failures)| Counts { successes: *successes, failures: *failures }).collect()
    }

    /// gRFC A50: `base_ejection_time * multiplier`, at most `max(base_ejection_time, max_ejection_time)`.
    #[test]
    fn ejections_last_as_a50_says() {
        for (base, max, multiplier, seconds) in [
            (30, 300, 1, 30),
            (30, 300, 2, 60),
            (30, 300, 10, 300),
            (30, 300, 11, 300),
            (30, 300, u32::MAX, 300),
            (30, 7, 1, 30),
            (30, 7, 9, 30),
        ] {
            let time = ejection_time(&rule(base, max, 0), multiplier);
            assert_eq!(time, seconds * SECOND, "{base} {max} {multiplier}");
        }
    }

    #[test]
    fn each_ejection_is_longer_and_each_quiet_interval_takes_one_step_back() {
        let (rule, record) = (rule(30, 100, 0), Record::default());
        let lasts = |record: &Record| (record.until(&rule) - SECOND) / SECOND;
        let mut seconds = Vec::new();
        for _ in 0..6 {
            record.eject(&rule, SECOND);
            seconds.push(lasts(&record));
        }
        assert_eq!(seconds, [30, 60, 90, 100, 100, 100]);
        assert_eq!(record.ejections(), 6);
        // However often it was ejected, four intervals (the steps to the longest) make it as good as new.
        (0..3).for_each(|_| record.forgive());
        record.eject(&rule, SECOND);
        assert_eq!(lasts(&record), 60);
        (0..9).for_each(|_| record.forgive());
        record.eject(&rule, SECOND);
        assert_eq!(lasts(&record), 30);
    }

    #[test]
    fn one_may_always_be_ejected_and_otherwise_no_more_than_the_share() {
        assert!(may_eject(&rule(1, 1, 0), 0, 100));
        assert!(!may_eject(&rule(1, 1, 0), 1, 100));
        let half = rule(1, 1, 500_000);
        assert!(may_eject(&half, 1, 4) && !may_eject(&half, 2, 4));
        assert!(may_eject(&half, 1, 5) && !may_eject(&half, 2, 5), "three of five are more than half");
        assert!(may_eject(&rule(1, 1, 1_000_000), 2, 3));
    }

    #[test]
    fn below_the_others_is_by_the_mean_and_the_standard_deviation() {
        let rule = |factor: f64, hosts: u32| SuccessRate {
            stdev_factor: factor,
            enforcement_ppm: 1_000_000,
            minimum_hosts: hosts,
            request_volume: 100,
        };
        // Rates 1, 1, 1, 1 and 0.5: mean 0.9, deviation 0.2, bound at 1.9 of them 0.52.
        let five = counts(&[(100, 0), (100, 0), (50, 50), (100, 0), (100, 0)]);
        assert_eq!(below_the_others(&rule(1.9, 5), &five), [2]);
        assert_eq!(below_the_others(&rule(2.1, 5), &five), [0_usize; 0], "0.48 is below it");
        assert_eq!(below_the_others(&rule(1.9, 6), &five), [0_usize; 0], "too few endpoints");
        let quiet = counts(&[(100, 0), (100, 0), (40, 59), (100, 0), (100, 0)]);
        assert_eq!(below_the_others(&rule(1.9, 4), &quiet), [0_usize; 0], "too few calls of the bad one");
        let alike = counts(&[(50, 50); 5]);
        assert_eq!(below_the_others(&rule(0.0, 5), &alike), [0_usize; 0], "all of them fail alike");
    }

    #[test]
    fn failing_is_by_the_share_of_failures_with_the_threshold_in() {
        let rule = |hosts: u32| FailurePercentage {
            threshold_ppm: 850_000,
            enforcement_ppm: 1_000_000,
            minimum_hosts: hosts,
            request_volume: 50,
        };
        let some = counts(&[(15, 85), (16, 84), (0, 49), (0, 50), (100, 0)]);
        assert_eq!(failing(&rule(4), &some), [0, 3]);
        assert_eq!(failing(&rule(5), &some), [0_usize; 0]);
    }

    #[test]
    fn enforcement_is_a_share_of_draws() {
        let mut random = fastrand::Rng::with_seed(11);
        let hits = (0..100_000).filter(|_| is_enforced(250_000, random.u64(..))).count();
        assert!(hits.abs_diff(25_000) < 700, "{hits}");
        assert!(!is_enforced(0, 0) && is_enforced(1_000_000, 999_999));
    }

    #[test]
    fn a_success_ends_a_run_of_errors() {
        let tally = Tally::default();
        assert_eq!([tally.fail(), tally.fail()], [1, 2]);
        tally.succeed();
        assert_eq!(tally.fail(), 1);
        assert_eq!(tally.take(), Counts { successes: 1, failures: 3 });
        assert_eq!(tally.take(), Counts::default());
    }
}
