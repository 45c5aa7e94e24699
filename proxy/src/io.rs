//! The byte stream under a connection: plain TCP or TLS, and for HTTP/2 a bound on what is read in one go.
//!
//! h2 reads a socket until it is empty and keeps every DATA frame in a queue. A peer that sends tiny
//! messages faster than the calls' tasks get their turn would fill that queue, and h2 then ends the whole
//! connection (`too_many_data_frames`). So a connection may read [`READ_BYTES_MAX`] per turn; then the
//! tasks of its calls run, and take out what was read, before it reads again.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

/// Bytes that one connection reads before its calls get their turn.
pub(crate) const READ_BYTES_MAX: usize = 64 << 10;

/// h2's budget for unread small DATA frames: practically without end. h2 never gives back what late frames
/// cost that come for a stream which has been reset, so calls that end before their senders know of it would
/// use up any budget in time, and the whole connection would die of it. What the budget is there for is bounded
/// here: one turn brings [`READ_BYTES_MAX`], and then the tasks of the calls take every frame out, also
/// while there is nobody to hand it to.
pub(crate) const DATA_FRAME_BUDGET: usize = 1 << 40;

/// What a connection's task knows of its byte stream.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    left: Cell<usize>,
    blocked: Cell<bool>,
}

impl Turn {
    /// Begins a turn; to be called whenever the connection's task is polled.
    pub(crate) fn begin(&self) {
        self.left.set(READ_BYTES_MAX);
    }

    /// Whether the last write found the socket full.
    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked.get()
    }
}

/// A byte stream, and what was read of it to find out what it speaks.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: Stream,
    /// Read already; whoever reads next gets it first.
    seen: Bytes,
}

#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Wire {
    pub(crate) fn plain(stream: TcpStream) -> Self {
        Self { stream: Stream::Plain(stream), seen: Bytes::new() }
    }

    pub(crate) fn tls(stream: TlsStream<TcpStream>) -> Self {
        Self { stream: Stream::Tls(Box::new(stream)), seen: Bytes::new() }
    }

    /// Puts bytes back, before all others.
    pub(crate) fn unread(&mut self, bytes: Bytes) {
        self.seen = match self.seen.is_empty() {
            true => bytes,
            false => [bytes, std::mem::take(&mut self.seen)].concat().into(),
        };
    }

    /// Makes the end that comes next a reset, so that the peer does not take it for a clean one.
    pub(crate) fn abort(&self) {
        let stream = match &self.stream {
            Stream::Plain(stream) => stream,
            Stream::Tls(stream) => stream.get_ref().0,
        };
        let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.seen.is_empty() {
            let length = self.seen.len().min(buffer.remaining());
            buffer.put_slice(&self.seen[..length]);
            self.seen.advance(length);
            return Poll::Ready(Ok(()));
        }
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// The stream under an HTTP/2 connection.
#[derive(Debug)]
pub(crate) struct Io {
    wire: Wire,
    turn: Rc<Turn>,
}

impl Io {
    pub(crate) fn new(wire: Wire) -> Self {
        Self { wire, turn: Rc::default() }
    }

    pub(crate) fn turn(&self) -> Rc<Turn> {
        self.turn.clone()
    }

    /// Notes whether the socket takes what is written.
    fn note<T>(&self, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.turn.blocked.set(result.is_pending());
        result
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let left = self.turn.left.get();
        if left == 0 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.wire).poll_read(cx, buffer);
        self.turn.left.set(left.saturating_sub(buffer.filled().len() - before));
        result
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.wire).poll_write(cx, bytes);
        self.note(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.wire).poll_write_vectored(cx, slices);
        self.note(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.wire.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // TLS takes some in and writes it later.
        let result = Pin::new(&mut self.wire).poll_flush(cx);
        self.note(result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_shutdown(cx)
    }
}
