//! One call between its caller and its endpoints: placed, repeated where that is safe, relayed to its end.

use std::future::{Future as _, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use config::repeats::Retries;
use http::header::CONTENT_LENGTH;
use http::request::Parts;
use http::{HeaderMap, Response, StatusCode};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use crate::call::attempt::{
    Answer, Answered, Attempt, HeldBack, PHASE_CONNECT, Placement, Stop, Tail, Unopened,
};
use crate::call::origin::{Command, Origin};
use crate::call::plan::Plan;
use crate::call::pump::{Broken, Pump};
use crate::call::respond::{Caller, Place};
use crate::call::retry::{Failed, Next, Tries, count_attempt};
use crate::call::still::Still;
use crate::call::trail::Trail;
use crate::context::Context;
use crate::failure::{Failure, Reason};
use crate::grpc::status::Code;
use crate::metrics::calls::{Direction, Series};
use crate::metrics::counter::Counter;
use crate::metrics::events::{Cause, Limit};

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
}

/// A response whose head has gone on.
struct Reply {
    body: Pump,
    http: StatusCode,
    /// `grpc-status`, if it stood in the head.
    status: Option<Code>,
}

/// How the relay of a response ended.
enum End {
    Trailers(Option<HeaderMap>),
    Lost(h2::Error),
    Stopped(Stop),
}

impl Exchange<'_> {
    /// Places the call, again where its policy has it so, and relays the response.
    pub(crate) async fn run(&mut self, head: &mut Parts, origin: &Origin) -> Code {
        let cluster = self.plan.target.cluster;
        let attempts = &cluster.attempts[self.context.index];
        attempts.calls.add(1);
        cluster.purse.call(self.context.index);
        let mut timer = pin!(self.deadline.map(sleep_until));
        // An inbound sidecar has one endpoint and leaves repeating to the caller's, which knows the others.
        let keep_head = self.direction == Direction::Outbound;
        let deadline = self.deadline.filter(|_| self.grpc);
        let trail = self.trail;
        let mut placement = Placement::new(self.context, self.plan.target, deadline, keep_head, trail);
        let mut tries = Tries::default();
        let code = loop {
            let end = self.request.is_over();
            let mut idle = Still::default();
            let stop = |cx: &mut TaskContext<'_>| self.poll_waiting(cx, timer.as_mut(), &mut idle);
            let mut attempt = match placement.open(head, end, stop).await {
                Ok(attempt) => attempt,
                Err(Unopened::Failed(failure)) => break self.fail(&failure, &placement.place, None).await,
                Err(Unopened::Stopped(stop)) => {
                    break self.stopped(stop, &placement.place, origin, None).await;
                }
            };
            if end {
                self.request.set_finished();
            }
            let last = tries.is_last(self.plan.repeats.retries(), self.plan.idempotent);
            let answer = self.answer(&mut attempt, timer.as_mut(), last).await;
            attempts.end(answer.outcome());
            attempt.note(trail, answer.outcome(), answer.why());
            if let Some(failed) = self.failed(&attempt, &answer)
                && let Some(wait) = self.again(&mut tries, head, failed)
            {
                attempt.cancel();
                drop((attempt, answer));
                if let Err(stop) = self.wait(wait, timer.as_mut()).await {
                    break self.stopped(stop, &placement.place, origin, None).await;
                }
                self.request.rewind();
                placement.go_elsewhere();
                continue;
            }
            let place = &mut placement.place;
            if !matches!(answer, Answer::Response(_)) {
                place.endpoint = Some(attempt.endpoint().name.clone());
                attempt.cancel();
            }
            break match answer {
                Answer::Response(answered) => match self.begin_response(&attempt, answered) {
                    Ok(mut response) => self.relay(&mut attempt, &mut response, timer, place, origin).await,
                    Err(code) => code,
                },
                Answer::Stopped(stop) => self.stopped(stop, place, origin, None).await,
                Answer::Refused(failure) | Answer::Broken(failure) => self.fail(&failure, place, None).await,
                Answer::TimedOut(limit) => self.fail(&overtime(limit), place, None).await,
            };
        };
        if tries.repeats > 0 {
            attempts.end_repeated(code == Code::Ok);
        }
        code
    }

    /// How an attempt failed before the call was committed to it.
    fn failed(&self, attempt: &Attempt, answer: &Answer) -> Option<Failed> {
        let (failed, told) = match answer {
            Answer::Response(answered) if !self.grpc => {
                let code =
                    if answered.response.status().is_server_error() { Code::Unavailable } else { Code::Ok };
                attempt.report(self.plan.target.cluster, Some(code));
                return None;
            }
            Answer::Response(answered) => {
                let (code, said) = answered.failure()?;
                (Failed::Status(code, said), Some(code))
            }
            Answer::Refused(_) => {
                attempt.endpoint().cooling.fail(self.context.now(), self.context.draw());
                attempt.report(self.plan.target.cluster, None);
                return Some(Failed::Unprocessed);
            }
            Answer::Broken(failure) => (Failed::Broken(failure.code), None),
            Answer::TimedOut(_) => (Failed::TimedOut, None),
            Answer::Stopped(stop) => {
                attempt.report_stop(self.plan.target.cluster, *stop, self.is_out_of_time());
                return None;
            }
        };
        self.learn(attempt, told);
        Some(failed)
    }

    /// Takes in how an attempt ended: with a status of the endpoint's, or without an answer.
    fn learn(&self, attempt: &Attempt, told: Option<Code>) {
        if !attempt.report(self.plan.target.cluster, told) {
            return;
        }
        let Some(throttle) = &self.plan.target.cluster.throttle else { return };
        match told {
            Some(Code::Ok) => throttle.succeed(),
            Some(code) if !self.plan.repeats.codes().contains(code.number()) => {}
            _ => throttle.fail(),
        }
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
        let in_time = self.deadline.is_none_or(|deadline| Instant::now() + wait < deadline);
        if !in_time || !self.is_granted(cause) {
            return None;
        }
        tries.repeats += 1;
        self.plan.target.cluster.attempts[self.context.index].repeat(cause);
        if tries.retries > retries {
            count_attempt(&mut head.headers);
        }
        Some(wait)
    }

    /// Whether what is kept of the request, the throttle and the budget allow one more attempt.
    fn is_granted(&self, cause: Cause) -> bool {
        let cluster = self.plan.target.cluster;
        let throttled = || cluster.throttle.as_ref().is_some_and(|throttle| !throttle.allows());
        let limit = if !self.request.is_kept() {
            Limit::ReplayBuffer
        } else if cause != Cause::Unprocessed && throttled() {
            Limit::RetryThrottling
        } else if !cluster.purse.take(&cluster.retry_budget, self.context.now()) {
            Limit::RetryBudget
        } else {
            return true;
        };
        self.context.refuse(limit);
        false
    }

    /// Waits before the next attempt.
    async fn wait(&mut self, wait: Duration, mut timer: Pin<&mut Option<Sleep>>) -> Result<(), Stop> {
        if wait.is_zero() {
            return Ok(());
        }
        let mut over = pin!(sleep(wait));
        let mut idle = Still::default();
        poll_fn(|cx| match self.poll_waiting(cx, timer.as_mut(), &mut idle) {
            Poll::Ready(stop) => Poll::Ready(Err(stop)),
            Poll::Pending => over.as_mut().poll(cx).map(Ok),
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

    /// Sends the head of the response on; `Err` if that was all of it, or the caller is gone.
    fn begin_response(&mut self, attempt: &Attempt, answered: Answered) -> Result<Reply, Code> {
        self.request.commit();
        let Answered { response, tail } = answered;
        let over = matches!(tail, Tail::Nothing);
        let (mut parts, body) = response.into_parts();
        if let Some(rules) = self.plan.headers {
            rules.response.apply(&mut parts.headers);
        }
        let (http, status) = (parts.status, Code::of_headers(&parts.headers));
        if !over && self.grpc {
            // Trailers of ours may end it before so much has come.
            parts.headers.remove(CONTENT_LENGTH);
        }
        if self.caller.head(Response::from_parts(parts, ()), over).is_err() {
            return Err(Code::Cancelled);
        }
        if over {
            let code = status.unwrap_or(Code::of_http(http));
            if code == Code::Ok {
                self.learn(attempt, Some(code));
            }
            return Err(code);
        }
        let tally = self.trail.tallies().map(|(_, response)| response);
        let mut body = Pump::new(body, attempt.held()).noted(tally);
        match tail {
            Tail::More(Some(chunk)) => body.begin_with(chunk, self.response_count()),
            Tail::Trailers(trailers) => body.end_with(trailers),
            Tail::Nothing | Tail::More(None) => {}
        }
        Ok(Reply { body, http, status })
    }

    /// Relays the rest of a response, to its status.
    async fn relay(
        &mut self,
        attempt: &mut Attempt,
        response: &mut Reply,
        mut timer: Pin<&mut Option<Sleep>>,
        place: &mut Place,
        origin: &Origin,
    ) -> Code {
        place.phase = "stream";
        let failure = match self.exchange(attempt, &mut response.body, timer.as_mut()).await {
            End::Trailers(trailers) if !self.grpc => {
                return if self.caller.finish(trailers).is_ok() { Code::Ok } else { Code::Cancelled };
            }
            End::Trailers(trailers) => {
                // Of trailers that are too long, h2 hands out the beginning.
                let said = |trailers: &HeaderMap| Code::of_headers(trailers).or(response.status);
                match trailers.and_then(|trailers| Some((said(&trailers)?, trailers))) {
                    Some((code, trailers)) => {
                        self.learn(attempt, Some(code));
                        return if self.caller.trailers(trailers).is_ok() { code } else { Code::Cancelled };
                    }
                    None => {
                        self.learn(attempt, None);
                        response.without_status()
                    }
                }
            }
            End::Lost(error) => {
                self.learn(attempt, None);
                attempt.lost(&error).0
            }
            End::Stopped(stop) => {
                attempt.cancel();
                place.endpoint = Some(attempt.endpoint().name.clone());
                return self.stopped(stop, place, origin, Some(&mut response.body)).await;
            }
        };
        place.endpoint = Some(attempt.endpoint().name.clone());
        self.fail(&failure, place, Some(&mut response.body)).await
    }

    /// Moves both directions until the response ends.
    async fn exchange(
        &mut self,
        attempt: &mut Attempt,
        response: &mut Pump,
        mut timer: Pin<&mut Option<Sleep>>,
    ) -> End {
        let (request_count, response_count) = (self.request_count(), self.response_count());
        let mut idle = Still::default();
        poll_fn(|cx| {
            if let Poll::Ready(stop) = attempt.poll_request(cx, &mut self.request, request_count) {
                return Poll::Ready(End::Stopped(stop));
            }
            let Some(stream) = self.caller.stream() else {
                return Poll::Ready(End::Stopped(Stop::CallerGone));
            };
            match response.poll_response(cx, stream, response_count) {
                Poll::Ready(Ok(trailers)) => return Poll::Ready(End::Trailers(trailers)),
                Poll::Ready(Err(Broken::Source(error))) => return Poll::Ready(End::Lost(error)),
                Poll::Ready(Err(Broken::Stalled)) => return Poll::Ready(End::Stopped(Stop::CallerStalled)),
                Poll::Ready(Err(Broken::Sink)) => return Poll::Ready(End::Stopped(Stop::CallerGone)),
                Poll::Pending => {}
            }
            if let Poll::Ready(stop) = poll_stop(cx, timer.as_mut(), self.caller) {
                return Poll::Ready(End::Stopped(stop));
            }
            self.trail.poll_open(cx);
            let Some(limit) = self.plan.idle else { return Poll::Pending };
            let moved = self.request.moved() + response.moved();
            idle.poll(cx, moved, limit).map(|()| End::Stopped(Stop::Idle))
        })
        .await
    }

    /// Ends a call that did not wait for its endpoint's end.
    async fn stopped(&mut self, stop: Stop, place: &Place, origin: &Origin, rest: Option<&mut Pump>) -> Code {
        let limits = &self.context.shared.limits;
        let out_of_time = self.is_out_of_time();
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

    fn is_out_of_time(&self) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= Instant::now())
    }

    async fn fail(&mut self, failure: &Failure, place: &Place, rest: Option<&mut Pump>) -> Code {
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
}

impl<'a> Exchange<'a> {
    /// Messages of the request: received by a server, sent by a client.
    fn request_count(&self) -> &'a Counter {
        match self.direction {
            Direction::Inbound => &self.series.received,
            Direction::Outbound => &self.series.sent,
        }
    }

    /// Messages of the response: sent by a server, received by a client.
    fn response_count(&self) -> &'a Counter {
        match self.direction {
            Direction::Inbound => &self.series.sent,
            Direction::Outbound => &self.series.received,
        }
    }
}

impl Reply {
    /// Why a response fails that has ended without `grpc-status` in trailers.
    fn without_status(&self) -> Failure {
        if self.http != StatusCode::OK {
            let message = format!("the endpoint answered HTTP {} and no grpc-status", self.http.as_u16());
            return Failure::new(Reason::MissingStatus, Code::of_http(self.http), message);
        }
        let cut = if self.body.at_boundary() { "" } else { " in the middle of a message" };
        let message = format!("the endpoint ended the stream without a status{cut}");
        Failure::new(Reason::MissingStatus, Code::Internal, message)
    }
}

/// The end of a call whose last attempt was too slow.
fn overtime(limit: Duration) -> Failure {
    let message = format!("the endpoint has not answered within the {limit:?} of an attempt");
    Failure::new(Reason::AttemptTimeout, Code::DeadlineExceeded, message)
}

/// Ready when the deadline has passed or the caller is gone.
fn poll_stop(cx: &mut TaskContext<'_>, timer: Pin<&mut Option<Sleep>>, caller: &mut Caller) -> Poll<Stop> {
    if let Some(timer) = timer.as_pin_mut()
        && timer.poll(cx).is_ready()
    {
        return Poll::Ready(Stop::Deadline);
    }
    caller.poll_gone(cx).map(|()| Stop::CallerGone)
}
