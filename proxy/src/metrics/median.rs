//! How long half of the calls of a rule took lately: counted by workers in buckets that grow with the time, added up
//! each second by the control thread, and read by calls as one number.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::metrics::counter::Counter;

/// The window, in seconds.
const WINDOW_S: usize = 10;
/// With fewer calls in the window, nothing is said.
pub(crate) const SAMPLES_MIN: u64 = 50;
/// Buckets from one power of two to the next: a bucket is a sixteenth of its lower bound wide at most.
const STEPS: usize = 16;
const STEPS_BITS: u32 = STEPS.ilog2();
/// Whatever took 2^32 microseconds (71 minutes) or longer is in the last one.
const BUCKETS: usize = STEPS + (32 - STEPS_BITS as usize) * STEPS;

/// The median of one rule.
#[derive(Debug)]
pub(crate) struct Median {
    /// One for each worker.
    workers: Box<[Histogram]>,
    /// In microseconds; 0: nothing is said.
    median_us: AtomicU64,
    /// Locked once a second, by the control thread.
    window: Mutex<Window>,
}

/// Of so many calls that would be shed one goes through, so that what is shed is still known of.
pub(crate) const PROBE_EVERY: u64 = 16;

/// For how many calls one counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weight {
    One,
    /// It stands for those that were shed.
    Probe,
}

/// One worker's counts.
#[derive(Debug)]
#[repr(align(128))]
struct Histogram {
    buckets: [Counter; BUCKETS],
    /// Calls that would have been shed.
    short: Counter,
}

impl Median {
    pub(crate) fn new(workers: usize) -> Self {
        let histogram =
            |_| Histogram { buckets: std::array::from_fn(|_| Counter::default()), short: Counter::default() };
        Self {
            workers: (0..workers).map(histogram).collect(),
            median_us: AtomicU64::new(0),
            window: Mutex::new(Window::default()),
        }
    }

    /// Counts a call. Only that worker may call this.
    pub(crate) fn observe(&self, worker: usize, took: Duration, weight: Weight) {
        let calls = if weight == Weight::Probe { PROBE_EVERY } else { 1 };
        self.workers[worker].buckets[bucket(took)].add(calls);
    }

    /// Whether a call that has too little time goes through all the same: one of [`PROBE_EVERY`]. Without them a rule that
    /// sheds most of its calls would go on by the slow ones alone. Only that worker may call this.
    pub(crate) fn probe(&self, worker: usize) -> bool {
        let short = &self.workers[worker].short;
        short.add(1);
        short.value().is_multiple_of(PROBE_EVERY)
    }

    /// What half of the calls of the last seconds took at least; `None`: there were too few.
    pub(crate) fn value(&self) -> Option<Duration> {
        let us = self.median_us.load(Ordering::Relaxed);
        (us > 0).then(|| Duration::from_micros(us))
    }

    /// Takes another second into account; to be called once a second.
    pub(crate) fn tick(&self) {
        let sum = |bucket: usize| self.workers.iter().map(|worker| worker.buckets[bucket].value()).sum();
        let median = self.window.lock().unwrap_or_else(PoisonError::into_inner).tick(sum);
        self.median_us.store(median.map_or(0, |us| us.max(1)), Ordering::Relaxed);
    }
}

/// The counts of the last seconds.
#[derive(Debug)]
struct Window {
    /// The running totals at the last tick.
    totals: Vec<u64>,
    /// What came in each of the last seconds.
    seconds: [Vec<u64>; WINDOW_S],
    next: usize,
}

impl Default for Window {
    fn default() -> Self {
        Self { totals: vec![0; BUCKETS], seconds: std::array::from_fn(|_| vec![0; BUCKETS]), next: 0 }
    }
}

impl Window {
    /// Takes the running totals of another second; the median of the window in microseconds, if that holds enough.
    fn tick(&mut self, total: impl Fn(usize) -> u64) -> Option<u64> {
        let newest = &mut self.seconds[self.next];
        for (bucket, before) in self.totals.iter_mut().enumerate() {
            let now = total(bucket);
            newest[bucket] = now.saturating_sub(*before);
            *before = now;
        }
        self.next = (self.next + 1) % WINDOW_S;
        let sum = |bucket: usize| self.seconds.iter().map(|second| second[bucket]).sum();
        let counts: Vec<u64> = (0..BUCKETS).map(sum).collect();
        (counts.iter().sum::<u64>() >= SAMPLES_MIN).then(|| lower_bound(middle(&counts)))
    }
}

/// The bucket of the lower median: the first by which half of all are counted.
fn middle(counts: &[u64]) -> usize {
    let half = counts.iter().sum::<u64>().div_ceil(2);
    let mut passed = 0;
    let found = counts.iter().position(|count| {
        passed += count;
        passed >= half && passed > 0
    });
    found.unwrap_or(0)
}

/// Where a time is counted.
fn bucket(took: Duration) -> usize {
    let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    let Some(power) = us.checked_ilog2().filter(|power| *power >= STEPS_BITS) else { return us as usize };
    let shift = power - STEPS_BITS;
    let step = (us >> shift) as usize - STEPS;
    (STEPS + shift as usize * STEPS + step).min(BUCKETS - 1)
}

/// The shortest time of a bucket, in microseconds.
fn lower_bound(bucket: usize) -> u64 {
    match bucket.checked_sub(STEPS) {
        None => bucket as u64,
        Some(above) => ((STEPS + above % STEPS) as u64) << (above / STEPS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn us(us: u64) -> Duration {
        Duration::from_micros(us)
    }

    #[test]
    fn every_time_is_in_the_bucket_whose_bounds_hold_it() {
        let mut random = fastrand::Rng::with_seed(1);
        let times = (0..100).chain((0..20_000).map(|_| random.u64(..) >> random.u32(32..64)));
        for time in times {
            let at = bucket(us(time));
            assert!(lower_bound(at) <= time, "{time}: bucket {at} begins at {}", lower_bound(at));
            assert!(
                time < lower_bound(at + 1),
                "{time}: the one after {at} begins at {}",
                lower_bound(at + 1)
            );
        }
        for at in 1..BUCKETS {
            let (low, high) = (lower_bound(at - 1), lower_bound(at));
            assert!(
                low < high && (high - low) * STEPS as u64 <= low.max(STEPS as u64),
                "{at}: {low} to {high}"
            );
            assert_eq!(bucket(us(high)), at);
        }
        for long in [1 << 32, 1 << 40, u64::MAX] {
            assert_eq!(bucket(us(long)), BUCKETS - 1);
        }
        assert_eq!(bucket(Duration::MAX), BUCKETS - 1);
    }

    /// Times of one kind of spread or another.
    fn times(random: &mut fastrand::Rng) -> Vec<u64> {
        let (count, shape, scale) = (random.usize(50..400), random.u8(..3), 1 << random.u32(0..24));
        let time = |_| match shape {
            0 => random.u64(0..scale),
            1 => scale,
            _ => (scale as f64 * -random.f64().max(1e-9).ln()) as u64,
        };
        (0..count).map(time).collect()
    }

    #[test]
    fn it_is_never_above_the_exact_median_and_a_sixteenth_below_it_at_most() {
        let mut random = fastrand::Rng::with_seed(2);
        for round in 0..300 {
            let workers = random.usize(1..4);
            let median = Median::new(workers);
            let mut times = times(&mut random);
            for (i, time) in times.iter().enumerate() {
                median.observe(i % workers, us(*time), Weight::One);
            }
            median.tick();
            times.sort_unstable();
            let exact = times[(times.len() - 1) / 2].max(1);
            let found = median.value().expect("there are enough").as_micros() as u64;
            assert!(found <= exact && (exact - found) * 16 <= exact, "round {round}: {found} for {exact}");
        }
    }

    #[test]
    fn the_window_is_the_last_ten_seconds_and_nothing_before() {
        let mut random = fastrand::Rng::with_seed(3);
        let median = Median::new(1);
        let mut seconds: Vec<Vec<u64>> = Vec::new();
        for _ in 0..60 {
            let count = if random.u8(..4) == 0 { 0 } else { random.usize(..40) };
            let times = (0..count).map(|_| random.u64(..1 << 19) >> random.u32(..19));
            seconds.push(times.collect());
            for time in seconds.last().into_iter().flatten() {
                median.observe(0, us(*time), Weight::One);
            }
            median.tick();
            let mut window: Vec<u64> = seconds.iter().rev().take(WINDOW_S).flatten().copied().collect();
            window.sort_unstable();
            let exact = (window.len() as u64 >= SAMPLES_MIN).then(|| {
                let exact = window[(window.len() - 1) / 2];
                us(lower_bound(bucket(us(exact))).max(1))
            });
            assert_eq!(median.value(), exact, "{} calls in the window", window.len());
        }
    }

    #[test]
    fn what_nobody_adds_to_is_forgotten_so_that_a_rule_that_sheds_all_heals() {
        let median = Median::new(1);
        for _ in 0..SAMPLES_MIN {
            median.observe(0, us(5_000), Weight::One);
        }
        assert_eq!(median.value(), None, "nothing is said before a tick");
        for second in 0..WINDOW_S {
            median.tick();
            assert!(median.value().is_some(), "second {second}");
        }
        median.tick();
        assert_eq!(median.value(), None);
    }

    #[test]
    fn one_of_sixteen_that_would_be_shed_goes_through_and_counts_for_all_of_them() {
        let median = Median::new(1);
        let probes: Vec<u64> = (1..=64).filter(|_| median.probe(0)).collect();
        assert_eq!(probes, [16, 32, 48, 64]);
        // Slow calls alone would keep the median where a bad moment has put it.
        for _ in 0..60 {
            median.observe(0, us(1_000_000), Weight::One);
        }
        (0..4).for_each(|_| median.observe(0, us(10_000), Weight::Probe));
        median.tick();
        assert!(median.value().is_some_and(|median| median < us(11_000)), "{:?}", median.value());
    }
}
