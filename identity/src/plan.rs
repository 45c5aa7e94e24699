//! When a certificate is renewed, and how loud its age is told. Pure: the time is an argument.
//!
//! Two clocks are asked. The wall clock says what a certificate's times mean, and it jumps: forward past the half of a
//! life, past its end, or backward before its beginning. The monotonic clock never jumps, and may stand still while a machine
//! sleeps. A renewal is due when either says so.

use std::time::{Duration, SystemTime};

/// Nobody sleeps longer without a look at the wall clock, which may have jumped.
pub const LOOK_MAX: Duration = Duration::from_secs(60);
/// A renewal is spread by this part of the time until it, to either side.
const JITTER: f64 = 0.1;
/// After a change of trust a renewal is spread over this part of the life: 6 minutes of 24 hours.
const HURRY: u32 = 240;
/// The same where nobody believes the certificate any more.
const HURRY_AT_ONCE: Duration = Duration::from_secs(1);
/// The bound of the first wait after a failure.
const BASE: Duration = Duration::from_secs(1);
/// The bound of any wait while there is time.
const CAP: Duration = Duration::from_secs(300);
/// The bound of any wait while there is no certificate that is good.
const CAP_WITHOUT: Duration = Duration::from_secs(15);
/// The least bound, however little is left.
const CAP_MIN: Duration = Duration::from_millis(200);
/// How far the wall clock may be behind the beginning of a certificate before that is a jump.
const SKEW_MAX: Duration = crate::material::CLOCK_SKEW_MAX;
/// Whoever signs roots needs to be told this long before their end: late, and urgent.
const ROOT_LATE: Duration = Duration::from_secs(30 * 86_400);
const ROOT_URGENT: Duration = Duration::from_secs(7 * 86_400);

/// A moment on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// What certificates go by.
    pub wall: SystemTime,
    /// Since some moment of this process.
    pub steady: Duration,
}

/// From when to when a certificate counts: from `not_before`, or from when it came, where it was dated back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// Its beginning.
    pub begin: SystemTime,
    /// Its `not_after`.
    pub end: SystemTime,
}

impl Life {
    /// Of a certificate that has come at `now`, fresh from whoever signed it.
    pub fn fresh(not_before: SystemTime, not_after: SystemTime, now: SystemTime) -> Self {
        Self { begin: not_before.max(now).min(not_after), end: not_after }
    }

    /// Of a certificate that may have come long ago.
    pub fn kept(not_before: SystemTime, not_after: SystemTime) -> Self {
        Self { begin: not_before.min(not_after), end: not_after }
    }

    /// How long it is.
    pub fn length(&self) -> Duration {
        self.end.duration_since(self.begin).unwrap_or_default()
    }

    /// What is left of it.
    pub fn left(&self, now: SystemTime) -> Duration {
        self.end.duration_since(now).unwrap_or_default()
    }

    /// How loud a leaf's age is told: past two thirds of its life late, past five sixths urgent.
    pub fn urgency(&self, now: SystemTime) -> Urgency {
        Urgency::of(self.left(now), self.length() / 3, self.length() / 6)
    }

    /// The same of a root: at 30 days before its end late, at 7 days urgent; of a short life a third and a sixth.
    pub fn root_urgency(&self, now: SystemTime) -> Urgency {
        Urgency::of(self.left(now), ROOT_LATE.min(self.length() / 3), ROOT_URGENT.min(self.length() / 6))
    }
}

/// How loud the age of a certificate is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// All is as planned.
    #[default]
    Calm,
    /// It should have been renewed long ago.
    Late,
    /// It ends soon.
    Urgent,
    /// It has ended: nobody takes it any more.
    Expired,
}

impl Urgency {
    /// As pages and metrics name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Calm => "calm",
            Self::Late => "late",
            Self::Urgent => "urgent",
            Self::Expired => "expired",
        }
    }

    fn of(left: Duration, late: Duration, urgent: Duration) -> Self {
        match () {
            () if left.is_zero() => Self::Expired,
            () if left < urgent => Self::Urgent,
            () if left < late => Self::Late,
            () => Self::Calm,
        }
    }
}

/// Why a certificate is to be renewed now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// About half of its life is over.
    Half,
    /// Another root signs now.
    Trust,
    /// The wall clock stands before its beginning.
    ClockBack,
}

/// When the certificate in force is renewed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    life: Life,
    /// By the wall clock.
    at: SystemTime,
    /// By the steady clock.
    at_steady: Duration,
    why: Due,
}

impl Plan {
    /// At half of the life, give or take a tenth of that; `random`: from 0 to 1.
    pub fn new(life: Life, now: Moment, random: f64) -> Self {
        let half = life.length() / 2;
        let at = life.begin + half.mul_f64(1.0 - JITTER + 2.0 * JITTER * random.clamp(0.0, 1.0));
        let wait = at.duration_since(now.wall).unwrap_or_default();
        Self { life, at, at_steady: now.steady + wait, why: Due::Half }
    }

    /// Whom else to trust has changed: renews within a 240th of the life, or earlier if that was planned.
    pub fn hurry(&mut self, now: Moment, random: f64) {
        self.hurry_within(self.life.length() / HURRY, now, random);
    }

    /// No root that is trusted now has signed it: renews within a second.
    pub fn hurry_at_once(&mut self, now: Moment, random: f64) {
        self.hurry_within(HURRY_AT_ONCE.min(self.life.length() / HURRY), now, random);
    }

    fn hurry_within(&mut self, most: Duration, now: Moment, random: f64) {
        let wait = most.mul_f64(random.clamp(0.0, 1.0));
        if now.wall + wait < self.at || now.steady + wait < self.at_steady {
            (self.at, self.at_steady) = (now.wall + wait, now.steady + wait);
            self.why = Due::Trust;
        }
    }

    /// When it is planned, by the wall clock.
    pub fn at(&self) -> SystemTime {
        self.at
    }

    /// Whose plan it is.
    pub fn life(&self) -> Life {
        self.life
    }

    /// Whether it is time, and why.
    pub fn due(&self, now: Moment) -> Option<Due> {
        if now.wall + SKEW_MAX < self.life.begin {
            return Some(Due::ClockBack);
        }
        (now.wall >= self.at || now.steady >= self.at_steady).then_some(self.why)
    }

    /// How long to sleep before the next look, at most [`LOOK_MAX`].
    pub fn sleep(&self, now: Moment) -> Duration {
        let wall = self.at.duration_since(now.wall).unwrap_or_default();
        wall.min(self.at_steady.saturating_sub(now.steady)).min(LOOK_MAX)
    }
}

/// How long to wait after so many failures in a row (from 1), with `left` of the certificate in force (zero: there is none):
/// full jitter below a bound that doubles up to 5 minutes, and never takes more than a tenth of what is left.
pub fn retry(failures: u32, left: Duration, random: f64) -> Duration {
    let cap = if left.is_zero() { CAP_WITHOUT } else { (left / 10).clamp(CAP_MIN, CAP) };
    let bound = BASE.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1).min(16))).min(cap);
    bound.mul_f64(random.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    const S: Duration = Duration::from_secs(1);
    const H: Duration = Duration::from_secs(3_600);

    fn wall(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
    }

    fn moment(seconds: u64) -> Moment {
        Moment { wall: wall(seconds), steady: Duration::from_secs(seconds) }
    }

    #[test]
    fn a_day_is_renewed_around_its_half_and_spread_evenly() {
        let life = Life::fresh(wall(0), wall(86_400), wall(0));
        let mut random = fastrand::Rng::with_seed(7);
        let mut tenths = [0_u32; 10];
        for _ in 0..10_000 {
            let plan = Plan::new(life, moment(0), random.f64());
            let at = plan.at().duration_since(wall(0)).unwrap().as_secs_f64() / 86_400.0;
            assert!((0.45..=0.55).contains(&at), "{at}");
            tenths[(((at - 0.45) * 100.0) as usize).min(9)] += 1;
        }
        // Five standard deviations of a binomial with p = 0.1.
        assert!(tenths.iter().all(|count| (850..=1_150).contains(count)), "{tenths:?}");
    }

    #[test]
    fn a_fresh_certificate_that_was_dated_back_counts_from_when_it_came() {
        let life = Life::fresh(wall(0), wall(65), wall(60));
        assert_eq!(life.length(), 5 * S);
        let plan = Plan::new(life, moment(60), 0.5);
        assert_eq!((plan.due(moment(61)), plan.due(moment(63))), (None, Some(Due::Half)));
    }

    #[test]
    fn over_random_lives_and_sleeps_a_renewal_begins_at_its_time_and_with_time_left() {
        let mut random = fastrand::Rng::with_seed(11);
        for _ in 0..2_000 {
            let length = random.u64(1..90 * 86_400);
            let begin = moment(0);
            let life = Life::fresh(begin.wall, begin.wall + Duration::from_secs(length), begin.wall);
            let plan = Plan::new(life, begin, random.f64());
            let mut now = begin;
            let mut looks = 0_u64;
            while plan.due(now).is_none() {
                let sleep = plan.sleep(now);
                assert!(sleep <= LOOK_MAX && !sleep.is_zero(), "{plan:?} {now:?}");
                now = Moment { wall: now.wall + sleep, steady: now.steady + sleep };
                looks += 1;
            }
            let spent = now.wall.duration_since(begin.wall).unwrap().as_secs_f64() / length as f64;
            assert!((0.449..=0.551).contains(&spent), "{spent} of {length} s");
            assert!(looks <= length / 60 + 2, "{looks} looks in {length} s");
        }
    }

    #[test]
    fn over_random_jumps_of_the_wall_clock_nobody_sleeps_through_a_renewal() {
        let mut random = fastrand::Rng::with_seed(13);
        for _ in 0..2_000 {
            let length = Duration::from_secs(random.u64(600..30 * 86_400));
            let begin = moment(0);
            let plan = Plan::new(Life::fresh(begin.wall, begin.wall + length, begin.wall), begin, 0.5);
            let steady = length.mul_f64(random.f64() * 1.5);
            let ahead = length.mul_f64(random.f64() * 4.0);
            let wall = (begin.wall + steady + ahead) - 2 * length;
            let now = Moment { wall, steady };
            let behind = begin.wall > wall + SKEW_MAX;
            let over = wall >= plan.at() || steady >= length / 2;
            assert_eq!(plan.due(now).is_some(), behind || over, "{now:?} of {length:?}");
            assert!(plan.sleep(now) <= LOOK_MAX);
        }
    }

    #[test]
    fn a_clock_that_goes_back_before_the_beginning_is_told_and_a_skew_is_not() {
        let plan = Plan::new(Life::fresh(wall(0), wall(86_400), wall(0)), moment(0), 0.5);
        let at = |back: u64| Moment { wall: wall(0) - Duration::from_secs(back), steady: S };
        assert_eq!((plan.due(at(60)), plan.due(at(61))), (None, Some(Due::ClockBack)));
    }

    #[test]
    fn a_change_of_trust_is_followed_within_a_240th_of_the_life_and_never_delays() {
        let life = Life::fresh(wall(0), wall(86_400), wall(0));
        let mut plan = Plan::new(life, moment(0), 0.5);
        plan.hurry(moment(100), 1.0);
        assert_eq!(plan.at(), wall(100 + 360));
        assert_eq!(plan.due(moment(460)), Some(Due::Trust));
        let planned = plan.clone();
        plan.hurry(moment(459), 1.0);
        assert_eq!(plan, planned);
        plan.hurry_at_once(moment(200), 1.0);
        assert_eq!(plan.at(), wall(201));
    }

    #[test]
    fn waits_double_are_spread_and_leave_time_for_ten_more() {
        let bounds = |left| (1..12).map(|n| retry(n, left, 1.0).as_secs()).collect::<Vec<_>>();
        assert_eq!(bounds(12 * H), [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert_eq!(bounds(Duration::ZERO), [1, 2, 4, 8, 15, 15, 15, 15, 15, 15, 15]);
        assert_eq!(retry(9, 20 * S, 1.0), 2 * S);
        assert_eq!(retry(9, Duration::from_millis(10), 1.0), CAP_MIN);
        assert_eq!(retry(u32::MAX, 12 * H, 0.0), Duration::ZERO);
    }

    #[test]
    fn age_is_told_louder_towards_the_end() {
        let life = Life::kept(wall(0), wall(86_400));
        let hours = [1_u64, 12, 15, 17, 19, 21, 23, 24, 30];
        let told: Vec<_> = hours.iter().map(|hour| life.urgency(wall(hour * 3_600)).as_str()).collect();
        assert_eq!(told, ["calm", "calm", "calm", "late", "late", "urgent", "urgent", "expired", "expired"]);
        let root = Life::kept(wall(0), wall(3_650 * 86_400));
        let days = [3_619_u64, 3_621, 3_642, 3_644, 3_650];
        let told: Vec<_> = days.iter().map(|day| root.root_urgency(wall(day * 86_400)).as_str()).collect();
        assert_eq!(told, ["calm", "late", "late", "urgent", "expired"]);
    }
}
