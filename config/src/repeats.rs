//! Retries and hedging (gRFC A6), and how many of them a service may cost.

use std::time::Duration;

use crate::code::{Codes, codes};
use crate::fault::{Sink, Wrong};
use crate::walk::Fields;

/// When a call may go out more than once.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Repeats {
    /// Where nothing of it was processed: once more, elsewhere.
    #[default]
    Unprocessed,
    /// `retries`: that, and again after a failure.
    Retries(Retries),
    /// `hedging`: that, and several times at once.
    Hedging(Hedging),
}

impl Repeats {
    /// `retries`, if that is the rule.
    pub fn retries(&self) -> Option<&Retries> {
        match self {
            Self::Retries(rule) => Some(rule),
            _ => None,
        }
    }

    /// The statuses that another attempt may mend.
    pub fn codes(&self) -> Codes {
        match self {
            Self::Unprocessed => Codes::UNAVAILABLE,
            Self::Retries(rule) => rule.codes,
            Self::Hedging(rule) => rule.non_fatal,
        }
    }
}

/// `retries`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Retries {
    /// Attempts in all, the first one counted; 1 to 10.
    pub max_attempts: u32,
    /// The statuses after which there is another one.
    pub codes: Codes,
    /// How long is waited before it.
    pub backoff: Backoff,
    /// How long one attempt may take until the call is committed to it.
    pub per_attempt_timeout: Option<Duration>,
    /// When a call is committed to an attempt.
    pub commit: Commit,
    /// Bytes of the request that are kept for another attempt; past it the call is committed.
    pub replay_limit: usize,
}

/// The wait before the attempts after the first: `min(initial * multiplier^(n-1), max)`, a fifth more or less.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    /// Before the second attempt.
    pub initial: Duration,
    /// The longest.
    pub max: Duration,
    /// From one to the next.
    pub multiplier: f64,
}

/// When a call is committed to an attempt, so that there is no other one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commit {
    /// With response headers that are not all of the response, as in gRFC A6.
    Headers,
    /// With the first message, the trailers, or after this time, whichever is first; headers are held back until then.
    FirstMessage {
        /// `header_hold`.
        hold: Duration,
    },
}

/// `hedging`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hedging {
    /// Attempts in all; 2 to 10.
    pub max_attempts: u32,
    /// From one attempt to the next; 0: all at once.
    pub delay: Duration,
    /// The statuses that do not end the other attempts.
    pub non_fatal: Codes,
    /// As [`Retries::replay_limit`].
    pub replay_limit: usize,
}

/// `retry_budget`: what all repeats of calls to one service may come to, over all workers of a sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryBudget {
    /// The share of the calls begun in the last ten seconds, in parts per million.
    pub share_ppm: u32,
    /// Repeats per second that are granted however few calls there are.
    pub min_per_second: u32,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self { share_ppm: 200_000, min_per_second: 10 }
    }
}

/// `retry_throttling` (gRFC A6): repeats pause while more than about `token_ratio` calls fail for each that succeeds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryThrottling {
    /// Tokens at the beginning, and the most; repeats need more than half of them.
    pub max_tokens: u32,
    /// What a success gives back; a failure takes one token.
    pub token_ratio: f64,
}

impl Retries {
    /// How long headers are held back; `None`: they commit at once.
    pub fn hold(&self) -> Option<Duration> {
        match self.commit {
            Commit::Headers => None,
            Commit::FirstMessage { hold } => Some(hold),
        }
    }
}

impl Default for Retries {
    fn default() -> Self {
        Self {
            max_attempts: 3,
            codes: Codes::UNAVAILABLE,
            backoff: Backoff {
                initial: Duration::from_millis(50),
                max: Duration::from_secs(1),
                multiplier: 2.0,
            },
            per_attempt_timeout: None,
            commit: Commit::Headers,
            replay_limit: REPLAY_LIMIT,
        }
    }
}

/// `replay_limit`, where nothing is said.
pub const REPLAY_LIMIT: usize = 256 << 10;

/// `header_hold`, where nothing is said.
const HEADER_HOLD: Duration = Duration::from_millis(50);

/// `retries` or `hedging` of one level.
pub(crate) fn repeats(fields: &Fields, sink: &mut Sink) -> Option<Repeats> {
    let (retries, hedging) = (fields.fields("retries"), fields.fields("hedging"));
    if let (Some(_), Some(hedging)) = (retries, hedging) {
        let wrong = Wrong::new("there are both `retries` and `hedging`");
        sink.add(hedging.place, &hedging.path, wrong.hint("keep one of them: a call goes by one rule"));
    }
    retries
        .map(|block| Repeats::Retries(self::retries(block, sink)))
        .or_else(|| hedging.map(|block| Repeats::Hedging(self::hedging(block))))
}

fn retries(block: &Fields, sink: &mut Sink) -> Retries {
    let base = Retries::default();
    let initial = block.duration("initial_backoff");
    let max = block.duration("max_backoff");
    let backoff = Backoff {
        initial: initial.unwrap_or(base.backoff.initial.min(max.unwrap_or(base.backoff.max))),
        max: max.unwrap_or(base.backoff.max.max(initial.unwrap_or_default())),
        multiplier: block.number("backoff_multiplier").unwrap_or(base.backoff.multiplier),
    };
    if let Some(item) = block.item("initial_backoff")
        && backoff.initial > backoff.max
    {
        let wrong = Wrong::new("`initial_backoff` is longer than `max_backoff`");
        let hint = format!("write at most {:?}, or raise `max_backoff`", backoff.max);
        sink.add(item.place, &item.path, wrong.hint(hint));
    }
    let commit = match block.text("commit") {
        Some("first_message") => {
            Commit::FirstMessage { hold: block.duration("header_hold").unwrap_or(HEADER_HOLD) }
        }
        _ => {
            if let Some(item) = block.item("header_hold") {
                let wrong = Wrong::new("no headers are held back");
                sink.add(item.place, &item.path, wrong.hint("write `commit: first_message` beside it"));
            }
            Commit::Headers
        }
    };
    Retries {
        max_attempts: block.small("max_attempts").unwrap_or(base.max_attempts),
        codes: codes(block, "retryable_status_codes").unwrap_or(base.codes),
        backoff,
        per_attempt_timeout: block.duration("per_attempt_timeout"),
        commit,
        replay_limit: block.size("replay_limit").unwrap_or(REPLAY_LIMIT),
    }
}

fn hedging(block: &Fields) -> Hedging {
    Hedging {
        max_attempts: block.small("max_attempts").unwrap_or(2),
        delay: block.duration("hedging_delay").unwrap_or_default(),
        non_fatal: codes(block, "non_fatal_status_codes").unwrap_or(Codes::UNAVAILABLE),
        replay_limit: block.size("replay_limit").unwrap_or(REPLAY_LIMIT),
    }
}

pub(crate) fn retry_budget(fields: &Fields) -> Option<RetryBudget> {
    let block = fields.fields("retry_budget")?;
    let base = RetryBudget::default();
    Some(RetryBudget {
        share_ppm: block.ppm("share").unwrap_or(base.share_ppm),
        min_per_second: block.small("min_per_second").unwrap_or(base.min_per_second),
    })
}

pub(crate) fn retry_throttling(fields: &Fields) -> Option<RetryThrottling> {
    let block = fields.fields("retry_throttling")?;
    Some(RetryThrottling {
        max_tokens: block.small("max_tokens").unwrap_or_default(),
        token_ratio: block.number("token_ratio").unwrap_or_default(),
    })
}
