//! How many certificates may be asked for: by all together, and by one workload.

use std::collections::HashMap;
use std::time::Instant;

use config::spiffe::SpiffeId;

/// Workloads that are counted apart; what has not asked for a while is forgotten.
const IDENTITIES_MAX: usize = 100_000;
/// What may come at once, in seconds of the rate: all replicas of a service start together.
const BURST_SECONDS: f64 = 10.0;

/// What may come per second, in the long run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rates {
    pub(crate) all: u32,
    pub(crate) identity: u32,
}

/// Buckets that fill at a steady rate.
#[derive(Debug)]
pub(crate) struct Rate {
    rates: Rates,
    all: Bucket,
    each: HashMap<SpiffeId, Bucket>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    fn full(per_second: u32, now: Instant) -> Self {
        Self { left: f64::from(per_second) * BURST_SECONDS, at: now }
    }

    fn fill(&mut self, per_second: u32, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        let most = f64::from(per_second) * BURST_SECONDS;
        (self.left, self.at) = ((self.left + passed * f64::from(per_second)).min(most), now);
    }

    fn is_full(&self, per_second: u32, now: Instant) -> bool {
        let mut then = *self;
        then.fill(per_second, now);
        then.left >= f64::from(per_second) * BURST_SECONDS
    }
}

impl Rate {
    pub(crate) fn new(rates: Rates, now: Instant) -> Self {
        Self { rates, all: Bucket::full(rates.all, now), each: HashMap::new() }
    }

    /// Takes one request of a workload, or says which limit is reached.
    pub(crate) fn take(&mut self, id: &SpiffeId, now: Instant) -> Result<(), &'static str> {
        self.look(id, now)?;
        if let Some(own) = self.each.get_mut(id) {
            own.left -= 1.0;
        }
        self.all.left -= 1.0;
        Ok(())
    }

    /// Says which limit is reached, if one is.
    pub(crate) fn look(&mut self, id: &SpiffeId, now: Instant) -> Result<(), &'static str> {
        let Rates { all, identity } = self.rates;
        if self.each.len() >= IDENTITIES_MAX && !self.each.contains_key(id) {
            self.each.retain(|_, bucket| !bucket.is_full(identity, now));
            if self.each.len() >= IDENTITIES_MAX {
                return Err("csrs_per_second");
            }
        }
        let own = self.each.entry(id.clone()).or_insert_with(|| Bucket::full(identity, now));
        own.fill(identity, now);
        self.all.fill(all, now);
        // One that asks too often shall not use up what is there for the others.
        if own.left < 1.0 {
            return Err("csrs_per_identity");
        }
        if self.all.left < 1.0 {
            return Err("csrs_per_second");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn id(account: &str) -> SpiffeId {
        SpiffeId::of_account("cluster.local", "shop", account)
    }

    #[test]
    fn one_workload_that_asks_without_end_leaves_room_for_the_others() {
        let begin = Instant::now();
        let mut rate = Rate::new(Rates { all: 10, identity: 1 }, begin);
        let taken = (0..1_000).filter(|_| rate.take(&id("a"), begin).is_ok()).count();
        assert_eq!(taken, 10);
        assert_eq!(rate.take(&id("a"), begin), Err("csrs_per_identity"));
        assert_eq!(rate.take(&id("b"), begin), Ok(()));
        assert_eq!(rate.take(&id("a"), begin + Duration::from_secs(1)), Ok(()));
    }

    #[test]
    fn all_together_have_a_rate_too() {
        let begin = Instant::now();
        let mut rate = Rate::new(Rates { all: 1, identity: 1 }, begin);
        for n in 0..10 {
            assert_eq!(rate.take(&id(&format!("a{n}")), begin), Ok(()));
        }
        assert_eq!(rate.take(&id("b"), begin), Err("csrs_per_second"));
    }
}
