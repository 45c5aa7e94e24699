//! How a call ended, as its client saw it.

use bytes::Bytes;
use h2::Reason;
use http::HeaderMap;

/// How a call ended, as the client saw it.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// `:status`; `None`: no response headers came.
    pub http_status: Option<u16>,
    /// `grpc-status`, from the trailers or else from the headers (trailers-only).
    pub grpc_status: Option<i32>,
    /// `grpc-message` from the same place, percent-decoded.
    pub message: String,
    /// The response headers.
    pub headers: HeaderMap,
    /// The trailers; `None`: none came, as in a trailers-only answer.
    pub trailers: Option<HeaderMap>,
    /// The reason of an RST_STREAM that ended it.
    pub reset: Option<Reason>,
    /// Whether a GOAWAY below this call ended it: the peer has not looked at it.
    pub goaway: bool,
    /// What ended it, if not END_STREAM: reset, GOAWAY, a broken connection.
    pub fault: Option<String>,
    /// Whether END_STREAM came.
    pub clean_end: bool,
    /// Whether it ended inside a message.
    pub cut_in_message: bool,
    /// Whole messages received, those read before `finish` included.
    pub messages: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// The last message that `finish` itself read.
    pub last: Option<Bytes>,
}

impl Outcome {
    /// Whether the call went well: `grpc-status: 0` and a clean end.
    pub fn is_ok(&self) -> bool {
        self.grpc_status == Some(0) && self.clean_end && !self.cut_in_message
    }

    /// A trailer, or else a response header, as text.
    pub fn trailer(&self, name: &str) -> Option<&str> {
        let trailers = self.trailers.as_ref().unwrap_or(&self.headers);
        trailers.get(name)?.to_str().ok()
    }

    pub(crate) fn read_status(&mut self) {
        self.grpc_status = self.trailer("grpc-status").and_then(|status| status.parse().ok());
        self.message = percent_decoded(self.trailer("grpc-message").unwrap_or_default());
    }
}

/// As gRPC over HTTP/2 has it for `grpc-message`: what is not a valid escape stays as it is.
fn percent_decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let escaped = (first == b'%').then(|| tail.get(..2)).flatten();
        let escaped = escaped.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        out.push(escaped.unwrap_or(first));
        rest = if escaped.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_escape_in_a_message_stays_as_it_is() {
        assert_eq!(percent_decoded("50%25 of %zz and %4"), "50% of %zz and %4");
    }
}
