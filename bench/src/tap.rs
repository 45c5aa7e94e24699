//! Stands between h2 and the socket: puts frames of our own between h2's, and knows what has been written.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

/// The stream that h2 writes to.
pub(crate) struct Tap<T> {
    io: T,
    handle: Handle,
}

/// What the handlers of the connection's calls see of it.
#[derive(Clone)]
pub(crate) struct Handle {
    injected: Arc<Mutex<VecDeque<Bytes>>>,
    progress: watch::Sender<Progress>,
}

/// How far h2's output has come.
#[derive(Clone, Copy, Default)]
struct Progress {
    written: u64,
    flushes: u64,
}

impl<T> Tap<T> {
    pub(crate) fn new(io: T) -> (Self, Handle) {
        let handle = Handle { injected: Arc::default(), progress: watch::Sender::default() };
        (Self { io, handle: handle.clone() }, handle)
    }
}

impl Handle {
    /// Has `bytes` written at the next flush, which h2 calls only between two frames. The caller polls the
    /// connection, which flushes.
    pub(crate) fn inject(&self, bytes: Bytes) {
        self.lock().push_back(bytes);
    }

    /// Whether everything injected is on its way.
    pub(crate) fn is_clear(&self) -> bool {
        self.lock().is_empty()
    }

    /// Takes note of the present, before bytes are handed to h2.
    pub(crate) fn mark(&self) -> Mark {
        Mark { written: self.progress.borrow().written, watch: self.progress.subscribe() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Bytes>> {
        self.injected.lock().expect("nobody panics with it held")
    }
}

/// A point in h2's output.
pub(crate) struct Mark {
    written: u64,
    watch: watch::Receiver<Progress>,
}

impl Mark {
    /// Waits until `bytes` more have been written and flushed. h2 drops what is queued when it resets a
    /// stream, so a script that resets after a message waits first.
    pub(crate) async fn passed(mut self, bytes: usize) {
        let goal = self.written + bytes as u64;
        let Ok(seen) = self.watch.wait_for(|now| now.written >= goal).await.map(|now| now.flushes) else {
            return;
        };
        let _ = self.watch.wait_for(|now| now.flushes > seen).await;
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
        self.handle.progress.send_modify(|now| now.written += count as u64);
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, bufs))?;
        self.handle.progress.send_modify(|now| now.written += count as u64);
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let mut injected = this.handle.injected.lock().expect("nobody panics with it held");
        while let Some(bytes) = injected.front_mut() {
            let count = ready!(Pin::new(&mut this.io).poll_write(cx, bytes))?;
            bytes.advance(count);
            if bytes.is_empty() {
                injected.pop_front();
            }
        }
        drop(injected);
        ready!(Pin::new(&mut this.io).poll_flush(cx))?;
        this.handle.progress.send_modify(|now| now.flushes += 1);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
