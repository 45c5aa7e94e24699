//! gRPC over HTTP/2, as much of it as a server of streams needs: messages in, a status out.

use std::fmt::Write as _;
use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Response, StatusCode};

use crate::ads::wire::{PREFIX_BYTES, Response as Message};

/// The codes that streams end with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    Ok = 0,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    Unimplemented = 12,
    Unavailable = 14,
    Unauthenticated = 16,
}

/// How a stream ends, as its client reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ending {
    pub(crate) code: Code,
    pub(crate) message: String,
}

impl Ending {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// Nobody is there any more to read an ending.
    pub(crate) fn gone() -> Self {
        Self::new(Code::Unavailable, "the client has gone")
    }

    pub(crate) fn trailers(&self) -> HeaderMap {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from(self.code as u16));
        if let Ok(message) = HeaderValue::try_from(percent(&self.message))
            && !message.is_empty()
        {
            trailers.insert("grpc-message", message);
        }
        trailers
    }

    /// The head of a response that has nothing but its status.
    pub(crate) fn alone(&self) -> Response<()> {
        let mut response = head();
        response.headers_mut().extend(self.trailers());
        response
    }
}

/// The head of a response whose messages follow.
pub(crate) fn head() -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// "Percent-Encoded" of gRPC over HTTP2: printable ASCII but for `%` stays.
fn percent(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(char::from(byte)),
            _ => drop(write!(out, "%{byte:02X}")),
        }
    }
    out
}

/// The messages that a client sends.
#[derive(Debug)]
pub(crate) struct Messages {
    body: RecvStream,
    buffer: BytesMut,
    bytes_max: usize,
}

/// Why there is no next message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unread {
    /// Larger than may be.
    TooLarge(usize),
    /// Not gRPC as we speak it.
    Wrong(&'static str),
    /// The connection or the stream has broken.
    Gone,
}

impl Messages {
    pub(crate) fn new(body: RecvStream, bytes_max: usize) -> Self {
        Self { body, buffer: BytesMut::new(), bytes_max }
    }

    /// The next message; `None`: the client has no more to say. Nothing is lost when it is asked again.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Unread>> {
        loop {
            if let Some(message) = cut(&mut self.buffer, self.bytes_max)? {
                return Poll::Ready(Ok(Some(message)));
            }
            match ready!(self.body.poll_data(cx)) {
                Some(Ok(chunk)) => {
                    let _ = self.body.flow_control().release_capacity(chunk.len());
                    self.buffer.extend_from_slice(&chunk);
                }
                Some(Err(_)) => return Poll::Ready(Err(Unread::Gone)),
                None if self.buffer.is_empty() => return Poll::Ready(Ok(None)),
                None => return Poll::Ready(Err(Unread::Wrong("the stream ends in the middle of a message"))),
            }
        }
    }
}

/// Cuts a message off the beginning of what was read, if it is whole.
fn cut(buffer: &mut BytesMut, bytes_max: usize) -> Result<Option<Bytes>, Unread> {
    let Some((prefix, rest)) = buffer.split_at_checked(PREFIX_BYTES) else { return Ok(None) };
    if prefix[0] != 0 {
        return Err(Unread::Wrong("a compressed message; none was agreed on"));
    }
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
    if length > bytes_max {
        return Err(Unread::TooLarge(length));
    }
    if rest.len() < length {
        return Ok(None);
    }
    buffer.advance(PREFIX_BYTES);
    let message = buffer.split_to(length).freeze();
    if buffer.is_empty() {
        // A large message shall not leave its buffer behind.
        *buffer = BytesMut::new();
    }
    Ok(Some(message))
}

/// How many bytes may be sent now, once some may. They must have been reserved.
pub(crate) fn poll_room(stream: &mut SendStream<Bytes>, cx: &mut Context<'_>) -> Poll<Result<usize, Unread>> {
    match stream.capacity() {
        0 => match ready!(stream.poll_capacity(cx)) {
            Some(Ok(room)) => Poll::Ready(Ok(room)),
            Some(Err(_)) | None => Poll::Ready(Err(Unread::Gone)),
        },
        room => Poll::Ready(Ok(room)),
    }
}

/// Sends a whole message, as the client makes room for it; the ending is OK, or an error where the client has gone.
pub(crate) async fn send(out: &mut SendStream<Bytes>, mut message: Message) -> Result<Ending, Ending> {
    while message.left() > 0 {
        out.reserve_capacity(message.left());
        let room = poll_fn(|cx| poll_room(out, cx)).await.map_err(|_| Ending::gone())?;
        out.send_data(message.take(room), false).map_err(|_| Ending::gone())?;
    }
    Ok(Ending::new(Code::Ok, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_cut_where_they_end() {
        let stream = b"\0\0\0\0\x02ab\0\0\0\0\0\0\0\0\0\x01c";
        for piece in 1..stream.len() {
            let (mut buffer, mut messages) = (BytesMut::new(), Vec::new());
            for chunk in stream.chunks(piece) {
                buffer.extend_from_slice(chunk);
                while let Some(message) = cut(&mut buffer, 2).unwrap() {
                    messages.push(message);
                }
            }
            assert_eq!(messages, ["ab", "", "c"].map(Bytes::from), "pieces of {piece}");
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn a_large_message_is_refused_by_its_prefix_alone() {
        let mut buffer = BytesMut::from(&b"\0\x06\x40\0\0"[..]);
        assert_eq!(cut(&mut buffer, 4 << 20), Err(Unread::TooLarge(100 << 20)));
        let mut buffer = BytesMut::from(&b"\x01\0\0\0\0"[..]);
        assert!(matches!(cut(&mut buffer, 4 << 20), Err(Unread::Wrong(_))));
    }

    #[test]
    fn a_status_is_written_as_grpc_says() {
        let trailers = Ending::new(Code::ResourceExhausted, "100 % é\n").trailers();
        assert_eq!(trailers["grpc-status"], "8");
        assert_eq!(trailers["grpc-message"], "100 %25 %C3%A9%0A");
        assert!(!Ending::new(Code::Ok, "").trailers().contains_key("grpc-message"));
    }
}
