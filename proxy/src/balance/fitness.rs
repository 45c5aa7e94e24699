//! Who of a cluster's members takes calls now, and with which weight: the fit ones, each with the part that its slow start has come
//! to; all of them, where too few are fit (panic).
//!
//! It is worked out when the standing of an endpoint has changed, and step by step while one starts slowly, by the worker that notices
//! it first. Calls read what it came to. No lock: a view carries the count of changes that it knows of, and one that is
//! out of date is made anew.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use config::health::SlowStart;

use crate::balance::slow_start;
use crate::balance::standing::{Changes, Marks};
use crate::balance::weights::Weights;
use crate::clock::Nanos;
use crate::endpoint::Endpoint;

/// The whole of a weight of 1, so that a part of it is a number too.
const WHOLE: u32 = 1_000;
/// A count of changes that no service comes to.
const NEVER: u64 = u64::MAX;

/// What a cluster goes by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// The marks that count.
    pub(crate) marks: Marks,
    /// Where a smaller share of the members is fit, all are used; in parts per million.
    pub(crate) panic_ppm: u32,
    pub(crate) slow_start: Option<SlowStart>,
}

/// The fitness of one cluster's members.
#[derive(Debug)]
pub(crate) struct Fitness {
    rules: Rules,
    changes: Arc<Changes>,
    /// The count of changes at which nothing was to be minded.
    plain: AtomicU64,
    view: ArcSwapOption<View>,
}

/// Who takes calls, where that is not each member by its weight.
#[derive(Debug)]
pub(crate) struct View {
    changes: u64,
    /// When it is out of date, because someone starts slowly.
    due: Nanos,
    /// The members' weights now; 0: not fit.
    pub(crate) weights: Weights,
    /// Too few are fit, and the others are used as well.
    pub(crate) panic: bool,
}

impl Fitness {
    pub(crate) fn new(rules: Rules, changes: Arc<Changes>) -> Self {
        Self { rules, changes, plain: AtomicU64::new(NEVER), view: ArcSwapOption::empty() }
    }

    /// Hands over who takes calls at `now`; `None`: every member by its weight.
    pub(crate) fn look<T>(
        &self,
        members: &[Arc<Endpoint>],
        weights: &[u32],
        now: Nanos,
        then: impl FnOnce(Option<&View>) -> T,
    ) -> T {
        let changes = self.changes.count();
        if self.plain.load(Ordering::Relaxed) == changes {
            return then(None);
        }
        if let Some(known) = &*self.view.load()
            && known.changes == changes
            && now < known.due
        {
            return then(Some(known));
        }
        let view = View::new(&self.rules, members, weights, changes, now).map(Arc::new);
        if view.is_none() {
            self.plain.store(changes, Ordering::Relaxed);
        }
        self.view.store(view.clone());
        then(view.as_deref())
    }

    /// Whether a member has a mark that counts.
    pub(crate) fn is_unfit(&self, member: &Endpoint) -> bool {
        member.standing.has(self.rules.marks)
    }

    /// The part of its weight that a member has.
    pub(crate) fn part(&self, member: &Endpoint, now: Nanos) -> f64 {
        self.rules.slow_start.map_or(1.0, |rule| slow_start::factor(&rule, member.standing.since(), now))
    }
}

impl View {
    /// `None` where every member is fit and has the whole of its weight, or where there is no other.
    fn new(
        rules: &Rules,
        members: &[Arc<Endpoint>],
        weights: &[u32],
        changes: u64,
        now: Nanos,
    ) -> Option<Self> {
        if members.len() == 1 {
            return None;
        }
        let unfit: Vec<bool> = members.iter().map(|member| member.standing.has(rules.marks)).collect();
        let counted = weights.iter().filter(|weight| **weight > 0).count() as u64;
        let fit =
            weights.iter().zip(&unfit).filter(|(weight, unfit)| **weight > 0 && !**unfit).count() as u64;
        let panic = fit * 1_000_000 < u64::from(rules.panic_ppm) * counted;
        let mut due = Nanos::MAX;
        let now_have = std::iter::zip(members, weights).zip(&unfit).map(|((member, weight), unfit)| {
            if *unfit && !panic || *weight == 0 {
                return 0;
            }
            let part = rules.slow_start.map_or(1.0, |rule| {
                let part = slow_start::factor(&rule, member.standing.since(), now);
                if part < 1.0 {
                    due = now.saturating_add(slow_start::step(&rule));
                }
                part
            });
            // Never nothing: that would be unfit.
            ((f64::from(*weight) * f64::from(WHOLE) * part) as u32).max(1)
        });
        let now_have: Vec<u32> = now_have.collect();
        if fit == counted && due == Nanos::MAX {
            return None;
        }
        Some(Self { changes, due, weights: Weights::new(&now_have), panic })
    }
}
