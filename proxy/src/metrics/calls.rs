//! Series of calls: one per direction, service, peer and method, and a copy of each per worker.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::grpc::status::{CODES, Code};
use crate::metrics::counter::Counter;

/// Which way a call went through the sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Direction {
    /// From the mesh to the app.
    Inbound,
    /// From the app to the mesh.
    Outbound,
}

impl Direction {
    /// The word in labels and messages.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// What tells one series from another.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) direction: Direction,
    /// `NAME.NAMESPACE` of the service called.
    pub(crate) service: Arc<str>,
    /// Who calls; empty for outbound.
    pub(crate) peer: Arc<str>,
    /// `grpc_type`.
    pub(crate) kind: &'static str,
    /// `package.Service/Method` as called, or [`OTHER`].
    pub(crate) method: Arc<str>,
}

/// The method (and peer) under which calls are counted once the cap on series is reached.
pub(crate) const OTHER: &str = "other";

/// Upper bounds of the latency buckets, in microseconds.
pub(crate) const BUCKETS_US: [u64; 16] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000, 30_000_000, 60_000_000,
];

/// One worker's counters of one series.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Series {
    pub(crate) started: Counter,
    pub(crate) handled: [Counter; CODES],
    pub(crate) received: Counter,
    pub(crate) sent: Counter,
    /// Not cumulative; the last one is what exceeds every bound.
    pub(crate) buckets: [Counter; BUCKETS_US.len() + 1],
    pub(crate) total_us: Counter,
}

impl Series {
    /// Counts the end of a call.
    pub(crate) fn end(&self, code: Code, took: Duration) {
        let us = took.as_micros() as u64;
        self.handled[usize::from(code.number())].add(1);
        self.buckets[BUCKETS_US.iter().position(|bound| us <= *bound).unwrap_or(BUCKETS_US.len())].add(1);
        self.total_us.add(us);
    }
}

/// All series of the sidecar. Locked when a worker meets a method for the first time, and by a scrape.
#[derive(Debug)]
pub(crate) struct Registry {
    workers: usize,
    cap: usize,
    series: Mutex<HashMap<Key, Box<[Arc<Series>]>>>,
}

impl Registry {
    /// `cap` is the number of series in all, those named `other` not counted.
    pub(crate) fn new(workers: usize, cap: usize) -> Self {
        Self { workers, cap, series: Mutex::default() }
    }

    /// The counters of `worker` for `key`. Past the cap: those of the method `other` of the same service and
    /// peer, then of the peer `other` too, and `false`.
    pub(crate) fn series(&self, worker: usize, key: &Key) -> (Arc<Series>, bool) {
        let mut all = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = all.get(key) {
            return (found[worker].clone(), true);
        }
        if all.len() < self.cap {
            return (insert(&mut all, key.clone(), self.workers)[worker].clone(), true);
        }
        (find_other(&mut all, worker, self.workers, key), false)
    }

    /// The counters of `worker` for calls of no method of their own, to the service of `key`.
    pub(crate) fn other(&self, worker: usize, key: &Key) -> Arc<Series> {
        let mut all = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        find_other(&mut all, worker, self.workers, key)
    }

    /// Calls `each` with every series and its copies, in the order of the keys.
    pub(crate) fn for_each(&self, mut each: impl FnMut(&Key, &[Arc<Series>])) {
        let all = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = all.iter().map(|(key, copies)| (key.clone(), copies.clone())).collect();
        // No longer locked: a worker that meets a new method does not wait for a scrape.
        all.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        for (key, copies) in &all {
            each(key, copies);
        }
    }
}

fn find_other(
    all: &mut HashMap<Key, Box<[Arc<Series>]>>,
    worker: usize,
    workers: usize,
    key: &Key,
) -> Arc<Series> {
    let peer: Arc<str> = if key.peer.is_empty() { "".into() } else { OTHER.into() };
    let other = Key { peer, kind: "unknown", method: OTHER.into(), ..key.clone() };
    match all.get(&other) {
        Some(found) => found[worker].clone(),
        None => insert(all, other, workers)[worker].clone(),
    }
}

fn insert(all: &mut HashMap<Key, Box<[Arc<Series>]>>, key: Key, workers: usize) -> &[Arc<Series>] {
    all.entry(key).or_insert_with(|| (0..workers).map(|_| Arc::default()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(method: &str) -> Key {
        Key {
            direction: Direction::Inbound,
            service: "orders.shop".into(),
            peer: "users.shop".into(),
            kind: "unary",
            method: method.into(),
        }
    }

    #[test]
    fn past_the_cap_a_new_method_counts_as_other() {
        let registry = Registry::new(1, 2);
        assert!(registry.series(0, &key("a/A")).1);
        assert!(registry.series(0, &key("a/B")).1);
        let (other, within) = registry.series(0, &key("a/C"));
        assert!(!within);
        other.started.add(1);
        registry.series(0, &key("a/D")).0.started.add(1);
        assert!(registry.series(0, &key("a/A")).1, "a known method keeps its series");
        let mut seen = Vec::new();
        registry.for_each(|key, copies| seen.push((key.method.to_string(), copies[0].started.value())));
        assert_eq!(seen, [("other".to_owned(), 2), ("a/A".to_owned(), 0), ("a/B".to_owned(), 0)]);
    }

    #[test]
    fn a_call_lands_in_the_first_bucket_that_holds_it() {
        let series = Series::default();
        series.end(Code::Ok, Duration::from_micros(500));
        series.end(Code::Ok, Duration::from_micros(501));
        series.end(Code::NotFound, Duration::from_secs(61));
        assert_eq!(series.buckets[0].value(), 1);
        assert_eq!(series.buckets[1].value(), 1);
        assert_eq!(series.buckets[BUCKETS_US.len()].value(), 1);
        assert_eq!(series.handled[0].value(), 2);
    }
}
