//! Brings a connection to where a script ends it.

use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::task::Poll;

use bytes::Bytes;
use h2::Ping;
use h2::server::Connection;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::tap;

/// Waits until the peer has read what was sent so far: until it answers a PING. Calls that come meanwhile get nothing.
pub(crate) async fn read_by_peer<T>(h2: &mut Connection<T, Bytes>)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let Some(mut pings) = h2.ping_pong() else { return };
    let mut pong = pin!(pings.ping(Ping::opaque()));
    // h2 resets a call that is dropped.
    let mut held = Vec::new();
    poll_fn(|cx| {
        loop {
            if pong.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            match h2.poll_accept(cx) {
                Poll::Ready(Some(Ok(call))) => held.push(call),
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await;
}

/// Waits until what was put in between the frames of h2 has left.
pub(crate) async fn flushed<T>(h2: &mut Connection<T, Bytes>, tap: &tap::Handle)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    poll_fn(|cx| match h2.poll_accept(cx) {
        _ if tap.is_clear() => Poll::Ready(()),
        Poll::Ready(None | Some(Err(_))) => Poll::Ready(()),
        _ => Poll::Pending,
    })
    .await;
}
