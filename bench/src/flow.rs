//! Sending within the peer's windows: never more inside h2 than the peer has granted.

use std::future::poll_fn;

use bytes::Bytes;
use h2::{Reason, SendStream};

/// Sends all of `data`, waiting for window as needed; `end` ends the stream with the last of it.
///
/// # Errors
/// What ended the stream before all of it could be handed over.
pub async fn send_all(stream: &mut SendStream<Bytes>, mut data: Bytes, end: bool) -> Result<(), h2::Error> {
    if data.is_empty() {
        return stream.send_data(data, end);
    }
    while !data.is_empty() {
        let granted = capacity(stream, data.len()).await?;
        let piece = data.split_to(granted.min(data.len()));
        stream.send_data(piece, end && data.is_empty())?;
    }
    Ok(())
}

/// Waits until the peer grants some of `wanted` bytes, and says how many.
///
/// # Errors
/// What ended the stream meanwhile.
pub async fn capacity(stream: &mut SendStream<Bytes>, wanted: usize) -> Result<usize, h2::Error> {
    stream.reserve_capacity(wanted);
    loop {
        if stream.capacity() > 0 {
            return Ok(stream.capacity());
        }
        match poll_fn(|cx| stream.poll_capacity(cx)).await {
            Some(Ok(_)) => {}
            Some(Err(fault)) => return Err(fault),
            // h2 says so once the stream can no longer send; the reset tells why.
            None => return Err(reset_of(stream).await),
        }
    }
}

async fn reset_of(stream: &mut SendStream<Bytes>) -> h2::Error {
    match poll_fn(|cx| stream.poll_reset(cx)).await {
        Ok(reason) => reason.into(),
        Err(_) => Reason::STREAM_CLOSED.into(),
    }
}
