//! One call between its caller and its endpoints: placed, repeated where that is safe, relayed to its end.

use std::future::{Future as _, poll_fn};
use std::pin::{Pin, pin};
use std::sync::PoisonError;
use std::task::{Context as TaskContext, Poll};

use http::header::CONTENT_LENGTH;
use http::request::Parts;
use http::{HeaderMap, Response, StatusCode};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::call::attempt::{Answer, Answered, Attempt, PHASE_CONNECT, Placement, Stop, Unopened};
use crate::call::origin::{Command, Origin};
use crate::call::plan::Plan;
use crate::call::pump::{Broken, Pump};
use crate::call::respond::{Caller, Place};
use crate::call::still::Still;
use crate::call::trail::Trail;
use crate::context::Context;
use crate::failure::{Failure, Reason};
use crate::grpc::status::Code;
use crate::metrics::calls::{Direction, Series};
use crate::metrics::counter::Counter;
use crate::metrics::events::{Limit, Outcome};
use crate::tables::Cluster;

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
    /// Places the call, once more elsewhere if it was refused unprocessed, and relays the response.
    pub(crate) async fn run(&mut self, head: &mut Parts, origin: &Origin) -> Code {
        let cluster = self.plan.target.cluster;
        let attempts = &cluster.attempts[self.context.index];
        attempts.calls.add(1);
        let mut timer = pin!(self.deadline.map(sleep_until));
        // An inbound sidecar has one endpoint and leaves repeating to the caller's, which knows the others.
        let keep_head = self.direction == Direction::Outbound;
        let may_repeat = keep_head && self.grpc;
        let deadline = self.deadline.filter(|_| self.grpc);
        let trail = self.trail;
        let mut placement = Placement::new(self.context, self.plan.target, deadline, keep_head, trail);
        let mut repeated = false;
        loop {
            let end = self.request.is_over();
            let mut idle = Still::default();
            let stop = |cx: &mut TaskContext<'_>| self.poll_waiting(cx, timer.as_mut(), &mut idle);
            let mut attempt = match placement.open(head, end, stop).await {
                Ok(attempt) => attempt,
                Err(Unopened::Failed(failure)) => return self.fail(&failure, &placement.place, None).await,
                Err(Unopened::Stopped(stop)) => {
                    return self.stopped(stop, &placement.place, origin, None).await;
                }
            };
            if end {
                self.request.set_finished();
            }
            let answer = self.answer(&mut attempt, timer.as_mut()).await;
            if !matches!(answer, Answer::Response(_)) {
                placement.place.endpoint = Some(attempt.endpoint().name.clone());
            }
            match answer {
                Answer::Response(answered) => {
                    attempts.end(Outcome::Answered);
                    attempt.note(trail, Outcome::Answered, "");
                    return match self.begin_response(&attempt, answered) {
                        Ok(mut response) => {
                            let place = &mut placement.place;
                            self.relay(&mut attempt, &mut response, timer, place, origin).await
                        }
                        Err(code) => code,
                    };
                }
                Answer::Stopped(stop) => {
                    attempts.end(stop.outcome());
                    attempt.note(trail, stop.outcome(), stop.as_str());
                    attempt.cancel();
                    return self.stopped(stop, &placement.place, origin, None).await;
                }
                Answer::Broken(failure) => {
                    attempts.end(Outcome::Broken);
                    attempt.note(trail, Outcome::Broken, &failure.message);
                    return self.fail(&failure, &placement.place, None).await;
                }
                Answer::Refused(failure) => {
                    attempts.end(Outcome::Refused);
                    attempt.note(trail, Outcome::Refused, &failure.message);
                    attempt.endpoint().cooling.fail(self.context.now(), self.context.draw());
                    if repeated || !may_repeat || !self.repeat_granted(cluster) {
                        return self.fail(&failure, &placement.place, None).await;
                    }
                    repeated = true;
                    placement.go_elsewhere();
                }
            }
        }
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

    /// Waits for the head of the response while the request goes out.
    async fn answer(&mut self, attempt: &mut Attempt, mut timer: Pin<&mut Option<Sleep>>) -> Answer {
        let count = self.request_count();
        let mut idle = Still::default();
        poll_fn(|cx| {
            if let Poll::Ready(answer) = attempt.poll_answer(cx, &mut self.request, count) {
                return Poll::Ready(answer);
            }
            if let Poll::Ready(stop) = poll_stop(cx, timer.as_mut(), self.caller) {
                return Poll::Ready(Answer::Stopped(stop));
            }
            self.trail.poll_open(cx);
            let Some(limit) = self.plan.idle else { return Poll::Pending };
            idle.poll(cx, self.request.moved(), limit).map(|()| Answer::Stopped(Stop::Idle))
        })
        .await
    }

    /// Whether what is kept of a refused call, and the budget, allow that it goes once more elsewhere.
    fn repeat_granted(&mut self, cluster: &Cluster) -> bool {
        if !self.request.rewind() {
            self.context.refuse(Limit::ReplayBuffer);
            return false;
        }
        let mut budget = cluster.budget.lock().unwrap_or_else(PoisonError::into_inner);
        let granted = budget.take(self.context.now(), cluster.calls());
        if !granted {
            self.context.refuse(Limit::RetryBudget);
        }
        granted
    }

    /// Sends the head of the response on; `Err` if that was all of it, or the caller is gone.
    fn begin_response(&mut self, attempt: &Attempt, answered: Answered) -> Result<Reply, Code> {
        self.request.commit();
        let Answered { response, over, first } = answered;
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
            return Err(status.unwrap_or(Code::of_http(http)));
        }
        let tally = self.trail.tallies().map(|(_, response)| response);
        let mut body = Pump::new(body, attempt.held()).noted(tally);
        if let Some(chunk) = first {
            body.begin_with(chunk, self.response_count());
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
                        return if self.caller.trailers(trailers).is_ok() { code } else { Code::Cancelled };
                    }
                    None => response.without_status(),
                }
            }
            End::Lost(error) => attempt.lost(&error).0,
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
        let out_of_time = self.deadline.is_some_and(|deadline| deadline <= Instant::now());
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

/// Ready when the deadline has passed or the caller is gone.
fn poll_stop(cx: &mut TaskContext<'_>, timer: Pin<&mut Option<Sleep>>, caller: &mut Caller) -> Poll<Stop> {
    if let Some(timer) = timer.as_pin_mut()
        && timer.poll(cx).is_ready()
    {
        return Poll::Ready(Stop::Deadline);
    }
    caller.poll_gone(cx).map(|()| Stop::CallerGone)
}
