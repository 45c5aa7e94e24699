//! What of a service's routes Envoy and gRPC cannot be told.

use config::model::{Service, Unmatched};
use config::repeats::{Commit, Repeats};

use crate::audience::Client;
use crate::encode::plain::{self, Plain};
use crate::encode::{matches, routes};
use crate::retry_on::{MULTIPLIER, WORDS};

/// Attempts that gRPC makes at most (gRFC A44).
const GRPC_ATTEMPTS_MAX: u32 = 5;

/// Routes that a note names.
const NAMED_MAX: usize = 3;

/// A note, and whether it is true of a route.
type Note = (&'static str, fn(&Plain) -> bool);

/// True of both.
const BOTH: [Note; 4] = [
    ("deadline: `shed_below_median` and `inherit` are for sidecars", |route| {
        route.policy.deadline.shed_below_median || route.policy.deadline.inherit
    }),
    ("retries: `commit: first_message` is for sidecars; response headers commit", |route| {
        route.policy.repeats.retries().is_some_and(|rule| rule.commit != Commit::Headers)
    }),
    ("retries: back-off doubles, whatever `backoff_multiplier` says", |route| {
        route.policy.repeats.retries().is_some_and(|rule| rule.backoff.multiplier != MULTIPLIER)
    }),
    ("faults: `stream_stall`, `stream_abort` and `seed` are for sidecars", |route| {
        let faults = &route.policy.injection;
        faults.seed.is_some() || faults.stream_stall.is_some() || faults.stream_abort.is_some()
    }),
];

const ENVOY: [Note; 1] = [(
    "hedging: attempts begin 1ms after each other, not at once",
    |route| matches!(route.policy.repeats, Repeats::Hedging(rule) if rule.delay.is_zero()),
)];

const GRPC: [Note; 8] = [
    ("deadline: calls that bring no deadline get `max`, not `default`", |route| {
        route.policy.deadline.default.is_some() || route.policy.deadline.max.is_some()
    }),
    ("stream: `idle` is not kept", |route| route.policy.stream.idle.is_some()),
    ("headers: they are not changed", |route| {
        let headers = &route.policy.headers;
        !headers.request.is_empty() || !headers.response.is_empty()
    }),
    ("retries: `per_attempt_timeout` and `replay_limit` are not kept", |route| {
        let default = config::repeats::REPLAY_LIMIT;
        let of = |rule: &config::repeats::Retries| {
            rule.per_attempt_timeout.is_some() || rule.replay_limit != default
        };
        route.policy.repeats.retries().is_some_and(of)
    }),
    (
        "retries: only CANCELLED, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, INTERNAL and UNAVAILABLE are retried",
        |route| {
            let known = |code: u8| WORDS.iter().any(|(_, word)| *word == code);
            let codes = route.policy.repeats.codes();
            (0..=16).any(|code| codes.contains(code) && !known(code))
        },
    ),
    ("retries: there are at most 5 attempts", |route| match route.policy.repeats {
        Repeats::Unprocessed => false,
        Repeats::Retries(rule) => rule.max_attempts > GRPC_ATTEMPTS_MAX,
        Repeats::Hedging(rule) => rule.max_attempts > GRPC_ATTEMPTS_MAX,
    }),
    ("hedging: attempts follow each other, as retries do", |route| {
        matches!(route.policy.repeats, Repeats::Hedging(_))
    }),
    ("match.headers: headers whose names end in `-bin` never match", |route| {
        route.matches.headers.iter().any(|header| header.name.ends_with("-bin"))
    }),
];

/// The notes, each with the routes that it is true of.
pub(crate) fn of(service: &Service, index: usize, client: &Client) -> Vec<String> {
    let special: &[Note] = match client {
        Client::Outrigger => return Vec::new(),
        Client::Envoy { .. } => &ENVOY,
        Client::Grpc => &GRPC,
    };
    let (routes, _) = plain::routes(service, index);
    let mut notes = Vec::new();
    for (note, is_true) in BOTH.iter().chain(special) {
        let of: Vec<&str> =
            routes.iter().filter(|route| is_true(route)).map(|route| route.name.as_str()).collect();
        if !of.is_empty() {
            notes.push(format!("{note} ({})", named(&of)));
        }
    }
    let many = |route: &&Plain| {
        let headers = route.matches.headers.iter();
        headers.filter(|header| matches::either(header, client)).count() > matches::EITHER_MAX
    };
    let of: Vec<&str> = routes.iter().filter(many).map(|route| route.name.as_str()).collect();
    if !of.is_empty() {
        notes.push(format!(
            "match.headers: past {} headers that are turned around, calls without them do not match ({})",
            matches::EITHER_MAX,
            named(&of)
        ));
    }
    if *client == Client::Grpc && service.unmatched == Unmatched::Refuse {
        notes.push("unmatched: calls that match no route end UNAVAILABLE, not UNIMPLEMENTED".to_owned());
    }
    let (unreadable, too_many) = routes::left_out(service, index);
    if !unreadable.is_empty() {
        let of: Vec<&str> = unreadable.iter().map(String::as_str).collect();
        notes.push(format!(
            "routes whose regular expressions RE2 may read otherwise are left out ({})",
            named(&of)
        ));
    }
    if too_many > 0 {
        notes.push(format!(
            "methods: {too_many} routes that would spell out what holds for a method alone are left out; at most {} are made",
            plain::DERIVED_MAX
        ));
    }
    notes
}

fn named(routes: &[&str]) -> String {
    let named = routes[..routes.len().min(NAMED_MAX)].join(", ");
    match routes.len().checked_sub(NAMED_MAX) {
        None | Some(0) => named,
        Some(more) => format!("{named} and {more} more"),
    }
}
