//! One call between its caller and its endpoints: placed, repeated where that is safe, relayed to its end.

use std::future::{Future as _, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use config::repeats::{Repeats, Retries};
use http::request::Parts;

use tokio::time::{Instant, Sleep, sleep, sleep_until};

use crate::call::answer::{Answer, Stop};
use crate::call::attempt::{Attempt, HeldBack};
use crate::call::barrier::{self, Barrier};
use crate::call::hedge::Race;
use crate::call::origin::{Command, Origin};
use crate::call::placement::{PHASE_CONNECT, Placement, Unopened};
use crate::call::plan::Plan;
use crate::call::pump::{Pump, Source};
use crate::call::respond::{Caller, Place};
use crate::call::retry::{Failed, Next, Tries, count_attempt};
use crate::call::still::Still;
use crate::call::trail::Trail;
use crate::call::verdict::{Judge, LOOK, Settled, poll_stop, settle};
use crate::context::Context;
use crate::failure::{Failure, Reason};
use crate::grpc::status::Code;
use crate::metrics::calls::{Direction, Series};
use crate::metrics::counter::Counter;
use crate::metrics::events::{Fault, Limit};

/// A call that has been admitted.
pub(crate) struct Exchange<'a> {
    pub(crate) context: &'a Context,
    pub(crate) direction: Direction,
    pub(crate) series: &'a Series,
    pub(crate) deadline: Option<Instant>,
    pub(crate) plan: &'a Plan<'a>,
    pub(crate) trail: &'a Trail,
    pub(crate) caller: &'a mut Caller,
    pub(crate) request: Pump,
    /// Else it is another request of HTTP: it has no status in trailers, and is not repeated.
    pub(crate) grpc: bool,
    /// It was delayed on purpose.
    pub(crate) is_late: bool,
    /// What is done to the response on purpose.
    pub(crate) barrier: Option<Box<Barrier>>,
}

impl<'a> Exchange<'a> {
    /// Places the call, again where its policy has it so, and relays the response.
    pub(crate) async fn run(&mut self, head: &mut Parts, origin: &Origin) -> Code {
        let cluster = self.plan.target.cluster;
        let attempts = &cluster.attempts[self.context.index];
        attempts.calls.add(1);
        cluster.purse.call(self.context.index);
        let mut timer = pin!(self.deadline.map(sleep_until));
        let mut tries = Tries::default();
        let code = match self.hedging() {
            // Boxed, so that calls that are not hedged are not larger for it.
            Some(race) => {
                let (request, caller) = (&mut self.request, &mut *self.caller);
                let (settled, place) =
                    Box::pin(race.run(request, caller, head, timer.as_mut(), &mut tries)).await;
                Box::pin(self.conclude(settled, place, timer, origin)).await
            }
            None => self.try_in_turn(head, timer, &mut tries, origin).await,
        };
        if tries.repeats > 0 {
            attempts.end_repeated(code == Code::Ok);
        }
        code
    }

    /// Ends a call that is settled.
    async fn conclude(
        &mut self,
        settled: Settled,
        mut place: Place,
        timer: Pin<&mut Option<Sleep>>,
        origin: &Origin,
    ) -> Code {
        match settled {
            Settled::Answered(mut attempt, answered) => match self.begin_response(&attempt, answered) {
                Ok(mut response) => self.relay(&mut attempt, &mut response, timer, &mut place, origin).await,
                Err(code) => code,
            },
            Settled::Stopped(stop) => self.stopped(stop, &place, origin, None).await,
            Settled::Failed(failure) => self.fail(&failure, &place, None).await,
        }
    }

    /// One attempt after another, until one settles the call; and that to its end.
    async fn try_in_turn(
        &mut self,
        head: &mut Parts,
        mut timer: Pin<&mut Option<Sleep>>,
        tries: &mut Tries,
        origin: &Origin,
    ) -> Code {
        let attempts = &self.plan.target.cluster.attempts[self.context.index];
        // An inbound sidecar has one endpoint and leaves repeating to the caller's, which knows the others.
        let keep_head = self.direction == Direction::Outbound;
        let deadline = self.deadline.filter(|_| self.grpc);
        let mut placement = Placement::new(self.context, self.plan.target, deadline, keep_head, self.trail)
            .late(self.is_late);
        let settled = loop {
            let end = self.request.is_over();
            let mut idle = Still::default();
            let stop = |cx: &mut TaskContext<'_>| self.poll_waiting(cx, timer.as_mut(), &mut idle);
            let mut attempt = match placement.open(head, end, stop).await {
                Ok(attempt) => attempt,
                Err(Unopened::Failed(failure)) => {
                    if failure.reason == Reason::NeverSent
                        && let Some(wait) = self.again(tries, head, Failed::Unplaced)
                    {
                        if let Err(stop) = self.wait(wait, timer.as_mut()).await {
                            break Settled::Stopped(stop);
                        }
                        placement.begin_anew();
                        continue;
                    }
                    break Settled::Failed(failure);
                }
                Err(Unopened::Stopped(stop)) => break Settled::Stopped(stop),
            };
            if end {
                self.request.set_finished();
            }
            let last = tries.is_last(self.plan.repeats.retries(), self.plan.idempotent);
            // A scope of its own, so that the answer is not held for as long as a stream may be open.
            let answered = {
                let answer = self.answer(&mut attempt, timer.as_mut(), last).await;
                attempts.end(answer.outcome());
                attempt.note(self.trail, answer.outcome(), answer.why());
                if let Some(failed) = self.judge().failed(&attempt, &answer)
                    && let Some(wait) = self.again(tries, head, failed)
                {
                    attempt.cancel();
                    drop((attempt, answer));
                    if let Err(stop) = self.wait(wait, timer.as_mut()).await {
                        break Settled::Stopped(stop);
                    }
                    self.request.rewind();
                    placement.go_elsewhere();
                    continue;
                }
                match answer {
                    Answer::Response(answered) => answered,
                    unanswered => break settle(attempt, unanswered, &mut placement.place),
                }
            };
            // Here and not below: nothing of the usual case is moved about.
            return match self.begin_response(&attempt, answered) {
                Ok(mut response) => {
                    let place = &mut placement.place;
                    self.relay(&mut attempt, &mut response, timer, place, origin).await
                }
                Err(code) => code,
            };
        };
        Box::pin(self.conclude(settled, placement.place, timer, origin)).await
    }

    /// The race that a call is in which is hedged.
    fn hedging(&self) -> Option<Race<'a>> {
        let Repeats::Hedging(rule) = *self.plan.repeats else { return None };
        let may = self.plan.idempotent && self.grpc && self.direction == Direction::Outbound;
        may.then(|| Race { rule, judge: self.judge(), trail: self.trail, count: self.request_count() })
    }

    /// Whether a call that failed goes out once more, and after how long a wait. The policy, what is kept of the request, the
    /// throttle, the budget and the deadline must all allow it.
    fn again(&mut self, tries: &mut Tries, head: &mut Parts, failed: Failed) -> Option<Duration> {
        if self.direction == Direction::Inbound || !self.grpc {
            return None;
        }
        let retries = tries.retries;
        let rule = self.plan.repeats.retries();
        let Next::Again { cause, wait } = tries.next(rule, self.plan.idempotent, failed, self.context.draw())
        else {
            return None;
        };
        if self.deadline.is_some_and(|deadline| deadline <= Instant::now() + wait) {
            return None;
        }
        // What no endpoint has seen costs none of them anything.
        if failed == Failed::Unplaced {
            return Some(wait);
        }
        if !self.judge().grants(self.request.is_kept(), cause) {
            return None;
        }
        tries.repeats += 1;
        if tries.retries > retries {
            count_attempt(&mut head.headers);
        }
        Some(wait)
    }

    /// Waits before an attempt.
    pub(crate) async fn wait(
        &mut self,
        wait: Duration,
        mut timer: Pin<&mut Option<Sleep>>,
    ) -> Result<(), Stop> {
        if wait.is_zero() {
            return Ok(());
        }
        let (count, over) = (self.request_count(), Instant::now() + wait);
        let mut look = pin!(sleep(wait.min(LOOK)));
        poll_fn(|cx| {
            if let Poll::Ready(broken) = self.request.poll_take_in(cx, count) {
                return Poll::Ready(Err(broken.into()));
            }
            if let Poll::Ready(stop) = poll_stop(cx, timer.as_mut(), self.caller) {
                return Poll::Ready(Err(stop));
            }
            self.trail.poll_open(cx);
            while look.as_mut().poll(cx).is_ready() {
                let now = Instant::now();
                if over <= now {
                    return Poll::Ready(Ok(()));
                }
                if self.caller.is_ending() {
                    return Poll::Ready(Err(Stop::ShuttingDown));
                }
                look.as_mut().reset(over.min(now + LOOK));
            }
            Poll::Pending
        })
        .await
    }

    /// What may end a call while it waits for a place: ready with that.
    fn poll_waiting(
        &mut self,
        cx: &mut TaskContext<'_>,
        timer: Pin<&mut Option<Sleep>>,
        idle: &mut Still,
    ) -> Poll<Stop> {
        let count = self.request_count();
        if let Poll::Ready(stop) = self.request.poll_take_in(cx, count) {
            return Poll::Ready(stop.into());
        }
        if let Poll::Ready(stop) = poll_stop(cx, timer, self.caller) {
            return Poll::Ready(stop);
        }
        self.trail.poll_open(cx);
        let Some(limit) = self.plan.idle else { return Poll::Pending };
        idle.poll(cx, self.request.moved(), limit).map(|()| Stop::Idle)
    }

    /// Waits for what commits the call, or for how the attempt fails, while the request goes out. `last`: there is no other
    /// attempt after this one.
    async fn answer(
        &mut self,
        attempt: &mut Attempt,
        mut timer: Pin<&mut Option<Sleep>>,
        last: bool,
    ) -> Answer {
        let count = self.request_count();
        let rule = self.plan.repeats.retries();
        let limit = rule.and_then(|rule| rule.per_attempt_timeout);
        let hold = rule.and_then(Retries::hold).filter(|_| !last);
        let mut overtime = pin!(limit.map(sleep));
        let mut held: Option<HeldBack> = None;
        let mut idle = Still::default();
        poll_fn(|cx| {
            let polled = match &mut held {
                None => attempt.poll_answer(cx, &mut self.request, count),
                Some(held) => held.poll(cx, attempt, &mut self.request, count),
            };
            match (polled, hold) {
                (Poll::Ready(Answer::Response(answered)), Some(hold))
                    if held.is_none() && answered.is_open() =>
                {
                    let held = held.insert(HeldBack::new(answered, hold));
                    if let Poll::Ready(answer) = held.poll(cx, attempt, &mut self.request, count) {
                        return Poll::Ready(answer);
                    }
                }
                (Poll::Ready(answer), _) => return Poll::Ready(answer),
                (Poll::Pending, _) => {}
            }
            if let Poll::Ready(stop) = poll_stop(cx, timer.as_mut(), self.caller) {
                return Poll::Ready(Answer::Stopped(stop));
            }
            // What is not kept of the request has committed the call.
            if let (Some(limit), Some(overtime)) = (limit, overtime.as_mut().as_pin_mut())
                && self.request.is_kept()
                && overtime.poll(cx).is_ready()
            {
                return Poll::Ready(Answer::TimedOut(limit));
            }
            self.trail.poll_open(cx);
            let Some(limit) = self.plan.idle else { return Poll::Pending };
            idle.poll(cx, self.request.moved(), limit).map(|()| Answer::Stopped(Stop::Idle))
        })
        .await
    }

    /// Ends a call that did not wait for its endpoint's end.
    pub(crate) async fn stopped(
        &mut self,
        stop: Stop,
        place: &Place,
        origin: &Origin,
        rest: Option<&mut Pump>,
    ) -> Code {
        let limits = &self.context.shared.limits;
        let out_of_time = self.judge().is_out_of_time();
        let failure = match stop {
            // A caller that gives up at its deadline is seen a moment before or after ours.
            Stop::CallerGone if !out_of_time => {
                let within = self.caller.is_answered()
                    || !self.caller.has_reset().await
                    || origin.link.note_reset(self.context.now());
                if !within {
                    self.context.refuse(Limit::ResetsPerSecond);
                    origin.link.ask(Command::Calm);
                }
                return Code::Cancelled;
            }
            Stop::CallerGone | Stop::Deadline => {
                let granted = self.plan.granted.unwrap_or_default();
                let message = format!("the call's {granted:?} are over");
                // What is left of the response has no time either.
                let failure = Failure::new(Reason::DeadlineExceeded, Code::DeadlineExceeded, message);
                return self.fail(&failure, place, None).await;
            }
            Stop::Revoked(why) => {
                self.context.events().revoke(why);
                let message = self.caller.leave.as_ref().map(|leave| leave.told(why)).unwrap_or_default();
                let failure = Failure::new(Reason::Revoked, Code::PermissionDenied, message);
                // Nor may it have what is left of the response.
                return self.fail(&failure, place, None).await;
            }
            // It ends attempts, and the one that outran them settles the call.
            Stop::Outrun => {
                Failure::new(Reason::ConnectionLost, Code::Unavailable, "the attempt was given up")
            }
            Stop::Cut(code) => {
                self.context.events().inject(Fault::StreamAbort);
                barrier::cut(code)
            }
            Stop::ShuttingDown => {
                let message = "the sidecar is shutting down and drain.deadline is over";
                Failure::new(Reason::Draining, Code::Unavailable, message)
            }
            Stop::Idle => {
                let message = "no DATA moved for as long as the route lets a stream be idle";
                Failure::new(Reason::StreamIdle, Code::Unavailable, message)
            }
            Stop::EndpointStalled | Stop::CallerStalled => {
                self.context.refuse(Limit::StallTimeout);
                let what = match stop {
                    Stop::CallerStalled => "the caller has fetched nothing",
                    _ if place.phase == PHASE_CONNECT => "no place on a connection has come free",
                    _ => "the endpoint has fetched nothing",
                };
                let limit = limits.stall_timeout;
                let message = format!("{what} for {limit:?}, and what waits for it stalls other calls");
                Failure::new(Reason::ReaderStalled, Code::ResourceExhausted, message)
            }
        };
        self.fail(&failure, place, rest).await
    }

    pub(crate) fn judge(&self) -> Judge<'a> {
        let Self { context, plan, grpc, deadline, is_late, .. } = *self;
        Judge { context, plan, grpc, deadline, is_late }
    }

    pub(crate) async fn fail(&mut self, failure: &Failure, place: &Place, rest: Option<&mut Pump>) -> Code {
        self.trail.failed(failure);
        let (count, request) = (self.request_count(), &mut self.request);
        // Boxed, so that calls that do not fail are not larger for it.
        let mut failing = Box::pin(self.caller.fail(self.context, self.direction, failure, place, rest));
        poll_fn(|cx| {
            // Its caller may go on to send until it has read of the failure.
            let _ = request.poll_take_in(cx, count);
            failing.as_mut().poll(cx)
        })
        .await
    }

    /// Messages of the request: received by a server, sent by a client.
    pub(crate) fn request_count(&self) -> &'a Counter {
        match self.direction {
            Direction::Inbound => &self.series.received,
            Direction::Outbound => &self.series.sent,
        }
    }
}
