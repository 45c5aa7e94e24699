//! Finds the outliers among the endpoints of one service, by what their calls ended with, and takes them out for a while.
//!
//! ```text
//! call ends    -> tally -> errors in a row reached       -> ejected
//! each interval -> tallies -> success rate, failure percentage -> ejected
//!                          -> time of the ejection over  -> back, and starts slowly
//! ```

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use config::health::Outliers;

use crate::balance::outlier::{self, Counts, EJECTIONS, Ejected};
use crate::balance::standing::{Changes, EJECTED};
use crate::clock::Nanos;
use crate::endpoint::Endpoint;
use crate::grpc::status::Code;

/// What all snapshots share of the endpoints of one service.
#[derive(Debug, Default)]
pub(crate) struct EndpointSet {
    pub(crate) changes: Arc<Changes>,
    /// Held while it is decided who is ejected, so that no more are than may be. Calls take it only when one of them ends a run of
    /// errors that is long enough.
    deciding: Mutex<()>,
    ejections: [AtomicU64; EJECTIONS.len()],
    /// Picks from all endpoints because too few were fit.
    panics: AtomicU64,
    /// When the rates were looked at last; 0: never.
    swept: AtomicU64,
}

impl EndpointSet {
    /// Ejections so far, by reason.
    pub(crate) fn ejections(&self) -> [u64; EJECTIONS.len()] {
        self.ejections.each_ref().map(|count| count.load(Ordering::Relaxed))
    }

    /// Forgets what was found out by a rule that is in force no more.
    pub(crate) fn begin_anew(&self) {
        self.swept.store(0, Ordering::Relaxed);
    }

    pub(crate) fn panic(&self) {
        self.panics.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn panics(&self) -> u64 {
        self.panics.load(Ordering::Relaxed)
    }
}

/// The rule of a service, and whom it is about.
#[derive(Debug)]
pub(crate) struct Detector {
    /// `NAME.NAMESPACE`.
    pub(crate) service: Arc<str>,
    pub(crate) rule: Outliers,
    /// All endpoints of the service, whatever their labels.
    pub(crate) endpoints: Vec<Arc<Endpoint>>,
    pub(crate) set: Arc<EndpointSet>,
}

impl Detector {
    /// Notes what an attempt came to; `None`: no answer. What it writes is the endpoint's own.
    pub(crate) fn report(&self, endpoint: &Endpoint, told: Option<Code>, now: Nanos) {
        if told.is_some_and(|code| !self.rule.codes.contains(code.number())) {
            return endpoint.tally.succeed();
        }
        let run = endpoint.tally.fail();
        if self.rule.consecutive_errors > 0 && run >= self.rule.consecutive_errors {
            // If it may not be ejected, it takes as many errors until that is asked again.
            endpoint.tally.end_run();
            if !endpoint.standing.has(EJECTED) {
                self.eject(&self.decide(), endpoint, Ejected::ConsecutiveErrors, now);
            }
        }
    }

    /// When the rates are to be looked at next.
    pub(crate) fn due(&self, now: Nanos) -> Nanos {
        let interval = crate::clock::nanos(self.rule.interval);
        match self.set.swept.load(Ordering::Relaxed) {
            0 => {
                // Its first interval begins.
                self.set.swept.store(now, Ordering::Relaxed);
                now.saturating_add(interval)
            }
            swept => swept.saturating_add(interval),
        }
    }

    /// Looks at the interval that ends now: ejects by rates, then takes back those whose time is over.
    pub(crate) fn sweep(&self, now: Nanos, mut draw: impl FnMut() -> u64) {
        self.set.swept.store(now, Ordering::Relaxed);
        let deciding = self.decide();
        let counts = self.endpoints.iter().map(|endpoint| {
            let counts = endpoint.tally.take();
            endpoint.record.note_interval(counts);
            // Calls that an ejected one gets all the same say nothing of who else is an outlier.
            if endpoint.standing.has(EJECTED) { Counts::default() } else { counts }
        });
        let counts: Vec<Counts> = counts.collect();
        let mut eject = |found: Vec<usize>, enforcement_ppm: u32, reason: Ejected| {
            for i in found {
                let endpoint = &self.endpoints[i];
                if !endpoint.standing.has(EJECTED) && outlier::is_enforced(enforcement_ppm, draw()) {
                    self.eject(&deciding, endpoint, reason, now);
                }
            }
        };
        if let Some(rule) = &self.rule.success_rate {
            eject(outlier::below_the_others(rule, &counts), rule.enforcement_ppm, Ejected::SuccessRate);
        }
        if let Some(rule) = &self.rule.failure_percentage {
            eject(outlier::failing(rule, &counts), rule.enforcement_ppm, Ejected::FailurePercentage);
        }
        for endpoint in &self.endpoints {
            if !endpoint.standing.has(EJECTED) {
                endpoint.record.forgive();
            } else if endpoint.record.until(&self.rule) <= now {
                endpoint.tally.end_run();
                endpoint.standing.unmark(EJECTED, now);
            }
        }
    }

    /// How many are ejected now.
    pub(crate) fn ejected(&self) -> usize {
        self.endpoints.iter().filter(|endpoint| endpoint.standing.has(EJECTED)).count()
    }

    fn eject(&self, _deciding: &MutexGuard<'_, ()>, endpoint: &Endpoint, reason: Ejected, now: Nanos) {
        let already = endpoint.standing.has(EJECTED);
        if already || !outlier::may_eject(&self.rule, self.ejected(), self.endpoints.len()) {
            return;
        }
        endpoint.record.eject(&self.rule, now);
        endpoint.standing.mark(EJECTED);
        self.set.ejections[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn decide(&self) -> MutexGuard<'_, ()> {
        self.set.deciding.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use config::code::Codes;
    use config::health::{FailurePercentage, SuccessRate};

    use super::*;

    const SECOND: Nanos = 1_000_000_000;

    fn rule() -> Outliers {
        Outliers {
            codes: Codes::TROUBLE,
            consecutive_errors: 5,
            interval: Duration::from_secs(10),
            base_ejection_time: Duration::from_secs(30),
            max_ejection_time: Duration::from_secs(300),
            max_ejected_ppm: 500_000,
            success_rate: None,
            failure_percentage: None,
        }
    }

    fn detector(endpoints: usize, rule: Outliers) -> Detector {
        let set = Arc::<EndpointSet>::default();
        let endpoints = (0..endpoints)
            .map(|i| {
                let address = ([127, 0, 0, 1], 1 + i as u16).into();
                Arc::new(Endpoint::new(address, false, set.changes.clone()))
            })
            .collect();
        Detector { service: "echo.shop".into(), rule, endpoints, set }
    }

    impl Detector {
        fn tell(&self, endpoint: usize, told: Option<Code>, times: usize, now: Nanos) {
            (0..times).for_each(|_| self.report(&self.endpoints[endpoint], told, now));
        }

        fn out(&self) -> Vec<usize> {
            let out = |i: &usize| self.endpoints[*i].standing.has(EJECTED);
            (0..self.endpoints.len()).filter(out).collect()
        }
    }

    const BAD: Option<Code> = Some(Code::Unavailable);
    const GOOD: Option<Code> = Some(Code::Ok);

    #[test]
    fn errors_in_a_row_eject_at_once_and_what_the_caller_did_wrong_is_no_error() {
        let detector = detector(4, rule());
        detector.tell(0, BAD, 4, 1);
        detector.tell(0, Some(Code::NotFound), 1, 1);
        detector.tell(0, BAD, 4, 1);
        detector.tell(1, None, 4, 1);
        assert_eq!(detector.out(), [0_usize; 0]);
        detector.tell(1, None, 1, 1);
        assert_eq!(detector.out(), [1], "no answer is an error too");
        assert_eq!(detector.set.ejections(), [1, 0, 0]);
    }

    #[test]
    fn without_a_number_of_errors_in_a_row_none_eject() {
        let detector = detector(4, Outliers { consecutive_errors: 0, ..rule() });
        detector.tell(0, BAD, 1_000, 1);
        assert_eq!(detector.out(), [0_usize; 0]);
    }

    /// gRFC A50 step by step: ejected at 1 s for 30 s, seen at the sweep of 40 s; then for 60 s; an interval without is forgiven.
    #[test]
    fn an_ejection_ends_at_the_first_sweep_after_its_time_and_the_next_is_longer() {
        let detector = detector(4, rule());
        let seconds_out = |from: Nanos| {
            detector.tell(0, BAD, 5, from);
            assert_eq!(detector.out(), [0]);
            let mut now = from / (10 * SECOND) * (10 * SECOND);
            while detector.out() == [0] {
                now += 10 * SECOND;
                detector.sweep(now, || 0);
            }
            assert_eq!(detector.endpoints[0].standing.since(), now, "it starts slowly from here");
            (now - from) / SECOND
        };
        assert_eq!(seconds_out(SECOND), 39);
        assert_eq!(seconds_out(41 * SECOND), 69);
        assert_eq!(seconds_out(111 * SECOND), 99);
        // Two quiet intervals.
        detector.sweep(220 * SECOND, || 0);
        detector.sweep(230 * SECOND, || 0);
        assert_eq!(seconds_out(231 * SECOND), 69);
    }

    #[test]
    fn a_run_that_may_not_eject_is_asked_again_after_as_many_errors() {
        let detector = detector(2, rule());
        detector.tell(0, BAD, 5, 1);
        detector.tell(1, BAD, 7, 1);
        assert_eq!(detector.out(), [0], "both would be more than half");
        detector.sweep(40 * SECOND, || 0);
        assert_eq!(detector.out(), [0_usize; 0]);
        detector.tell(1, BAD, 2, 41 * SECOND);
        assert_eq!(detector.out(), [0_usize; 0]);
        detector.tell(1, BAD, 1, 41 * SECOND);
        assert_eq!(detector.out(), [1]);
    }

    #[test]
    fn rates_eject_at_the_interval_and_calls_of_one_interval_do_not_count_in_the_next() {
        let success_rate = SuccessRate {
            stdev_factor: 1.9,
            enforcement_ppm: 1_000_000,
            minimum_hosts: 5,
            request_volume: 100,
        };
        let failure_percentage = FailurePercentage {
            threshold_ppm: 850_000,
            enforcement_ppm: 1_000_000,
            minimum_hosts: 5,
            request_volume: 50,
        };
        for (rule, ejections) in [
            (Outliers { success_rate: Some(success_rate), ..rule() }, [0, 1, 0]),
            (Outliers { failure_percentage: Some(failure_percentage), ..rule() }, [0, 0, 1]),
        ] {
            let rule = Outliers { consecutive_errors: 0, ..rule };
            let detector = detector(6, rule);
            (0..6).for_each(|i| detector.tell(i, GOOD, 5_000, 1));
            detector.sweep(10 * SECOND, || 0);
            (0..5).for_each(|i| detector.tell(i, GOOD, 100, 1));
            detector.tell(5, BAD, 100, 1);
            assert_eq!(detector.out(), [0_usize; 0]);
            detector.sweep(20 * SECOND, || 0);
            assert_eq!(detector.out(), [5]);
            assert_eq!(detector.set.ejections(), ejections);
            let last = detector.endpoints[5].record.last_interval();
            assert_eq!(last, Counts { successes: 0, failures: 100 });
        }
    }

    #[test]
    fn outliers_that_are_not_enforced_stay() {
        let failure_percentage = FailurePercentage {
            threshold_ppm: 500_000,
            enforcement_ppm: 300_000,
            minimum_hosts: 1,
            request_volume: 1,
        };
        let rule = Outliers {
            consecutive_errors: 0,
            failure_percentage: Some(failure_percentage),
            max_ejected_ppm: 1_000_000,
            ..rule()
        };
        let detector = detector(1_000, rule);
        (0..1_000).for_each(|i| detector.tell(i, BAD, 10, 1));
        let mut random = fastrand::Rng::with_seed(3);
        detector.sweep(10 * SECOND, || random.u64(..));
        assert!(detector.out().len().abs_diff(300) < 60, "{}", detector.out().len());
    }

    /// Whatever happens in whatever order, no more than the share are out, but one may be; and all come back when nothing more does.
    #[test]
    fn no_sequence_of_events_ejects_more_than_the_share() {
        let rates =
            SuccessRate { stdev_factor: 0.5, enforcement_ppm: 700_000, minimum_hosts: 2, request_volume: 3 };
        let failing = FailurePercentage {
            threshold_ppm: 300_000,
            enforcement_ppm: 700_000,
            minimum_hosts: 2,
            request_volume: 3,
        };
        let mut ejections = [0; EJECTIONS.len()];
        for seed in 0..300 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (all, ppm) = (random.usize(1..30), random.u32(..=1_000_000));
            let rule = Outliers {
                consecutive_errors: random.u32(0..4),
                max_ejected_ppm: ppm,
                success_rate: random.bool().then_some(rates),
                failure_percentage: random.bool().then_some(failing),
                ..rule()
            };
            let detector = detector(all, rule);
            let (mut now, most) = (SECOND, (all as u64 * u64::from(ppm) / 1_000_000).max(1) as usize);
            for _ in 0..2_000 {
                now += random.u64(..SECOND);
                match random.u8(..30) {
                    0 => detector.sweep(now, || random.u64(..)),
                    kind => {
                        let told = [GOOD, BAD, None][usize::from(kind) % 3];
                        detector.tell(random.usize(..all), told, random.usize(1..6), now);
                    }
                }
                assert!(
                    detector.out().len() <= most,
                    "seed {seed}: {:?} of {all}, at most {most}",
                    detector.out()
                );
            }
            for _ in 0..100 {
                now += 10 * SECOND;
                detector.sweep(now, || random.u64(..));
            }
            assert_eq!(detector.out(), [0_usize; 0], "seed {seed}");
            std::iter::zip(&mut ejections, detector.set.ejections()).for_each(|(sum, one)| *sum += one);
        }
        assert!(ejections.iter().all(|count| *count > 100), "each reason had its turn: {ejections:?}");
    }
}
