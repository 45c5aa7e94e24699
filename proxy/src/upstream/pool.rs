//! One worker's connections to one endpoint.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use config::model::Upstream;
use h2::SendStream;
use h2::client::ResponseFuture;
use http::Request;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::balance::cooling::EARLY;
use crate::clock::nanos;
use crate::context::Context;
use crate::endpoint::Endpoint;
use crate::held::Held;
use crate::metrics::events::Side;
use crate::tables::Dial;
use crate::tables::ledger::Purse;
use crate::tls::credentials::{Client, Credentials};
use crate::upstream::connect::connect;
use crate::upstream::connection::{Change, Connection, launch};
use crate::upstream::room::Room;
use crate::upstream::upkeep::GivenUp;

/// The least time between two attempts to connect, however many calls ask for it.
const RECONNECT_AFTER: Duration = Duration::from_millis(20);
/// The same where there is a connection, and only one more is refused.
const ONE_MORE_AFTER: Duration = Duration::from_millis(100);
/// A PING that asks whether the endpoint is there has this long before another connection is opened.
const HEAD_START: Duration = Duration::from_millis(20);
/// How long an unused connection stays that was opened for a call of an old snapshot.
const RETIRED_IDLE: Duration = Duration::from_secs(1);

/// The pool. A call waits here for a place on a connection; waiting calls are bounded by the limit on calls.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) context: Rc<Context>,
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) upstream: Upstream,
    /// By which the next connection is made.
    tls: RefCell<Option<Arc<Client>>>,
    purse: Option<Arc<Purse>>,
    /// Those that take calls, and those that still carry some.
    connections: RefCell<Vec<Rc<Connection>>>,
    connecting: Cell<bool>,
    /// It finds out by itself when the endpoint is there again: see [`revive`].
    reviving: Cell<bool>,
    /// No call is placed here any more.
    ended: Cell<bool>,
    /// Calls of old snapshots only are placed here.
    retired: Cell<bool>,
    /// How many attempts to connect have failed, and why the last one did.
    failures: Cell<u64>,
    last_failure: RefCell<Rc<str>>,
    not_before: Cell<Option<Instant>>,
    waiting: Cell<usize>,
    notify: Notify,
}

/// A connection could not be opened.
#[derive(Clone, Debug)]
pub(crate) struct Unreachable(pub(crate) Rc<str>);

/// A place on a connection, given back when dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    connection: Rc<Connection>,
    pool: Rc<Pool>,
    /// What had been heard on the connection when the request was handed to it.
    heard: Cell<u64>,
}

impl Pool {
    pub(crate) fn new(context: Rc<Context>, dial: &Dial) -> Self {
        Self {
            context,
            endpoint: dial.endpoint.clone(),
            upstream: dial.upstream,
            tls: RefCell::new(dial.tls.clone()),
            purse: dial.purse.clone(),
            connections: RefCell::default(),
            connecting: Cell::new(false),
            reviving: Cell::new(false),
            ended: Cell::new(false),
            retired: Cell::new(false),
            failures: Cell::new(0),
            last_failure: RefCell::new("".into()),
            not_before: Cell::new(None),
            waiting: Cell::new(0),
            notify: Notify::new(),
        }
    }

    /// Whether its connections are such as `dial` asks for. Then the next one is made as that says: where roots come and go,
    /// those that are open stay, each for as long as its server is believed ([`Pool::look_at_proofs`]). A mesh whose roots
    /// change does not open all of its connections anew in the same moment.
    pub(crate) fn goes_on_for(&self, dial: &Dial) -> bool {
        let mut tls = self.tls.borrow_mut();
        let same_tls = match (&*tls, &dial.tls) {
            (None, None) => true,
            (Some(ours), Some(theirs)) => Arc::ptr_eq(ours, theirs) || ours.goes_on_as(theirs),
            _ => false,
        };
        let same = same_tls && Arc::ptr_eq(&self.endpoint, &dial.endpoint) && self.upstream == dial.upstream;
        if same {
            tls.clone_from(&dial.tls);
        }
        same
    }

    /// Gives up the connections to servers for whom no root of `own` vouches any more.
    pub(crate) fn look_at_proofs(&self, own: &Credentials) {
        let connections = self.connections.borrow();
        let lost = connections.iter().filter(|connection| connection.look_at_proof(own)).count();
        self.context.events().connections_distrusted[Side::Upstream as usize].add(lost as u64);
    }

    /// A place on a connection; opens one where none has room. Fails with the first failure to connect that comes
    /// after the call began to wait, unless another connection is open: then it waits for a place there.
    pub(crate) async fn lease(self: &Rc<Self>) -> Result<Lease, Unreachable> {
        let mut failures = if self.ended.get() { u64::MAX } else { self.failures.get() };
        loop {
            // Made before the look, so that no change between look and wait is missed.
            let changed = self.notify.notified();
            if let Some(lease) = self.try_lease(Instant::now()) {
                return Ok(lease);
            }
            if self.failures.get() != failures {
                if let Some(lease) = self.any_place() {
                    return Ok(lease);
                }
                if self.ended.get() || !self.has_trusted() {
                    return Err(Unreachable(self.last_failure.borrow().clone()));
                }
                // The endpoint is there: one of its connections will have a place again.
                failures = self.failures.get();
            }
            self.connect_if_needed();
            let _waiting = Waiting::begin(&self.waiting);
            changed.await;
        }
    }

    /// A place on a connection that is there; the hot path. None on one that is crowded, as long as another
    /// may be opened.
    pub(crate) fn try_lease(self: &Rc<Self>, now: Instant) -> Option<Lease> {
        let connections = self.connections.borrow();
        let free = |connection: &&Rc<Connection>| !connection.is_crowded(now) && connection.reserve();
        match connections.iter().find(free) {
            Some(connection) => Some(self.place(connection)),
            None if self.may_open() => None,
            None => self.any_place(),
        }
    }

    /// A place on any connection, crowded or not.
    fn any_place(self: &Rc<Self>) -> Option<Lease> {
        let connections = self.connections.borrow();
        connections.iter().find(|connection| connection.reserve()).map(|connection| self.place(connection))
    }

    fn place(self: &Rc<Self>, connection: &Rc<Connection>) -> Lease {
        Lease { connection: connection.clone(), pool: self.clone(), heard: Cell::default() }
    }

    fn has_trusted(&self) -> bool {
        self.connections.borrow().iter().any(|connection| connection.is_trusted())
    }

    /// Whether one more connection is within the limit. One that is suspected does not count: it goes when there is another.
    fn may_open(&self) -> bool {
        let connections = self.connections.borrow();
        connections.iter().filter(|connection| connection.is_trusted()).count() < self.upstream.connections
    }

    /// Something about one of its connections is different: whoever waits looks again.
    fn changed(self: &Rc<Self>, change: Change) {
        self.forget_closed();
        match change {
            Change::Room => {}
            Change::Cleared => self.endpoint.cooling.release(),
            Change::Silent if self.has_trusted() => {}
            Change::Silent => {
                self.endpoint.cooling.fail(self.context.now(), self.context.draw());
                self.revive();
            }
        }
        self.notify.notify_waiters();
    }

    /// One of its connections is suspected. With no other one, calls go elsewhere until it is known how the endpoint is.
    fn doubted(self: &Rc<Self>) {
        self.context.events().connections_suspected.add(1);
        if !self.has_trusted() && !self.is_leaving() {
            if self.endpoint.mesh {
                self.not_before.set(Some(Instant::now() + HEAD_START));
            }
            self.hold();
            self.revive();
        }
    }

    /// Keeps calls away while it is found out how the endpoint is: for as long as a connection may take.
    fn hold(&self) {
        let limit = self.upstream.connect_timeout + HEAD_START + EARLY;
        self.endpoint.cooling.hold(self.context.now().saturating_add(nanos(limit)));
    }

    /// How long to wait before the next connection is tried: to just before the end of the back-off.
    fn before_next(&self) -> Duration {
        let begins = self.endpoint.cooling.backs_off_until().saturating_sub(nanos(EARLY));
        let wait = Duration::from_nanos(begins.saturating_sub(self.context.now()));
        match self.not_before.get() {
            Some(not_before) => wait.max(not_before.saturating_duration_since(Instant::now())),
            None => wait,
        }
    }

    /// Calls to its service so far.
    fn calls(&self) -> u64 {
        self.purse.as_ref().map_or(0, |purse| purse.calls())
    }

    fn is_leaving(&self) -> bool {
        self.ended.get() || self.retired.get()
    }

    fn revive(self: &Rc<Self>) {
        if !self.is_leaving() && !self.reviving.replace(true) {
            tokio::task::spawn_local(revive(Rc::downgrade(self)));
        }
    }

    /// Ends every call that is here or waits here: the sidecar has no more time.
    pub(crate) fn end(&self) {
        self.ended.set(true);
        for connection in &*self.connections.borrow() {
            connection.end();
        }
        *self.last_failure.borrow_mut() = "the sidecar is shutting down".into();
        self.failures.set(self.failures.get() + 1);
        self.notify.notify_waiters();
    }

    /// Closes its connections once the calls on them have ended. A call of an old snapshot may still come; it has a
    /// connection opened for itself.
    pub(crate) fn retire(&self) {
        self.retired.set(true);
        for connection in &*self.connections.borrow() {
            connection.retire();
        }
    }

    /// How the next connection is to be kept.
    fn settings(&self) -> Upstream {
        if !self.retired.get() {
            return self.upstream;
        }
        // For those who wait for it, and no longer.
        let calls = u32::try_from(self.waiting.get()).unwrap_or(u32::MAX).max(1);
        Upstream {
            max_calls: calls.min(self.upstream.max_calls),
            idle_timeout: RETIRED_IDLE.min(self.upstream.idle_timeout),
            ..self.upstream
        }
    }

    fn forget_closed(&self) {
        self.connections.borrow_mut().retain(|connection| connection.is_open() || connection.in_flight() > 0);
    }

    fn connect_if_needed(self: &Rc<Self>) {
        self.forget_closed();
        if self.connecting.get() || !self.may_open() {
            return;
        }
        self.connecting.set(true);
        tokio::task::spawn_local(self.clone().connect());
    }

    async fn connect(self: Rc<Self>) {
        if let Some(not_before) = self.not_before.get() {
            sleep_until(not_before).await;
            if self.waiting.get() == 0 && self.has_trusted() {
                // One that was suspected has been cleared meanwhile.
                self.connecting.set(false);
                self.notify.notify_waiters();
                return;
            }
        }
        let limits = &self.context.shared.limits;
        let (tls, user_timeout) = (self.tls.borrow().clone(), self.upstream.user_timeout);
        let attempt =
            connect(&self.endpoint, tls.as_ref(), user_timeout, limits, &self.context.shared.dialled);
        let (silent, result) = match timeout(self.upstream.connect_timeout, attempt).await {
            Ok(result) => (false, result),
            Err(_) => (true, Err(format!("not connected within {:?}", self.upstream.connect_timeout))),
        };
        self.connecting.set(false);
        match result {
            Ok(connected) => {
                self.not_before.set(None);
                let pool = Rc::downgrade(&self);
                let changed = move |change| {
                    if let Some(pool) = pool.upgrade() {
                        pool.changed(change);
                    }
                };
                let connection = launch(connected, &self.context, self.settings(), &self.endpoint, changed);
                let mut connections = self.connections.borrow_mut();
                connections.iter().filter(|other| !other.is_trusted()).for_each(|other| other.retire());
                connections.push(connection);
                drop(connections);
                // The roots may have changed while it was made.
                if let Some(own) = &self.context.shared.tables.load().credentials {
                    self.look_at_proofs(own);
                }
                if self.reviving.get() {
                    self.endpoint.cooling.is_back();
                }
            }
            Err(why) => {
                self.failures.set(self.failures.get() + 1);
                *self.last_failure.borrow_mut() = why.into();
                self.context.events().connect_failures.add(1);
                self.context.shared.resolver.doubt(self.endpoint.address.ip());
                let trusted = self.has_trusted();
                let pause = if trusted { ONE_MORE_AFTER } else { RECONNECT_AFTER };
                self.not_before.set(Some(Instant::now() + pause));
                if !trusted {
                    self.endpoint.cooling.fail(self.context.now(), self.context.draw());
                    // One that refuses costs the call that finds it out next to nothing.
                    if silent {
                        self.revive();
                    }
                }
            }
        }
        self.notify.notify_waiters();
    }
}

/// Connects to an endpoint that has gone silent, until it is there again, so that no call has to find that out: where nobody
/// answers, that would take `connect_timeout` each time. Ends with the pool, and when nobody calls the service any more;
/// then the next call finds it out.
async fn revive(pool: Weak<Pool>) {
    let mut calls = None;
    loop {
        // Nothing of the pool is held while it waits.
        let wait = match pool.upgrade() {
            None => return,
            Some(pool) if pool.is_leaving() || pool.has_trusted() || calls == Some(pool.calls()) => {
                pool.reviving.set(false);
                return;
            }
            Some(pool) => {
                calls = Some(pool.calls());
                pool.before_next()
            }
        };
        sleep(wait).await;
        let Some(pool) = pool.upgrade().filter(|pool| !pool.has_trusted() && !pool.is_leaving()) else {
            continue;
        };
        pool.hold();
        let changed = pool.notify.notified();
        if pool.connecting.replace(true) {
            // For a call that could not wait.
            changed.await;
        } else {
            pool.clone().connect().await;
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.retire();
    }
}

impl Lease {
    /// Hands a request to the connection; an error means that nothing of it was sent, and that the
    /// connection takes no more.
    pub(crate) fn send(
        &self,
        request: Request<()>,
        end: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        self.heard.set(self.connection.heard());
        self.connection.send(request, end).inspect_err(|_| self.connection.retire())
    }

    /// Its call ran out of time before there was an answer. If nothing at all has come in since it was sent, new calls stay
    /// away from the connection until something does, and it is found out whether the endpoint is there.
    pub(crate) fn ran_out_of_time(&self) {
        // Where calls can go nowhere else, nothing is won.
        if self.pool.purse.is_some() && self.connection.doubt(self.heard.get()) {
            self.pool.doubted();
        }
    }

    /// Why this side ended its call, in words; `None` if it did not.
    pub(crate) fn given_up(&self) -> Option<(GivenUp, String)> {
        let why =
            self.connection.given_up().or_else(|| self.pool.ended.get().then_some(GivenUp::ShuttingDown))?;
        let message = match why {
            GivenUp::ShuttingDown => "the sidecar is shutting down and drain.deadline is over".to_owned(),
            GivenUp::Silent => {
                let limit = self.pool.upstream.keepalive.timeout;
                format!("the connection was given up: the endpoint did not answer a PING within {limit:?}")
            }
            GivenUp::Expired => {
                "the connection was given up: the endpoint's certificate has expired, or our own".to_owned()
            }
            GivenUp::Distrusted => {
                "the connection was given up: the endpoint's certificate no longer leads to a root that is trusted here"
                    .to_owned()
            }
        };
        Some((why, message))
    }

    /// What the streams of its connection hold.
    pub(crate) fn held(&self) -> Rc<Held> {
        self.connection.held.clone()
    }

    /// The requests of its connection that wait for room.
    pub(crate) fn room(&self) -> &Room {
        &self.connection.room
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.connection.release();
        if self.pool.waiting.get() > 0 {
            self.pool.notify.notify_one();
        }
    }
}

/// Counts a call that waits.
struct Waiting<'a>(&'a Cell<usize>);

impl<'a> Waiting<'a> {
    fn begin(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
