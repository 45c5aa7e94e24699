//! When a call goes out again: RetryPolicy and HedgePolicy as `Repeats`.

use std::time::Duration;

use config::code::Codes;
use config::repeats::{Backoff, Commit, Hedging, REPLAY_LIMIT, Repeats, Retries};

use crate::decode::at::{At, understood};
use crate::pb::matcher::string_matcher::MatchPattern;
use crate::pb::protobuf::UInt64Value;
use crate::pb::route::header_matcher::HeaderMatchSpecifier;
use crate::pb::route::retry_policy::RetryBackOff;
use crate::pb::route::{HeaderMatcher, HedgePolicy, RetryPolicy};
use crate::private::Reader;
use crate::refusal::Refusal;
use crate::retry_on::{BY_HEADER, MULTIPLIER, OTHERS, STATUS, UNPROCESSED, WORDS};
use crate::wire::{read_duration, read_limit};

/// The most attempts that a call may have.
const ATTEMPTS_MAX: u32 = 10;

/// The most of a request that is kept.
const REPLAY_LIMIT_MAX: u64 = 64 << 20;

/// The first back-off where nothing is said (Envoy, gRFC A44).
const BACKOFF: Duration = Duration::from_millis(25);

/// The shortest back-off: Envoy takes what is below it as this.
const BACKOFF_MIN: Duration = Duration::from_millis(1);

/// The longest back-off where nothing is said, as a multiple of the first.
const BACKOFF_MAX_FACTOR: u32 = 10;

/// Reads the policies of a route. `limit` is what is kept of a request.
pub(crate) fn read(
    retry: Option<&RetryPolicy>,
    hedge: Option<&HedgePolicy>,
    limit: Option<&UInt64Value>,
    private: &mut Reader<'_>,
    at: &At<'_>,
) -> Result<Repeats, Refusal> {
    let hedged = match hedge {
        Some(hedge) => hedged(hedge, &at.field("hedge_policy"))?,
        None => false,
    };
    let at_once = private.flag("hedged_at_once")?;
    let hold = private.duration("header_hold")?;
    let multiplier = private.number("backoff_multiplier")?.unwrap_or(MULTIPLIER);
    let Some(retry) = retry else {
        return Ok(Repeats::Unprocessed);
    };
    let at = at.field("retry_policy");
    understood! {
        retry => RetryPolicy, &at;
        take { retry_on, num_retries, per_try_timeout, retry_back_off, retriable_headers, retry_host_predicate }
        // How often another endpoint is drawn, and HTTP statuses that no word of `retry_on` asks for.
        ignore { host_selection_retry_max_attempts, retriable_status_codes }
        refuse "an attempt has one time limit: `per_try_timeout`" { per_try_idle_timeout }
        refuse "attempts are not extended" { retry_priority, retry_options_predicates }
        refuse "servers do not say when to come back" { rate_limited_retry_back_off }
        refuse "whether a call is repeated does not depend on its headers; write a route for them" {
            retriable_request_headers
        }
        refuse "a call stays with its cluster" { refresh_cluster_on_retry }
    }
    for (i, predicate) in retry_host_predicate.iter().enumerate() {
        if predicate.name != OTHERS {
            let why = format!(
                "an attempt goes to another endpoint than the one before, as `{OTHERS}` has it; no other predicate is kept"
            );
            return Err(at.item("retry_host_predicate", i).refuse(why));
        }
    }
    let (codes, only_unprocessed) = codes(retry_on, retriable_headers, &at)?;
    if only_unprocessed {
        return Ok(Repeats::Unprocessed);
    }
    let max_attempts = num_retries.map_or(1, |retries| retries.value).saturating_add(1);
    if max_attempts > ATTEMPTS_MAX {
        return Err(at.field("num_retries").refuse(format!("at most {} are possible", ATTEMPTS_MAX - 1)));
    }
    let replay_limit = match limit {
        None => REPLAY_LIMIT,
        Some(limit) => usize::try_from(limit.value.min(REPLAY_LIMIT_MAX)).unwrap_or(REPLAY_LIMIT),
    };
    let per_try_timeout = read_limit(per_try_timeout.as_ref(), &at.field("per_try_timeout"))?;
    // Without a time after which the next attempt begins, Envoy does not hedge.
    if let Some(delay) = per_try_timeout.filter(|_| hedged) {
        if max_attempts < 2 {
            return Err(at.field("num_retries").refuse("hedging needs at least one more attempt"));
        }
        let delay = if at_once { Duration::ZERO } else { delay };
        return Ok(Repeats::Hedging(Hedging { max_attempts, delay, non_fatal: codes, replay_limit }));
    }
    Ok(Repeats::Retries(Retries {
        max_attempts,
        codes,
        backoff: backoff(retry_back_off.as_ref(), multiplier, &at)?,
        per_attempt_timeout: per_try_timeout,
        commit: hold.map_or(Commit::Headers, |hold| Commit::FirstMessage { hold }),
        replay_limit,
    }))
}

fn hedged(hedge: &HedgePolicy, at: &At<'_>) -> Result<bool, Refusal> {
    understood! {
        hedge => HedgePolicy, at;
        take { hedge_on_per_try_timeout, initial_requests }
        ignore {}
        refuse "attempts are not drawn by lot" { additional_request_chance }
    }
    if initial_requests.is_some_and(|requests| requests.value > 1) {
        return Err(at.field("initial_requests").refuse("a call begins with one attempt"));
    }
    Ok(*hedge_on_per_try_timeout)
}

/// The statuses, and whether nothing is asked for but what is done anyway.
fn codes(retry_on: &str, headers: &[HeaderMatcher], at: &At<'_>) -> Result<(Codes, bool), Refusal> {
    let (mut numbers, mut unprocessed, mut by_header) = (Vec::new(), false, false);
    for word in retry_on.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        match WORDS.iter().find(|(known, _)| *known == word) {
            Some((_, code)) => numbers.push(*code),
            None if UNPROCESSED.contains(&word) => unprocessed = true,
            None if word == BY_HEADER => by_header = true,
            None => {
                let words: Vec<&str> = WORDS.iter().map(|(word, _)| *word).collect();
                let why = format!(
                    "`{word}` is not known to gRPC; write {}, {}, or `{BY_HEADER}` with `{STATUS}`",
                    words.join(", "),
                    UNPROCESSED.join(", ")
                );
                return Err(at.field("retry_on").refuse(why));
            }
        }
    }
    if by_header {
        for (i, header) in headers.iter().enumerate() {
            let Some(code) = status(header) else {
                let why = format!("only `{STATUS}` with the exact number of a failure is looked at");
                return Err(at.item("retriable_headers", i).refuse(why));
            };
            numbers.push(code);
        }
    }
    let nothing_else = numbers.is_empty() && unprocessed;
    Ok((numbers.into_iter().collect(), nothing_else))
}

fn status(header: &HeaderMatcher) -> Option<u8> {
    let HeaderMatcher { name, invert_match, treat_missing_header_as_empty: _, header_match_specifier } =
        header;
    if *invert_match || !name.eq_ignore_ascii_case(STATUS) {
        return None;
    }
    let text = match header_match_specifier {
        Some(HeaderMatchSpecifier::StringMatch(matcher)) => match &matcher.match_pattern {
            Some(MatchPattern::Exact(text)) => text,
            _ => return None,
        },
        #[allow(deprecated)]
        Some(HeaderMatchSpecifier::ExactMatch(text)) => text,
        _ => return None,
    };
    text.parse().ok().filter(|code| (1..=16).contains(code))
}

fn backoff(back_off: Option<&RetryBackOff>, multiplier: f64, at: &At<'_>) -> Result<Backoff, Refusal> {
    let Some(back_off) = back_off else {
        return Ok(Backoff { initial: BACKOFF, max: BACKOFF * BACKOFF_MAX_FACTOR, multiplier });
    };
    let at = at.field("retry_back_off");
    let RetryBackOff { base_interval, max_interval } = back_off;
    let Some(base) = base_interval else {
        return Err(at.field("base_interval").refuse("a back-off begins with a time"));
    };
    let initial = read_duration(base, &at.field("base_interval"))?.max(BACKOFF_MIN);
    let max = match max_interval {
        Some(max) => read_duration(max, &at.field("max_interval"))?,
        None => initial.saturating_mul(BACKOFF_MAX_FACTOR),
    };
    if initial > max {
        return Err(at.field("max_interval").refuse("it is shorter than `base_interval`"));
    }
    Ok(Backoff { initial, max, multiplier })
}
