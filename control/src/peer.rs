//! A connection to the xDS listener, and who is at its other end.

use std::io::{Error, ErrorKind, IoSlice, Result};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use config::spiffe::SpiffeId;
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_rustls::server::TlsStream;

/// Who is at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Where it comes from.
    pub address: SocketAddr,
    /// Who it has proved to be; `None` on a plaintext listener, which is on loopback, and while it is `unproven`.
    pub identity: Option<SpiffeId>,
    /// When its certificate expires. The connection ends then, by itself.
    pub expires: Option<SystemTime>,
    /// The certificate that it has shown, the leaf first; empty: none.
    pub chain: Arc<[CertificateDer<'static>]>,
    /// It came by TLS and showed no certificate: whatever it asks for takes a token.
    pub unproven: bool,
}

/// A connection, TLS behind it.
#[derive(Debug)]
pub struct Socket {
    io: Io,
    end: Option<Pin<Box<Sleep>>>,
    /// The trust in the peer's certificate has ended.
    dismissed: Option<oneshot::Receiver<()>>,
    /// Its place among `limits.connections`.
    _place: OwnedSemaphorePermit,
}

#[derive(Debug)]
enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Socket {
    pub(crate) fn plain(tcp: TcpStream, place: OwnedSemaphorePermit) -> Self {
        Self { io: Io::Plain(tcp), end: None, dismissed: None, _place: place }
    }

    /// `end`: when the peer's certificate expires. `dismissed`: tells when nobody vouches for it any more.
    pub(crate) fn tls(
        tls: TlsStream<TcpStream>,
        end: Option<Instant>,
        dismissed: Option<oneshot::Receiver<()>>,
        place: OwnedSemaphorePermit,
    ) -> Self {
        let end = end.map(|end| Box::pin(sleep_until(end)));
        Self { io: Io::Tls(Box::new(tls)), end, dismissed, _place: place }
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        if let Some(end) = &mut self.end
            && end.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(Error::new(ErrorKind::TimedOut, "the peer's certificate has expired")));
        }
        if let Some(dismissed) = &mut self.dismissed {
            match Pin::new(dismissed).poll(cx) {
                Poll::Ready(Ok(())) => {
                    let why = "no root that is trusted vouches for the peer's certificate any more";
                    return Poll::Ready(Err(Error::new(ErrorKind::PermissionDenied, why)));
                }
                // The listener is gone, and nobody looks any more.
                Poll::Ready(Err(_)) => self.dismissed = None,
                Poll::Pending => {}
            }
        }
        match &mut self.io {
            Io::Plain(tcp) => Pin::new(tcp).poll_read(cx, into),
            Io::Tls(tls) => Pin::new(tls).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        match &mut self.io {
            Io::Plain(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Io::Tls(tls) => Pin::new(tls).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        match &mut self.io {
            Io::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, slices),
            Io::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Plain(tcp) => tcp.is_write_vectored(),
            Io::Tls(tls) => tls.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        match &mut self.io {
            Io::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Io::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        match &mut self.io {
            Io::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Io::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}
