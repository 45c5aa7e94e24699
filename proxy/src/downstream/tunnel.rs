//! Connections whose bytes pass as they are.

use std::future::Future as _;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context as TaskContext, Poll, ready};

use config::spiffe::SpiffeId;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes};
use tokio::time::sleep_until;

use crate::call::origin::{Command, Link};
use crate::context::Context;
use crate::io::Wire;
use crate::metrics::calls::Direction;
use crate::metrics::counter::Counter;
use crate::tables::Tables;
use crate::tls::expiry::{Expiry, Now, Stage};
use crate::tls::proof::Proof;
use crate::upstream::raw::Raw;

/// What is read in one go, and so what a tunnel holds in one direction.
const BUFFER_BYTES: usize = 16 << 10;

/// Both ends of a tunnel.
pub(crate) struct Tunnel {
    pub(crate) near: Wire,
    /// The near side proved its identity.
    pub(crate) mtls: bool,
    pub(crate) far: Raw,
    /// Until when it may be, by the certificates that were shown.
    pub(crate) expiry: Option<Expiry>,
    /// What lets it be; `None`: it needs nobody's leave.
    pub(crate) grant: Option<Grant>,
}

/// That a caller may call everything at an entry.
pub(crate) struct Grant {
    /// Index into `Tables::entries`.
    pub(crate) entry: usize,
    /// `None`: without an identity.
    pub(crate) caller: Option<SpiffeId>,
    pub(crate) proof: Option<Proof>,
    /// The number of the rules that it was granted by last; `None`: it has not been yet.
    pub(crate) by: Option<u64>,
}

impl Grant {
    /// Whether a snapshot still says so. It is asked at each one that comes: where rules and roots are the same, nothing is looked up.
    pub(crate) fn holds(&mut self, tables: &Tables) -> bool {
        self.proof.as_mut().is_none_or(|proof| proof.holds(tables.credentials.as_deref()))
            && self.is_let(tables)
    }

    fn is_let(&mut self, tables: &Tables) -> bool {
        // A mesh that lacks the service says nothing of its callers: nobody comes in, and who is here stays, as calls do.
        let Some(entry) = tables.entries.get(self.entry).filter(|entry| entry.in_mesh) else {
            return self.by.is_some();
        };
        let rules = &entry.authorization;
        let holds = self.by == Some(rules.number()) || rules.allows_all(&rules.groups(self.caller.as_ref()));
        self.by = Some(rules.number());
        holds
    }
}

/// Moves bytes both ways until both sides have ended, one breaks, or the sidecar has no more time. An end is passed
/// on as an end, and a break as a reset, so that nobody takes half of something for all of it.
pub(crate) async fn serve(context: &Rc<Context>, direction: Direction, link: &Link, tunnel: Tunnel) {
    let Tunnel { near, far, expiry, grant, .. } = tunnel;
    let Raw { wire: far, remembered: _remembered, proof, .. } = far;
    let mut ends = Ends { near, far, whole: false };
    let mut expired = pin!(expired(expiry));
    let mut revoked = pin!(revoked(context, grant, proof));
    let _open = Open::begin(context, direction);
    let [received, sent] = &context.events().tunnel_bytes[direction as usize];
    ends.whole = {
        let mut near = Metered { wire: &mut ends.near, count: received };
        let mut far = Metered { wire: &mut ends.far, count: sent };
        let mut copy = pin!(copy_bidirectional_with_sizes(&mut near, &mut far, BUFFER_BYTES, BUFFER_BYTES));
        std::future::poll_fn(|cx| {
            let expired = expired.as_mut().poll(cx).is_ready();
            if expired || revoked.as_mut().poll(cx).is_ready() || link.command(cx) >= Command::End {
                return Poll::Ready(false);
            }
            copy.as_mut().poll(cx).map(|copied| copied.is_ok())
        })
        .await
    };
}

/// Both ends while bytes move. Unless all of them have, it ends in resets, be it that the worker ends first.
struct Ends {
    near: Wire,
    far: Wire,
    whole: bool,
}

impl Drop for Ends {
    fn drop(&mut self) {
        if !self.whole {
            self.near.abort();
            self.far.abort();
        }
    }
}

/// Ends when the first of the certificates does.
async fn expired(expiry: Option<Expiry>) {
    let Some(expiry) = expiry else { return std::future::pending().await };
    loop {
        let (stage, again) = expiry.look(Now::read());
        if stage == Stage::Over {
            return;
        }
        sleep_until(again).await;
    }
}

/// Ends when a new snapshot no longer grants what the tunnel goes by, or has no root any more for who is at its far end.
async fn revoked(context: &Context, mut grant: Option<Grant>, mut far: Option<Proof>) {
    if grant.is_none() && far.is_none() {
        return std::future::pending().await;
    }
    let mut published = context.shared.published.subscribe();
    loop {
        let tables = context.shared.tables.load_full();
        let granted = grant.as_mut().is_none_or(|grant| grant.holds(&tables));
        if !granted || !far.as_mut().is_none_or(|far| far.holds(tables.credentials.as_deref())) {
            return;
        }
        drop(tables);
        if published.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// A tunnel in the metrics, while it is open.
struct Open<'a>(&'a Counter);

impl<'a> Open<'a> {
    fn begin(context: &'a Context, direction: Direction) -> Self {
        let events = context.events();
        events.tunnels_total[direction as usize].add(1);
        events.tunnels[direction as usize].add(1);
        Self(&events.tunnels[direction as usize])
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.sub(1);
    }
}

/// Counts what is read.
struct Metered<'a> {
    wire: &'a mut Wire,
    count: &'a Counter,
}

impl AsyncRead for Metered<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut *self.wire).poll_read(cx, buffer))?;
        self.count.add((buffer.filled().len() - before) as u64);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Metered<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.wire).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.wire).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.wire).poll_shutdown(cx)
    }
}
