//! Faults on purpose: which calls of a rule are hit. Drawing is pure: what a call meets follows from the rule's seed,
//! the call's number and the kind of the fault, and from nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use config::injection::{Injection, Stall, StreamAbort};

use crate::metrics::events::Fault;

/// One rule: the `faults` of a route or a method.
#[derive(Debug)]
pub(crate) struct Faults {
    injection: Injection,
    /// Calls that have been drawn for, over all workers. Written by calls of this rule only, and only if it has a seed.
    calls: AtomicU64,
}

/// What one call meets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Drawn {
    pub(crate) delay: Option<Duration>,
    /// The number of the status.
    pub(crate) abort: Option<u8>,
    pub(crate) stall: Option<Stall>,
    pub(crate) cut: Option<StreamAbort>,
}

impl Faults {
    /// The rule of a block; that of `before`, with its count of calls, if it says the same. `None`: nothing is injected.
    pub(crate) fn of(injection: &Injection, before: Option<&Arc<Self>>) -> Option<Arc<Self>> {
        let nothing = Injection { seed: injection.seed, ..Injection::default() };
        if *injection == nothing {
            return None;
        }
        let kept = before.filter(|before| before.injection == *injection).cloned();
        Some(kept.unwrap_or_else(|| Arc::new(Self { injection: *injection, calls: AtomicU64::new(0) })))
    }

    /// What may be done.
    pub(crate) fn injection(&self) -> &Injection {
        &self.injection
    }

    /// Draws for one more call; `chance` is asked where there is no seed.
    pub(crate) fn draw(&self, chance: impl FnOnce() -> u64) -> Drawn {
        match self.injection.seed {
            Some(seed) => drawn(&self.injection, seed, self.calls.fetch_add(1, Ordering::Relaxed)),
            None => drawn(&self.injection, chance(), 0),
        }
    }
}

/// What call number `n` meets, counted from 0. Each kind is drawn for by itself.
fn drawn(injection: &Injection, seed: u64, n: u64) -> Drawn {
    let hits = |kind, share_ppm| hits(seed, n, kind, share_ppm);
    Drawn {
        delay: injection.delay.filter(|it| hits(Fault::Delay, it.share_ppm)).map(|it| it.duration),
        abort: injection.abort.filter(|it| hits(Fault::Abort, it.share_ppm)).map(|it| it.code),
        stall: injection.stream_stall.filter(|it| hits(Fault::StreamStall, it.share_ppm)),
        cut: injection.stream_abort.filter(|it| hits(Fault::StreamAbort, it.share_ppm)),
    }
}

/// Whether draw number `n` of a kind hits, where `share_ppm` of a million do.
fn hits(seed: u64, n: u64, kind: Fault, share_ppm: u32) -> bool {
    // A number in 0..1_000_000, as evenly as 64 bits can be.
    (u128::from(word(seed, n, kind)) * 1_000_000) >> 64 < u128::from(share_ppm)
}

/// Word number `n` of the SplitMix64 generator (Steele, Lea and Flood, 2014) that begins where seed and kind say.
fn word(seed: u64, n: u64, kind: Fault) -> u64 {
    const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
    let begin = mix(seed ^ mix(kind as u64 + 1));
    mix(begin.wrapping_add(n.wrapping_add(1).wrapping_mul(GAMMA)))
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

#[cfg(test)]
mod tests {
    use config::injection::{Abort, Delay};

    use super::*;

    const KINDS: [Fault; 4] = [Fault::Delay, Fault::Abort, Fault::StreamStall, Fault::StreamAbort];
    const CALLS: u64 = 20_000;

    /// Whether a count lies within six standard deviations of a binomial's mean: of a billion honest ones, two do not.
    fn is_plausible(count: u64, tries: u64, share: f64) -> bool {
        let (mean, variance) = (tries as f64 * share, tries as f64 * share * (1.0 - share));
        (count as f64 - mean).abs() <= 6.0 * variance.sqrt()
    }

    fn count(seed: u64, kind: Fault, ppm: u32) -> u64 {
        (0..CALLS).filter(|n| hits(seed, *n, kind, ppm)).count() as u64
    }

    #[test]
    fn each_share_is_hit_as_often_as_it_says_whatever_the_seed() {
        let mut random = fastrand::Rng::with_seed(1);
        for seed in [0, 1, 2, 3, u64::MAX >> 1].into_iter().chain((0..20).map(|_| random.u64(..))) {
            for kind in KINDS {
                for ppm in [0, 100, 10_000, 250_000, 500_000, 999_000, 1_000_000] {
                    let hit = count(seed, kind, ppm);
                    let share = f64::from(ppm) / 1e6;
                    assert!(is_plausible(hit, CALLS, share), "{seed} {kind:?} {ppm}: {hit} of {CALLS}");
                }
                assert_eq!((count(seed, kind, 0), count(seed, kind, 1_000_000)), (0, CALLS));
            }
        }
    }

    #[test]
    fn a_larger_share_hits_every_call_that_a_smaller_one_does() {
        for n in 0..CALLS {
            let first = (0..=10).position(|tenths| hits(7, n, Fault::Abort, tenths * 100_000));
            let first = first.expect("all of them hit") as u32;
            assert!((first..=10).all(|tenths| hits(7, n, Fault::Abort, tenths * 100_000)));
        }
    }

    #[test]
    fn kinds_calls_and_seeds_do_not_tell_of_each_other() {
        let mut random = fastrand::Rng::with_seed(2);
        for _ in 0..20 {
            let seed = random.u64(..);
            let both = |other: &dyn Fn(u64) -> bool| {
                (0..CALLS).filter(|n| hits(seed, *n, Fault::Abort, 500_000) && other(*n)).count() as u64
            };
            for kind in [Fault::Delay, Fault::StreamStall, Fault::StreamAbort] {
                assert!(
                    is_plausible(both(&|n| hits(seed, n, kind, 500_000)), CALLS, 0.25),
                    "{seed} {kind:?}"
                );
            }
            for later in [1, 2, 3, 1_000] {
                let next = both(&|n| hits(seed, n + later, Fault::Abort, 500_000));
                assert!(is_plausible(next, CALLS, 0.25), "{seed}: {later} calls later");
            }
            for other in [seed + 1, seed ^ 1 << 40, !seed] {
                let same = both(&|n| hits(other, n, Fault::Abort, 500_000));
                assert!(is_plausible(same, CALLS, 0.25), "{seed} and {other}");
            }
        }
    }

    fn rule(seed: Option<u64>) -> Injection {
        Injection {
            seed,
            delay: Some(Delay { share_ppm: 300_000, duration: Duration::from_millis(1) }),
            abort: Some(Abort { share_ppm: 300_000, code: 14 }),
            stream_stall: Some(Stall {
                share_ppm: 300_000,
                after_messages: 1,
                duration: Duration::from_millis(1),
            }),
            stream_abort: Some(StreamAbort { share_ppm: 300_000, after_messages: 2, code: 8 }),
        }
    }

    fn draws(faults: &Faults) -> Vec<Drawn> {
        let mut random = fastrand::Rng::with_seed(3);
        (0..1_000).map(|_| faults.draw(|| random.u64(..))).collect()
    }

    #[test]
    fn a_seed_gives_the_same_calls_again_and_chance_does_not() {
        let new = |seed| Faults::of(&rule(seed), None).unwrap();
        let first = draws(&new(Some(5)));
        assert_eq!(first, draws(&new(Some(5))));
        assert_ne!(first, draws(&new(Some(6))));
        let chance = new(None);
        assert_ne!(draws(&chance)[..500], draws(&chance)[500..]);
        assert_eq!(chance.calls.load(Ordering::Relaxed), 0, "nothing is shared where there is no seed");
    }

    #[test]
    fn threads_that_share_a_rule_share_its_sequence() {
        let faults = Faults::of(&rule(Some(9)), None).unwrap();
        let mut all: Vec<String> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| draws(&faults))).collect();
            threads
                .into_iter()
                .flat_map(|thread| thread.join().unwrap())
                .map(|it| format!("{it:?}"))
                .collect()
        });
        let alone = Faults::of(&rule(Some(9)), None).unwrap();
        let mut expected: Vec<String> =
            (0..4).flat_map(|_| draws(&alone)).map(|it| format!("{it:?}")).collect();
        all.sort();
        expected.sort();
        assert_eq!(all, expected);
    }

    #[test]
    fn a_rule_that_says_the_same_goes_on_where_it_was() {
        let first = Faults::of(&rule(Some(5)), None).unwrap();
        let same = Faults::of(&rule(Some(5)), Some(&first)).unwrap();
        assert!(Arc::ptr_eq(&first, &same));
        let other = Faults::of(&rule(Some(6)), Some(&first)).unwrap();
        assert!(!Arc::ptr_eq(&first, &other));
        assert!(Faults::of(&Injection::default(), Some(&first)).is_none());
        assert!(Faults::of(&Injection { seed: Some(1), ..Injection::default() }, None).is_none());
    }
}
