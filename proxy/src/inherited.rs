//! The deadlines of inbound calls by trace, so that what the app calls on their behalf can end with them.
//!
//! An outbound call belongs to one of the inbound calls of its trace, and nothing says to which. So the latest of their
//! deadlines counts, and none at all while one of them has none: no call is cut that had more time.
//!
//! All workers write here, since an app's call need not come to the worker that has the call it is made for. Only where
//! the mesh says `inherit` somewhere is anything kept, under one of several locks, each held for a few instructions.

use std::collections::hash_map::{Entry, RandomState};
use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasher as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

/// Inbound calls whose deadlines are kept; what is called on behalf of those past it has the default.
pub(crate) const INHERITED_MAX: usize = 64 << 10;

const SHARDS: usize = 64;

/// The deadlines of the inbound calls that are open.
#[derive(Debug)]
pub(crate) struct Inherited {
    /// Callers choose the traces' ids: hashed with a key of our own.
    hasher: RandomState,
    shards: [Shard; SHARDS],
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard(Mutex<Traces>);

impl Default for Inherited {
    fn default() -> Self {
        Self { hasher: RandomState::new(), shards: std::array::from_fn(|_| Shard::default()) }
    }
}

#[derive(Debug, Default)]
struct Traces {
    open: HashMap<u128, Calls>,
    /// Calls of all of them.
    calls: usize,
}

/// The open inbound calls of one trace.
#[derive(Debug, Default)]
struct Calls {
    /// How many have no deadline.
    endless: usize,
    /// One found no place, so nobody knows which is the latest until all have ended.
    unsure: bool,
    /// How many have each deadline.
    ends: BTreeMap<Instant, usize>,
}

/// An inbound call that is kept until this is dropped.
#[derive(Debug)]
pub(crate) struct Entered<'a> {
    inherited: &'a Inherited,
    trace: u128,
    deadline: Option<Instant>,
}

impl Inherited {
    /// Keeps a call with its deadline; `None`: there are too many.
    pub(crate) fn enter(&self, trace: u128, deadline: Option<Instant>) -> Option<Entered<'_>> {
        let mut traces = self.traces(trace);
        if traces.calls >= INHERITED_MAX / SHARDS {
            if let Some(calls) = traces.open.get_mut(&trace) {
                calls.unsure = true;
            }
            return None;
        }
        traces.calls += 1;
        let calls = traces.open.entry(trace).or_default();
        match deadline {
            None => calls.endless += 1,
            Some(deadline) => *calls.ends.entry(deadline).or_default() += 1,
        }
        Some(Entered { inherited: self, trace, deadline })
    }

    /// The latest deadline of the trace's calls; `None`: there is none, or one of them has none.
    pub(crate) fn latest(&self, trace: u128) -> Option<Instant> {
        let traces = self.traces(trace);
        let calls = traces.open.get(&trace).filter(|calls| calls.endless == 0 && !calls.unsure)?;
        calls.ends.last_key_value().map(|(deadline, _)| *deadline)
    }

    fn traces(&self, trace: u128) -> MutexGuard<'_, Traces> {
        let shard = self.hasher.hash_one(trace) as usize % SHARDS;
        self.shards[shard].0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let mut traces = self.inherited.traces(self.trace);
        traces.calls -= 1;
        let Entry::Occupied(mut calls) = traces.open.entry(self.trace) else { return };
        if calls.get_mut().leave(self.deadline) {
            calls.remove();
        }
    }
}

impl Calls {
    /// Takes one call out; `true`: that was the last.
    fn leave(&mut self, deadline: Option<Instant>) -> bool {
        match deadline {
            None => self.endless -= 1,
            Some(deadline) => {
                if let Some(count) = self.ends.get_mut(&deadline) {
                    *count -= 1;
                    if *count == 0 {
                        self.ends.remove(&deadline);
                    }
                }
            }
        }
        self.endless == 0 && self.ends.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_latest_deadline_counts_and_none_while_a_call_has_none() {
        let (inherited, now) = (Inherited::default(), Instant::now());
        let at = |seconds| Some(now + Duration::from_secs(seconds));
        assert_eq!(inherited.latest(7), None);
        let first = inherited.enter(7, at(5));
        let second = inherited.enter(7, at(9));
        let again = inherited.enter(7, at(9));
        assert_eq!((inherited.latest(7), inherited.latest(8)), (at(9), None));
        let endless = inherited.enter(7, None);
        assert_eq!(inherited.latest(7), None);
        drop((endless, second));
        assert_eq!(inherited.latest(7), at(9), "one of two that end then is left");
        drop(again);
        assert_eq!(inherited.latest(7), at(5));
        drop(first);
        assert_eq!(inherited.latest(7), None);
        assert!(inherited.shards.iter().all(|shard| shard.0.lock().unwrap().open.is_empty()));
    }

    #[test]
    fn while_a_call_of_a_trace_found_no_place_nothing_is_inherited_of_the_others() {
        let (inherited, deadline) = (Inherited::default(), Some(Instant::now()));
        let entered: Vec<_> = (0..).map_while(|_| inherited.enter(1, deadline)).collect();
        assert_eq!(inherited.latest(1), None, "the one that found no place may have more time");
        drop(entered);
        let again = inherited.enter(1, deadline);
        assert_eq!(inherited.latest(1), deadline);
        drop(again);
    }

    #[test]
    fn what_is_kept_is_bounded_and_room_comes_back() {
        let inherited = Inherited::default();
        let mut entered: Vec<_> = (0..).map_while(|_| inherited.enter(1, None)).collect();
        assert_eq!(entered.len(), INHERITED_MAX / SHARDS, "one trace cannot fill more than its shard");
        entered.pop();
        assert!(inherited.enter(1, None).is_some());
        entered.extend((0..INHERITED_MAX as u128 * 2).filter_map(|trace| inherited.enter(trace, None)));
        assert_eq!(entered.len(), INHERITED_MAX);
        drop(entered);
        assert!(inherited.shards.iter().all(|shard| shard.0.lock().unwrap().calls == 0));
    }
}
