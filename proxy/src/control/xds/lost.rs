//! Why a connection to the control plane, or an attempt at one, ended.

use std::fmt;

/// The label `reason` of the metric, and the beginning of what people are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Its name has no address.
    Name,
    /// TCP did not get there.
    Connect,
    /// TLS failed, on either side.
    Tls,
    /// HTTP/2 failed.
    Http2,
    /// It ended the stream by a status.
    Status,
    /// It ended the stream or the connection without one, as one that restarts.
    Closed,
    /// It has accepted and does not answer.
    Hung,
    /// An answer, or the reading of our requests, did not get on.
    Slow,
    /// An answer is too large.
    TooLarge,
    /// What it sent is no answer.
    Garbage,
    /// A PING was left unanswered.
    Silent,
}

/// All of them, in the order of the metric's rows.
pub(crate) const REASONS: [Reason; 11] = [
    Reason::Name,
    Reason::Connect,
    Reason::Tls,
    Reason::Http2,
    Reason::Status,
    Reason::Closed,
    Reason::Hung,
    Reason::Slow,
    Reason::TooLarge,
    Reason::Garbage,
    Reason::Silent,
];

impl Reason {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Http2 => "http2",
            Self::Status => "status",
            Self::Closed => "closed",
            Self::Hung => "hung",
            Self::Slow => "slow",
            Self::TooLarge => "too_large",
            Self::Garbage => "garbage",
            Self::Silent => "silent",
        }
    }
}

/// An end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lost {
    pub(crate) reason: Reason,
    /// In words.
    pub(crate) what: String,
    /// The other side found our PINGs too many (gRFC A8).
    pub(crate) too_many_pings: bool,
}

impl Lost {
    pub(crate) fn new(reason: Reason, what: impl Into<String>) -> Self {
        Self { reason, what: what.into(), too_many_pings: false }
    }

    /// An end that HTTP/2 tells.
    pub(crate) fn of_h2(error: &h2::Error) -> Self {
        let is_clean = error.reason() == Some(h2::Reason::NO_ERROR);
        let reason = if is_clean || error.is_io() { Reason::Closed } else { Reason::Http2 };
        let pings = error.is_go_away() && error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM);
        let what = match () {
            () if error.is_io() => "the connection broke".to_owned(),
            () if is_clean => "it closed the connection".to_owned(),
            () => error.to_string(),
        };
        Self { too_many_pings: pings && error.is_remote(), ..Self::new(reason, what) }
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}
