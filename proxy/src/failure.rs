//! Why this sidecar ends a call by itself: the reason, its gRPC status, and what is said to the caller.
//! `call::respond` is the one place that turns it into trailers.

use http::StatusCode;

use crate::grpc::status::Code;

/// The reason of a failure: the `reason` of ErrorInfo and the label of `outrigger_failures_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Reason {
    MalformedRequest,
    MalformedTimeout,
    UnknownService,
    NoRoute,
    NotAllowed,
    DeadlineExceeded,
    /// The last attempt took longer than an attempt may.
    AttemptTimeout,
    StreamIdle,
    ReaderStalled,
    NoEndpoint,
    NeverSent,
    Refused,
    ConnectionLost,
    EndpointReset,
    MissingStatus,
    MalformedResponse,
    TooManyCalls,
    Draining,
    /// CONNECT inside of HTTP/2. Answered by an HTTP status alone.
    NoTunnel,
    /// A head that the next peer would not take. Answered by an HTTP status alone.
    HeadTooLong,
    /// A fault on purpose.
    FaultInjected,
    /// Less time is left than such calls take.
    ShedBelowMedian,
    /// Nothing has been heard of the mesh, or of the service that is called.
    NoConfig,
    /// The sidecar has no certificate yet.
    NoIdentity,
    /// It was under way when its caller lost the leave to call.
    Revoked,
}

/// Every reason, in the order of its number.
pub(crate) const REASONS: [Reason; 25] = [
    Reason::MalformedRequest,
    Reason::MalformedTimeout,
    Reason::UnknownService,
    Reason::NoRoute,
    Reason::NotAllowed,
    Reason::DeadlineExceeded,
    Reason::AttemptTimeout,
    Reason::StreamIdle,
    Reason::ReaderStalled,
    Reason::NoEndpoint,
    Reason::NeverSent,
    Reason::Refused,
    Reason::ConnectionLost,
    Reason::EndpointReset,
    Reason::MissingStatus,
    Reason::MalformedResponse,
    Reason::TooManyCalls,
    Reason::Draining,
    Reason::NoTunnel,
    Reason::HeadTooLong,
    Reason::FaultInjected,
    Reason::ShedBelowMedian,
    Reason::NoConfig,
    Reason::NoIdentity,
    Reason::Revoked,
];

impl Reason {
    /// The word that users meet.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::MalformedRequest => "MALFORMED_REQUEST",
            Self::MalformedTimeout => "MALFORMED_TIMEOUT",
            Self::UnknownService => "UNKNOWN_SERVICE",
            Self::NoRoute => "NO_ROUTE",
            Self::NotAllowed => "NOT_ALLOWED",
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::AttemptTimeout => "ATTEMPT_TIMEOUT",
            Self::StreamIdle => "STREAM_IDLE",
            Self::ReaderStalled => "READER_STALLED",
            Self::NoEndpoint => "NO_ENDPOINT",
            Self::NeverSent => "NEVER_SENT",
            Self::Refused => "REFUSED",
            Self::ConnectionLost => "CONNECTION_LOST",
            Self::EndpointReset => "ENDPOINT_RESET",
            Self::MissingStatus => "MISSING_STATUS",
            Self::MalformedResponse => "MALFORMED_RESPONSE",
            Self::TooManyCalls => "TOO_MANY_CALLS",
            Self::Draining => "DRAINING",
            Self::NoTunnel => "NO_TUNNEL",
            Self::HeadTooLong => "HEAD_TOO_LONG",
            Self::FaultInjected => "FAULT_INJECTED",
            Self::ShedBelowMedian => "SHED_BELOW_MEDIAN",
            Self::NoConfig => "NO_CONFIG",
            Self::NoIdentity => "NO_IDENTITY",
            Self::Revoked => "REVOKED",
        }
    }
}

/// The longest text of a caller that stands in a message of ours.
pub(crate) const QUOTE_BYTES_MAX: usize = 256;

/// The longest message of ours, in bytes. It stands in the trailers twice, and a peer ends a connection on which a header
/// list is far too long.
pub(crate) const MESSAGE_BYTES_MAX: usize = 1_024;

/// The first `max` bytes of a text at most, cut between characters.
pub(crate) fn clip(text: &str, max: usize) -> &str {
    let mut end = max.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// A call that this sidecar ends.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) reason: Reason,
    pub(crate) code: Code,
    /// Plain words: what happened and, where it helps, what would be right.
    pub(crate) message: String,
    /// Nothing of the call reached the application, so that it may be repeated whatever it does.
    pub(crate) unprocessed: bool,
}

impl Failure {
    /// A failure of a call that the application may have seen.
    pub(crate) fn new(reason: Reason, code: Code, message: impl Into<String>) -> Self {
        Self { reason, code, message: message.into(), unprocessed: false }
    }

    /// What a caller is told that does not speak gRPC.
    pub(crate) fn http_status(&self) -> StatusCode {
        match (self.reason, self.code) {
            (Reason::MalformedRequest, _) => StatusCode::BAD_REQUEST,
            (Reason::UnknownService | Reason::NoRoute, _) => StatusCode::NOT_FOUND,
            (_, Code::PermissionDenied) => StatusCode::FORBIDDEN,
            (_, Code::DeadlineExceeded) => StatusCode::GATEWAY_TIMEOUT,
            (_, Code::Unavailable | Code::ResourceExhausted) => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::BAD_GATEWAY,
        }
    }

    /// The same with another status.
    pub(crate) fn with_code(self, code: Code) -> Self {
        Self { code, ..self }
    }

    /// A failure of a call of which the application saw nothing.
    pub(crate) fn unprocessed(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, code: Code::Unavailable, message: message.into(), unprocessed: true }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(clip("short", 256), "short");
        assert_eq!(clip("aé", 2), "a");
        assert_eq!(clip("aé", 3), "aé");
    }

    #[test]
    fn every_reason_stands_at_its_number() {
        for (number, reason) in REASONS.iter().enumerate() {
            assert_eq!(*reason as usize, number);
        }
    }
}
