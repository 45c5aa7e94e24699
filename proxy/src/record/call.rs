//! One call, as spans and lines of the log tell it.

use std::net::SocketAddr;
use std::time::Duration;

use http::Method;

use crate::failure::Reason;
use crate::grpc::status::Code;
use crate::metrics::calls::Direction;
use crate::metrics::events::Outcome;
use crate::trace::context::Span;

/// One call.
#[derive(Clone, Debug)]
pub(crate) struct CallRecord {
    pub(crate) span: Span,
    /// `tracestate` as it came.
    pub(crate) state: Option<Box<str>>,
    pub(crate) direction: Direction,
    /// `NAME.NAMESPACE`; empty: none was found.
    pub(crate) service: Box<str>,
    /// `package.Service/Method`, cut where it is too long; of a request that is not gRPC the path.
    pub(crate) method: Box<str>,
    /// `None`: it is a call of gRPC.
    pub(crate) http: Option<Http>,
    /// The SPIFFE id of the caller (inbound).
    pub(crate) peer: Option<Box<str>>,
    pub(crate) route: Option<RouteName>,
    /// What decided that it is let in or refused: the rule by its name or place, or `default` (inbound).
    pub(crate) authorization: Option<Box<str>>,
    /// The rule that has it told of.
    pub(crate) audit: Option<Box<str>>,
    pub(crate) began_unix: Duration,
    /// Until the end, or so far.
    pub(crate) took: Duration,
    /// Until the head of the response was here.
    pub(crate) head_after: Option<Duration>,
    pub(crate) attempts: Vec<AttemptRecord>,
    pub(crate) request: Moved,
    pub(crate) response: Moved,
    pub(crate) end: Option<End>,
}

/// A request that is not gRPC, or one that was answered by an HTTP status alone.
#[derive(Clone, Debug)]
pub(crate) struct Http {
    /// One of those that everybody knows, or [`OTHER_METHOD`]: whatever a caller writes, no more than this is kept of it.
    pub(crate) method: &'static str,
    /// What the caller was told.
    pub(crate) status: Option<u16>,
}

/// The word of OpenTelemetry's conventions for methods of HTTP that nobody knows.
pub(crate) const OTHER_METHOD: &str = "_OTHER";

impl Http {
    /// A request with this method that has no answer yet.
    pub(crate) fn new(method: &Method) -> Self {
        let known = ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"];
        let known = known.into_iter().find(|known| method == known);
        Self { method: known.unwrap_or(OTHER_METHOD), status: None }
    }
}

/// By which route a call went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RouteName {
    /// The one at this place in `routes`.
    Index(u32),
    Unrouted,
}

/// How a call ended.
#[derive(Clone, Debug)]
pub(crate) struct End {
    pub(crate) code: Code,
    /// If this sidecar ended it: why, and what it said.
    pub(crate) failure: Option<(Reason, Box<str>)>,
}

/// DATA that passed in one direction, prefixes of messages included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Moved {
    pub(crate) bytes: u64,
    pub(crate) messages: u64,
}

/// One attempt to place the call.
#[derive(Clone, Debug)]
pub(crate) struct AttemptRecord {
    pub(crate) endpoint: SocketAddr,
    pub(crate) outcome: Outcome,
    /// Why it came to nothing; may be empty.
    pub(crate) reason: Box<str>,
    /// Since the call began.
    pub(crate) began_after: Duration,
    pub(crate) ended_after: Duration,
    /// An endpoint has had the call before.
    pub(crate) resend: bool,
}

impl std::fmt::Display for RouteName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Index(index) => write!(f, "routes[{index}]"),
            Self::Unrouted => f.write_str("unrouted"),
        }
    }
}
