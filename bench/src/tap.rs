//! Stands between h2 and the socket: puts frames of our own between h2's, and knows what has been written.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

use crate::raw::kind;

/// The stream that h2 writes to.
pub(crate) struct Tap<T> {
    io: T,
    handle: Handle,
    frame: Frame,
}

/// What the handlers of the connection's calls see of it.
#[derive(Clone, Default)]
pub(crate) struct Handle {
    shared: Arc<Mutex<Shared>>,
    progress: Arc<Notify>,
}

#[derive(Default)]
struct Shared {
    injected: VecDeque<Bytes>,
    /// What was written of the streams that a script cuts: HEADERS count 1, DATA its bytes.
    watched: HashMap<u32, u64>,
}

impl<T> Tap<T> {
    pub(crate) fn new(io: T) -> (Self, Handle) {
        let handle = Handle::default();
        (Self { io, handle: handle.clone(), frame: Frame::default() }, handle)
    }

    fn wrote(&mut self, bytes: &[u8]) {
        let mut shared = self.handle.shared.lock().expect("nobody panics with it held");
        self.frame.advance(bytes, |stream, count| {
            if let Some(written) = shared.watched.get_mut(&stream) {
                *written += count;
                self.handle.progress.notify_waiters();
            }
        });
    }
}

impl Handle {
    /// Has `bytes` written at the next flush, which h2 calls only between two frames. The caller polls the
    /// connection, which flushes.
    pub(crate) fn inject(&self, bytes: Bytes) {
        self.lock().injected.push_back(bytes);
    }

    /// Whether everything injected is on its way.
    pub(crate) fn is_clear(&self) -> bool {
        self.lock().injected.is_empty()
    }

    /// Begins to count what is written of a stream. Call it before anything is.
    pub(crate) fn watch(&self, stream: u32) {
        self.lock().watched.insert(stream, 0);
    }

    /// Waits until the headers of a watched stream and `data` bytes of DATA have been written. h2 drops what
    /// is queued when it resets a stream, so a script that resets after a message waits first.
    pub(crate) async fn written(&self, stream: u32, data: u64) {
        loop {
            let mut progress = std::pin::pin!(self.progress.notified());
            progress.as_mut().enable();
            {
                let watched = &mut self.lock().watched;
                if watched.get(&stream).is_none_or(|written| *written > data) {
                    watched.remove(&stream);
                    return;
                }
            }
            progress.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().expect("nobody panics with it held")
    }
}

/// Where in which frame h2's output stands.
#[derive(Default)]
struct Frame {
    header: [u8; 9],
    have: usize,
    left: usize,
}

impl Frame {
    /// Follows the output through `bytes`; tells of HEADERS (1) and of DATA (its bytes).
    fn advance(&mut self, mut bytes: &[u8], mut tell: impl FnMut(u32, u64)) {
        while !bytes.is_empty() {
            if self.have < 9 {
                let taken = bytes.len().min(9 - self.have);
                self.header[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
                self.have += taken;
                bytes = &bytes[taken..];
                if self.have < 9 {
                    return;
                }
                self.left = usize::from(self.header[0]) << 16
                    | usize::from(self.header[1]) << 8
                    | usize::from(self.header[2]);
                if self.header[3] == kind::HEADERS {
                    tell(self.stream(), 1);
                }
            }
            let taken = bytes.len().min(self.left);
            self.left -= taken;
            bytes = &bytes[taken..];
            if self.header[3] == kind::DATA {
                tell(self.stream(), taken as u64);
            }
            if self.left == 0 {
                self.have = 0;
            }
        }
    }

    fn stream(&self) -> u32 {
        u32::from_be_bytes(self.header[5..9].try_into().expect("four bytes")) & 0x7fff_ffff
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Tap<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Tap<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.io).poll_write(cx, buf))?;
        // A server's output is frames from its first byte.
        self.wrote(&buf[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, bufs))?;
        let mut left = count;
        for buf in bufs {
            let taken = buf.len().min(left);
            self.wrote(&buf[..taken]);
            left -= taken;
        }
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let mut shared = this.handle.shared.lock().expect("nobody panics with it held");
        while let Some(bytes) = shared.injected.front_mut() {
            let count = ready!(Pin::new(&mut this.io).poll_write(cx, bytes))?;
            bytes.advance(count);
            if bytes.is_empty() {
                shared.injected.pop_front();
            }
        }
        drop(shared);
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raw;

    #[test]
    fn data_is_counted_in_every_cut() {
        let mut wire = raw::settings().to_vec();
        wire.extend_from_slice(&raw::frame(kind::HEADERS, 4, 1, &[0; 20]));
        wire.extend_from_slice(&raw::frame(kind::DATA, 0, 1, &[0; 30]));
        wire.extend_from_slice(&raw::frame(kind::DATA, 0, 3, &[0; 40]));
        for cut in 1..wire.len() {
            let (mut frame, mut first, mut third) = (Frame::default(), 0, 0);
            for piece in wire.chunks(cut) {
                frame.advance(piece, |stream, count| match stream {
                    1 => first += count,
                    _ => third += count,
                });
            }
            assert_eq!((first, third), (31, 40), "cut into pieces of {cut}");
        }
    }
}
