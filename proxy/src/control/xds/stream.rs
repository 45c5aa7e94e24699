//! One bidirectional gRPC call over a connection: requests go out as far as the window allows, answers come in whole.
//!
//! Both ends may be cancelled at any point and begun anew: what is under way is kept in them.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{RecvStream, SendStream};
use http::header::{CONTENT_TYPE, HeaderValue, TE, USER_AGENT};
use http::{HeaderMap, Method, Request, StatusCode, Version};
use tokio::time::{Instant, timeout_at};

use crate::control::xds::connect::Open;
use crate::control::xds::framer::{Bounds, Framer, Unframed};
use crate::control::xds::lost::{Lost, Reason};
use crate::control::xds::settings::{Address, Protocol};
use crate::failure::clip;
use crate::grpc::status::Code;

/// Of what a control plane says in words, so much is repeated.
const WORDS_BYTES_MAX: usize = 512;
/// How long the other side may leave our requests unread.
const UNREAD: Duration = Duration::from_secs(20);

/// Begins the call.
pub(crate) async fn begin(
    open: &Open,
    to: &Address,
    protocol: Protocol,
    bounds: Bounds,
) -> Result<(Outgoing, Incoming), Lost> {
    let uri = format!("{to}{}", protocol.path());
    let mut head = Request::new(());
    *head.method_mut() = Method::POST;
    *head.uri_mut() = uri.parse().map_err(|error| Lost::new(Reason::Http2, format!("{uri}: {error}")))?;
    *head.version_mut() = Version::HTTP_2;
    let headers = head.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("outrigger/", env!("CARGO_PKG_VERSION"))));
    let mut sender = open.sender.clone().ready().await.map_err(|error| Lost::of_h2(&error))?;
    let (answer, stream) = sender.send_request(head, false).map_err(|error| Lost::of_h2(&error))?;
    let outgoing = Outgoing { stream, left: VecDeque::new(), moved: Instant::now() };
    Ok((outgoing, Incoming { source: Source::Head(answer), framer: Framer::new(bounds), bytes: 0 }))
}

/// Our requests.
pub(crate) struct Outgoing {
    stream: SendStream<Bytes>,
    left: VecDeque<Bytes>,
    /// When the other side last took something, or had nothing to take.
    moved: Instant,
}

impl Outgoing {
    /// Adds requests; whoever does so waits with reading until they have gone.
    pub(crate) fn push(&mut self, requests: impl IntoIterator<Item = Bytes>) {
        if self.left.is_empty() {
            self.moved = Instant::now();
        }
        self.left.extend(requests);
    }

    /// Whether there is nothing left to send.
    pub(crate) fn is_done(&self) -> bool {
        self.left.is_empty()
    }

    /// Sends what is left.
    pub(crate) async fn flush(&mut self) -> Result<(), Lost> {
        while !self.left.is_empty() {
            let by = self.moved + UNREAD;
            match timeout_at(by, poll_fn(|cx| self.poll_step(cx))).await {
                Ok(step) => step?,
                Err(_) => {
                    return Err(Lost::new(Reason::Slow, format!("our requests are not read for {UNREAD:?}")));
                }
            }
        }
        Ok(())
    }

    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        let Some(first) = self.left.front_mut() else { return Poll::Ready(Ok(())) };
        self.stream.reserve_capacity(first.len());
        let mut room = self.stream.capacity();
        while room == 0 {
            room = match ready!(self.stream.poll_capacity(cx)) {
                Some(Ok(room)) => room,
                Some(Err(error)) => return Poll::Ready(Err(Lost::of_h2(&error))),
                None => return Poll::Ready(Err(Lost::new(Reason::Closed, "it closed the stream"))),
            };
        }
        let piece = first.split_to(room.min(first.len()));
        if first.is_empty() {
            self.left.pop_front();
        }
        self.moved = Instant::now();
        Poll::Ready(self.stream.send_data(piece, false).map_err(|error| Lost::of_h2(&error)))
    }
}

/// Its answers.
pub(crate) struct Incoming {
    source: Source,
    framer: Framer,
    /// What has come and has not been counted.
    bytes: u64,
}

enum Source {
    Head(ResponseFuture),
    Body(RecvStream),
}

impl Incoming {
    /// The next answer.
    pub(crate) async fn next(&mut self) -> Result<Bytes, Lost> {
        loop {
            let framed = self.framer.next(Instant::now()).map_err(|fault| match fault {
                Unframed::TooLarge(what) => Lost::new(Reason::TooLarge, what),
                Unframed::Compressed => {
                    Lost::new(Reason::Garbage, "a compressed answer, which nobody asked for")
                }
            })?;
            if let Some(message) = framed {
                return Ok(message);
            }
            let due = self.framer.due();
            let more = poll_fn(|cx| self.poll_more(cx));
            match due {
                None => more.await?,
                Some(by) => match timeout_at(by, more).await {
                    Ok(more) => more?,
                    Err(_) => return Err(Lost::new(Reason::Slow, "an answer does not get on")),
                },
            }
        }
    }

    /// Bytes that have come since this was asked last.
    pub(crate) fn bytes(&mut self) -> u64 {
        std::mem::take(&mut self.bytes)
    }

    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        match &mut self.source {
            Source::Head(answer) => {
                let answer = ready!(Pin::new(answer).poll(cx)).map_err(|error| Lost::of_h2(&error))?;
                let (head, body) = answer.into_parts();
                if head.status != StatusCode::OK {
                    let what = format!("HTTP {}: no gRPC is served there", head.status.as_u16());
                    return Poll::Ready(Err(Lost::new(Reason::Status, what)));
                }
                if let Some(lost) = by_status(&head.headers) {
                    return Poll::Ready(Err(lost));
                }
                self.source = Source::Body(body);
            }
            Source::Body(body) => match ready!(body.poll_data(cx)) {
                Some(piece) => {
                    let piece = piece.map_err(|error| Lost::of_h2(&error))?;
                    let _ = body.flow_control().release_capacity(piece.len());
                    self.bytes += piece.len() as u64;
                    self.framer.push(&piece, Instant::now());
                }
                None => {
                    let trailers = ready!(body.poll_trailers(cx)).map_err(|error| Lost::of_h2(&error))?;
                    let told = trailers.as_ref().and_then(by_status);
                    let end = || Lost::new(Reason::Closed, "it ended the stream");
                    return Poll::Ready(Err(told.unwrap_or_else(end)));
                }
            },
        }
        Poll::Ready(Ok(()))
    }
}

/// An end by `grpc-status`.
fn by_status(fields: &HeaderMap) -> Option<Lost> {
    let code = Code::of_headers(fields)?;
    let said = fields.get("grpc-message").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let said = clip(said, WORDS_BYTES_MAX);
    let reason = if code == Code::Ok { Reason::Closed } else { Reason::Status };
    let colon = if said.is_empty() { "" } else { ": " };
    Some(Lost::new(reason, format!("it ended the stream with {}{colon}{said}", code.name())))
}
