//! One connection to an endpoint, and the task that drives it.
//!
//! ```text
//! Open --GOAWAY, age, calls, idle, error--> Retired --last call ended--> closed
//! ```
//!
//! A retired connection takes no new call; those it carries go on to their end. The same holds for one that is suspected,
//! as long as it is: a call on it ran out of time, and nothing at all had come in since that was sent.

use std::cell::{Cell, RefCell};
use std::future::{Future as _, poll_fn};
use std::io::ErrorKind;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use config::model::Upstream;
use h2::SendStream;
use h2::client::{ResponseFuture, SendRequest};
use http::Request;
use tokio::time::{Instant, sleep_until};

use crate::context::{Context, OpenConnection};
use crate::endpoint::Endpoint;
use crate::held::Held;
use crate::io::Turn;
use crate::metrics::events::Side;
use crate::tls::credentials::Credentials;
use crate::tls::proof::Proof;
use crate::upstream::connect::Connected;
use crate::upstream::room::Room;
use crate::upstream::upkeep::{GivenUp, Upkeep, Usage, Verdict};

/// What the pool and the calls see of a connection.
#[derive(Debug)]
pub(crate) struct Connection {
    sender: RefCell<Option<SendRequest<Bytes>>>,
    in_flight: Cell<usize>,
    streams_max: Cell<usize>,
    calls: Cell<u32>,
    calls_max: u32,
    open: Cell<bool>,
    /// Its calls are to be ended, or have been.
    given_up: Cell<Option<GivenUp>>,
    driver: RefCell<Option<Waker>>,
    turn: Rc<Turn>,
    /// Suspected since so much had been heard of the peer; the first byte clears it.
    suspected: Cell<Option<u64>>,
    proof: RefCell<Option<Proof>>,
    pub(crate) held: Rc<Held>,
    pub(crate) room: Room,
}

impl Connection {
    /// Takes a place for one stream, if there is one.
    pub(crate) fn reserve(&self) -> bool {
        if !self.is_trusted() || self.in_flight.get() >= self.streams_max.get() {
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
        self.given_up.set(Some(GivenUp::ShuttingDown));
        self.wake();
    }

    /// Looks at the server's certificate by the roots of `own`. Where it leads to none of them any more, the connection is
    /// given up, and its calls end as when one is lost. Returns whether that was so.
    pub(crate) fn look_at_proof(&self, own: &Credentials) -> bool {
        let lost = self.proof.borrow_mut().take_if(|proof| !proof.holds(Some(own))).is_some();
        if lost {
            self.given_up.set(Some(GivenUp::Distrusted));
            self.open.set(false);
            self.wake();
        }
        lost
    }

    /// Whether a new call may have to wait here for what others hold: answers that nobody fetches, requests
    /// that the endpoint does not read.
    pub(crate) fn is_crowded(&self, now: Instant) -> bool {
        self.held.is_crowded() || self.room.is_out(now)
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open.get()
    }

    /// Whether it takes calls, as far as their number goes.
    pub(crate) fn is_trusted(&self) -> bool {
        self.open.get() && self.suspected.get().is_none()
    }

    /// How often something came in so far; see [`Turn::heard`].
    pub(crate) fn heard(&self) -> u64 {
        self.turn.heard()
    }

    /// A call ran out of time that was sent when `heard` was what it is said to be. Returns whether the connection is
    /// suspected from now on, and was not before.
    pub(crate) fn doubt(&self, heard: u64) -> bool {
        let suspected = self.is_trusted() && self.heard() == heard;
        if suspected {
            self.suspected.set(Some(heard));
            self.wake();
        }
        suspected
    }

    pub(crate) fn given_up(&self) -> Option<GivenUp> {
        self.given_up.get()
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.get()
    }

    fn usage(&self) -> Usage {
        Usage { in_flight: self.in_flight.get(), calls: self.calls.get() }
    }

    fn wake(&self) {
        if let Some(waker) = &*self.driver.borrow() {
            waker.wake_by_ref();
        }
    }
}

/// What the pool is told of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// There is more room on it, or it is gone, or retired.
    Room,
    /// It was suspected, and something has come in.
    Cleared,
    /// It is gone, because nobody was at the other end any more.
    Silent,
}

/// Takes a connection into use: what the pool keeps of it, while a task of its own drives it and says what has changed.
pub(crate) fn launch(
    mut connected: Connected,
    context: &Rc<Context>,
    settings: Upstream,
    endpoint: &Endpoint,
    changed: impl Fn(Change) + 'static,
) -> Rc<Connection> {
    let connection = Rc::new(Connection {
        sender: RefCell::new(Some(connected.sender.clone())),
        in_flight: Cell::new(0),
        streams_max: Cell::new(connected.connection.max_concurrent_send_streams()),
        calls: Cell::new(0),
        calls_max: settings.max_calls,
        open: Cell::new(true),
        given_up: Cell::new(None),
        driver: RefCell::default(),
        turn: connected.turn.clone(),
        suspected: Cell::new(None),
        proof: RefCell::new(connected.proof.take()),
        held: Rc::new(Held::new(&context.shared.limits)),
        room: Room::default(),
    });
    let ping = endpoint.mesh.then(|| connected.connection.ping_pong()).flatten();
    let upkeep = Upkeep::new(settings, jittered(&settings, context), connected.expiry, ping);
    let open = context.count_connection(Side::Upstream, endpoint.mesh);
    let (shared, address) = (context.shared.clone(), endpoint.address.ip());
    let left = move || shared.resolver.doubt(address);
    tokio::task::spawn_local(drive(connected, connection.clone(), upkeep, open, changed, left));
    connection
}

/// The age at which it retires: 10 % more or less than asked for, so that connections made together do
/// not end together (gRFC A9).
fn jittered(settings: &Upstream, context: &Context) -> Duration {
    settings.max_age.mul_f64(0.9 + 0.2 * context.random.borrow_mut().f64())
}

/// Drives the connection until it is closed; says `left` if it is the endpoint that takes no more calls on it.
async fn drive(
    connected: Connected,
    connection: Rc<Connection>,
    mut upkeep: Upkeep,
    _open: OpenConnection,
    changed: impl Fn(Change),
    left: impl Fn(),
) {
    let Connected { sender, connection: mut h2, turn, remembered: _remembered, .. } = connected;
    let mut timer = pin!(sleep_until(upkeep.next()));
    // Tells of a GOAWAY; while it lives, h2 does not close an idle connection by itself.
    let mut probe = Some(sender);
    let (mut told, mut asked) = (false, None);
    let silent = poll_fn(|cx| {
        turn.begin();
        remember_waker(&connection, cx);
        loop {
            if connection.given_up.get().is_some() {
                return Poll::Ready(false);
            }
            if let Poll::Ready(end) = Pin::new(&mut h2).poll(cx) {
                return Poll::Ready(end.is_err_and(|error| is_silence(&error)));
            }
            let streams_max = h2.max_concurrent_send_streams();
            if connection.streams_max.replace(streams_max) < streams_max {
                changed(Change::Room);
            }
            match connection.suspected.get() {
                Some(heard) if heard != turn.heard() => {
                    connection.suspected.set(None);
                    changed(Change::Cleared);
                }
                suspected if suspected != asked => {
                    asked = suspected;
                    if suspected.is_some() {
                        upkeep.doubt(timer.as_mut());
                    }
                }
                _ => {}
            }
            if probe.as_mut().is_some_and(|probe| matches!(probe.poll_ready(cx), Poll::Ready(Err(_)))) {
                if connection.open.get() {
                    left();
                }
                connection.retire();
            }
            match upkeep.poll(cx, timer.as_mut(), connection.usage()) {
                Verdict::Keep => {}
                Verdict::Retire => {
                    connection.retire();
                    continue;
                }
                Verdict::Lost => return Poll::Ready(false),
                Verdict::GiveUp(why) => {
                    connection.given_up.set(Some(why));
                    return Poll::Ready(why == GivenUp::Silent);
                }
            }
            if !connection.open.get() && !std::mem::replace(&mut told, true) {
                // Another may be opened in its place.
                changed(Change::Room);
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
    if connection.open.replace(false) {
        left();
    }
    connection.sender.borrow_mut().take();
    changed(if silent { Change::Silent } else { Change::Room });
}

/// Whether a connection was lost because what was sent on it came nowhere: by TCP_USER_TIMEOUT, or no way is left.
fn is_silence(error: &h2::Error) -> bool {
    let kind = error.get_io().map(std::io::Error::kind);
    kind.is_some_and(|kind| {
        matches!(kind, ErrorKind::TimedOut | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable)
    })
}

fn remember_waker(connection: &Connection, cx: &TaskContext<'_>) {
    let mut driver = connection.driver.borrow_mut();
    if !driver.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
        *driver = Some(cx.waker().clone());
    }
}
