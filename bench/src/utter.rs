//! What a scripted control plane sends on a stream besides good answers, and how: as far as the window allows.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::SendStream;
use tokio::time::{Instant, sleep, sleep_until};

use crate::grpc;

/// Of what is huge, so much is sent at a time.
const PIECE: usize = 16 << 10;

/// Something to send on every open stream.
#[derive(Clone, Debug)]
pub enum Raw {
    /// A gRPC message of these bytes.
    Message(Vec<u8>),
    /// These bytes as they are.
    Bytes(Vec<u8>),
    /// A gRPC message of so many zeros.
    Huge(usize),
    /// A gRPC message of these bytes, one at a time.
    Slow(Vec<u8>, Duration),
    /// These gRPC messages in turn, for a while; what is said meanwhile is heard.
    Flood {
        /// At least one.
        messages: Arc<[Vec<u8>]>,
        /// How many of them each second, as far as the other side takes them.
        per_second: u32,
        /// From the first to the last.
        lasting: Duration,
    },
}

/// A flood that goes on.
pub(crate) struct Flood {
    messages: Arc<[Vec<u8>]>,
    per_second: u32,
    lasting: Duration,
    began: Instant,
    sent: u32,
}

impl Flood {
    /// Begins one.
    pub(crate) fn begin(messages: Arc<[Vec<u8>]>, per_second: u32, lasting: Duration) -> Self {
        Self { messages, per_second, lasting, began: Instant::now(), sent: 0 }
    }
}

/// Sends the next of a flood, when it is its time and the other side has room; `false`: it is over, `None`: the stream has
/// ended. Nothing is sent in part if it is dropped.
pub(crate) async fn flow(stream: &mut SendStream<Bytes>, flood: &mut Option<Flood>) -> Option<bool> {
    let Some(flood) = flood else { return Some(false) };
    let at = flood.began + Duration::from_secs(1) / flood.per_second * flood.sent;
    sleep_until(at.min(flood.began + flood.lasting)).await;
    let message = &flood.messages[flood.sent as usize % flood.messages.len()];
    let framed = grpc::message(message);
    stream.reserve_capacity(framed.len());
    let is_over = |flood: &Flood| flood.began.elapsed() >= flood.lasting;
    while stream.capacity() < framed.len() && !is_over(flood) {
        tokio::select! {
            room = poll_fn(|cx| stream.poll_capacity(cx)) => {
                room?.ok()?;
            }
            () = sleep_until(flood.began + flood.lasting) => {}
        }
    }
    if is_over(flood) {
        return Some(false);
    }
    stream.send_data(framed, false).ok()?;
    flood.sent += 1;
    Some(true)
}

pub(crate) async fn utter(stream: &mut SendStream<Bytes>, raw: Raw) -> Option<()> {
    match raw {
        Raw::Message(message) => send(stream, grpc::message(&message)).await,
        Raw::Bytes(bytes) => send(stream, bytes.into()).await,
        Raw::Huge(length) => {
            let prefix = [&[0][..], &u32::try_from(length).ok()?.to_be_bytes()].concat();
            send(stream, prefix.into()).await?;
            for _ in 0..length / PIECE {
                send(stream, vec![0; PIECE].into()).await?;
            }
            send(stream, vec![0; length % PIECE].into()).await
        }
        Raw::Slow(message, apart) => {
            for byte in grpc::message(&message) {
                send(stream, vec![byte].into()).await?;
                sleep(apart).await;
            }
            Some(())
        }
        // Whoever asks for it keeps the stream open meanwhile.
        Raw::Flood { .. } => Some(()),
    }
}

/// Sends as far as the window allows; `None`: the stream has ended.
pub(crate) async fn send(stream: &mut SendStream<Bytes>, mut bytes: Bytes) -> Option<()> {
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        let room = poll_fn(|cx| stream.poll_capacity(cx)).await?.ok()?;
        let room = room.max(stream.capacity()).min(bytes.len());
        if room > 0 {
            stream.send_data(bytes.split_to(room), false).ok()?;
        }
    }
    Some(())
}
