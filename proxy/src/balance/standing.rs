//! Whether an endpoint is fit for calls, and since when.
//!
//! An endpoint is *fit* while it has no mark. Marks change rarely, by the control thread or by the worker whose call ejects the
//! endpoint; every call reads what came of them, once it has been counted for a cluster (`balance::fitness`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::clock::Nanos;

/// What speaks against an endpoint. A set of them is the sum.
pub(crate) type Marks = u32;

/// Its checks say that it is not well.
pub(crate) const UNHEALTHY: Marks = 1;
/// It is left alone as an outlier.
pub(crate) const EJECTED: Marks = 2;

/// How often the standing of some endpoint of a service has changed; of all snapshots that have the service.
/// Every call reads it, so nothing that is written often shares its cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Changes(AtomicU64);

impl Changes {
    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    fn note(&self) {
        self.0.fetch_add(1, Ordering::Release);
    }
}

/// The standing of one endpoint.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    marks: AtomicU32,
    /// When it joined others or became fit again, from which its slow start counts; 0: it never did.
    since: AtomicU64,
    changes: Arc<Changes>,
}

impl Standing {
    /// Of an endpoint of the service whose changes these are.
    pub(crate) fn new(changes: Arc<Changes>) -> Self {
        Self { changes, ..Self::default() }
    }

    pub(crate) fn has(&self, marks: Marks) -> bool {
        self.marks.load(Ordering::Relaxed) & marks != 0
    }

    /// Notes that it joins others that were there before it.
    pub(crate) fn join(&self, now: Nanos) {
        self.since.store(now, Ordering::Relaxed);
        self.changes.note();
    }

    pub(crate) fn mark(&self, mark: Marks) {
        if self.marks.fetch_or(mark, Ordering::Relaxed) & mark == 0 {
            self.changes.note();
        }
    }

    /// Takes a mark away: it is back, and starts slowly from `now`.
    pub(crate) fn unmark(&self, mark: Marks, now: Nanos) {
        if self.marks.fetch_and(!mark, Ordering::Relaxed) & mark != 0 {
            self.since.store(now, Ordering::Relaxed);
            self.changes.note();
        }
    }

    pub(crate) fn since(&self) -> Nanos {
        self.since.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_counts_as_a_change_once_and_its_end_begins_a_slow_start() {
        let changes = Arc::new(Changes::default());
        let standing = Standing::new(changes.clone());
        standing.unmark(EJECTED, 5);
        assert_eq!((changes.count(), standing.since()), (0, 0), "there was none to take away");
        standing.mark(EJECTED);
        standing.mark(EJECTED);
        assert_eq!(changes.count(), 1);
        assert!(standing.has(EJECTED) && !standing.has(UNHEALTHY));
        standing.unmark(EJECTED, 7);
        assert_eq!((changes.count(), standing.since()), (2, 7));
        assert!(!standing.has(EJECTED | UNHEALTHY));
    }
}
