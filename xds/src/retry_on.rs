//! RetryPolicy: which failures lead to another attempt, as Envoy writes it (`x-envoy-retry-on`, `x-envoy-retry-grpc-on`).

use std::time::Duration;

use config::code::Codes;

use crate::audience::Client;
use crate::pb::matcher::{StringMatcher, string_matcher::MatchPattern};
use crate::pb::route::header_matcher::HeaderMatchSpecifier;
use crate::pb::route::retry_policy::retry_host_predicate::ConfigType;
use crate::pb::route::retry_policy::{RetryBackOff, RetryHostPredicate};
use crate::pb::route::{HeaderMatcher, RetryPolicy};
use crate::wire::{duration, number, pack};

/// The statuses that have a word of their own.
pub(crate) const WORDS: [(&str, u8); 5] = [
    ("cancelled", 1),
    ("deadline-exceeded", 4),
    ("resource-exhausted", 8),
    ("internal", 13),
    ("unavailable", 14),
];

/// Where nothing of a call was processed. Our sidecars and gRPC go on to another endpoint by themselves.
pub(crate) const UNPROCESSED: [&str; 3] = ["connect-failure", "refused-stream", "reset-before-request"];

/// By headers of the response: how other statuses are named.
pub(crate) const BY_HEADER: &str = "retriable-headers";

/// The header that carries a status.
pub(crate) const STATUS: &str = "grpc-status";

/// The predicate by which Envoy takes another endpoint for another attempt.
pub(crate) const OTHERS: &str = "envoy.retry_host_predicates.previous_hosts";

/// The multiplier of back-offs where nothing is said; Envoy and gRPC have it fixed.
pub(crate) const MULTIPLIER: f64 = 2.0;

/// Endpoints that are tried for a call of which nothing was processed, the first one not counted.
const OTHER_ENDPOINTS: u32 = 4;

/// How often Envoy draws anew where it drew an endpoint that has failed.
const DRAWS: i64 = 5;

/// The policy of a call that has none: only Envoy must be told that what was not processed may go elsewhere.
pub(crate) fn unprocessed(client: &Client) -> Option<RetryPolicy> {
    matches!(client, Client::Envoy { .. }).then(|| RetryPolicy {
        retry_on: UNPROCESSED.join(","),
        num_retries: Some(number(OTHER_ENDPOINTS)),
        ..elsewhere()
    })
}

/// The policy of a call that goes out up to `max_attempts` times after one of these statuses.
pub(crate) fn policy(max_attempts: u32, codes: Codes, client: &Client) -> Option<RetryPolicy> {
    let ours = *client == Client::Outrigger;
    if max_attempts < 2 && !ours {
        // gRPC refuses a policy without a retry.
        return unprocessed(client);
    }
    let mut words: Vec<&str> =
        WORDS.iter().filter(|(_, code)| codes.contains(*code)).map(|(word, _)| *word).collect();
    let others =
        (0..=16).filter(|code| codes.contains(*code) && WORDS.iter().all(|(_, other)| other != code));
    let retriable_headers: Vec<HeaderMatcher> = others.map(status).collect();
    if !retriable_headers.is_empty() {
        words.push(BY_HEADER);
    }
    let mut policy = RetryPolicy { retriable_headers, ..RetryPolicy::default() };
    if let Client::Envoy { .. } = client {
        words.extend(UNPROCESSED);
        policy = RetryPolicy { retriable_headers: policy.retriable_headers, ..elsewhere() };
    }
    policy.retry_on = words.join(",");
    policy.num_retries = Some(number(max_attempts.saturating_sub(1)));
    Some(policy)
}

/// The wait before another attempt.
pub(crate) fn back_off(initial: Duration, max: Duration) -> RetryBackOff {
    RetryBackOff { base_interval: Some(duration(initial)), max_interval: Some(duration(max)) }
}

fn status(code: u8) -> HeaderMatcher {
    let exact = StringMatcher {
        match_pattern: Some(MatchPattern::Exact(code.to_string())),
        ..StringMatcher::default()
    };
    HeaderMatcher {
        name: STATUS.to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(exact)),
        ..HeaderMatcher::default()
    }
}

fn elsewhere() -> RetryPolicy {
    use crate::pb::previous_hosts::PreviousHostsPredicate;

    RetryPolicy {
        retry_host_predicate: vec![RetryHostPredicate {
            name: OTHERS.to_owned(),
            config_type: Some(ConfigType::TypedConfig(pack(&PreviousHostsPredicate {}))),
        }],
        host_selection_retry_max_attempts: DRAWS,
        ..RetryPolicy::default()
    }
}
