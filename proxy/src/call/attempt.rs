//! One attempt: a place on a connection, the request on it, and what became of it.

use std::cell::Cell;
use std::future::{Future as _, poll_fn};
use std::mem::take;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{Reason as H2Reason, RecvStream, SendStream};
use http::request::Parts;
use http::{HeaderMap, Response, StatusCode};
use tokio::time::{Instant, Sleep, sleep};

use crate::balance::picker::{TRIES_MAX, Tried};
use crate::call::head::{self, UNPROCESSED, set_timeout};
use crate::call::pump::{Broken, Pump, Source};
use crate::call::respond::Place;
use crate::call::retry::Pushback;
use crate::call::trail::Trail;
use crate::clock::{Clock, Nanos};
use crate::context::Context;
use crate::endpoint::Endpoint;
use crate::failure::{Failure, Reason};
use crate::grpc::status::{Code, STATUS};
use crate::held::Held;
use crate::local::Target;
use crate::metrics::counter::Counter;
use crate::metrics::events::Outcome;
use crate::tables::Cluster;
use crate::upstream::pool::{Lease, Pool, Unreachable};
use crate::upstream::upkeep::GivenUp;

/// The phase of a call that waits for a place on a connection.
pub(crate) const PHASE_CONNECT: &str = "connect";

/// A caller that gives up after so long was not just in a hurry.
const LONG_SILENCE: Duration = Duration::from_secs(1);
/// An attempt that another one outran was slow if it took so many times what its endpoint takes.
const OUTRUN_FACTOR: f64 = 10.0;
/// What it takes at least, for this, in nanoseconds.
const OUTRUN_LEAST: f64 = 1e6;

/// Places a call on endpoints, one after another.
pub(crate) struct Placement<'a> {
    pub(crate) context: &'a Context,
    pub(crate) target: Target<'a>,
    pub(crate) deadline: Option<Instant>,
    /// More than one attempt may be opened, each with a copy of the head.
    pub(crate) keep_head: bool,
    pub(crate) place: Place,
    trail: &'a Trail,
    /// Where attempts have been, and those among them that nothing could be handed to.
    tried: Tried,
    unreached: Tried,
    never_sent: usize,
    /// Where the last attempt was, and whether endpoints may be tried again: see [`Placement::go_elsewhere`].
    last: Option<usize>,
    may_return: bool,
    /// Where other attempts are that run at the same time.
    others: Option<&'a Cell<Others>>,
    /// It may go where one of them is, because nobody else is left.
    shares: bool,
}

/// What attempts of one call that run at the same time know of each other.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Others {
    tried: Tried,
    never_sent: usize,
}

/// An attempt under way. Dropping it cancels what is left of it.
pub(crate) struct Attempt {
    response: ResponseFuture,
    pub(crate) stream: SendStream<Bytes>,
    /// The endpoint takes no more of the request; its answer may still come.
    closed: bool,
    /// The request waits for the endpoint to make room: what had been handed on when it was last looked at.
    waits: Option<u64>,
    /// What it came to has been told; see [`Attempt::report`].
    is_told: Cell<bool>,
    hold: Hold,
    clock: Clock,
    /// The place on the connection, held until the attempt ends.
    lease: Lease,
}

/// An endpoint's count of attempts in flight, given back when dropped.
struct Hold {
    /// The worker's own way to the endpoint, whose count of references is not shared with other workers.
    pool: Rc<Pool>,
    began: Instant,
}

/// What an attempt came to, as far as the head of the response.
pub(crate) enum Answer {
    Response(Answered),
    /// Nothing of it was processed, says the endpoint.
    Refused(Failure),
    /// It took longer than an attempt may.
    TimedOut(Duration),
    /// It broke; it may have been processed.
    Broken(Failure),
    /// The call is over for other reasons.
    Stopped(Stop),
}

/// A response of which the head is here.
pub(crate) struct Answered {
    pub(crate) response: Response<RecvStream>,
    pub(crate) tail: Tail,
}

/// What is known of a response behind its head.
pub(crate) enum Tail {
    /// The head is all of it.
    Nothing,
    /// There may be more; DATA of it may have been met on the way to find that out.
    More(Option<Bytes>),
    /// No message came, and these trailers, if any.
    Trailers(Option<HeaderMap>),
}

impl Answer {
    /// As what it counts.
    pub(crate) fn outcome(&self) -> Outcome {
        match self {
            Self::Response(_) => Outcome::Answered,
            Self::Refused(_) => Outcome::Refused,
            Self::Broken(_) => Outcome::Broken,
            Self::TimedOut(_) => Outcome::TimedOut,
            Self::Stopped(stop) => stop.outcome(),
        }
    }

    /// Why there is no response, in words.
    pub(crate) fn why(&self) -> &str {
        match self {
            Self::Response(_) => "",
            Self::Refused(failure) | Self::Broken(failure) => &failure.message,
            Self::TimedOut(_) => "per_attempt_timeout",
            Self::Stopped(stop) => stop.as_str(),
        }
    }
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

impl Answered {
    /// Whether nothing is known of what follows the head.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.tail, Tail::More(None)) && self.response.status() == StatusCode::OK
    }

    /// Looks at what follows the head: ready with the first DATA, or with the end.
    pub(crate) fn poll_tail(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<Tail, h2::Error>> {
        let body = self.response.body_mut();
        loop {
            match ready!(body.poll_data(cx)) {
                // Empty, and not the end.
                Some(Ok(chunk)) if chunk.is_empty() => {}
                Some(Ok(chunk)) => return Poll::Ready(Ok(Tail::More(Some(chunk)))),
                Some(Err(error)) => return Poll::Ready(Err(error)),
                None => return body.poll_trailers(cx).map_ok(Tail::Trailers),
            }
        }
    }

    /// How the call has failed, if this is a whole response that says so.
    pub(crate) fn failure(&self) -> Option<(Code, Pushback)> {
        let head = self.response.headers();
        let http = self.response.status();
        let (code, said) = match &self.tail {
            Tail::Trailers(Some(trailers)) => {
                (Code::of_headers(trailers).or(Code::of_headers(head)), trailers)
            }
            Tail::Nothing | Tail::Trailers(None) => (Code::of_headers(head), head),
            // What is not gRPC, such as the error page of another proxy, is no answer of the service.
            Tail::More(_) if http != StatusCode::OK => (Code::of_headers(head), head),
            Tail::More(_) => return None,
        };
        let code = code.unwrap_or(if http == StatusCode::OK { Code::Internal } else { Code::of_http(http) });
        (code != Code::Ok).then(|| (code, Pushback::of(said)))
    }
}

/// What ends a call before its endpoint does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    Deadline,
    /// The caller has reset the call, or its connection is gone.
    CallerGone,
    /// Nothing has moved for as long as the route lets a stream be idle.
    Idle,
    /// The endpoint fetches nothing of the request; see [`Broken::Stalled`].
    EndpointStalled,
    /// The caller fetches nothing of the response.
    CallerStalled,
    /// Another attempt of the same call was faster.
    Outrun,
    /// The sidecar has no more time.
    ShuttingDown,
    /// A fault on purpose ends it with this status.
    Cut(Code),
}

impl Stop {
    /// The word in notes of an attempt.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Deadline => "deadline",
            Self::CallerGone => "caller gone",
            Self::Idle => "idle",
            Self::EndpointStalled => "endpoint stalled",
            Self::CallerStalled => "caller stalled",
            Self::Outrun => "outrun",
            Self::ShuttingDown => "shutting down",
            Self::Cut(_) => "fault on purpose",
        }
    }

    /// As what it counts for the attempt that it ends while that waits for a place on a connection.
    fn outcome_unsent(self) -> Outcome {
        match self.outcome() {
            Outcome::Broken => Outcome::NeverSent,
            outcome => outcome,
        }
    }

    /// As what it counts for the attempt that it ends.
    pub(crate) fn outcome(self) -> Outcome {
        match self {
            Self::Outrun => Outcome::Outrun,
            Self::ShuttingDown => Outcome::Broken,
            Self::Deadline | Self::CallerGone | Self::Cut(_) => Outcome::Abandoned,
            Self::Idle | Self::EndpointStalled | Self::CallerStalled => Outcome::Broken,
        }
    }
}

impl From<Broken> for Stop {
    /// What it means for a call that its request cannot go on.
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Stalled => Self::EndpointStalled,
            Broken::Cut(code) => Self::Cut(code),
            Broken::Source(_) | Broken::Sink => Self::CallerGone,
        }
    }
}

/// Why no attempt could be opened.
pub(crate) enum Unopened {
    Failed(Failure),
    Stopped(Stop),
}

impl<'a> Placement<'a> {
    pub(crate) fn new(
        context: &'a Context,
        target: Target<'a>,
        deadline: Option<Instant>,
        keep_head: bool,
        trail: &'a Trail,
    ) -> Self {
        Self {
            context,
            target,
            deadline,
            keep_head,
            place: Place::default(),
            trail,
            tried: Tried::default(),
            unreached: Tried::default(),
            never_sent: 0,
            last: None,
            may_return: false,
            others: None,
            shares: false,
        }
    }

    /// One of several at the same time, which keep out of each other's way where they can.
    pub(crate) fn beside(mut self, others: &'a Cell<Others>) -> Self {
        self.others = Some(others);
        self
    }

    /// Opens an attempt on the next endpoint. While nothing could be handed to a connection, tries each
    /// remaining endpoint, at most five in all; `stop` ends the wait.
    pub(crate) async fn open(
        &mut self,
        head: &mut Parts,
        end: bool,
        mut stop: impl FnMut(&mut TaskContext<'_>) -> Poll<Stop>,
    ) -> Result<Attempt, Unopened> {
        let cluster = self.target.cluster;
        let mut why: Rc<str> = "".into();
        // Many that were begun and reset at once would reach the endpoint as just that, and it would close the
        // connection on everybody (CVE-2023-44487).
        if let Poll::Ready(stop) = poll_fn(|cx| Poll::Ready(stop(cx))).await {
            return Err(Unopened::Stopped(stop));
        }
        while self.tries_left() > 0 {
            let began = Instant::now();
            let now = self.context.shared.clock.nanos(began);
            let Some(member) = self.pick(now) else { break };
            let endpoint = &cluster.members[member];
            self.tried.add(member);
            if let Some(others) = self.others {
                let mut all = others.get();
                all.tried.add(member);
                others.set(all);
            }
            self.place.attempts += 1;
            self.place.phase = PHASE_CONNECT;
            self.place.endpoint = None;
            let pool = self.target.pool(member);
            let hold = Hold::begin(pool, began);
            let leased = match pool.try_lease(began) {
                Some(lease) => Ok(lease),
                None => {
                    let mut lease = pin!(pool.lease());
                    // Looked at in this order, because what freed the place may have ended the call as well.
                    let waited = poll_fn(|cx| match stop(cx) {
                        Poll::Ready(stop) => Poll::Ready(Err(stop)),
                        Poll::Pending => lease.as_mut().poll(cx).map(Ok),
                    });
                    match waited.await {
                        Ok(leased) => leased,
                        Err(stop) => {
                            let outcome = stop.outcome_unsent();
                            cluster.attempts[self.context.index].end(outcome);
                            self.trail.attempt(endpoint, began, outcome, stop.as_str());
                            if stop == Stop::Deadline {
                                let told = Some(Code::DeadlineExceeded);
                                cluster.report(endpoint, told, || self.context.now());
                            }
                            return Err(Unopened::Stopped(stop));
                        }
                    }
                }
            };
            let sent = leased.and_then(|lease| {
                let mut request = head::request(head, self.keep_head);
                if let Some(deadline) = self.deadline {
                    let left = deadline.saturating_duration_since(Instant::now());
                    set_timeout(request.headers_mut(), left.max(Duration::from_nanos(1)));
                }
                let (response, stream) = lease
                    .send(request, end)
                    .map_err(|error| Unreachable(format!("not handed on: {error}").into()))?;
                let clock = self.context.shared.clock;
                let is_told = Cell::default();
                Ok(Attempt { response, stream, closed: end, waits: None, is_told, hold, clock, lease })
            });
            match sent {
                Ok(attempt) => {
                    self.place.phase = "response";
                    return Ok(attempt);
                }
                Err(Unreachable(reason)) => {
                    cluster.attempts[self.context.index].end(Outcome::NeverSent);
                    self.trail.attempt(endpoint, began, Outcome::NeverSent, &reason);
                    self.note_unsent();
                    self.unreached.add(member);
                    cluster.report(endpoint, None, || self.context.now());
                    self.place.endpoint = Some(endpoint.name.clone());
                    why = reason;
                }
            }
        }
        Err(Unopened::Failed(self.nobody_left(&why)))
    }

    /// How many times more nothing may be handed on: all attempts that run at the same time count together.
    fn tries_left(&self) -> usize {
        TRIES_MAX.saturating_sub(self.others.map_or(self.never_sent, |others| others.get().never_sent))
    }

    fn note_unsent(&mut self) {
        self.never_sent += 1;
        if let Some(others) = self.others {
            let mut all = others.get();
            all.never_sent += 1;
            others.set(all);
        }
    }

    /// Makes ready for one more round over all endpoints, after none could be reached.
    pub(crate) fn begin_anew(&mut self) {
        (self.tried, self.unreached) = (Tried::default(), Tried::default());
        (self.never_sent, self.last, self.may_return) = (0, None, false);
    }

    /// Makes ready for one more attempt: not where the last one was, nor where any was, as long as there are others.
    pub(crate) fn go_elsewhere(&mut self) {
        self.last = self.tried.last();
        self.may_return = true;
    }

    /// Picks an endpoint that was not tried; once there is none, or none that is fit for calls, one that could be reached, the
    /// last one last.
    fn pick(&mut self, now: Nanos) -> Option<usize> {
        loop {
            let others = self.others.filter(|_| !self.shares);
            let tried = others.map_or(self.tried, |others| self.tried.and(&others.get().tried));
            if let Some(member) = self.target.pick(self.context, &tried, now)
                && (!self.may_return || self.target.cluster.is_in_use(member, now))
            {
                return Some(member);
            }
            // Several at once on one endpoint are better than none.
            if others.is_some() {
                self.shares = true;
                continue;
            }
            self.tried = self.unreached;
            match self.last.take() {
                Some(last) => self.tried.add(last),
                None if take(&mut self.may_return) => {}
                None => return None,
            }
        }
    }

    fn nobody_left(&self, why: &str) -> Failure {
        let service = &self.target.cluster.service;
        if self.never_sent == 0 {
            let why = self.target.cluster.unresolved.as_ref();
            let why = why.map(|why| format!(": {why}")).unwrap_or_default();
            let message = format!("{service} has no endpoint for this call{why}");
            return Failure::unprocessed(Reason::NoEndpoint, message);
        }
        Failure::unprocessed(Reason::NeverSent, format!("no endpoint of {service} could be reached: {why}"))
    }
}

impl Attempt {
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
        let polled = request.poll_request(cx, &mut self.stream, count);
        // What has not begun to flow waits for the connection's task only, or for those that have.
        let waits = polled.is_pending() && request.is_held_up() && request.handed() > 0;
        self.note_room(waits.then(|| request.handed()));
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
    fn note_room(&mut self, waits: Option<u64>) {
        let room = self.lease.room();
        match (self.waits, waits) {
            (None, None) => {}
            (None, Some(_)) => room.begin(Instant::now()),
            (Some(_), None) => room.end(Instant::now()),
            (Some(before), Some(handed)) if before != handed => room.progress(Instant::now()),
            (Some(_), Some(_)) => {}
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
            Stop::Outrun | Stop::ShuttingDown | Stop::Cut(_) => false,
        };
    }

    /// Whether what ends it says that it took long.
    fn was_long(&self, stop: Stop, out_of_time: bool) -> bool {
        let now = Instant::now();
        let waited = now.saturating_duration_since(self.hold.began);
        match stop {
            Stop::Deadline => true,
            Stop::CallerGone => out_of_time || waited >= LONG_SILENCE,
            Stop::Outrun => {
                let usual = self.endpoint().latency.load(self.clock.nanos(now), 0.0);
                waited.as_nanos() as f64 >= OUTRUN_FACTOR * usual.max(OUTRUN_LEAST)
            }
            Stop::Idle | Stop::EndpointStalled | Stop::CallerStalled => false,
            Stop::ShuttingDown | Stop::Cut(_) => false,
        }
    }

    /// Notes that it took longer than an attempt may.
    pub(crate) fn ran_out_of_time(&self) {
        self.lease.ran_out_of_time();
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
                Poll::Ready(None | Some(Err(_))) => tail = Tail::Nothing,
                Poll::Pending => {}
            }
        }
        Answer::Response(Answered { response, tail })
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.note_room(None);
    }
}

impl Hold {
    fn begin(pool: &Rc<Pool>, began: Instant) -> Self {
        pool.endpoint.begin();
        Self { pool: pool.clone(), began }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.pool.endpoint.end();
    }
}
