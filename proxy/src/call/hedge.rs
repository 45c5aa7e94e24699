//! Several attempts of one call at the same time (gRFC A6): the first answer that counts settles it.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::mem::{replace, take};
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};

use config::repeats::Hedging;
use http::request::Parts;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::call::answer::{Answer, Stop};
use crate::call::attempt::Attempt;
use crate::call::fan::{Cursor, Fan, Share};
use crate::call::placement::{Others, Placement, Unopened};
use crate::call::pump::{Pump, Source as _};
use crate::call::respond::{Caller, Place};
use crate::call::retry::{Failed, Pushback, Tries, count_attempt};
use crate::call::still::Still;
use crate::call::trail::Trail;
use crate::call::verdict::{Judge, LOOK, Settled, poll_stop, settle};
use crate::grpc::status::Code;
use crate::metrics::counter::Counter;
use crate::metrics::events::{Cause, Limit};

/// A call that is hedged.
pub(crate) struct Race<'a> {
    pub(crate) rule: Hedging,
    pub(crate) judge: Judge<'a>,
    pub(crate) trail: &'a Trail,
    /// Counts the messages of the request.
    pub(crate) count: &'a Counter,
}

impl Race<'_> {
    /// Runs the attempts until the call is settled. What is left of the request is in `request` again then.
    pub(crate) async fn run(
        self,
        request: &mut Pump,
        caller: &mut Caller,
        head: &mut Parts,
        mut timer: Pin<&mut Option<Sleep>>,
        tries: &mut Tries,
    ) -> (Settled, Place) {
        let Self { rule, judge, trail, count } = self;
        let Judge { context, plan, deadline, .. } = judge;
        let attempts = &plan.target.cluster.attempts[context.index];
        let (over, others) = (Cell::new(None), Cell::new(Others::default()));
        let fan = RefCell::new(Fan::new(request, count));
        let open = |mut head: Parts, end: bool| {
            let (over, others) = (&over, &others);
            Box::pin(async move {
                let mut placement = Placement::new(context, plan.target, deadline, true, trail)
                    .late(judge.is_late)
                    .beside(others);
                let stop = |_: &mut TaskContext<'_>| over.get().map_or(Poll::Pending, Poll::Ready);
                let opened = placement.open(&mut head, end, stop).await;
                (take(&mut placement.place), opened)
            })
        };
        let mut field = Field { legs: Vec::new(), fan: &fan, over: &over, judge, trail, count };
        let mut schedule = Schedule::new(rule, Instant::now());
        let mut alarm = Box::pin(sleep_until(Instant::now()));
        let mut idle = Still::default();
        let (mut begun, mut alone) = (0, false);
        let mut last = End::Nothing;
        let ended = poll_fn(|cx| {
            loop {
                let stop = match fan.borrow_mut().poll_take_in(cx) {
                    Poll::Ready(broken) => Poll::Ready(Stop::from(broken)),
                    Poll::Pending => poll_stop(cx, timer.as_mut(), caller),
                };
                if let Poll::Ready(stop) = stop {
                    field.end(cx, stop);
                    return Poll::Ready(End::Stopped(stop));
                }
                let is_kept = fan.borrow().is_kept();
                if begun > 0 && !is_kept && !replace(&mut alone, true) {
                    // Nobody else can begin with the first byte: the one that is furthest goes on alone.
                    if field.legs.len() > 1 || schedule.due().is_some() {
                        context.refuse(Limit::ReplayBuffer);
                    }
                    schedule.stop();
                    field.keep_furthest(cx);
                    fan.borrow_mut().forget_handed();
                }
                while schedule.is_due(Instant::now()) {
                    let cause = schedule.begin(Instant::now());
                    if begun > 0 {
                        if !judge.grants(is_kept, cause) {
                            schedule.stop();
                            break;
                        }
                        tries.repeats += 1;
                    }
                    if begun > 0 && cause == Cause::Hedge {
                        count_attempt(&mut head.headers);
                    }
                    let bare = fan.borrow().is_bare();
                    field.legs.push(Leg::Opening(open(head.clone(), bare), bare));
                    begun += 1;
                }
                match field.poll(cx) {
                    Poll::Ready(Come::Answered(running, answer)) => {
                        attempts.end(answer.outcome());
                        running.attempt.note(trail, answer.outcome(), answer.why());
                        let failed = judge.failed(&running.attempt, &answer);
                        let bears = failed.is_some_and(|failed| schedule.bears(failed, Instant::now()));
                        let end = End::Answered(running, answer);
                        if !bears {
                            field.end(cx, Stop::Outrun);
                            return Poll::Ready(end);
                        }
                        last = end.stand_by();
                        continue;
                    }
                    Poll::Ready(Come::Unopened(unopened, place)) => {
                        schedule.stop();
                        if matches!(last, End::Nothing) {
                            last = End::Unopened(unopened, place);
                        }
                        continue;
                    }
                    Poll::Pending => {}
                }
                let due = schedule.due().filter(|due| deadline.is_none_or(|deadline| *due < deadline));
                let Some(mut due) = due else {
                    if field.legs.is_empty() {
                        return Poll::Ready(replace(&mut last, End::Nothing));
                    }
                    break;
                };
                if field.legs.is_empty() {
                    // With nobody under way, nothing else tells that the sidecar must go.
                    if caller.is_ending() {
                        return Poll::Ready(End::Stopped(Stop::ShuttingDown));
                    }
                    due = due.min(Instant::now() + LOOK);
                }
                if alarm.deadline() != due {
                    alarm.as_mut().reset(due);
                }
                if alarm.as_mut().poll(cx).is_pending() {
                    break;
                }
            }
            trail.poll_open(cx);
            let Some(limit) = plan.idle else { return Poll::Pending };
            let moved = fan.borrow().moved();
            idle.poll(cx, moved, limit).map(|()| {
                field.end(cx, Stop::Idle);
                End::Stopped(Stop::Idle)
            })
        })
        .await;
        drop(field);
        let (settled, mut place) = match ended {
            End::Answered(running, answer) => {
                let Running { attempt, share, mut place } = *running;
                fan.borrow_mut().commit(&share.cursor);
                (settle(attempt, answer, &mut place), place)
            }
            End::Failed(settled, cursor, place) => {
                fan.borrow_mut().commit(&cursor);
                (*settled, place)
            }
            End::Unopened(Unopened::Failed(failure), place) => (Settled::Failed(failure), place),
            End::Unopened(Unopened::Stopped(stop), place) => (Settled::Stopped(stop), place),
            End::Stopped(stop) => (Settled::Stopped(stop), Place { phase: "response", ..Place::default() }),
            // The first attempt begins at once, and each ends in one of the other ways.
            End::Nothing => (Settled::Stopped(Stop::Outrun), Place::default()),
        };
        place.attempts = place.attempts.max(begun);
        (settled, place)
    }
}

impl End<'_, '_> {
    /// One that may yet be how the call ends, and holds nothing meanwhile that others could use.
    fn stand_by(self) -> Self {
        match self {
            Self::Answered(mut running, answer @ Answer::Response(_)) => {
                running.attempt.stand_by();
                Self::Answered(running, answer)
            }
            Self::Answered(running, answer) => {
                let Running { attempt, share, mut place } = *running;
                let settled = settle(attempt, answer, &mut place);
                Self::Failed(Box::new(settled), share.cursor, place)
            }
            end => end,
        }
    }
}

/// What settles the call.
enum End<'f, 'r> {
    Nothing,
    Answered(Box<Running<'f, 'r>>, Answer),
    Unopened(Unopened, Place),
    Failed(Box<Settled>, Cursor, Place),
    Stopped(Stop),
}

/// The attempts under way.
struct Field<'f, 'r, F> {
    legs: Vec<Leg<'f, 'r, F>>,
    fan: &'f RefCell<Fan<'r>>,
    /// Why those that are still being placed are to give up.
    over: &'f Cell<Option<Stop>>,
    judge: Judge<'f>,
    trail: &'f Trail,
    count: &'f Counter,
}

/// One of the attempts.
enum Leg<'f, 'r, F> {
    /// Being placed; `true`: END_STREAM goes out with its head.
    Opening(Pin<Box<F>>, bool),
    Waiting(Box<Running<'f, 'r>>),
}

/// An attempt that waits for its answer.
struct Running<'f, 'r> {
    attempt: Attempt,
    share: Share<'f, 'r>,
    place: Place,
}

/// What one of them has come to.
enum Come<'f, 'r> {
    Answered(Box<Running<'f, 'r>>, Answer),
    Unopened(Unopened, Place),
}

impl<'f, 'r, F: Future<Output = (Place, Result<Attempt, Unopened>)>> Field<'f, 'r, F> {
    /// Moves all of them; ready with one that is over.
    fn poll(&mut self, cx: &mut TaskContext<'_>) -> Poll<Come<'f, 'r>> {
        for index in 0..self.legs.len() {
            if let Leg::Opening(opening, bare) = &mut self.legs[index]
                && let Poll::Ready((place, opened)) = opening.as_mut().poll(cx)
            {
                let share = Share { fan: self.fan, cursor: Cursor::new(*bare) };
                match opened {
                    Ok(attempt) => {
                        self.legs[index] = Leg::Waiting(Box::new(Running { attempt, share, place }));
                    }
                    Err(unopened) => {
                        self.legs.swap_remove(index);
                        return Poll::Ready(Come::Unopened(unopened, place));
                    }
                }
            }
            let Leg::Waiting(running) = &mut self.legs[index] else { continue };
            if let Poll::Ready(answer) = running.attempt.poll_answer(cx, &mut running.share, self.count)
                && let Leg::Waiting(running) = self.legs.swap_remove(index)
            {
                return Poll::Ready(Come::Answered(running, answer));
            }
        }
        Poll::Pending
    }

    /// Ends all but the one that has taken most of the request.
    fn keep_furthest(&mut self, cx: &mut TaskContext<'_>) {
        let handed = |leg: &Leg<'f, 'r, F>| match leg {
            Leg::Opening(..) => 0,
            Leg::Waiting(running) => running.share.cursor.handed(),
        };
        let Some(furthest) = (0..self.legs.len()).max_by_key(|leg| handed(&self.legs[*leg])) else { return };
        let furthest = self.legs.swap_remove(furthest);
        self.end(cx, Stop::Outrun);
        self.legs.push(furthest);
    }

    /// Ends all of them.
    fn end(&mut self, cx: &mut TaskContext<'_>, stop: Stop) {
        let cluster = self.judge.plan.target.cluster;
        self.over.set(Some(stop));
        for leg in self.legs.drain(..) {
            match leg {
                // It sees that it is over, and counts itself.
                Leg::Opening(mut opening, _) => drop(opening.as_mut().poll(cx)),
                Leg::Waiting(mut running) => {
                    cluster.attempts[self.judge.context.index].end(stop.outcome());
                    if stop != Stop::EndpointStalled || running.share.is_held_up() {
                        self.judge.stopped(&running.attempt, stop);
                    }
                    running.attempt.note(self.trail, stop.outcome(), stop.as_str());
                    running.attempt.cancel();
                }
            }
        }
        self.over.set(None);
    }
}

/// When the next attempt begins. Pure.
#[derive(Debug)]
struct Schedule {
    rule: Hedging,
    /// Attempts that may still begin.
    left: u32,
    next: Instant,
    /// One that was not processed is to go elsewhere, at once and outside of the count; that happens once.
    elsewhere: bool,
    went_elsewhere: bool,
}

impl Schedule {
    fn new(rule: Hedging, now: Instant) -> Self {
        Self { rule, left: rule.max_attempts, next: now, elsewhere: false, went_elsewhere: false }
    }

    /// When the next one is due, if there is one.
    fn due(&self) -> Option<Instant> {
        (self.left > 0).then_some(self.next)
    }

    fn is_due(&self, now: Instant) -> bool {
        self.elsewhere || self.due().is_some_and(|due| due <= now)
    }

    /// One begins, for this cause if it is not the first.
    fn begin(&mut self, now: Instant) -> Cause {
        if take(&mut self.elsewhere) {
            return Cause::Unprocessed;
        }
        self.left = self.left.saturating_sub(1);
        self.next = now + self.rule.delay;
        Cause::Hedge
    }

    /// No more begin.
    fn stop(&mut self) {
        (self.left, self.elsewhere) = (0, false);
    }

    /// Whether the others may mend it that one has failed so. The next one then begins at once, or when the server says.
    fn bears(&mut self, failed: Failed, now: Instant) -> bool {
        let is_fatal = |code: Code| !self.rule.non_fatal.contains(code.number());
        match failed {
            Failed::Unprocessed if !replace(&mut self.went_elsewhere, true) => self.elsewhere = true,
            Failed::Status(code, _) | Failed::Broken(code) if is_fatal(code) => return false,
            Failed::Status(_, Pushback::Never) => self.stop(),
            Failed::Status(_, Pushback::After(wait)) => self.next = now + wait,
            _ => self.next = now,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use config::code::Codes;

    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const NON_FATAL: Failed = Failed::Status(Code::Unavailable, Pushback::Nothing);

    fn schedule(max_attempts: u32, delay: Duration) -> (Schedule, Instant) {
        let rule = Hedging { max_attempts, delay, non_fatal: Codes::UNAVAILABLE, replay_limit: 0 };
        let now = Instant::now();
        (Schedule::new(rule, now), now)
    }

    #[test]
    fn attempts_begin_one_delay_apart_and_no_more_than_allowed() {
        let (mut schedule, start) = schedule(3, 10 * MS);
        for n in 0..3 {
            let now = start + n * 10 * MS;
            assert!(schedule.is_due(now) && (n == 0 || !schedule.is_due(now - MS)));
            schedule.begin(now);
        }
        assert_eq!(schedule.due(), None);
    }

    #[test]
    fn without_a_delay_all_begin_at_once() {
        let (mut schedule, now) = schedule(4, Duration::ZERO);
        let mut begun = 0;
        while schedule.is_due(now) {
            schedule.begin(now);
            begun += 1;
        }
        assert_eq!(begun, 4);
    }

    #[test]
    fn a_failure_that_is_not_fatal_brings_the_next_one_at_once_and_a_fatal_one_ends_it() {
        let (mut schedule, now) = schedule(3, 1_000 * MS);
        schedule.begin(now);
        assert!(!schedule.is_due(now + MS));
        assert!(schedule.bears(NON_FATAL, now + MS) && schedule.is_due(now + MS));
        assert!(!schedule.bears(Failed::Status(Code::NotFound, Pushback::Nothing), now));
        assert!(!schedule.bears(Failed::Broken(Code::Internal), now));
        assert!(schedule.bears(Failed::Broken(Code::Unavailable), now));
    }

    #[test]
    fn a_server_may_put_the_next_one_off_or_ask_for_none() {
        let (mut schedule, now) = schedule(3, MS);
        schedule.begin(now);
        assert!(schedule.bears(Failed::Status(Code::Unavailable, Pushback::After(50 * MS)), now));
        assert_eq!(schedule.due(), Some(now + 50 * MS));
        assert!(schedule.bears(Failed::Status(Code::Unavailable, Pushback::Never), now));
        assert_eq!(schedule.due(), None);
    }

    #[test]
    fn what_was_not_processed_is_replaced_once_outside_of_the_count() {
        let (mut schedule, now) = schedule(2, Duration::ZERO);
        schedule.begin(now);
        schedule.begin(now);
        assert_eq!(schedule.due(), None);
        assert!(schedule.bears(Failed::Unprocessed, now) && schedule.is_due(now));
        assert_eq!(schedule.begin(now), Cause::Unprocessed);
        assert!(schedule.bears(Failed::Unprocessed, now));
        assert!(!schedule.is_due(now) && schedule.due().is_none());
    }
}
