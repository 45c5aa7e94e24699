//! How fast the requests of one stream are read.

use std::time::{Duration, Instant};

/// A bucket of requests that fills at a steady rate.
#[derive(Debug)]
pub(crate) struct Pace {
    per_second: f64,
    burst: f64,
    left: f64,
    at: Instant,
}

impl Pace {
    /// A full bucket.
    pub(crate) fn new(per_second: u32, burst: u32, now: Instant) -> Self {
        let burst = f64::from(burst.max(1));
        Self { per_second: f64::from(per_second.max(1)), burst, left: burst, at: now }
    }

    /// Takes a request that was read. `Some`: the next one is read then, and not before.
    pub(crate) fn take(&mut self, now: Instant) -> Option<Instant> {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + passed * self.per_second).min(self.burst) - 1.0;
        self.at = now;
        (self.left < 1.0).then(|| now + Duration::from_secs_f64((1.0 - self.left) / self.per_second))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_only_the_rate() {
        let begin = Instant::now();
        let (mut pace, mut now) = (Pace::new(10, 5, begin), begin);
        let mut read = 0;
        while now < begin + Duration::from_secs(10) {
            read += 1;
            now = pace.take(now).unwrap_or(now);
        }
        assert!((103..=106).contains(&read), "{read}: 5 at once and 10 a second");
        assert_eq!(pace.take(now + Duration::from_secs(1)), None, "a pause fills the bucket again");
    }
}
