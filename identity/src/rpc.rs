//! gRPC as a client, directly on HTTP/2: one message for one, and streams. No more than certificates need.
//!
//! Everything is bounded: a message by who asks for it, what is under way by the windows, a status's words by
//! [`WORDS_MAX`]. A connection that is kept open is asked now and then whether its other end is still there.

use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{Ping, PingPong, RecvStream, SendStream};
use http::header::{AUTHORIZATION, CONTENT_TYPE, TE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Version};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use crate::dial::Io;
use crate::state::{Failure, Reason};

/// What of answers may be under way before we have looked at it.
const WINDOW: u32 = 1 << 20;
/// Headers and trailers of an answer.
const HEADERS_BYTES_MAX: u32 = 64 << 10;
/// Of a status's message so many characters are kept.
const WORDS_MAX: usize = 1_000;
/// A message's prefix: a flag and four bytes of length.
const PREFIX: usize = 5;
/// Silence is ended by a PING this often; Istio's servers take one every 15 s, and nobody should take less than a minute ill.
const PING_EVERY: Duration = Duration::from_secs(60);
/// It is answered within so much, or the connection is gone.
const PING_MAX: Duration = Duration::from_secs(20);

/// Codes of gRPC that are told apart here.
const INVALID_ARGUMENT: u16 = 3;
const PERMISSION_DENIED: u16 = 7;
const RESOURCE_EXHAUSTED: u16 = 8;
pub(crate) const UNIMPLEMENTED: u16 = 12;
const UNAVAILABLE: u16 = 14;
const UNAUTHENTICATED: u16 = 16;

/// Why a call ended without an answer.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The status of gRPC, if one came.
    pub(crate) code: Option<u16>,
    pub(crate) failure: Failure,
}

impl Ended {
    fn new(reason: Reason, why: impl Into<String>) -> Self {
        Self { code: None, failure: Failure::new(reason, why) }
    }

    fn of_status(code: u16, words: &str) -> Self {
        let reason = match code {
            INVALID_ARGUMENT | PERMISSION_DENIED | UNAUTHENTICATED => Reason::Refused,
            RESOURCE_EXHAUSTED | UNAVAILABLE => Reason::Unavailable,
            _ => Reason::Rpc,
        };
        let name = match code {
            INVALID_ARGUMENT => "INVALID_ARGUMENT".to_owned(),
            PERMISSION_DENIED => "PERMISSION_DENIED".to_owned(),
            RESOURCE_EXHAUSTED => "RESOURCE_EXHAUSTED".to_owned(),
            UNIMPLEMENTED => "UNIMPLEMENTED".to_owned(),
            UNAVAILABLE => "UNAVAILABLE".to_owned(),
            UNAUTHENTICATED => "UNAUTHENTICATED".to_owned(),
            code => format!("status {code}"),
        };
        let why = if words.is_empty() { name } else { format!("{name}: {words}") };
        Self { code: Some(code), failure: Failure::new(reason, why) }
    }

    fn of_h2(error: &h2::Error) -> Self {
        match error.get_io() {
            // TLS 1.3 tells that it refuses our certificate only now.
            Some(io) if io.kind() == std::io::ErrorKind::InvalidData => {
                Self::new(Reason::Tls, format!("TLS: {io}"))
            }
            Some(io) => Self::new(Reason::Rpc, format!("the connection broke: {io}")),
            None => Self::new(Reason::Rpc, format!("HTTP/2: {error}")),
        }
    }

    /// Whether a connection that was there ended without a word.
    pub(crate) fn is_unanswered(&self) -> bool {
        self.code.is_none() && self.failure.reason == Reason::Rpc
    }

    /// Whether it was about who we are, so that to prove it by other means may help.
    pub(crate) fn is_about_us(&self) -> bool {
        matches!(self.code, Some(UNAUTHENTICATED | PERMISSION_DENIED)) || self.failure.reason == Reason::Tls
    }
}

/// What is called, and how we say who we are.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) path: &'static str,
    /// For `authorization: Bearer`.
    pub(crate) token: Option<HeaderValue>,
    pub(crate) header: Option<(HeaderName, HeaderValue)>,
}

/// A connection, closed when dropped.
#[derive(Debug)]
pub(crate) struct Channel {
    sender: SendRequest<Bytes>,
    /// Scheme and authority.
    base: String,
    task: AbortHandle,
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Channel {
    /// Speaks HTTP/2 over a connection; `base`: such as `https://control:15012`.
    pub(crate) async fn open(io: impl Io + 'static, base: String) -> Result<Self, Failure> {
        let mut builder = Builder::new();
        builder
            .enable_push(false)
            .initial_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .max_header_list_size(HEADERS_BYTES_MAX);
        let (sender, mut connection) =
            builder.handshake(io).await.map_err(|error| Ended::of_h2(&error).failure)?;
        let ping = connection.ping_pong();
        let talking = async move {
            tokio::select! {
                // Its end shows in the calls.
                _ = connection => {}
                () = watch(ping) => {}
            }
        };
        Ok(Self { sender, base, task: tokio::spawn(talking).abort_handle() })
    }

    /// One message for one.
    pub(crate) async fn unary(
        &self,
        method: &Target,
        message: &[u8],
        bytes_max: usize,
    ) -> Result<Bytes, Ended> {
        let mut call = self.call(method, bytes_max).await?;
        call.send(message, true)?;
        let answer = call.next().await?;
        let answer = answer.ok_or_else(|| Ended::new(Reason::Rpc, "an answer without a message"))?;
        match call.next().await? {
            None => Ok(answer),
            Some(_) => Err(Ended::new(Reason::Rpc, "two messages in one answer")),
        }
    }

    /// Begins a call; no answer of it may have more than `bytes_max` bytes.
    pub(crate) async fn call(&self, method: &Target, bytes_max: usize) -> Result<Call, Ended> {
        let mut head = Request::new(());
        *head.method_mut() = Method::POST;
        *head.version_mut() = Version::HTTP_2;
        let uri = format!("{}{}", self.base, method.path);
        *head.uri_mut() = uri.parse().map_err(|error| Ended::new(Reason::Rpc, format!("{uri}: {error}")))?;
        let headers = head.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
        let agent = concat!("outrigger/", env!("CARGO_PKG_VERSION"));
        headers.insert(USER_AGENT, HeaderValue::from_static(agent));
        if let Some(token) = &method.token {
            headers.insert(AUTHORIZATION, token.clone());
        }
        headers.extend(method.header.clone());
        let mut ready = self.sender.clone().ready().await.map_err(|error| Ended::of_h2(&error))?;
        let (answer, sending) = ready.send_request(head, false).map_err(|error| Ended::of_h2(&error))?;
        Ok(Call { sending, answer: Answer::Awaited(answer), held: BytesMut::new(), bytes_max })
    }
}

/// A call under way, reset when dropped.
pub(crate) struct Call {
    sending: SendStream<Bytes>,
    answer: Answer,
    held: BytesMut,
    bytes_max: usize,
}

enum Answer {
    Awaited(ResponseFuture),
    Coming(RecvStream),
}

impl Call {
    /// Sends a message, and whether it is the last. Small ones only: nothing waits for the window here.
    pub(crate) fn send(&mut self, message: &[u8], last: bool) -> Result<(), Ended> {
        let length = u32::try_from(message.len())
            .map_err(|_| Ended::new(Reason::Rpc, "a message of more than 4 GiB"))?;
        let mut framed = Vec::with_capacity(PREFIX + message.len());
        framed.push(0);
        framed.extend_from_slice(&length.to_be_bytes());
        framed.extend_from_slice(message);
        self.sending.send_data(framed.into(), last).map_err(|error| Ended::of_h2(&error))
    }

    /// The next message, or `None` when the call has ended well. May be dropped while it waits, and asked again.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Ended> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(Some(message));
            }
            match &mut self.answer {
                Answer::Awaited(answer) => {
                    let (head, body) = answer.await.map_err(|error| Ended::of_h2(&error))?.into_parts();
                    if head.headers.contains_key(STATUS) {
                        status(&head.headers)?;
                    } else if head.status != StatusCode::OK {
                        let why = format!("HTTP status {} in the place of gRPC's", head.status.as_u16());
                        return Err(Ended::new(Reason::Rpc, why));
                    }
                    self.answer = Answer::Coming(body);
                }
                Answer::Coming(body) => match body.data().await {
                    Some(data) => {
                        let data = data.map_err(|error| Ended::of_h2(&error))?;
                        let _ = body.flow_control().release_capacity(data.len());
                        self.held.extend_from_slice(&data);
                    }
                    None => {
                        let trailers = body.trailers().await.map_err(|error| Ended::of_h2(&error))?;
                        if !self.held.is_empty() {
                            return Err(Ended::new(Reason::Rpc, "it ended in the middle of a message"));
                        }
                        status(&trailers.unwrap_or_default())?;
                        return Ok(None);
                    }
                },
            }
        }
    }

    /// A whole message of what has come.
    fn take(&mut self) -> Result<Option<Bytes>, Ended> {
        let Some((flag, length)) =
            self.held.first_chunk::<PREFIX>().map(|[flag, length @ ..]| (*flag, *length))
        else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(length) as usize;
        if flag != 0 {
            return Err(Ended::new(Reason::Rpc, "a compressed message, which nobody asked for"));
        }
        if length > self.bytes_max {
            let why = format!("a message of {length} bytes, but at most {} are read", self.bytes_max);
            return Err(Ended::new(Reason::Answer, why));
        }
        if self.held.len() < PREFIX + length {
            return Ok(None);
        }
        self.held.advance(PREFIX);
        Ok(Some(self.held.split_to(length).freeze()))
    }
}

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const WORDS: HeaderName = HeaderName::from_static("grpc-message");

/// What trailers say of how the call ended. None is no good end.
fn status(trailers: &HeaderMap) -> Result<(), Ended> {
    let code = trailers.get(STATUS).and_then(|code| code.to_str().ok()?.parse::<u16>().ok());
    match code {
        Some(0) => Ok(()),
        Some(code) => {
            let words = trailers.get(WORDS).map(|words| plain(words.as_bytes())).unwrap_or_default();
            Err(Ended::of_status(code, &words))
        }
        None => Err(Ended::new(Reason::Rpc, "the answer ended without a status of gRPC")),
    }
}

/// A percent-encoded text as people read it, on one line (gRPC over HTTP/2, "Responses").
fn plain(encoded: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded;
    while let Some((byte, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(decoded) if *byte == b'%' => {
                bytes.push(decoded);
                rest = &after[2..];
            }
            _ => {
                bytes.push(*byte);
                rest = after;
            }
        }
    }
    let text = String::from_utf8_lossy(&bytes);
    text.chars().take(WORDS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Comes back when the other end no longer answers.
async fn watch(ping: Option<PingPong>) {
    let Some(mut ping) = ping else { return std::future::pending().await };
    loop {
        sleep(PING_EVERY).await;
        if !matches!(timeout(PING_MAX, ping.ping(Ping::opaque())).await, Ok(Ok(_))) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_status_are_decoded_bounded_and_on_one_line() {
        assert_eq!(plain(b"a%20b%0Ac%zz%e2%82%ac%"), "a b c%zz\u{20ac}%");
        assert_eq!(plain(&[b'x'; 5_000]).len(), WORDS_MAX);
    }

    #[test]
    fn an_answer_without_a_status_is_no_good_end() {
        assert!(status(&HeaderMap::new()).is_err());
        let mut good = HeaderMap::new();
        good.insert(STATUS, HeaderValue::from_static("0"));
        assert!(status(&good).is_ok());
        good.insert(STATUS, HeaderValue::from_static("16"));
        let ended = status(&good).unwrap_err();
        assert!(ended.is_about_us() && ended.failure.reason == Reason::Refused);
    }
}
