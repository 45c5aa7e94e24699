//! The life of a call.
//!
//! ```text
//! identify -> admit -> [ pick -> connection -> request -> head of the response ]* -> relay -> status
//! ```
//!
//! [`serve`] is the whole of it; the other modules are its steps.

pub(crate) mod attempt;
pub(crate) mod deadline;
pub(crate) mod head;
pub(crate) mod origin;
pub(crate) mod plan;
pub(crate) mod pump;
pub(crate) mod queue;
pub(crate) mod respond;
pub(crate) mod still;

use std::future::{Future as _, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::{Arc, PoisonError};
use std::task::{Context as TaskContext, Poll};

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::request::Parts;
use http::{HeaderMap, Request, Response};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::call::attempt::{Answer, Attempt, Placement, Stop};
use crate::call::origin::{Command, Origin, Way};
use crate::call::plan::Plan;
use crate::call::pump::{Broken, Pump};
use crate::call::respond::{Caller, Place};
use crate::call::still::Still;
use crate::context::Context;
use crate::failure::{Failure, Reason};
use crate::grpc::status::Code;
use crate::local::Local;
use crate::metrics::calls::{Direction, Series};
use crate::metrics::events::{Events, Limit, Outcome};
use crate::tables::Cluster;

/// Serves one call from its head to its status.
pub(crate) async fn serve(
    context: Rc<Context>,
    local: Rc<Local>,
    origin: Rc<Origin>,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
) {
    let began = Instant::now();
    let direction = origin.direction();
    let (mut parts, body) = request.into_parts();
    let mut caller = Caller::new(respond, origin.link.clone());
    if !head::is_grpc(&parts) {
        context.events().fail(direction, Reason::NotGrpc);
        return caller.unsupported();
    }
    let nowhere = Place::default();
    let called = match plan::identify(&local.tables, &origin, &parts) {
        Ok(called) => called,
        Err(failure) => {
            caller.fail(&context, direction, &failure, &nowhere, None).await;
            return;
        }
    };
    let series = match &origin.way {
        Way::Inbound { series, .. } => {
            series.find(&context, &local.tables.services[called.service], called.method)
        }
        Way::Outbound => local.outbound(&context, called.service, called.method),
    };
    let observed = Observed::begin(&context, direction, series, began);
    let plan = match observed.within_limit() {
        Ok(()) => plan::admit(&context, &local.tables, &origin, &called, &parts.headers),
        Err(failure) => Err(failure),
    };
    let code = match plan {
        Ok(plan) => {
            head::prepare(&mut parts, &origin, plan.headers, &mut context.random.borrow_mut());
            let mut exchange = Exchange {
                context: &context,
                direction,
                series: &observed.series,
                deadline: plan.granted.map(|granted| began + granted),
                plan: &plan,
                caller,
                request: Pump::replayable(body, origin.link.held.clone()),
            };
            exchange.run(&local, &mut parts, &origin).await
        }
        Err(failure) => caller.fail(&context, direction, &failure, &nowhere, None).await,
    };
    observed.end(code);
}

/// Who may stand still, as [`Exchange::stalled`] names them.
const CALLER: &str = "the caller";
const ENDPOINT: &str = "the endpoint";

/// A call that has been admitted.
struct Exchange<'a> {
    context: &'a Context,
    direction: Direction,
    series: &'a Series,
    deadline: Option<Instant>,
    plan: &'a Plan<'a>,
    caller: Caller,
    request: Pump,
}

/// A response whose head has gone on.
struct Reply {
    body: Pump,
    /// What the call comes to if no trailers say it.
    otherwise: Code,
}

/// What ends a wait other than the endpoint.
enum Interrupt {
    Deadline,
    CallerGone,
}

/// How the relay of a response ended.
enum End {
    Trailers(Option<HeaderMap>),
    Lost(h2::Error),
    Idle,
    /// This side fetches nothing.
    Stalled(&'static str),
    Interrupted(Interrupt),
}

impl Exchange<'_> {
    /// Places the call, once more elsewhere if it was refused unprocessed, and relays the response.
    async fn run(&mut self, local: &Local, head: &mut Parts, origin: &Origin) -> Code {
        let cluster = &local.tables.clusters[self.plan.cluster];
        let attempts = &cluster.attempts[self.context.index];
        attempts.calls.add(1);
        let mut timer = pin!(self.deadline.map(sleep_until));
        // An inbound sidecar has one endpoint and leaves repeating to the caller's, which knows the others.
        let may_repeat = self.direction == Direction::Outbound;
        let mut placement = Placement::new(self.context, local, self.plan.cluster, self.deadline, may_repeat);
        let count = self.request_count();
        let mut repeated = false;
        loop {
            let end = self.request.is_over();
            let (caller, request) = (&mut self.caller, &mut self.request);
            let interrupt = |cx: &mut TaskContext<'_>| match request.poll_take_in(cx, count) {
                Poll::Ready(()) => Poll::Ready(()),
                Poll::Pending => poll_interrupt(cx, timer.as_mut(), caller).map(drop),
            };
            let mut attempt = match placement.open(head, end, interrupt).await {
                Ok(Some(attempt)) => attempt,
                Ok(None) => return self.interrupted(&placement.place, origin).await,
                Err(failure) => return self.fail(&failure, &placement.place, None).await,
            };
            if end {
                self.request.set_finished();
            }
            match self.answer(&mut attempt, timer.as_mut()).await {
                Answer::Response(response) => {
                    attempts.end(Outcome::Answered);
                    return match self.begin_response(&attempt, response) {
                        Ok(mut response) => {
                            let place = &mut placement.place;
                            self.relay(&mut attempt, &mut response, timer, place, origin).await
                        }
                        Err(code) => code,
                    };
                }
                Answer::CallerGone => {
                    attempts.end(Outcome::Abandoned);
                    attempt.cancel();
                    placement.place.endpoint = Some(attempt.endpoint().name.clone());
                    return self.interrupted(&placement.place, origin).await;
                }
                Answer::Stalled => {
                    attempts.end(Outcome::Broken);
                    attempt.cancel();
                    placement.place.endpoint = Some(attempt.endpoint().name.clone());
                    let failure = self.stalled(ENDPOINT);
                    return self.fail(&failure, &placement.place, None).await;
                }
                Answer::Broken(failure) => {
                    attempts.end(Outcome::Broken);
                    placement.place.endpoint = Some(attempt.endpoint().name.clone());
                    return self.fail(&failure, &placement.place, None).await;
                }
                Answer::Refused(failure) => {
                    attempts.end(Outcome::Refused);
                    attempt.endpoint().cooling.fail(self.context.now(), self.context.draw());
                    placement.place.endpoint = Some(attempt.endpoint().name.clone());
                    if repeated || !may_repeat || !self.repeat_granted(cluster) {
                        return self.fail(&failure, &placement.place, None).await;
                    }
                    repeated = true;
                    placement.go_elsewhere();
                }
            }
        }
    }

    /// Waits for the head of the response while the request goes out.
    async fn answer(&mut self, attempt: &mut Attempt, mut timer: Pin<&mut Option<Sleep>>) -> Answer {
        let count = self.request_count();
        let mut idle = Still::default();
        poll_fn(|cx| {
            if let Poll::Ready(answer) = attempt.poll_answer(cx, &mut self.request, count) {
                return Poll::Ready(answer);
            }
            if poll_interrupt(cx, timer.as_mut(), &mut self.caller).is_ready() {
                return Poll::Ready(Answer::CallerGone);
            }
            let Some(limit) = self.plan.idle else { return Poll::Pending };
            idle.poll(cx, self.request.moved(), limit).map(|()| Answer::Broken(idled()))
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
    fn begin_response(&mut self, attempt: &Attempt, response: Response<RecvStream>) -> Result<Reply, Code> {
        self.request.commit();
        let (mut parts, body) = response.into_parts();
        if let Some(rules) = self.plan.headers {
            rules.response.apply(&mut parts.headers);
        }
        let only = body.is_end_stream();
        let status = Code::of_headers(&parts.headers);
        let http = Code::of_http(parts.status);
        if self.caller.head(Response::from_parts(parts, ()), only).is_err() {
            return Err(Code::Cancelled);
        }
        if only {
            return Err(status.unwrap_or(http));
        }
        Ok(Reply { body: Pump::new(body, attempt.held()), otherwise: status.unwrap_or(http) })
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
        match self.exchange(attempt, &mut response.body, timer.as_mut()).await {
            End::Trailers(Some(trailers)) => {
                let code = Code::of_headers(&trailers).unwrap_or(response.otherwise);
                match self.caller.trailers(trailers) {
                    Ok(()) => code,
                    Err(_) => Code::Cancelled,
                }
            }
            end => {
                place.endpoint = Some(attempt.endpoint().name.clone());
                let failure = match end {
                    End::Interrupted(Interrupt::Deadline) | End::Interrupted(Interrupt::CallerGone) => {
                        attempt.cancel();
                        return self.interrupted(place, origin).await;
                    }
                    End::Idle => {
                        attempt.cancel();
                        idled()
                    }
                    End::Stalled(who) => {
                        attempt.cancel();
                        self.stalled(who)
                    }
                    End::Lost(error) => attempt.lost(&error).0,
                    End::Trailers(_) => {
                        let cut =
                            if response.body.at_boundary() { "" } else { " in the middle of a message" };
                        let message = format!("the endpoint ended the stream without a status{cut}");
                        Failure::new(Reason::MissingStatus, Code::Internal, message)
                    }
                };
                self.fail(&failure, place, Some(&mut response.body)).await
            }
        }
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
            match attempt.poll_request(cx, &mut self.request, request_count) {
                Poll::Ready(Stop::CallerGone) => {
                    return Poll::Ready(End::Interrupted(Interrupt::CallerGone));
                }
                Poll::Ready(Stop::Stalled) => return Poll::Ready(End::Stalled(ENDPOINT)),
                Poll::Pending => {}
            }
            let Some(stream) = self.caller.stream() else {
                return Poll::Ready(End::Interrupted(Interrupt::CallerGone));
            };
            match response.poll_response(cx, stream, response_count) {
                Poll::Ready(Ok(trailers)) => return Poll::Ready(End::Trailers(trailers)),
                Poll::Ready(Err(Broken::Source(error))) => return Poll::Ready(End::Lost(error)),
                Poll::Ready(Err(Broken::Stalled)) => return Poll::Ready(End::Stalled(CALLER)),
                Poll::Ready(Err(Broken::Sink)) => {
                    return Poll::Ready(End::Interrupted(Interrupt::CallerGone));
                }
                Poll::Pending => {}
            }
            if let Poll::Ready(interrupt) = poll_interrupt(cx, timer.as_mut(), &mut self.caller) {
                return Poll::Ready(End::Interrupted(interrupt));
            }
            let Some(limit) = self.plan.idle else { return Poll::Pending };
            idle.poll(cx, self.request.moved() + response.moved(), limit).map(|()| End::Idle)
        })
        .await
    }

    /// Ends a call that its deadline or its caller ended.
    async fn interrupted(&mut self, place: &Place, origin: &Origin) -> Code {
        match self.deadline {
            Some(deadline) if deadline <= Instant::now() => {
                let granted = self.plan.granted.unwrap_or_default();
                let message = format!("the call's {granted:?} are over");
                let failure = Failure::new(Reason::DeadlineExceeded, Code::DeadlineExceeded, message);
                self.fail(&failure, place, None).await
            }
            _ => {
                let within = self.caller.is_answered() || origin.link.note_reset(self.context.now());
                if !within {
                    self.context.refuse(Limit::ResetsPerSecond);
                    origin.link.ask(Command::Calm);
                }
                Code::Cancelled
            }
        }
    }

    /// Why a call ends whose reader, `who`, stands still while others wait for it.
    fn stalled(&self, who: &str) -> Failure {
        self.context.refuse(Limit::StallTimeout);
        let limit = self.context.shared.limits.stall_timeout;
        let message =
            format!("{who} has fetched nothing for {limit:?}, and what waits for it stalls other calls");
        Failure::new(Reason::ReaderStalled, Code::ResourceExhausted, message)
    }

    async fn fail(&mut self, failure: &Failure, place: &Place, rest: Option<&mut Pump>) -> Code {
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
    fn request_count(&self) -> &'a crate::metrics::counter::Counter {
        match self.direction {
            Direction::Inbound => &self.series.received,
            Direction::Outbound => &self.series.sent,
        }
    }

    /// Messages of the response: sent by a server, received by a client.
    fn response_count(&self) -> &'a crate::metrics::counter::Counter {
        match self.direction {
            Direction::Inbound => &self.series.sent,
            Direction::Outbound => &self.series.received,
        }
    }
}

/// Why a call ends that its route lets be idle for no longer.
fn idled() -> Failure {
    let message = "no DATA moved for as long as the route lets a stream be idle";
    Failure::new(Reason::StreamIdle, Code::Unavailable, message)
}

/// Ready when the deadline has passed or the caller is gone.
fn poll_interrupt(
    cx: &mut TaskContext<'_>,
    timer: Pin<&mut Option<Sleep>>,
    caller: &mut Caller,
) -> Poll<Interrupt> {
    if let Some(timer) = timer.as_pin_mut()
        && timer.poll(cx).is_ready()
    {
        return Poll::Ready(Interrupt::Deadline);
    }
    caller.poll_gone(cx).map(|()| Interrupt::CallerGone)
}

/// A call in the metrics: begun when made, ended once.
struct Observed<'a> {
    context: &'a Context,
    direction: Direction,
    series: Arc<Series>,
    began: Instant,
    code: Code,
}

impl<'a> Observed<'a> {
    fn begin(context: &'a Context, direction: Direction, series: Arc<Series>, began: Instant) -> Self {
        series.started.add(1);
        context.events().calls_in_flight[direction as usize].add(1);
        // A task that is dropped before its end is a call that was cut off.
        Self { context, direction, series, began, code: Code::Cancelled }
    }

    fn within_limit(&self) -> Result<(), Failure> {
        let limit = self.context.shared.limits.calls;
        if !self.context.shared.is_full(limit + 1, Events::calls) {
            return Ok(());
        }
        self.context.refuse(Limit::Calls);
        let message = format!("{limit} calls are in flight, which is the limit `calls`");
        Err(Failure::unprocessed(Reason::TooManyCalls, message))
    }

    fn end(mut self, code: Code) {
        self.code = code;
    }
}

impl Drop for Observed<'_> {
    fn drop(&mut self) {
        self.context.events().calls_in_flight[self.direction as usize].sub(1);
        self.series.end(self.code, self.began.elapsed());
    }
}
