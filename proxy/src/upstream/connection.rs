//! One connection to an endpoint, and the task that drives it.
//!
//! ```text
//! Open --GOAWAY, age, calls, idle, error--> Retired --last call ended--> closed
//! ```
//!
//! A retired connection takes no new call; those it carries go on to their end.

use std::cell::{Cell, RefCell};
use std::future::{Future as _, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use config::model::Upstream;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Ping, PingPong, SendStream};
use http::Request;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::context::{Context, OpenConnection};
use crate::held::Held;
use crate::metrics::events::Side;
use crate::upstream::connect::Connected;
use crate::upstream::room::Room;

/// An idle connection is looked at this many times per idle timeout, which is how exact the timeout is.
const IDLE_LOOKS: u32 = 4;
/// A connection must be gone this long before a certificate expires.
const EXPIRY_MARGIN: Duration = Duration::from_secs(5);

/// What the pool and the calls see of a connection.
#[derive(Debug)]
pub(crate) struct Connection {
    sender: RefCell<Option<SendRequest<Bytes>>>,
    in_flight: Cell<usize>,
    streams_max: Cell<usize>,
    calls: Cell<u32>,
    calls_max: u32,
    open: Cell<bool>,
    /// Its calls are to be ended.
    ended: Cell<bool>,
    /// The peer has left a PING unanswered.
    silent: Cell<bool>,
    driver: RefCell<Option<Waker>>,
    pub(crate) held: Rc<Held>,
    pub(crate) room: Room,
}

impl Connection {
    /// Takes a place for one stream, if there is one.
    pub(crate) fn reserve(&self) -> bool {
        if !self.open.get() || self.in_flight.get() >= self.streams_max.get() {
            return false;
        }
        self.in_flight.set(self.in_flight.get() + 1);
        self.calls.set(self.calls.get() + 1);
        if self.calls.get() >= self.calls_max {
            self.retire();
        }
        true
    }

    /// Gives the place back.
    pub(crate) fn release(&self) {
        self.in_flight.set(self.in_flight.get() - 1);
        if !self.open.get() && self.in_flight.get() == 0 {
            self.wake();
        }
    }

    /// Hands a request to the connection. An error means that nothing of it was sent.
    pub(crate) fn send(
        &self,
        request: Request<()>,
        end: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        // A clone, because h2 lets one handle queue one stream only while the peer's count of streams lags
        // behind ours.
        let sender = self.sender.borrow().clone();
        match sender {
            Some(mut sender) => sender.send_request(request, end),
            None => Err(h2::Reason::REFUSED_STREAM.into()),
        }
    }

    /// Takes no more calls from now on.
    pub(crate) fn retire(&self) {
        if self.open.replace(false) {
            self.wake();
        }
    }

    /// Closes it now; its calls end as when a connection is lost.
    pub(crate) fn end(&self) {
        self.ended.set(true);
        self.wake();
    }

    /// Whether a new call may have to wait here for what others hold: answers that nobody fetches, requests
    /// that the endpoint does not read.
    pub(crate) fn is_crowded(&self, now: Instant) -> bool {
        self.held.is_crowded() || self.room.is_out(now)
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open.get()
    }

    /// Whether it was given up because the peer had left a PING unanswered.
    pub(crate) fn is_silent(&self) -> bool {
        self.silent.get()
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.get()
    }

    fn wake(&self) {
        if let Some(waker) = &*self.driver.borrow() {
            waker.wake_by_ref();
        }
    }
}

/// Takes a connection into use: what the pool keeps of it, while a task of its own drives it and says
/// `changed` when there is more room on it, and when it is gone. `mesh`: it is mTLS between sidecars.
pub(crate) fn launch(
    mut connected: Connected,
    context: &Rc<Context>,
    settings: Upstream,
    mesh: bool,
    changed: impl Fn() + 'static,
) -> Rc<Connection> {
    let connection = Rc::new(Connection {
        sender: RefCell::new(Some(connected.sender.clone())),
        in_flight: Cell::new(0),
        streams_max: Cell::new(connected.connection.max_concurrent_send_streams()),
        calls: Cell::new(0),
        calls_max: settings.max_calls,
        open: Cell::new(true),
        ended: Cell::new(false),
        silent: Cell::new(false),
        driver: RefCell::default(),
        held: Rc::new(Held::new(&context.shared.limits)),
        room: Room::default(),
    });
    let age = match connected.valid_for {
        Some(valid_for) => jittered(&settings, context).min(valid_for.saturating_sub(EXPIRY_MARGIN)),
        None => jittered(&settings, context),
    };
    let ping = mesh.then(|| connected.connection.ping_pong()).flatten();
    let upkeep = Upkeep::new(settings, age, ping);
    let open = context.count_connection(Side::Upstream, mesh);
    tokio::task::spawn_local(drive(connected, connection.clone(), upkeep, open, changed));
    connection
}

/// The age at which it retires: 10 % more or less than asked for, so that connections made together do
/// not end together (gRFC A9).
fn jittered(settings: &Upstream, context: &Context) -> Duration {
    settings.max_age.mul_f64(0.9 + 0.2 * context.random.borrow_mut().f64())
}

/// Drives the connection until it is closed.
async fn drive(
    connected: Connected,
    connection: Rc<Connection>,
    mut upkeep: Upkeep,
    _open: OpenConnection,
    changed: impl Fn(),
) {
    let Connected { sender, connection: mut h2, turn, .. } = connected;
    let mut timer = pin!(sleep_until(upkeep.next()));
    // Tells of a GOAWAY; while it lives, h2 does not close an idle connection by itself.
    let mut probe = Some(sender);
    poll_fn(|cx| {
        turn.begin();
        remember_waker(&connection, cx);
        loop {
            if connection.ended.get() || Pin::new(&mut h2).poll(cx).is_ready() {
                return Poll::Ready(());
            }
            let streams_max = h2.max_concurrent_send_streams();
            if connection.streams_max.replace(streams_max) < streams_max {
                changed();
            }
            if probe.as_mut().is_some_and(|probe| matches!(probe.poll_ready(cx), Poll::Ready(Err(_)))) {
                connection.retire();
            }
            match upkeep.poll(cx, timer.as_mut(), &connection) {
                Verdict::Keep => {}
                Verdict::Retire => connection.retire(),
                Verdict::Lost => return Poll::Ready(()),
                Verdict::Silent => {
                    connection.silent.set(true);
                    return Poll::Ready(());
                }
            }
            let done = !connection.open.get() && connection.in_flight.get() == 0 && probe.is_some();
            if !done {
                return Poll::Pending;
            }
            // With no handle left, h2 says goodbye and closes.
            probe = None;
            connection.sender.borrow_mut().take();
        }
    })
    .await;
    connection.open.set(false);
    connection.sender.borrow_mut().take();
    changed();
}

fn remember_waker(connection: &Connection, cx: &TaskContext<'_>) {
    let mut driver = connection.driver.borrow_mut();
    if !driver.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
        *driver = Some(cx.waker().clone());
    }
}

/// What upkeep has found.
enum Verdict {
    Keep,
    Retire,
    Lost,
    /// The peer has not answered a PING in time.
    Silent,
}

/// Age, idleness and PINGs, all on one timer.
struct Upkeep {
    settings: Upstream,
    retire_at: Instant,
    idle_at: Instant,
    idle_looks: u32,
    calls_seen: u32,
    ping: Option<PingPong>,
    ping_at: Instant,
    /// When the answer to the PING under way is due.
    pong_by: Option<Instant>,
}

impl Upkeep {
    fn new(settings: Upstream, age: Duration, ping: Option<PingPong>) -> Self {
        let now = Instant::now();
        Self {
            settings,
            retire_at: now + age,
            idle_at: now + settings.idle_timeout / IDLE_LOOKS,
            idle_looks: 0,
            calls_seen: 0,
            ping,
            ping_at: now + settings.keepalive.interval,
            pong_by: None,
        }
    }

    /// When something is due next.
    fn next(&self) -> Instant {
        let next = self.retire_at.min(self.idle_at);
        match (&self.ping, self.pong_by) {
            (None, _) => next,
            (Some(_), None) => next.min(self.ping_at),
            (Some(_), Some(pong_by)) => next.min(pong_by),
        }
    }

    fn poll(
        &mut self,
        cx: &mut TaskContext<'_>,
        mut timer: Pin<&mut Sleep>,
        connection: &Connection,
    ) -> Verdict {
        if self.pong_by.is_some()
            && let Some(ping) = &mut self.ping
            && let Poll::Ready(answer) = ping.poll_pong(cx)
        {
            if answer.is_err() {
                return Verdict::Lost;
            }
            self.pong_by = None;
        }
        while timer.as_mut().poll(cx).is_ready() {
            match self.due(Instant::now(), connection) {
                Verdict::Keep => {}
                verdict => return verdict,
            }
            timer.as_mut().reset(self.next());
            // The PING just sent must be polled for its answer once, so that we are woken by it.
            if self.pong_by.is_some()
                && let Some(ping) = &mut self.ping
                && ping.poll_pong(cx).is_ready()
            {
                self.pong_by = None;
            }
        }
        Verdict::Keep
    }

    fn due(&mut self, now: Instant, connection: &Connection) -> Verdict {
        if self.pong_by.is_some_and(|by| by <= now) {
            return Verdict::Silent;
        }
        if self.retire_at <= now {
            // Once is enough; the calls it carries go on.
            self.retire_at = now + Duration::from_secs(86_400 * 365);
            return Verdict::Retire;
        }
        if self.idle_at <= now {
            let used = connection.in_flight.get() > 0 || connection.calls.get() != self.calls_seen;
            self.calls_seen = connection.calls.get();
            self.idle_looks = if used { 0 } else { self.idle_looks + 1 };
            self.idle_at = now + self.settings.idle_timeout / IDLE_LOOKS;
            if self.idle_looks >= IDLE_LOOKS {
                return Verdict::Retire;
            }
        }
        if self.ping_at <= now && self.pong_by.is_none() {
            self.ping_at = now + self.settings.keepalive.interval;
            if connection.in_flight.get() > 0
                && let Some(ping) = &mut self.ping
                && ping.send_ping(Ping::opaque()).is_ok()
            {
                self.pong_by = Some(now + self.settings.keepalive.timeout);
            }
        }
        Verdict::Keep
    }
}
