//! Where an attempt goes: an endpoint, and a place on a connection to it.

use std::cell::Cell;
use std::future::{Future as _, poll_fn};
use std::mem::take;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use http::request::Parts;
use tokio::time::Instant;

use crate::balance::picker::{TRIES_MAX, Tried};
use crate::call::answer::Stop;
use crate::call::attempt::{Attempt, Hold};
use crate::call::head::{self, set_timeout};
use crate::call::respond::Place;
use crate::call::trail::Trail;
use crate::clock::Nanos;
use crate::context::Context;
use crate::failure::{Failure, Reason};
use crate::grpc::status::Code;
use crate::local::Target;
use crate::metrics::events::Outcome;
use crate::upstream::pool::Unreachable;

/// The phase of a call that waits for a place on a connection.
pub(crate) const PHASE_CONNECT: &str = "connect";

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
    /// The call was delayed on purpose: that its time is over says nothing of endpoints.
    is_late: bool,
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
            is_late: false,
            others: None,
            shares: false,
        }
    }

    /// For a call that was delayed on purpose, if `is_late`.
    pub(crate) fn late(mut self, is_late: bool) -> Self {
        self.is_late = is_late;
        self
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
                            if stop == Stop::Deadline && !self.is_late {
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
                Ok(Attempt::begin(self.context, hold, lease, end, (response, stream)))
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
                // One that is unfit is still better than the one that has just failed.
                && (!self.may_return || self.last.is_none() || self.target.cluster.is_in_use(member, now))
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
