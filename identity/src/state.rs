//! How it stands with an identity that somebody else issues.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use crate::material::Material;
use crate::plan::{Life, Urgency};

/// What is in force and how it fares; each change makes a new one.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// The identity in force. It stays when it has expired: `urgency` says so.
    pub material: Option<Arc<Material>>,
    /// Where the leaf in force came from.
    pub origin: Option<Origin>,
    /// The leaf's life, from when it came.
    pub life: Option<Life>,
    /// When it is to be renewed. With the Workload API others decide that: `None`.
    pub renew_at: Option<SystemTime>,
    /// Why there is no certificate, or no newer one.
    pub trouble: Option<Trouble>,
    /// Why nothing is heard of roots that change.
    pub trust_trouble: Option<Trouble>,
    /// Since the start.
    pub counts: Counts,
}

impl State {
    /// How loud the age of the leaf in force is told; `Expired` where there is none.
    pub fn urgency(&self, now: SystemTime) -> Urgency {
        self.life.map_or(Urgency::Expired, |life| life.urgency(now))
    }
}

/// Where a leaf came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The folder `identity.cache`.
    Cache,
    /// The CA of a control plane.
    Ca,
    /// The SPIFFE Workload API.
    WorkloadApi,
}

impl Origin {
    /// As pages and metrics name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cache => "cache",
            Self::Ca => "ca",
            Self::WorkloadApi => "workload_api",
        }
    }
}

/// What has failed, again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Of the last attempt.
    pub reason: Reason,
    /// The same in words: what, where, and what would be right.
    pub why: String,
    /// The first of these attempts.
    pub since: SystemTime,
    /// How many there were.
    pub attempts: u32,
}

/// Why an attempt failed; the label `reason` of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// There is neither a token that can be read nor a certificate that is good.
    Token,
    /// The bundle cannot be read.
    Bundle,
    /// The name has no address.
    Name,
    /// TCP, or the Unix socket, did not get there.
    Connect,
    /// TLS failed, on either side.
    Tls,
    /// HTTP/2 or gRPC failed.
    Rpc,
    /// It took too long.
    Late,
    /// Whoever was asked refused us: who we are, or what we ask for.
    Refused,
    /// It cannot at the moment: no CA, or too many ask.
    Unavailable,
    /// What came is not what was asked for, or does not belong together.
    Answer,
    /// The answer is good at another time than ours.
    Clock,
    /// The Workload API has no identity for us.
    NoIdentity,
}

/// All of them, in the order of metrics.
pub const REASONS: [Reason; 12] = [
    Reason::Token,
    Reason::Bundle,
    Reason::Name,
    Reason::Connect,
    Reason::Tls,
    Reason::Rpc,
    Reason::Late,
    Reason::Refused,
    Reason::Unavailable,
    Reason::Answer,
    Reason::Clock,
    Reason::NoIdentity,
];

impl Reason {
    /// As metrics name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Bundle => "bundle",
            Self::Name => "name",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Rpc => "rpc",
            Self::Late => "late",
            Self::Refused => "refused",
            Self::Unavailable => "unavailable",
            Self::Answer => "answer",
            Self::Clock => "clock",
            Self::NoIdentity => "no_identity",
        }
    }
}

/// An attempt that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// For metrics.
    pub reason: Reason,
    /// For people.
    pub why: String,
}

impl Failure {
    /// With words.
    pub fn new(reason: Reason, why: impl Into<String>) -> Self {
        Self { reason, why: why.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

/// What has happened since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Leaves that were taken into force, those of a cache left out.
    pub renewals: u64,
    /// Attempts at one that failed, by the place of their reason in [`REASONS`].
    pub failed: [u64; REASONS.len()],
    /// Bundles that were taken into force because they had changed.
    pub trust_changes: u64,
    /// Bundles that were refused, and streams of them that ended.
    pub trust_failed: [u64; REASONS.len()],
}

/// Adds a failure to the trouble there is.
pub fn add(
    trouble: &mut Option<Trouble>,
    failed: &mut [u64; REASONS.len()],
    failure: Failure,
    now: SystemTime,
) {
    if let Some(place) = REASONS.iter().position(|reason| *reason == failure.reason) {
        failed[place] += 1;
    }
    let (since, attempts) = trouble.as_ref().map_or((now, 0), |old| (old.since, old.attempts));
    let Failure { reason, why } = failure;
    *trouble = Some(Trouble { reason, why, since, attempts: attempts.saturating_add(1) });
}
