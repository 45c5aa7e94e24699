//! Picks an endpoint for one attempt.

use std::sync::Arc;

use config::model::BalancingPolicy;

use crate::balance::fitness::View;
use crate::balance::weights::Weights;
use crate::clock::Nanos;
use crate::endpoint::Endpoint;

/// Attempts of one call that may fail before anything was sent.
pub(crate) const TRIES_MAX: usize = 5;
/// Draws before the members are looked through one by one.
const DRAWS_MAX: usize = 4;

/// Members that are remembered of one call: ten attempts, one that was refused, and those that could not be reached.
const TRIED_MAX: usize = 16;

/// The members of a cluster that a call has been tried on.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tried {
    members: [u32; TRIED_MAX],
    count: usize,
}

impl Tried {
    /// Notes a member. Past [`TRIED_MAX`] the oldest is forgotten.
    pub(crate) fn add(&mut self, member: usize) {
        self.members[self.count % TRIED_MAX] = member as u32;
        self.count += 1;
    }

    pub(crate) fn contains(&self, member: usize) -> bool {
        self.members[..self.count.min(TRIED_MAX)].contains(&(member as u32))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Those of both.
    pub(crate) fn and(&self, others: &Self) -> Self {
        let mut all = *self;
        others.members[..others.count.min(TRIED_MAX)].iter().for_each(|member| all.add(*member as usize));
        all
    }

    /// The one that was noted last.
    pub(crate) fn last(&self) -> Option<usize> {
        self.count.checked_sub(1).map(|last| self.members[last % TRIED_MAX] as usize)
    }
}

/// A cluster's policy and weights.
#[derive(Debug)]
pub(crate) struct Picker {
    policy: BalancingPolicy,
    weights: Weights,
}

impl Picker {
    pub(crate) fn new(policy: BalancingPolicy, weights: Weights) -> Self {
        Self { policy, weights }
    }

    /// The member to try next: not tried yet and, while there is one, fit and not cooling; `None` when all have
    /// been tried. `view` says who is fit, where not all are; `turn` is the worker's own counter for this cluster.
    pub(crate) fn pick(
        &self,
        members: &[Arc<Endpoint>],
        view: Option<&View>,
        tried: &Tried,
        turn: &mut u64,
        random: &mut fastrand::Rng,
        now: Nanos,
    ) -> Option<usize> {
        if members.len() == 1 {
            return (self.weights.is_in(0) && tried.is_empty()).then_some(0);
        }
        // By these, nobody is drawn who is not fit.
        let weights = view.map_or(&self.weights, |view| &view.weights);
        let usable = |i: usize| !tried.contains(i) && !members[i].cooling.is_cooling(now);
        for _ in 0..DRAWS_MAX {
            let member = match self.policy {
                BalancingPolicy::RoundRobin => weights.turn(turn),
                BalancingPolicy::Random => weights.draw(random.u64(..)),
                BalancingPolicy::LeastRequest => {
                    better_of_two(weights, random, &usable, |i| weights.burden(i, members[i].in_flight()))
                }
                BalancingPolicy::PeakEwma => better_of_two(weights, random, &usable, |i| {
                    members[i].latency.load(now, weights.burden(i, members[i].in_flight()))
                }),
            };
            match member {
                Some(member) if usable(member) => return Some(member),
                Some(_) => {}
                None => break,
            }
        }
        let start = if members.is_empty() { 0 } else { random.usize(..members.len()) };
        let around = || (start..members.len()).chain(0..start).filter(|i| self.weights.is_in(*i));
        around().find(|i| weights.is_in(*i) && usable(*i)).or_else(|| {
            let last_resort = |i: &usize| (!weights.is_in(*i), members[*i].cooling.until());
            around().filter(|i| !tried.contains(*i)).min_by_key(last_resort)
        })
    }
}

/// Power of two choices (Mitzenmacher 2001): of two different members drawn by weight, the one with the smaller
/// load; of one usable and one not, the usable.
fn better_of_two(
    weights: &Weights,
    random: &mut fastrand::Rng,
    usable: &impl Fn(usize) -> bool,
    load: impl Fn(usize) -> f64,
) -> Option<usize> {
    let first = weights.draw(random.u64(..))?;
    let mut second = weights.draw(random.u64(..))?;
    if second == first {
        second = weights.draw(random.u64(..))?;
    }
    match (usable(first), usable(second)) {
        (true, false) => Some(first),
        (false, true) => Some(second),
        _ if load(second) < load(first) => Some(second),
        _ => Some(first),
    }
}

/// Every policy.
#[cfg(test)]
pub(crate) const ALL: [BalancingPolicy; 4] = [
    BalancingPolicy::RoundRobin,
    BalancingPolicy::Random,
    BalancingPolicy::LeastRequest,
    BalancingPolicy::PeakEwma,
];

#[cfg(test)]
mod tests {
    use super::*;

    fn members(n: usize) -> Vec<Arc<Endpoint>> {
        (0..n).map(|i| Arc::new(Endpoint::plain(([127, 0, 0, 1], 1 + i as u16).into()))).collect()
    }

    fn picker(policy: BalancingPolicy, weights: &[u32]) -> Picker {
        Picker::new(policy, Weights::new(weights))
    }

    #[test]
    fn no_member_is_tried_twice_and_then_there_is_none() {
        for policy in ALL {
            let (members, picker) = (members(4), picker(policy, &[1, 1, 1, 1]));
            let (mut tried, mut rng, mut turn) = (Tried::default(), fastrand::Rng::with_seed(3), 0);
            for _ in 0..4 {
                let member = picker.pick(&members, None, &tried, &mut turn, &mut rng, 1).unwrap();
                assert!(!tried.contains(member));
                tried.add(member);
            }
            assert_eq!(picker.pick(&members, None, &tried, &mut turn, &mut rng, 1), None, "{policy}");
        }
    }

    #[test]
    fn a_cooling_member_is_passed_over_until_all_cool() {
        for policy in ALL {
            let (members, picker) = (members(3), picker(policy, &[1, 1, 1]));
            let (tried, mut rng, mut turn) = (Tried::default(), fastrand::Rng::with_seed(3), 0);
            members[0].cooling.fail(1, 5);
            members[2].cooling.fail(2, 5);
            for _ in 0..100 {
                assert_eq!(picker.pick(&members, None, &tried, &mut turn, &mut rng, 3), Some(1), "{policy}");
            }
            members[1].cooling.fail(3, 5);
            let last_resort = picker.pick(&members, None, &tried, &mut turn, &mut rng, 4);
            assert_eq!(last_resort, Some(0), "{policy}: the one whose back-off ends first");
        }
    }

    #[test]
    fn a_member_of_weight_zero_is_never_picked() {
        for policy in ALL {
            let (members, picker) = (members(3), picker(policy, &[1, 0, 1]));
            let (tried, mut rng, mut turn) = (Tried::default(), fastrand::Rng::with_seed(9), 0);
            for _ in 0..1_000 {
                assert_ne!(picker.pick(&members, None, &tried, &mut turn, &mut rng, 1), Some(1), "{policy}");
            }
        }
    }

    #[test]
    fn calls_in_flight_settle_by_weight() {
        for policy in [BalancingPolicy::LeastRequest, BalancingPolicy::PeakEwma] {
            let (members, picker) = (members(3), picker(policy, &[1, 2, 3]));
            let (tried, mut rng, mut turn) = (Tried::default(), fastrand::Rng::with_seed(5), 0);
            for _ in 0..600 {
                let member = picker.pick(&members, None, &tried, &mut turn, &mut rng, 1).unwrap();
                members[member].begin();
            }
            for (member, share) in members.iter().zip([100, 200, 300]) {
                assert!(
                    member.in_flight().abs_diff(share) < 10,
                    "{policy}: {} for {share}",
                    member.in_flight()
                );
            }
        }
    }

    #[test]
    fn least_request_keeps_the_spread_of_calls_in_flight_small() {
        let (members, picker) = (members(10), picker(BalancingPolicy::LeastRequest, &[1; 10]));
        let (tried, mut rng, mut turn) = (Tried::default(), fastrand::Rng::with_seed(5), 0);
        for _ in 0..1_000 {
            let member = picker.pick(&members, None, &tried, &mut turn, &mut rng, 1).unwrap();
            members[member].begin();
        }
        let most = members.iter().map(|m| m.in_flight()).max().unwrap();
        // Chance alone would put 120 and more on one of them; two choices stay within a few of the mean.
        assert!(most <= 105, "{most}");
    }

    /// The most calls in flight that any of `n` members has after `calls` that stay.
    fn most_in_flight(policy: BalancingPolicy, n: usize, calls: usize, seed: u64) -> u32 {
        let (members, picker) = (members(n), picker(policy, &vec![1; n]));
        let (tried, mut rng, mut turn) = (Tried::default(), fastrand::Rng::with_seed(seed), 0);
        for _ in 0..calls {
            let member = picker.pick(&members, None, &tried, &mut turn, &mut rng, 1).unwrap();
            members[member].begin();
        }
        members.iter().map(|member| member.in_flight()).max().unwrap()
    }

    /// Mitzenmacher (2001) after Azar et al. (1994): of n calls on n members, two choices put `ln ln n / ln 2 + O(1)` on the fullest;
    /// one choice puts about `ln n / ln ln n` there.
    #[test]
    fn two_choices_keep_the_fullest_member_exponentially_below_chance() {
        for exponent in [8, 10, 12, 14] {
            let n = 1_usize << exponent;
            let ln = (n as f64).ln();
            let (two, one) = (ln.ln() / 2.0_f64.ln(), ln / ln.ln());
            for seed in 0..5 {
                let chosen = most_in_flight(BalancingPolicy::LeastRequest, n, n, seed);
                let by_chance = most_in_flight(BalancingPolicy::Random, n, n, seed);
                assert!(f64::from(chosen) <= two + 2.0, "{n}: {chosen}, and ln ln n / ln 2 is {two:.1}");
                assert!(f64::from(by_chance) > one, "{n}: {by_chance}, and ln n / ln ln n is {one:.1}");
                assert!(by_chance > chosen, "{n}: {by_chance} by chance, {chosen} by choice");
            }
        }
    }

    /// Berenbrink et al. (2000): with many calls for each member, how far the fullest is above the mean does not depend on how many.
    #[test]
    fn two_choices_stay_as_close_to_the_mean_under_heavy_load() {
        const N: usize = 256;
        let two = (N as f64).ln().ln() / 2.0_f64.ln();
        for mean in [1, 10, 100, 1_000] {
            let chosen = most_in_flight(BalancingPolicy::LeastRequest, N, N * mean as usize, mean);
            let above = f64::from(chosen) - mean as f64;
            assert!(above <= two + 2.0, "{above} above a mean of {mean}");
        }
        let by_chance = most_in_flight(BalancingPolicy::Random, N, N * 1_000, 1) - 1_000;
        assert!(by_chance > 50, "by chance it grows with the root of the mean: {by_chance}");
    }
}
