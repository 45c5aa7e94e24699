//! One worker's counters of everything that is not a call: connections, refusals, handshakes, attempts.

use http::StatusCode;

use crate::failure::{REASONS, Reason};
use crate::metrics::calls::Direction;
use crate::metrics::counter::Counter;

/// A limit that turned something away: the label of `outrigger_refused_total`, named as in `sidecar.yaml`.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(crate) enum Limit {
    Connections,
    Handshakes,
    HandshakeTimeout,
    Calls,
    StallTimeout,
    ResetsPerSecond,
    Series,
    ReplayBuffer,
    RetryBudget,
    RetryThrottling,
    InheritedDeadlines,
}

/// Every limit's label, in the order of its number.
pub(crate) const LIMITS: [&str; 11] = [
    "connections",
    "handshakes",
    "handshake_timeout",
    "calls",
    "stall_timeout",
    "resets_per_second",
    "series",
    "replay_buffer",
    "retry_budget",
    "retry_throttling",
    "inherited_deadlines",
];

/// Why a downstream connection was closed before calls or bytes went through.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(crate) enum HandshakeFailure {
    /// Closed or broken by the caller.
    Closed,
    /// Plaintext where mTLS is asked for.
    Plaintext,
    /// TLS where only plaintext is spoken.
    Tls,
    /// Nothing that is spoken there.
    Protocol,
    /// TLS failed otherwise.
    TlsError,
    /// No certificate was shown.
    NoCertificate,
    /// Not signed by the bundle.
    UnknownIssuer,
    /// It has expired.
    Expired,
    /// It is not valid yet.
    NotValidYet,
    /// A CA's in the place of a workload's.
    CaAsLeaf,
    /// Its key is for something else.
    KeyUsage,
    /// Not exactly one SPIFFE id, or one that breaks the standard.
    SpiffeId,
    /// A SPIFFE id of another trust domain.
    TrustDomain,
    /// It came to a port that several entries share, and belongs to none of them.
    NoEntry,
    /// Its bytes would have to pass as they are, which the service's authorization does not let this caller.
    NotAllowed,
    /// It is for no service of the mesh, and `unknown: refuse` or nothing known of where it goes.
    Unknown,
    /// It would have come back to us.
    Loop,
    /// Where it goes could not be reached.
    Unreachable,
    /// There is no mesh yet that says where it goes.
    NoConfig,
    /// We have no certificate yet that we could show, or no longer one that is good.
    NoIdentity,
}

/// Every handshake failure's label, in the order of its number.
pub(crate) const HANDSHAKE_FAILURES: [&str; 20] = [
    "closed",
    "plaintext",
    "tls",
    "protocol",
    "tls_error",
    "no_certificate",
    "unknown_issuer",
    "expired",
    "not_valid_yet",
    "ca_as_leaf",
    "key_usage",
    "spiffe_id",
    "trust_domain",
    "no_entry",
    "not_allowed",
    "unknown",
    "loop",
    "unreachable",
    "no_config",
    "no_identity",
];

/// A fault on purpose: the label `kind` of `outrigger_faults_injected_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Fault {
    /// A call waited before it went out.
    Delay,
    /// A call ended before it went out.
    Abort,
    /// A response stood still.
    StreamStall,
    /// A call ended in the middle of its response.
    StreamAbort,
}

/// Every fault's label, in the order of its number, named as in the mesh file.
pub(crate) const FAULTS: [&str; 4] = ["delay", "abort", "stream_stall", "stream_abort"];

/// Why a call that was under way lost its leave: the label `reason` of `outrigger_calls_revoked_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Revocation {
    /// The rules of the service have changed.
    Policy,
    /// Its caller's certificate no longer leads to a root that is trusted.
    Trust,
}

/// Every revocation's label, in the order of its number.
pub(crate) const REVOCATIONS: [&str; 2] = ["policy", "trust"];

/// Whose connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Side {
    /// From the mesh to us.
    Inbound,
    /// From the app to us.
    Outbound,
    /// From us to an endpoint.
    Upstream,
}

/// Every side's label, in the order of its number.
pub(crate) const SIDES: [&str; 3] = ["inbound", "outbound", "upstream"];

impl From<Direction> for Side {
    fn from(direction: Direction) -> Self {
        match direction {
            Direction::Inbound => Self::Inbound,
            Direction::Outbound => Self::Outbound,
        }
    }
}

/// The label `code` of HTTP/2 requests that are not gRPC, by the status's first digit; the last one is for those
/// that ended without a status.
pub(crate) const HTTP_CLASSES: [&str; 5] = ["2xx", "3xx", "4xx", "5xx", "none"];

/// The label `way` of the bytes in tunnels.
pub(crate) const TUNNEL_WAYS: [&str; 2] = ["received", "sent"];

/// The label `security`, by whether a connection is mTLS.
pub(crate) const SECURITY: [&str; 2] = ["plain", "mtls"];

/// The counters. Written by their worker only.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Events {
    /// Open now, by side and security.
    pub(crate) connections: [[Counter; 2]; SIDES.len()],
    /// Opened ever, by side and security.
    pub(crate) connections_total: [[Counter; 2]; SIDES.len()],
    /// Connections between accept and the end of the preface, by direction.
    pub(crate) handshakes: [Counter; 2],
    /// By direction.
    pub(crate) calls_in_flight: [Counter; 2],
    refused: [Counter; LIMITS.len()],
    failed: [[Counter; REASONS.len()]; 2],
    handshake_failures: [Counter; HANDSHAKE_FAILURES.len()],
    /// Connections to endpoints that took no calls for a while, because nothing came back on them.
    pub(crate) connections_suspected: Counter,
    /// Connections whose bytes pass as they are, open now, by direction.
    pub(crate) tunnels: [Counter; 2],
    /// The same, opened ever.
    pub(crate) tunnels_total: [Counter; 2],
    /// Bytes through them, by direction: from who connected, and to it.
    pub(crate) tunnel_bytes: [[Counter; 2]; 2],
    /// HTTP/2 requests that are not gRPC, by direction and the status's first digit.
    pub(crate) http: [[Counter; HTTP_CLASSES.len()]; 2],
    pub(crate) connect_failures: Counter,
    pub(crate) flush_resets: Counter,
    revoked: [Counter; REVOCATIONS.len()],
    /// Connections whose peer's certificate no longer leads to a root that is trusted, by side.
    pub(crate) connections_distrusted: [Counter; SIDES.len()],
    /// Bytes of requests that are kept for another attempt, now.
    pub(crate) replay_bytes: Counter,
    /// Faults on purpose, by kind.
    pub(crate) faults: [Counter; FAULTS.len()],
    /// Spans, and lines of the access log, that found no place in their queues.
    pub(crate) spans_dropped: Counter,
    pub(crate) lines_dropped: Counter,
}

impl Events {
    /// Calls in flight, both directions together.
    pub(crate) fn calls(&self) -> u64 {
        self.calls_in_flight.iter().map(Counter::value).sum()
    }

    pub(crate) fn refuse(&self, limit: Limit) {
        self.refused[limit as usize].add(1);
    }

    pub(crate) fn fail(&self, direction: Direction, reason: Reason) {
        self.failed[direction as usize][reason as usize].add(1);
    }

    pub(crate) fn revoke(&self, why: Revocation) {
        self.revoked[why as usize].add(1);
    }

    /// Calls that lost their leave, by the number of the revocation.
    pub(crate) fn revoked(&self, why: usize) -> u64 {
        self.revoked[why].value()
    }

    pub(crate) fn handshake_failed(&self, failure: HandshakeFailure) {
        self.handshake_failures[failure as usize].add(1);
    }

    /// Counts a request that is not gRPC, at its end.
    pub(crate) fn count_http(&self, direction: Direction, status: Option<StatusCode>) {
        let class = match status.map(|status| status.as_u16()) {
            Some(200..300) => 0,
            Some(300..400) => 1,
            Some(400..500) => 2,
            Some(500..) => 3,
            _ => 4,
        };
        self.http[direction as usize][class].add(1);
    }

    /// Counts a fault on purpose, when it takes effect.
    pub(crate) fn inject(&self, fault: Fault) {
        self.faults[fault as usize].add(1);
    }

    pub(crate) fn refused(&self, limit: usize) -> u64 {
        self.refused[limit].value()
    }

    pub(crate) fn failed(&self, direction: Direction, reason: usize) -> u64 {
        self.failed[direction as usize][reason].value()
    }

    pub(crate) fn handshake_failures(&self, failure: usize) -> u64 {
        self.handshake_failures[failure].value()
    }
}

/// One worker's counters of attempts on one cluster.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct Attempts {
    /// Calls that reached this cluster.
    pub(crate) calls: Counter,
    outcomes: [Counter; OUTCOMES.len()],
    repeats: [Counter; CAUSES.len()],
    repeated: [Counter; FATES.len()],
}

/// How an attempt ended: the label `outcome` of `outrigger_attempts_total`.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(crate) enum Outcome {
    /// The endpoint answered, whatever the status.
    Answered,
    /// Nothing was handed to a connection.
    NeverSent,
    /// The endpoint refused it unprocessed.
    Refused,
    /// It broke without an answer and may have been processed.
    Broken,
    /// The caller or its deadline ended it.
    Abandoned,
    /// It took longer than an attempt may.
    TimedOut,
    /// Another attempt of the same call was faster.
    Outrun,
}

/// Every outcome's label, in the order of its number.
pub(crate) const OUTCOMES: [&str; 7] =
    ["answered", "never_sent", "refused", "broken", "abandoned", "timed_out", "outrun"];

/// Why a call went out once more: the label `cause` of `outrigger_repeats_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Cause {
    /// Nothing of it had been processed.
    Unprocessed,
    /// It ended with a status that is retried.
    Status,
    /// It broke without an answer.
    Broken,
    /// It took longer than an attempt may.
    TimedOut,
    /// A hedge: the others had not been answered yet.
    Hedge,
}

/// Every cause's label, in the order of its number.
pub(crate) const CAUSES: [&str; 5] = ["unprocessed", "status", "broken", "timed_out", "hedge"];

/// The label `end` of `outrigger_repeated_calls_total`: calls that were repeated and then ended OK, and otherwise.
pub(crate) const FATES: [&str; 2] = ["saved", "failed"];

impl Attempts {
    pub(crate) fn end(&self, outcome: Outcome) {
        self.outcomes[outcome as usize].add(1);
    }

    pub(crate) fn ended(&self, outcome: usize) -> u64 {
        self.outcomes[outcome].value()
    }

    /// Counts that a call goes out once more.
    pub(crate) fn repeat(&self, cause: Cause) {
        self.repeats[cause as usize].add(1);
    }

    /// Counts a repeated call at its end.
    pub(crate) fn end_repeated(&self, saved: bool) {
        self.repeated[usize::from(!saved)].add(1);
    }

    pub(crate) fn repeats(&self, cause: usize) -> u64 {
        self.repeats[cause].value()
    }

    pub(crate) fn repeated(&self, fate: usize) -> u64 {
        self.repeated[fate].value()
    }
}
