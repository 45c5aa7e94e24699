//! The dimensions, and which of their combinations there are.

use bytes::Bytes;
use h2::Reason;

use crate::pair::{BIDI, CLIENT_STREAM, SERVER_STREAM, UNARY};

/// What becomes of the first attempt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fault {
    /// A head with a status is all of the answer.
    TrailersOnly,
    /// Headers, no message, the status in trailers.
    HeadersThenTrailers,
    ResetBeforeHeaders,
    ResetAfterHeaders,
    ResetAfterMessage,
    /// RST_STREAM(REFUSED_STREAM).
    RefusedStream,
    GoawayBelow,
    /// GOAWAY above the stream, and the connection closes under it.
    GoawayAbove,
    TcpReset,
    TcpResetAfterMessage,
    /// The port is closed.
    RefusedConnection,
    /// Nothing comes, until the time of an attempt is over.
    Silence,
}

pub(crate) const FAULTS: [Fault; 12] = [
    Fault::TrailersOnly,
    Fault::HeadersThenTrailers,
    Fault::ResetBeforeHeaders,
    Fault::ResetAfterHeaders,
    Fault::ResetAfterMessage,
    Fault::RefusedStream,
    Fault::GoawayBelow,
    Fault::GoawayAbove,
    Fault::TcpReset,
    Fault::TcpResetAfterMessage,
    Fault::RefusedConnection,
    Fault::Silence,
];

/// How many messages the endpoint has of the request when the fault comes.
const SENT: [usize; 3] = [0, 1, 2];

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    Unary,
    ClientStream,
    ServerStream,
    Bidi,
}

const KINDS: [Kind; 4] = [Kind::Unary, Kind::ClientStream, Kind::ServerStream, Kind::Bidi];

/// What the policy says of the fault.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Policy {
    /// Its status is in `retryable_status_codes`.
    Retryable,
    /// Another one is.
    NotRetryable,
    /// Its status is in them, and the method is `idempotent: false`.
    NotIdempotent,
}

const POLICIES: [Policy; 3] = [Policy::Retryable, Policy::NotRetryable, Policy::NotIdempotent];

/// `commit`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Commit {
    Headers,
    FirstMessage,
}

const COMMITS: [Commit; 2] = [Commit::Headers, Commit::FirstMessage];

#[derive(Clone, Copy, Debug)]
pub(crate) struct Cell {
    pub(crate) number: usize,
    pub(crate) fault: Fault,
    pub(crate) sent: usize,
    pub(crate) kind: Kind,
    pub(crate) policy: Policy,
    pub(crate) commit: Commit,
}

/// The whole product.
pub(crate) fn all() -> impl Iterator<Item = Cell> {
    let each = |number: usize| {
        let mut rest = number;
        let mut next = |of: usize| {
            let index = rest % of;
            rest /= of;
            index
        };
        Cell {
            number,
            commit: COMMITS[next(COMMITS.len())],
            policy: POLICIES[next(POLICIES.len())],
            kind: KINDS[next(KINDS.len())],
            sent: SENT[next(SENT.len())],
            fault: FAULTS[next(FAULTS.len())],
        }
    };
    (0..Cell::PRODUCT).map(each)
}

impl Cell {
    /// How many cells the product has.
    pub(crate) const PRODUCT: usize =
        FAULTS.len() * SENT.len() * KINDS.len() * POLICIES.len() * COMMITS.len();

    /// The rule by which there is no such cell.
    pub(crate) fn excluded(&self) -> Option<&'static str> {
        let of_one = matches!(self.kind, Kind::Unary | Kind::ServerStream);
        (of_one && self.sent > 1).then_some("a request of one message never has two")
    }

    /// The messages of the request. Streams have one left when the fault comes, and no endpoint has seen their end.
    pub(crate) fn messages(&self) -> Vec<Bytes> {
        let count = if matches!(self.kind, Kind::Unary | Kind::ServerStream) { 1 } else { 3 };
        (0..count).map(|at| vec![(self.number + at) as u8; 10 + self.draw(3_000) + at].into()).collect()
    }

    /// `:path` of the kind.
    pub(crate) fn path(&self) -> &'static str {
        match self.kind {
            Kind::Unary => UNARY,
            Kind::ClientStream => CLIENT_STREAM,
            Kind::ServerStream => SERVER_STREAM,
            Kind::Bidi => BIDI,
        }
    }

    /// What an endpoint that serves the call well answers.
    pub(crate) fn answer(&self) -> Vec<Bytes> {
        let messages = self.messages();
        match self.kind {
            Kind::Unary | Kind::Bidi => messages,
            Kind::ClientStream => {
                let bytes: usize = messages.iter().map(Bytes::len).sum();
                vec![format!("{} {bytes}", messages.len()).into()]
            }
            Kind::ServerStream => {
                vec![vec![b's'; Self::SERVER_STREAM_SIZE].into(); Self::SERVER_STREAM_COUNT]
            }
        }
    }

    pub(crate) const SERVER_STREAM_COUNT: usize = 2;
    pub(crate) const SERVER_STREAM_SIZE: usize = 70;

    /// What the first endpoint does, for its script; `None`: there is none.
    pub(crate) fn script(&self) -> Option<String> {
        let (status, reset) = (self.status(), self.reset());
        let action = match self.fault {
            Fault::TrailersOnly => format!("trailers-only:{status}"),
            Fault::HeadersThenTrailers => format!("status-no-message:{status}"),
            Fault::ResetBeforeHeaders => format!("reset:{reset:?}"),
            Fault::ResetAfterHeaders => format!("reply:0,reset:{reset:?}"),
            Fault::ResetAfterMessage => format!("reply:1,reset:{reset:?}"),
            Fault::RefusedStream => "refused".to_owned(),
            Fault::GoawayBelow => "goaway-below".to_owned(),
            Fault::GoawayAbove => "goaway-above".to_owned(),
            Fault::TcpReset => "disconnect".to_owned(),
            Fault::TcpResetAfterMessage => "reply:1,disconnect".to_owned(),
            Fault::RefusedConnection => return None,
            Fault::Silence => "hang".to_owned(),
        };
        Some(format!("after:{},{action}", self.sent))
    }

    /// The status that the fault is, by itself or as gRPC maps it ("HTTP2 Error to Status" of gRPC over HTTP/2; a
    /// lost connection is UNAVAILABLE, time that is over DEADLINE_EXCEEDED).
    pub(crate) fn status(&self) -> i32 {
        match self.fault {
            Fault::TrailersOnly | Fault::HeadersThenTrailers => 1 + self.draw(16) as i32,
            Fault::ResetBeforeHeaders | Fault::ResetAfterHeaders | Fault::ResetAfterMessage => {
                match self.reset() {
                    Reason::CANCEL => 1,
                    Reason::INADEQUATE_SECURITY => 7,
                    Reason::ENHANCE_YOUR_CALM => 8,
                    _ => 13,
                }
            }
            Fault::Silence => 4,
            _ => 14,
        }
    }

    /// The status that the policy repeats.
    pub(crate) fn retryable(&self) -> i32 {
        match self.policy {
            Policy::NotRetryable => self.status() % 16 + 1,
            Policy::Retryable | Policy::NotIdempotent => self.status(),
        }
    }

    fn reset(&self) -> Reason {
        const RESETS: [Reason; 6] = [
            Reason::NO_ERROR,
            Reason::PROTOCOL_ERROR,
            Reason::INTERNAL_ERROR,
            Reason::CANCEL,
            Reason::ENHANCE_YOUR_CALM,
            Reason::INADEQUATE_SECURITY,
        ];
        RESETS[self.draw(RESETS.len())]
    }

    /// A number below `limit` that is the cell's own (Knuth's multiplicative hash).
    fn draw(&self, limit: usize) -> usize {
        ((self.number as u32).wrapping_mul(2_654_435_769) >> 8) as usize % limit
    }
}
