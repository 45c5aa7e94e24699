//! The byte stream under a connection: plain TCP or TLS, and for HTTP/2 a bound on what is read in one go.
//!
//! h2 reads a socket until it is empty and keeps every DATA frame in a queue. A peer that sends tiny
//! messages faster than the calls' tasks get their turn would fill that queue, and h2 then ends the whole
//! connection (`too_many_data_frames`). So a connection may read [`READ_BYTES_MAX`] per turn; then the
//! tasks of its calls run, and take out what was read, before it reads again.

use std::cell::Cell;
use std::io;
use std::mem;
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
    /// The last write found the socket full.
    blocked: Cell<bool>,
    heard: Cell<u64>,
}

impl Turn {
    /// Begins a turn; to be called whenever the connection's task is polled.
    pub(crate) fn begin(&self) {
        self.left.set(READ_BYTES_MAX);
    }

    /// How often something came in so far. Where it is the same at two moments, the peer was silent between them.
    pub(crate) fn heard(&self) -> u64 {
        self.heard.get()
    }

    /// Whether the socket takes what a call has just handed to the connection, within `limit`.
    pub(crate) async fn writes_out(&self, limit: Duration) -> bool {
        // The connection's task writes it.
        tokio::task::yield_now().await;
        if !self.blocked.get() {
            return true;
        }
        tokio::time::sleep(limit).await;
        !self.blocked.get()
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
            false => [bytes, mem::take(&mut self.seen)].concat().into(),
        };
    }

    /// Makes the end that comes next a reset, so that the peer does not take it for a clean one.
    pub(crate) fn abort(&self) {
        let _ = self.socket().set_linger(Some(Duration::ZERO));
    }

    /// Takes [`Wire::abort`] back.
    pub(crate) fn go_on(&self) {
        let _ = self.socket().set_linger(None);
    }

    fn socket(&self) -> SockRef<'_> {
        SockRef::from(match &self.stream {
            Stream::Plain(stream) => stream,
            Stream::Tls(stream) => stream.get_ref().0,
        })
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
    peer: Peer,
}

/// What the peer has said so far. One that refuses our certificate says why in a TLS alert, and closes. A write
/// that comes between the two fails, and would hide what then is still to be read.
#[derive(Debug)]
enum Peer {
    Silent,
    /// A write has failed. What there is to read tells the reason, or that there is none but this.
    Gone(io::Error),
    Heard,
}

impl Io {
    pub(crate) fn new(wire: Wire) -> Self {
        Self { wire, turn: Rc::default(), peer: Peer::Silent }
    }

    pub(crate) fn turn(&self) -> Rc<Turn> {
        self.turn.clone()
    }

    /// Notes whether the socket takes what is written. Before the peer has said anything a failure is as good
    /// as `done`: reading brings it up.
    fn note<T>(&mut self, result: Poll<io::Result<T>>, done: T) -> Poll<io::Result<T>> {
        self.turn.blocked.set(result.is_pending());
        match (result, &self.peer) {
            (Poll::Ready(Err(fault)), Peer::Silent) => {
                self.peer = Peer::Gone(fault);
                Poll::Ready(Ok(done))
            }
            (Poll::Ready(Err(_)), Peer::Gone(_)) => Poll::Ready(Ok(done)),
            (result, _) => result,
        }
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
        let read = buffer.filled().len() - before;
        self.turn.left.set(left.saturating_sub(read));
        if read > 0 {
            self.turn.heard.set(self.turn.heard.get() + 1);
        }
        if result.is_pending() {
            return result;
        }
        match (result, mem::replace(&mut self.peer, Peer::Heard)) {
            (Poll::Ready(Ok(())), Peer::Gone(fault)) if read == 0 => Poll::Ready(Err(fault)),
            (result, _) => result,
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.wire).poll_write(cx, bytes);
        self.note(result, bytes.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.wire).poll_write_vectored(cx, slices);
        self.note(result, slices.iter().map(|slice| slice.len()).sum())
    }

    fn is_write_vectored(&self) -> bool {
        self.wire.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // TLS takes some in and writes it later.
        let result = Pin::new(&mut self.wire).poll_flush(cx);
        self.note(result, ())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use bench::certs::Ca;
    use bench::tls::{ServerTls, TlsIdentity, client_config, server_config};
    use bench::wait::until;
    use rustls_pki_types::ServerName;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::time::Instant;
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;

    /// Writes until the kernel knows that nobody takes it, and is told at the latest then.
    async fn write_until_gone(io: &mut Io) {
        until("the kernel knows", async || {
            io.write_all(b"PRI * HTTP/2.0").await.expect("what it said comes first");
            io.flush().await.expect("what it said comes first");
            matches!(io.peer, Peer::Gone(_))
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_takes_has_its_time_and_no_more() {
        let (turn, began) = (Turn::default(), Instant::now());
        let limit = Duration::from_secs(1);
        assert!(turn.writes_out(limit).await);
        assert_eq!(began.elapsed(), Duration::ZERO, "a socket that takes all costs no time");
        turn.blocked.set(true);
        assert!(!turn.writes_out(limit).await);
        assert_eq!(began.elapsed(), limit);
        let later = async {
            tokio::time::sleep(limit / 2).await;
            turn.blocked.set(false);
        };
        assert!(tokio::join!(turn.writes_out(limit), later).0, "it was taken in time");
        assert_eq!(began.elapsed(), 2 * limit);
    }

    #[tokio::test]
    async fn a_peer_that_refuses_our_certificate_is_heard_though_we_write_when_it_has_gone() {
        let (ours, theirs) = (Ca::new("cluster.local"), Ca::new("cluster.local"));
        let leaf = theirs.leaf("spiffe://cluster.local/ns/shop/sa/payments");
        let strict = ServerTls { leaf, client_trust: Some(theirs.bundle_pem().to_owned()) };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let address = listener.local_addr().expect("an address");
        let refusing = tokio::spawn(async move {
            let (tcp, _) = listener.accept().await.expect("a connection");
            let acceptor = TlsAcceptor::from(server_config(&strict).expect("TLS"));
            acceptor.accept(tcp).await.expect_err("a certificate of another authority")
        });
        let leaf = ours.leaf("spiffe://cluster.local/ns/shop/sa/orders");
        let config = client_config(&TlsIdentity::mutual(&leaf, theirs.bundle_pem())).expect("TLS");
        let tcp = TcpStream::connect(address).await.expect("a connection");
        let name = ServerName::IpAddress(address.ip().into());
        let stream = TlsConnector::from(config).connect(name, tcp).await.expect("our half of the handshake");
        refusing.await.expect("a refusal");

        let mut io = Io::new(Wire::tls(stream.into()));
        io.turn.begin();
        write_until_gone(&mut io).await;
        let told = io.read_u8().await.expect_err("nothing but an alert");
        assert!(told.to_string().contains("alert"), "{told}");
    }

    #[tokio::test]
    async fn a_write_that_fails_for_no_told_reason_is_told_by_the_next_read() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let tcp = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("a connection");
        drop(listener.accept().await.expect("a connection"));
        let mut io = Io::new(Wire::plain(tcp));
        io.turn.begin();
        write_until_gone(&mut io).await;
        io.read_u8().await.expect_err("the failure");
        io.write_all(b"more").await.expect_err("it is known now");
    }
}
