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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use config::model::BalancingPolicy;

    use super::*;
    use crate::balance::picker::{ALL, Picker, Tried};
    use crate::balance::standing::{EJECTED, UNHEALTHY};

    const SECOND: Nanos = 1_000_000_000;

    /// A cluster as calls see it.
    struct Cluster {
        members: Vec<Arc<Endpoint>>,
        weights: Vec<u32>,
        fitness: Fitness,
        picker: Picker,
        random: fastrand::Rng,
        turn: u64,
    }

    impl Cluster {
        fn new(policy: BalancingPolicy, weights: &[u32], panic_ppm: u32, slow: Option<SlowStart>) -> Self {
            let changes = Arc::<Changes>::default();
            let member = |i| Endpoint::new(([127, 0, 0, 1], 1 + i as u16).into(), false, changes.clone());
            let rules = Rules { marks: UNHEALTHY | EJECTED, panic_ppm, slow_start: slow };
            Self {
                members: (0..weights.len()).map(|i| Arc::new(member(i))).collect(),
                weights: weights.to_vec(),
                fitness: Fitness::new(rules, changes),
                picker: Picker::new(policy, Weights::new(weights)),
                random: fastrand::Rng::with_seed(7),
                turn: 0,
            }
        }

        fn pick(&mut self, tried: &Tried, now: Nanos) -> Option<usize> {
            let Self { members, weights, fitness, picker, random, turn } = self;
            fitness.look(members, weights, now, |view| picker.pick(members, view, tried, turn, random, now))
        }

        /// How often each is picked.
        fn picks(&mut self, times: usize, now: Nanos) -> Vec<usize> {
            let mut picks = vec![0; self.members.len()];
            for _ in 0..times {
                picks[self.pick(&Tried::default(), now).unwrap()] += 1;
            }
            picks
        }

        fn panics(&self, now: Nanos) -> bool {
            self.fitness.look(&self.members, &self.weights, now, |view| view.is_some_and(|view| view.panic))
        }
    }

    fn minute(aggression: f64, min_weight_ppm: u32) -> Option<SlowStart> {
        Some(SlowStart { window: Duration::from_secs(60), aggression, min_weight_ppm })
    }

    #[test]
    fn who_is_not_fit_is_passed_over_and_the_others_keep_their_shares() {
        for policy in ALL {
            let mut cluster = Cluster::new(policy, &[1, 2, 1, 1, 1], 500_000, None);
            cluster.members[0].standing.mark(EJECTED);
            cluster.members[4].set_healthy(false, 1);
            let picks = cluster.picks(40_000, 5);
            assert_eq!((picks[0], picks[4]), (0, 0), "{policy}");
            for (member, share) in [(1, 20_000), (2, 10_000), (3, 10_000)] {
                assert!(picks[member].abs_diff(share) < 600, "{policy}: {picks:?}");
            }
            cluster.members[0].standing.unmark(EJECTED, 6);
            cluster.members[4].set_healthy(true, 6);
            let picks = cluster.picks(60_000, 7);
            assert!(
                picks[0].abs_diff(10_000) < 600 && picks[4].abs_diff(10_000) < 600,
                "{policy}: {picks:?}"
            );
        }
    }

    #[test]
    fn below_the_threshold_and_not_at_it_all_are_used() {
        for policy in ALL {
            let mut cluster = Cluster::new(policy, &[1, 1, 1, 1, 0], 500_000, None);
            // One without a weight is not counted.
            cluster.members[4].standing.mark(EJECTED);
            assert!(!cluster.panics(1));
            cluster.members[0].standing.mark(EJECTED);
            cluster.members[1].standing.mark(EJECTED);
            assert!(!cluster.panics(1), "{policy}: half of four");
            assert_eq!(cluster.picks(1_000, 1)[..2], [0, 0]);
            cluster.members[2].standing.mark(EJECTED);
            assert!(cluster.panics(1), "{policy}");
            let picks = cluster.picks(40_000, 1);
            assert!(picks[..4].iter().all(|count| count.abs_diff(10_000) < 600), "{policy}: {picks:?}");
            assert_eq!(picks[4], 0);
        }
    }

    #[test]
    fn without_panic_who_is_not_fit_is_still_the_last_resort() {
        for policy in ALL {
            let mut cluster = Cluster::new(policy, &[1, 1, 1], 0, None);
            cluster.members.iter().for_each(|member| member.standing.mark(UNHEALTHY));
            assert!(!cluster.panics(1));
            let picks = cluster.picks(3_000, 1);
            assert!(picks.iter().all(|count| count.abs_diff(1_000) < 200), "{policy}: {picks:?}");
            cluster.members[1].set_healthy(true, 2);
            assert_eq!(cluster.picks(100, 2), [0, 100, 0], "{policy}");
            // One that cools down has been well a moment ago.
            cluster.members[1].cooling.fail(3, 0);
            assert_eq!(cluster.picks(100, 3), [0, 100, 0], "{policy}");
            let mut tried = Tried::default();
            tried.add(1);
            let second = cluster.pick(&tried, 3);
            assert!(second.is_some_and(|second| second != 1), "{policy}: {second:?}");
        }
    }

    #[test]
    fn a_member_that_stands_alone_is_used_whatever_speaks_against_it() {
        let mut cluster = Cluster::new(BalancingPolicy::LeastRequest, &[1], 500_000, None);
        cluster.members[0].standing.mark(EJECTED);
        assert_eq!(cluster.pick(&Tried::default(), 1), Some(0));
        assert!(!cluster.panics(1));
    }

    #[test]
    fn marks_that_the_cluster_does_not_mind_do_not_count() {
        let mut cluster = Cluster::new(BalancingPolicy::RoundRobin, &[1, 1], 500_000, None);
        cluster.fitness.rules.marks = UNHEALTHY;
        cluster.members[0].standing.mark(EJECTED);
        assert_eq!(cluster.picks(10, 1), [5, 5]);
    }

    /// A quarter of the window, in a straight line: a quarter of a weight of one beside three whole ones.
    #[test]
    fn a_newcomer_takes_its_part_whatever_the_policy_and_the_whole_at_the_end() {
        for policy in ALL {
            let mut cluster = Cluster::new(policy, &[1, 1, 1, 1], 500_000, minute(1.0, 100_000));
            assert!(cluster.fitness.look(&cluster.members, &cluster.weights, 1, |view| view.is_none()));
            cluster.members[2].standing.join(SECOND);
            let total = 65_000.0;
            for (seconds, part) in
                [(0, 0.1), (3, 0.1), (15, 0.25), (30, 0.5), (45, 0.75), (60, 1.0), (600, 1.0)]
            {
                let picks = cluster.picks(total as usize, (1 + seconds) * SECOND);
                let share = picks[2] as f64 / total;
                let right = part / (3.0 + part);
                assert!((share - right).abs() < 0.01, "{policy} after {seconds} s: {share} for {right}");
            }
            assert!(
                cluster.fitness.look(&cluster.members, &cluster.weights, 601 * SECOND, |view| view.is_none())
            );
        }
    }

    #[test]
    fn calls_in_flight_weigh_more_on_a_newcomer() {
        for policy in [BalancingPolicy::LeastRequest, BalancingPolicy::PeakEwma] {
            let mut cluster = Cluster::new(policy, &[1, 1, 1], 500_000, minute(1.0, 0));
            cluster.members[0].standing.join(SECOND);
            for _ in 0..500 {
                let member = cluster.pick(&Tried::default(), 31 * SECOND).unwrap();
                cluster.members[member].begin();
            }
            for (member, share) in cluster.members.iter().zip([100, 200, 200]) {
                assert!(member.in_flight().abs_diff(share) < 12, "{policy}: {}", member.in_flight());
            }
        }
    }

    #[test]
    fn one_that_is_back_starts_slowly_too() {
        let mut cluster = Cluster::new(BalancingPolicy::Random, &[1, 1], 0, minute(1.0, 100_000));
        cluster.members[0].set_healthy(false, SECOND);
        assert_eq!(cluster.picks(1_000, SECOND), [0, 1_000]);
        cluster.members[0].set_healthy(true, 2 * SECOND);
        let picks = cluster.picks(11_000, 2 * SECOND);
        assert!(picks[0].abs_diff(1_000) < 150, "{picks:?}");
    }

    /// Whatever happens in whatever order, a call sees what is true now.
    #[test]
    fn a_view_is_never_older_than_the_last_change() {
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let n = random.usize(2..8);
            let weights: Vec<u32> = (0..n).map(|_| random.u32(0..4)).collect();
            let cluster = Cluster::new(BalancingPolicy::Random, &weights, random.u32(..=1_000_000), None);
            for now in 1..300 {
                let member = &cluster.members[random.usize(..n)];
                match random.u8(..4) {
                    0 => member.standing.mark(EJECTED),
                    1 => member.standing.unmark(EJECTED, now),
                    2 => member.set_healthy(false, now),
                    _ => member.set_healthy(true, now),
                }
                let fit = |i: usize| weights[i] > 0 && !cluster.fitness.is_unfit(&cluster.members[i]);
                let counted = weights.iter().filter(|weight| **weight > 0).count();
                let share = (0..n).filter(|i| fit(*i)).count() as u64 * 1_000_000;
                let panic = share < u64::from(cluster.fitness.rules.panic_ppm) * counted as u64;
                cluster.fitness.look(&cluster.members, &weights, now, |view| {
                    assert_eq!(view.is_some_and(|view| view.panic), panic, "seed {seed}");
                    for (i, weight) in weights.iter().enumerate() {
                        let used = view.map_or(*weight > 0, |view| view.weights.is_in(i));
                        assert_eq!(used, fit(i) || panic && *weight > 0, "seed {seed}, member {i}");
                    }
                });
            }
        }
    }

    #[test]
    fn workers_that_look_while_others_change_see_the_last_change_in_the_end() {
        let cluster = Cluster::new(BalancingPolicy::Random, &[1; 5], 0, None);
        std::thread::scope(|threads| {
            for worker in 0..4 {
                let cluster = &cluster;
                threads.spawn(move || {
                    let mut random = fastrand::Rng::with_seed(worker);
                    for now in 1..20_000 {
                        let standing = &cluster.members[random.usize(..5)].standing;
                        match random.u8(..8) {
                            0 => standing.mark(EJECTED),
                            1 => standing.unmark(EJECTED, now),
                            _ => cluster.fitness.look(&cluster.members, &cluster.weights, now, |_| {}),
                        }
                    }
                });
            }
        });
        cluster.fitness.look(&cluster.members, &cluster.weights, 30_000, |view| {
            for (i, member) in cluster.members.iter().enumerate() {
                let used = view.is_none_or(|view| view.weights.is_in(i));
                assert_eq!(used, !member.standing.has(EJECTED), "member {i}");
            }
        });
    }
}
