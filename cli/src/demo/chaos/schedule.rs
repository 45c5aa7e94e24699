//! What goes wrong when: a pure function of how long there is and a seed.
//!
//! The time is parted into slots. First every kind of fault has a slot to itself, so that it can be told which fault did
//! what, and every kind happens, however short the run. In the slots after those, two services are hit at once.
//!
//! The control plane is hit besides: from the middle of a slot on until the next one is nearly over. So it is away when
//! one fault is over and the next one begins, and sidecars that start again then start without it.

use std::time::Duration;

/// Runs shorter than this are refused: nothing could be seen of a fault any more.
pub(crate) const SHORTEST: Duration = Duration::from_secs(12);

/// Before the first fault, so that every connection is up.
const LEAD: Duration = Duration::from_millis(1_500);

/// After the last fault, so that its calls end while shoppers shop.
const TAIL: Duration = Duration::from_millis(1_500);

/// Where there is time, a slot has so much.
const SLOT: Duration = Duration::from_secs(6);

/// A fault begins within this share of its slot.
const BEGIN_SHARE_MAX: f64 = 0.1;

/// A fault lasts this share of its slot, at least and at most; the rest is for coming back.
const HOLD_SHARE: (f64, f64) = (0.6, 0.75);

/// What the control plane is called among those that are hit.
pub(crate) const CONTROL: &str = "control";

/// A fault of the control plane begins in this part of every other slot, the first one among them.
const CONTROL_BEGIN: (f64, f64) = (0.5, 0.6);

/// It lasts so many slots.
const CONTROL_HOLD: (f64, f64) = (1.0, 1.2);

/// The replicas of a service that are killed and frozen, by number.
const HIT_DIRECTLY: [usize; 2] = [1, 2];

/// The replica that stands behind a relay, by number.
pub(crate) const BEHIND_RELAY: usize = 3;

/// The services that it happens to.
pub(crate) const SERVICES_HIT: [&str; 3] = ["products", "orders", "payments"];

/// What may happen to a replica, or to the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// The app dies (SIGKILL) and starts again; its sidecar stays.
    KillApp,
    /// App and sidecar die, as when a pod does, and start again.
    KillPod,
    /// The app is stopped (SIGSTOP) and goes on (SIGCONT); its sidecar runs.
    FreezeApp,
    /// App and sidecar are stopped and go on.
    FreezePod,
    /// The relay before it moves no byte and answers no connection, and later goes on.
    BlackHole,
    /// The control plane dies (SIGKILL) and starts again.
    KillControl,
    /// The control plane is stopped (SIGSTOP) and goes on (SIGCONT): its connections stand, and nothing comes.
    FreezeControl,
}

impl Fault {
    /// Those of replicas.
    pub(crate) const ALL: [Self; 5] =
        [Self::KillApp, Self::KillPod, Self::FreezeApp, Self::FreezePod, Self::BlackHole];

    /// Those of the control plane, in turn.
    const OF_CONTROL: [Self; 2] = [Self::KillControl, Self::FreezeControl];

    /// What is said when it begins.
    pub(crate) fn begins(self) -> &'static str {
        match self {
            Self::KillApp => "killed: the app",
            Self::KillPod => "killed: app and sidecar",
            Self::FreezeApp => "frozen: the app",
            Self::FreezePod => "frozen: app and sidecar",
            Self::BlackHole => "behind a black hole",
            Self::KillControl => "killed: the control plane",
            Self::FreezeControl => "frozen: the control plane",
        }
    }

    /// What is said when it is over.
    pub(crate) fn is_over(self) -> &'static str {
        match self {
            Self::KillApp | Self::KillPod | Self::KillControl => "started again",
            Self::FreezeApp | Self::FreezePod | Self::FreezeControl => "goes on",
            Self::BlackHole => "reachable again",
        }
    }
}

/// One fault of one replica or of the control plane, from the opening of the stores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hit {
    /// When it begins.
    pub(crate) from: Duration,
    /// When it is over.
    pub(crate) until: Duration,
    /// What happens.
    pub(crate) fault: Fault,
    /// To which replica, such as `orders-2`, or to [`CONTROL`].
    pub(crate) replica: String,
}

/// Something that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment<'a> {
    /// When, from the opening of the stores.
    pub(crate) at: Duration,
    /// What begins or is over.
    pub(crate) hit: &'a Hit,
    /// Whether it begins.
    pub(crate) begins: bool,
}

/// The beginnings and ends of faults in the order of time.
pub(crate) fn moments(hits: &[Hit]) -> Vec<Moment<'_>> {
    let both = |hit| [(true, hit), (false, hit)];
    let moments = hits.iter().flat_map(both).map(|(begins, hit): (bool, &Hit)| {
        let at = if begins { hit.from } else { hit.until };
        Moment { at, hit, begins }
    });
    let mut moments: Vec<_> = moments.collect();
    moments.sort_by_key(|moment| moment.at);
    moments
}

/// The faults of a run; no two of them hit one service at a time, or the control plane.
///
/// # Errors
/// When there is no time for one of each kind.
pub(crate) fn plan(run_for: Duration, seed: u64) -> Result<Vec<Hit>, String> {
    if run_for < SHORTEST {
        return Err(format!(
            "--for {run_for:?} leaves no time for every kind of fault; give it {SHORTEST:?} or more"
        ));
    }
    let mut chance = fastrand::Rng::with_seed(seed);
    let time = run_for - LEAD - TAIL;
    let slots = (time.as_secs_f64() / SLOT.as_secs_f64()) as u32;
    let slots = slots.max(Fault::ALL.len().try_into().unwrap_or(u32::MAX));
    let slot = time / slots;
    let (mut faults, mut services) = (Bag::default(), Bag::default());
    let mut hits = Vec::new();
    for number in 0..slots {
        let begin = LEAD + slot * number;
        let service = services.draw(&SERVICES_HIT, &mut chance);
        hits.push(hit(faults.draw(&Fault::ALL, &mut chance), service, begin, slot, &mut chance));
        if hits.len() > Fault::ALL.len() {
            let others: Vec<_> = SERVICES_HIT.into_iter().filter(|other| *other != service).collect();
            let other = others[chance.usize(..others.len())];
            hits.push(hit(faults.draw(&Fault::ALL, &mut chance), other, begin, slot, &mut chance));
        }
    }
    // After the others, so that they are the same as they would be without it.
    hits.extend(of_control(time, slot, &mut chance));
    Ok(hits)
}

/// One fault within the slot that begins at `begin`.
fn hit(fault: Fault, service: &str, begin: Duration, slot: Duration, chance: &mut fastrand::Rng) -> Hit {
    let replica = match fault {
        Fault::BlackHole => BEHIND_RELAY,
        _ => HIT_DIRECTLY[chance.usize(..HIT_DIRECTLY.len())],
    };
    let from = begin + slot.mul_f64(chance.f64() * BEGIN_SHARE_MAX);
    let (least, most) = HOLD_SHARE;
    let until = from + slot.mul_f64(least + chance.f64() * (most - least));
    Hit { from, until, fault, replica: format!("{service}-{replica}") }
}

/// The faults of the control plane in `time`.
fn of_control(time: Duration, slot: Duration, chance: &mut fastrand::Rng) -> Vec<Hit> {
    let mut within = |(least, most): (f64, f64)| least + chance.f64() * (most - least);
    let every_other_slot = (0_u32..).step_by(2);
    let hits = every_other_slot.zip(Fault::OF_CONTROL.into_iter().cycle()).map(|(number, fault)| {
        let from = LEAD + slot.mul_f64(f64::from(number) + within(CONTROL_BEGIN));
        Hit { from, until: from + slot.mul_f64(within(CONTROL_HOLD)), fault, replica: CONTROL.to_owned() }
    });
    hits.take_while(|hit| hit.until <= LEAD + time).collect()
}

/// Draws each of some things once before any comes again.
#[derive(Debug)]
struct Bag<T>(Vec<T>);

impl<T> Default for Bag<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Copy> Bag<T> {
    fn draw(&mut self, all: &[T], chance: &mut fastrand::Rng) -> T {
        if self.0.is_empty() {
            self.0.extend_from_slice(all);
            chance.shuffle(&mut self.0);
        }
        self.0.pop().unwrap_or(all[0])
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const SEEDS: std::ops::Range<u64> = 0..200;

    /// A plan: the faults of replicas, and those of the control plane.
    fn planned(run_for: Duration, seed: u64) -> (Vec<Hit>, Vec<Hit>) {
        plan(run_for, seed).expect("a plan").into_iter().partition(|hit| hit.replica != CONTROL)
    }

    #[test]
    fn every_kind_of_fault_happens_however_short_the_run() {
        for run_for in [12, 13, 20, 60, 300].map(Duration::from_secs) {
            for seed in SEEDS {
                let (hits, of_control) = planned(run_for, seed);
                let kinds = |hits: &[Hit]| hits.iter().map(|hit| hit.fault).collect::<BTreeSet<_>>();
                assert_eq!(kinds(&hits), BTreeSet::from(Fault::ALL), "{run_for:?}, seed {seed}");
                assert_eq!(kinds(&of_control), BTreeSet::from(Fault::OF_CONTROL), "{run_for:?}, seed {seed}");
            }
        }
    }

    /// Those that are on at the same time as `hit`, itself among them.
    fn at_once<'a>(hit: &'a Hit, hits: &'a [Hit]) -> Vec<&'a Hit> {
        hits.iter().filter(|other| other.from < hit.until && hit.from < other.until).collect()
    }

    #[test]
    fn faults_come_alone_first_and_then_to_two_services_at_once() {
        for run_for in [12, 20, 60].map(Duration::from_secs) {
            for seed in SEEDS {
                let (hits, _) = planned(run_for, seed);
                for (number, hit) in hits.iter().enumerate() {
                    let services = at_once(hit, &hits).into_iter().map(|hit| hit.replica.split('-').next());
                    let expected = if number < Fault::ALL.len() { 1 } else { 2 };
                    assert_eq!(services.clone().count(), expected, "{hits:?}");
                    assert_eq!(services.collect::<BTreeSet<_>>().len(), expected, "{hits:?}");
                }
            }
        }
    }

    #[test]
    fn faults_last_a_second_and_leave_time_before_and_after() {
        for run_for in [12, 20, 60].map(Duration::from_secs) {
            for seed in SEEDS {
                let hits = plan(run_for, seed).expect("a plan");
                assert!(hits[0].from >= LEAD);
                assert!(hits.iter().all(|hit| hit.until > hit.from + Duration::from_secs(1)));
                assert!(hits.iter().all(|hit| hit.until <= run_for - TAIL), "{hits:?}");
            }
        }
    }

    #[test]
    fn the_control_plane_is_away_when_a_fault_is_over_and_the_next_one_begins() {
        for run_for in [12, 20, 60].map(Duration::from_secs) {
            for seed in SEEDS {
                let (hits, of_control) = planned(run_for, seed);
                assert!(of_control.windows(2).all(|pair| pair[0].until < pair[1].from), "{of_control:?}");
                for away in &of_control {
                    let within = |at: Duration| away.from < at && at < away.until;
                    assert!(hits.iter().any(|hit| within(hit.until)), "{away:?} of {hits:?}");
                    assert!(hits.iter().any(|hit| within(hit.from)), "{away:?} of {hits:?}");
                }
            }
        }
    }

    #[test]
    fn moments_are_in_the_order_of_time_and_each_fault_begins_and_is_over() {
        let hits = plan(Duration::from_secs(60), 1).expect("a plan");
        let moments = moments(&hits);
        assert!(moments.windows(2).all(|pair| pair[0].at <= pair[1].at));
        for hit in &hits {
            let of: Vec<_> = moments.iter().filter(|moment| moment.hit == hit).collect();
            assert_eq!(
                of.iter().map(|moment| (moment.at, moment.begins)).collect::<Vec<_>>(),
                [(hit.from, true), (hit.until, false)]
            );
        }
    }

    #[test]
    fn only_a_replica_behind_a_relay_gets_into_a_black_hole_and_nothing_else_happens_to_it() {
        for seed in SEEDS {
            for hit in planned(Duration::from_secs(60), seed).0 {
                let behind = hit.replica.ends_with(&format!("-{BEHIND_RELAY}"));
                assert_eq!(behind, hit.fault == Fault::BlackHole, "{hit:?}");
            }
        }
    }

    #[test]
    fn a_minute_hits_every_service_and_the_same_seed_makes_the_same_minute() {
        let minute = Duration::from_secs(60);
        let hits = plan(minute, 7).expect("a plan");
        assert_eq!(hits.len(), 17, "five slots with one and four with two, and four of the control plane");
        for service in SERVICES_HIT {
            assert!(hits.iter().any(|hit| hit.replica.starts_with(service)), "{service}");
        }
        assert_eq!(hits, plan(minute, 7).expect("a plan"));
        assert_ne!(hits, plan(minute, 8).expect("a plan"));
    }

    #[test]
    fn too_short_a_run_is_refused_with_what_would_do() {
        let fault = plan(Duration::from_secs(11), 1).expect_err("too short");
        assert_eq!(fault, "--for 11s leaves no time for every kind of fault; give it 12s or more");
    }
}
