//! One attempt: a place on a connection, the request on it, and what became of it.

use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{Reason as H2Reason, RecvStream, SendStream};
use http::Response;
use http::request::Parts;
use tokio::time::Instant;

use crate::balance::picker::{TRIES_MAX, Tried};
use crate::call::head::{self, UNPROCESSED, set_timeout};
use crate::call::pump::{Broken, Pump};
use crate::call::respond::Place;
use crate::clock::Clock;
use crate::context::Context;
use crate::endpoint::Endpoint;
use crate::failure::{Failure, Reason};
use crate::grpc::status::Code;
use crate::held::Held;
use crate::local::Local;
use crate::metrics::counter::Counter;
use crate::metrics::events::Outcome;
use crate::upstream::pool::{Lease, Unreachable};
use crate::upstream::upkeep::GivenUp;

/// Places a call on endpoints, one after another.
pub(crate) struct Placement<'a> {
    pub(crate) context: &'a Context,
    pub(crate) local: &'a Local,
    pub(crate) cluster: usize,
    pub(crate) deadline: Option<Instant>,
    /// More than one attempt may be opened.
    pub(crate) may_repeat: bool,
    pub(crate) place: Place,
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
    hold: Hold,
    clock: Clock,
    /// The place on the connection, held until the attempt ends.
    lease: Lease,
}

/// An endpoint's count of attempts in flight, given back when dropped.
struct Hold {
    endpoint: Arc<Endpoint>,
    began: Instant,
}

/// What an attempt came to, as far as the head of the response.
pub(crate) enum Answer {
    Response(Response<RecvStream>),
    /// Nothing of it was processed, says the endpoint.
    Refused(Failure),
    /// It broke; it may have been processed.
    Broken(Failure),
    /// The caller broke off its request.
    CallerGone,
    /// The endpoint fetches nothing of the request; see [`Broken::Stalled`].
    Stalled,
}

/// What ends a call from the side of its request.
pub(crate) enum Stop {
    CallerGone,
    Stalled,
}

impl<'a> Placement<'a> {
    pub(crate) fn new(
        context: &'a Context,
        local: &'a Local,
        cluster: usize,
        deadline: Option<Instant>,
        may_repeat: bool,
    ) -> Self {
        let (place, tried) = (Place::default(), Tried::default());
        Self { context, local, cluster, deadline, may_repeat, place, tried, never_sent: 0 }
    }

    /// Opens an attempt on the next endpoint. While nothing could be handed to a connection, tries each
    /// remaining endpoint, at most five in all; `interrupt` ends the wait.
    pub(crate) async fn open(
        &mut self,
        head: &mut Parts,
        end: bool,
        mut interrupt: impl FnMut(&mut TaskContext<'_>) -> Poll<()>,
    ) -> Result<Option<Attempt>, Failure> {
        let local = self.local;
        let cluster = &local.tables.clusters[self.cluster];
        let mut why: Rc<str> = "".into();
        while self.never_sent < TRIES_MAX {
            let began = Instant::now();
            let now = self.context.shared.clock.nanos(began);
            let Some(member) = local.pick(self.context, self.cluster, &self.tried, now) else { break };
            let endpoint = &cluster.members[member];
            self.tried.add(member);
            self.place.attempts += 1;
            self.place.phase = "connect";
            self.place.endpoint = None;
            let hold = Hold::begin(endpoint, began);
            let pool = &local.pools[cluster.dials[member]];
            let leased = match pool.try_lease(began) {
                Some(lease) => Ok(lease),
                None => {
                    let mut lease = pin!(pool.lease());
                    let waited = poll_fn(|cx| match lease.as_mut().poll(cx) {
                        Poll::Ready(leased) => Poll::Ready(Some(leased)),
                        Poll::Pending => interrupt(cx).map(|()| None),
                    });
                    match waited.await {
                        Some(leased) => leased,
                        None => return Ok(None),
                    }
                }
            };
            let sent = leased.and_then(|lease| {
                let mut request = head::request(head, self.may_repeat);
                if let Some(deadline) = self.deadline {
                    let left = deadline.saturating_duration_since(Instant::now());
                    set_timeout(request.headers_mut(), left.max(Duration::from_nanos(1)));
                }
                let (response, stream) = lease
                    .send(request, end)
                    .map_err(|error| Unreachable(format!("not handed on: {error}").into()))?;
                let clock = self.context.shared.clock;
                Ok(Attempt { response, stream, closed: end, waits: None, hold, clock, lease })
            });
            match sent {
                Ok(attempt) => {
                    self.place.phase = "response";
                    return Ok(Some(attempt));
                }
                Err(Unreachable(reason)) => {
                    cluster.attempts[self.context.index].end(Outcome::NeverSent);
                    self.never_sent += 1;
                    self.place.endpoint = Some(endpoint.name.clone());
                    why = reason;
                }
            }
        }
        Err(self.nobody_left(&why))
    }

    /// Whether there is an endpoint left for one more attempt; forgets who was tried if there is none, so
    /// that a lone endpoint is asked again.
    pub(crate) fn go_elsewhere(&mut self) {
        let cluster = &self.local.tables.clusters[self.cluster];
        if (0..cluster.members.len()).all(|member| self.tried.contains(member)) {
            self.tried = Tried::default();
        }
    }

    fn nobody_left(&self, why: &str) -> Failure {
        let tables = &self.local.tables;
        let cluster = &tables.clusters[self.cluster];
        let service = &tables.services[cluster.service].name;
        if self.never_sent == 0 {
            let message = format!("{service} has no endpoint for this call");
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
        request: &mut Pump,
        count: &Counter,
    ) -> Poll<Answer> {
        match self.poll_request(cx, request, count) {
            Poll::Ready(Stop::CallerGone) => return Poll::Ready(Answer::CallerGone),
            Poll::Ready(Stop::Stalled) => return Poll::Ready(Answer::Stalled),
            Poll::Pending => {}
        }
        match std::pin::Pin::new(&mut self.response).poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(response)) => Poll::Ready(self.judge(response)),
            Poll::Ready(Err(error)) => Poll::Ready(match self.lost(&error) {
                (failure, true) => Answer::Refused(failure),
                (failure, false) => Answer::Broken(failure),
            }),
        }
    }

    /// Moves the request on; ready only when that ends the call.
    pub(crate) fn poll_request(
        &mut self,
        cx: &mut TaskContext<'_>,
        request: &mut Pump,
        count: &Counter,
    ) -> Poll<Stop> {
        if self.closed {
            return request.poll_take_in(cx, count).map(|()| Stop::CallerGone);
        }
        let polled = request.poll_request(cx, &mut self.stream, count);
        // What has not begun to flow waits for the connection's task only, or for those that have.
        let waits = polled.is_pending() && request.is_held_up() && request.handed() > 0;
        self.note_room(waits.then(|| request.handed()));
        match polled {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(Broken::Source(_))) => Poll::Ready(Stop::CallerGone),
            Poll::Ready(Err(Broken::Stalled)) => Poll::Ready(Stop::Stalled),
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
        &self.hold.endpoint
    }

    /// Tells the endpoint that nobody waits for its answer any more.
    pub(crate) fn cancel(&mut self) {
        self.stream.send_reset(H2Reason::CANCEL);
    }

    fn judge(&self, mut response: Response<RecvStream>) -> Answer {
        let now = Instant::now();
        let took = now.saturating_duration_since(self.hold.began);
        self.hold.endpoint.latency.observe(self.clock.nanos(now), took);
        let unprocessed = response.headers_mut().remove(UNPROCESSED).is_some();
        // Only a sidecar that has proved its identity is believed.
        if unprocessed && self.hold.endpoint.mesh && response.body().is_end_stream() {
            let message = "the endpoint's sidecar could not hand it to its app";
            return Answer::Refused(Failure::unprocessed(Reason::Refused, message));
        }
        self.hold.endpoint.cooling.succeed();
        Answer::Response(response)
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.note_room(None);
    }
}

impl Hold {
    fn begin(endpoint: &Arc<Endpoint>, began: Instant) -> Self {
        endpoint.begin();
        Self { endpoint: endpoint.clone(), began }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.endpoint.end();
    }
}
