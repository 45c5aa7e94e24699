//! Connections whose bytes pass as they are.

use std::future::Future as _;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use config::spiffe::SpiffeId;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes};
use tokio::time::sleep;

use crate::call::origin::{Command, Link};
use crate::context::Context;
use crate::io::Wire;
use crate::metrics::calls::Direction;
use crate::metrics::counter::Counter;
use crate::tables::Tables;
use crate::upstream::raw::Raw;

/// What is read in one go, and so what a tunnel holds in one direction.
const BUFFER_BYTES: usize = 16 << 10;

/// Both ends of a tunnel.
pub(crate) struct Tunnel {
    pub(crate) near: Wire,
    /// The near side proved its identity.
    pub(crate) mtls: bool,
    pub(crate) far: Raw,
    /// How long the certificates of the two sides are good for.
    pub(crate) ends_after: Option<Duration>,
    /// What lets it be; `None`: it needs nobody's leave.
    pub(crate) grant: Option<Grant>,
}

/// That a caller may call everything at an entry.
pub(crate) struct Grant {
    /// Index into `Tables::entries`.
    pub(crate) entry: usize,
    /// `None`: without an identity.
    pub(crate) caller: Option<SpiffeId>,
}

impl Grant {
    /// Whether a snapshot still says so.
    pub(crate) fn holds(&self, tables: &Tables) -> bool {
        // Without an entry there is no mesh yet, and nobody knows.
        let entry = tables.entries.get(self.entry);
        entry.is_some_and(|entry| entry.authorization.allows_all(self.caller.as_ref()))
    }
}

/// Moves bytes both ways until both sides have ended, one breaks, or the sidecar has no more time. An end is passed
/// on as an end, and a break as a reset, so that nobody takes half of something for all of it.
pub(crate) async fn serve(context: &Rc<Context>, direction: Direction, link: &Link, tunnel: Tunnel) {
    let Tunnel { near, far, ends_after, grant, .. } = tunnel;
    let Raw { wire: far, remembered: _remembered, .. } = far;
    let mut ends = Ends { near, far, whole: false };
    let mut expiry = pin!(ends_after.map(sleep));
    let mut revoked = pin!(revoked(context, grant));
    let _open = Open::begin(context, direction);
    let [received, sent] = &context.events().tunnel_bytes[direction as usize];
    ends.whole = {
        let mut near = Metered { wire: &mut ends.near, count: received };
        let mut far = Metered { wire: &mut ends.far, count: sent };
        let mut copy = pin!(copy_bidirectional_with_sizes(&mut near, &mut far, BUFFER_BYTES, BUFFER_BYTES));
        std::future::poll_fn(|cx| {
            let expired = expiry.as_mut().as_pin_mut().is_some_and(|expiry| expiry.poll(cx).is_ready());
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

/// Ends when a new snapshot no longer grants what the tunnel goes by.
async fn revoked(context: &Context, grant: Option<Grant>) {
    let Some(grant) = grant else { return std::future::pending().await };
    let mut published = context.shared.published.subscribe();
    while grant.holds(&context.shared.tables.load()) {
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
