//! What must come of a cell, from the specification and not from the code: gRFC A6, and `docs/retries.md`.

use crate::cell::{Cell, Commit, Fault, Policy};

/// What must come of a cell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Expected {
    /// Why.
    pub(crate) rule: &'static str,
    /// Attempts of which nothing was sent.
    pub(crate) never_sent: u64,
    /// Attempts that an endpoint refused unprocessed.
    pub(crate) refused: u64,
    /// Attempts that an application saw: each past the first one is a duplicate.
    pub(crate) processed: u64,
    /// As what the attempt that met the fault counts; `None`: the specification does not say.
    pub(crate) outcome: Option<&'static str>,
    /// `grpc-previous-rpc-attempts` of the last attempt.
    pub(crate) previous: Option<&'static str>,
    pub(crate) caller: Caller,
}

/// What the caller gets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Caller {
    /// All of the second endpoint's answer, and nothing else.
    Saved,
    /// The first attempt's fault.
    Failed { code: i32, headers: Headers, messages: usize },
}

/// The response headers of a call that failed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Headers {
    /// Those of the endpoint.
    Theirs,
    /// None, or a trailers-only answer of the sidecar's.
    Ours,
    /// Either.
    Any,
}

pub(crate) fn expect(cell: &Cell) -> Expected {
    let failed = |rule, headers, messages| Expected {
        rule,
        never_sent: 0,
        refused: 0,
        processed: 1,
        outcome: outcome(cell),
        previous: None,
        caller: Caller::Failed { code: cell.status(), headers, messages },
    };
    let repeated = |rule| Expected {
        rule,
        never_sent: 0,
        refused: 0,
        processed: 2,
        outcome: outcome(cell),
        previous: Some("1"),
        caller: Caller::Saved,
    };
    let transparent = |rule, never_sent, refused| Expected {
        rule,
        never_sent,
        refused,
        processed: 1,
        outcome: outcome(cell),
        previous: None,
        caller: Caller::Saved,
    };
    let headers = match (cell.fault, cell.commit) {
        (Fault::TrailersOnly | Fault::HeadersThenTrailers, _) => Headers::Theirs,
        (Fault::ResetAfterMessage | Fault::TcpResetAfterMessage, _) => Headers::Theirs,
        (Fault::ResetAfterHeaders, Commit::Headers) => Headers::Theirs,
        (Fault::ResetAfterHeaders, Commit::FirstMessage) => Headers::Any,
        _ => Headers::Ours,
    };
    match (cell.fault, cell.commit, cell.policy) {
        (Fault::RefusedConnection, ..) => {
            transparent("never sent: tried elsewhere, whatever the policy says", 1, 0)
        }
        (Fault::RefusedStream | Fault::GoawayBelow, ..) => {
            transparent("refused unprocessed: once more elsewhere, whatever the policy says", 0, 1)
        }
        (Fault::ResetAfterMessage | Fault::TcpResetAfterMessage, ..) => {
            failed("a message commits", headers, 1)
        }
        (Fault::HeadersThenTrailers | Fault::ResetAfterHeaders, Commit::Headers, _) => {
            failed("headers commit, unless the policy says otherwise", headers, 0)
        }
        (.., Policy::NotIdempotent) => {
            failed("not idempotent: never repeated once it may have been processed", headers, 0)
        }
        (Fault::Silence, ..) => repeated("an attempt that took too long has failed, whatever the codes say"),
        (.., Policy::NotRetryable) => failed("a status that is not retryable is told", headers, 0),
        (.., Policy::Retryable) => repeated("a retryable failure before the commit is repeated"),
    }
}

/// The label `outcome` of `outrigger_attempts_total`, from docs/metrics.md.
fn outcome(cell: &Cell) -> Option<&'static str> {
    match cell.fault {
        Fault::RefusedConnection => Some("never_sent"),
        Fault::RefusedStream | Fault::GoawayBelow => Some("refused"),
        Fault::TrailersOnly | Fault::HeadersThenTrailers => Some("answered"),
        Fault::ResetAfterMessage | Fault::TcpResetAfterMessage => Some("answered"),
        Fault::ResetBeforeHeaders | Fault::GoawayAbove | Fault::TcpReset => Some("broken"),
        // Headers that were held back may be seen as an answer or not.
        Fault::ResetAfterHeaders => (cell.commit == Commit::Headers).then_some("answered"),
        Fault::Silence => Some("timed_out"),
    }
}
