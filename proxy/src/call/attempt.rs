//! One attempt: the request on its way to an endpoint, the head of the response on its way back, and what it tells of the
//! endpoint.

use std::cell::Cell;
use std::future::Future as _;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{Reason as H2Reason, RecvStream, SendStream};
use http::Response;
use tokio::time::{Instant, Sleep, sleep};

use crate::call::answer::{Answer, Answered, Stop, Tail};
use crate::call::head::UNPROCESSED;
use crate::call::pump::{Broken, Pump, Source};
use crate::call::trail::Trail;
use crate::clock::Clock;
use crate::context::Context;
use crate::endpoint::Endpoint;
use crate::failure::{Failure, Reason};
use crate::grpc::status::{Code, STATUS};
use crate::held::Held;
use crate::metrics::counter::Counter;
use crate::metrics::events::Outcome;
use crate::tables::Cluster;
use crate::upstream::pool::{Lease, Pool};
use crate::upstream::upkeep::GivenUp;

/// What had less time than this says nothing when it is over.
const SHORT_SILENCE: Duration = Duration::from_millis(50);
/// A caller that gives up after so long was not just in a hurry.
const LONG_SILENCE: Duration = Duration::from_secs(1);
/// An attempt that another one outran was slow if it took so many times what its endpoint takes.
const OUTRUN_FACTOR: f64 = 10.0;
/// What it takes at least, for this, in nanoseconds.
const OUTRUN_LEAST: f64 = 1e6;

/// An attempt under way. Dropping it cancels what is left of it.
pub(crate) struct Attempt {
    response: ResponseFuture,
    pub(crate) stream: SendStream<Bytes>,
    /// The endpoint takes no more of the request; its answer may still come.
    closed: bool,
    /// Some of the request has been handed on.
    has_begun: bool,
    /// The request waits for the endpoint to make room.
    waits: bool,
    /// What it came to has been told; see [`Attempt::report`].
    is_told: Cell<bool>,
    hold: Hold,
    clock: Clock,
    /// The place on the connection, held until the attempt ends.
    lease: Lease,
}

/// An endpoint's count of attempts in flight, given back when dropped.
pub(crate) struct Hold {
    /// The worker's own way to the endpoint, whose count of references is not shared with other workers.
    pool: Rc<Pool>,
    began: Instant,
}

/// A response whose head is held back until it is plain whether a message follows.
pub(crate) struct HeldBack {
    /// Until it is let go.
    answered: Option<Answered>,
    release: Pin<Box<Sleep>>,
}

impl HeldBack {
    pub(crate) fn new(answered: Answered, hold: Duration) -> Self {
        Self { answered: Some(answered), release: Box::pin(sleep(hold)) }
    }

    /// Moves the request on; ready with the first message, the end, or after the hold.
    pub(crate) fn poll(
        &mut self,
        cx: &mut TaskContext<'_>,
        attempt: &mut Attempt,
        request: &mut Pump,
        count: &Counter,
    ) -> Poll<Answer> {
        if let Poll::Ready(stop) = attempt.poll_request(cx, request, count) {
            return Poll::Ready(Answer::Stopped(stop));
        }
        let Some(mut answered) = self.answered.take() else { return Poll::Pending };
        match answered.poll_tail(cx) {
            Poll::Ready(Ok(tail)) => return Poll::Ready(Answer::Response(Answered { tail, ..answered })),
            Poll::Ready(Err(error)) => return Poll::Ready(attempt.broken(&error)),
            // There is no other attempt for which it would be held back.
            Poll::Pending if !request.is_kept() => return Poll::Ready(Answer::Response(answered)),
            Poll::Pending => {}
        }
        if self.release.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Answer::Response(answered));
        }
        self.answered = Some(answered);
        Poll::Pending
    }
}

impl Attempt {
    /// One whose head has gone out, with END_STREAM if `end`.
    pub(crate) fn begin(
        context: &Context,
        hold: Hold,
        lease: Lease,
        end: bool,
        (response, stream): (ResponseFuture, SendStream<Bytes>),
    ) -> Self {
        let clock = context.shared.clock;
        Self {
            response,
            stream,
            closed: end,
            has_begun: false,
            waits: false,
            is_told: Cell::default(),
            hold,
            clock,
            lease,
        }
    }

    /// Moves the request on and waits for the head of the response.
    pub(crate) fn poll_answer(
        &mut self,
        cx: &mut TaskContext<'_>,
        request: &mut impl Source,
        count: &Counter,
    ) -> Poll<Answer> {
        if let Poll::Ready(stop) = self.poll_request(cx, request, count) {
            return Poll::Ready(Answer::Stopped(stop));
        }
        match Pin::new(&mut self.response).poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(response)) => Poll::Ready(self.judge(cx, response)),
            Poll::Ready(Err(error)) => Poll::Ready(self.broken(&error)),
        }
    }

    /// Moves the request on; ready only when that ends the call.
    pub(crate) fn poll_request(
        &mut self,
        cx: &mut TaskContext<'_>,
        request: &mut impl Source,
        count: &Counter,
    ) -> Poll<Stop> {
        if self.closed {
            return request.poll_take_in(cx, count).map(Stop::from);
        }
        let before = request.handed();
        let polled = request.poll_request(cx, &mut self.stream, count);
        let moved = request.handed() != before;
        self.has_begun |= moved;
        // What has not begun to flow waits for the connection's task only, or for those that have.
        self.note_room(moved, self.has_begun && polled.is_pending() && request.is_held_up());
        match polled {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(broken @ (Broken::Source(_) | Broken::Stalled | Broken::Cut(_)))) => {
                Poll::Ready(broken.into())
            }
            Poll::Ready(Ok(()) | Err(Broken::Sink)) => {
                self.closed = true;
                Poll::Pending
            }
        }
    }

    /// Keeps the connection's account of requests that wait; costs nothing while none does.
    fn note_room(&mut self, moved: bool, waits: bool) {
        let room = self.lease.room();
        match (self.waits, waits) {
            (false, true) => room.begin(Instant::now()),
            (true, false) => room.end(Instant::now()),
            _ if moved && room.is_waited_for() => room.progress(Instant::now()),
            _ => {}
        }
        self.waits = waits;
    }

    /// What becomes of an attempt that broke.
    fn broken(&self, error: &h2::Error) -> Answer {
        match self.lost(error) {
            (failure, true) => Answer::Refused(failure),
            (failure, false) => Answer::Broken(failure),
        }
    }

    /// What a broken attempt means, and whether the endpoint refused it unprocessed (RFC 9113, 8.7: a
    /// remote REFUSED_STREAM, or a remote GOAWAY below the stream).
    pub(crate) fn lost(&self, error: &h2::Error) -> (Failure, bool) {
        let refused = error.is_remote()
            && (error.is_go_away() || error.is_reset() && error.reason() == Some(H2Reason::REFUSED_STREAM));
        if refused {
            return (Failure::unprocessed(Reason::Refused, format!("refused unprocessed: {error}")), true);
        }
        if error.is_remote()
            && error.is_reset()
            && let Some(reason) = error.reason()
        {
            let message = format!("the endpoint reset the stream: {reason}");
            return (Failure::new(Reason::EndpointReset, Code::of_reset(reason), message), false);
        }
        if error.is_library() && error.is_reset() {
            let message = format!("the endpoint's response breaks HTTP/2 or a limit: {error}");
            return (Failure::new(Reason::MalformedResponse, Code::Internal, message), false);
        }
        let (reason, message) = match self.lease.given_up() {
            Some((GivenUp::ShuttingDown, message)) => (Reason::Draining, message),
            Some((_, message)) => (Reason::ConnectionLost, message),
            None => (Reason::ConnectionLost, format!("the connection to the endpoint was lost: {error}")),
        };
        (Failure::new(reason, Code::Unavailable, message), false)
    }

    /// What the streams of the endpoint's connection hold.
    pub(crate) fn held(&self) -> Rc<Held> {
        self.lease.held()
    }

    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.hold.pool.endpoint
    }

    /// Tells who looks for outliers what it came to; `None`: no answer (lost, reset, its own timeout). What is said
    /// first counts, which is returned; not to be called for what the caller did.
    pub(crate) fn report(&self, cluster: &Cluster, told: Option<Code>) -> bool {
        let first = !self.is_told.replace(true);
        if first {
            cluster.report(self.endpoint(), told, || self.clock.nanos(Instant::now()));
        }
        first
    }

    /// The same of an attempt that ends before its endpoint does. `out_of_time`: the call's deadline has passed, which a caller
    /// that watches it as well may have been quicker to say.
    pub(crate) fn report_stop(&self, cluster: &Cluster, stop: Stop, out_of_time: bool) {
        if self.was_long(stop, out_of_time) {
            self.lease.ran_out_of_time();
        }
        match stop {
            Stop::Deadline => self.report(cluster, Some(Code::DeadlineExceeded)),
            Stop::CallerGone if out_of_time => self.report(cluster, Some(Code::DeadlineExceeded)),
            Stop::EndpointStalled => self.report(cluster, None),
            Stop::CallerGone | Stop::CallerStalled | Stop::Idle => false,
            Stop::Outrun | Stop::ShuttingDown | Stop::Cut(_) | Stop::Revoked(_) => false,
        };
    }

    /// Whether what ends it says that it took long.
    fn was_long(&self, stop: Stop, out_of_time: bool) -> bool {
        let now = Instant::now();
        let waited = now.saturating_duration_since(self.hold.began);
        match stop {
            Stop::Deadline => waited >= SHORT_SILENCE,
            Stop::CallerGone => waited >= if out_of_time { SHORT_SILENCE } else { LONG_SILENCE },
            Stop::Outrun => {
                let usual = self.endpoint().latency.load(self.clock.nanos(now), 0.0);
                waited.as_nanos() as f64 >= OUTRUN_FACTOR * usual.max(OUTRUN_LEAST)
            }
            Stop::Idle | Stop::EndpointStalled | Stop::CallerStalled => false,
            Stop::ShuttingDown | Stop::Cut(_) | Stop::Revoked(_) => false,
        }
    }

    /// Notes that it took longer than an attempt may.
    pub(crate) fn ran_out_of_time(&self) {
        self.lease.ran_out_of_time();
    }

    /// Gives up what it has been promised of the connection: nothing more is sent.
    pub(crate) fn stand_by(&mut self) {
        self.note_room(false, false);
        self.stream.reserve_capacity(0);
    }

    /// Notes how it ended.
    pub(crate) fn note(&self, trail: &Trail, outcome: Outcome, reason: &str) {
        trail.attempt(self.endpoint(), self.hold.began, outcome, reason);
    }

    /// Tells the endpoint that nobody waits for its answer any more.
    pub(crate) fn cancel(&mut self) {
        self.stream.send_reset(H2Reason::CANCEL);
    }

    fn judge(&self, cx: &mut TaskContext<'_>, mut response: Response<RecvStream>) -> Answer {
        let now = Instant::now();
        let took = now.saturating_duration_since(self.hold.began);
        let endpoint = self.endpoint();
        endpoint.latency.observe(self.clock.nanos(now), took);
        // Only a sidecar that has proved its identity is believed.
        if response.headers_mut().remove(UNPROCESSED).is_some() && endpoint.mesh {
            let message = "the endpoint's sidecar could not hand it to its app";
            return Answer::Refused(Failure::unprocessed(Reason::Refused, message));
        }
        endpoint.cooling.succeed();
        let mut tail = if response.body().is_end_stream() { Tail::Nothing } else { Tail::More(None) };
        if matches!(tail, Tail::More(_)) && response.headers().contains_key(STATUS) {
            // h2 forgets an END_STREAM that it read together with the connection's end.
            match response.body_mut().poll_data(cx) {
                Poll::Ready(Some(Ok(chunk))) => tail = Tail::More(Some(chunk)),
                Poll::Ready(Some(Err(error))) if error.is_reset() => return self.broken(&error),
                Poll::Ready(Some(Err(_))) => tail = Tail::Nothing,
                Poll::Ready(None) => {
                    tail = match response.body_mut().poll_trailers(cx) {
                        Poll::Ready(Ok(Some(trailers))) => Tail::Trailers(Some(trailers)),
                        _ => Tail::Nothing,
                    };
                }
                Poll::Pending => {}
            }
        }
        Answer::Response(Answered { response, tail })
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.note_room(false, false);
    }
}

impl Hold {
    pub(crate) fn begin(pool: &Rc<Pool>, began: Instant) -> Self {
        pool.endpoint.begin();
        Self { pool: pool.clone(), began }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.pool.endpoint.end();
    }
}
