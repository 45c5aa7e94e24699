//! Random routes, methods, policies and rules, every field of them, from a seed.

use std::collections::BTreeMap;
use std::time::Duration;

use config::code::Codes;
use config::injection::{Abort, Delay, Injection, Stall, StreamAbort};
use config::model::{
    Action, Answer, Authorization, Backend, CallKind, Caller, CoveredMethods, Deadline, HeaderChanges,
    HeaderMatch, HeaderRules, HeaderValueMatch, Match, Method, MethodMatch, Policy, Route, Rule, Stream,
};
use config::repeats::{Backoff, Commit, Hedging, REPLAY_LIMIT, Repeats, Retries};
use config::spiffe::SpiffeId;
use fastrand::Rng;
use regex::Regex;

const METHODS: [&str; 4] = ["shop.Orders/Create", "shop.Orders/Watch", "shop.Carts/Get", "Plain/Call"];
const SERVICES: [&str; 3] = ["shop.Orders", "shop.Carts", "Plain"];
const PREFIXES: [&str; 5] = ["shop.", "shop.Orders/", "shop.Orders/Cre", "shop.Orders", "a/b/"];
const REGEXES: [&str; 6] =
    ["a|b", "shop\\.(Orders|Carts)/.*", "[0-9]+|\\d-(?i)a", ".*", "(?x) a # )\n", "(a)(b)"];
const HEADERS: [&str; 3] = ["x-canary", "x-user", "grpc-tags-bin"];
const VALUES: [&str; 6] = ["", "1", "100%", "%REQ(x)%", "a b", "%%"];

/// One of a list.
pub(crate) fn one<'a>(rng: &mut Rng, of: &[&'a str]) -> &'a str {
    of[rng.usize(..of.len())]
}

/// Sometimes a value.
pub(crate) fn maybe<T>(rng: &mut Rng, draw: impl FnOnce(&mut Rng) -> T) -> Option<T> {
    rng.bool().then(|| draw(rng))
}

fn some<T>(rng: &mut Rng, most: usize, mut draw: impl FnMut(&mut Rng) -> T) -> Vec<T> {
    let count = rng.usize(..=most);
    (0..count).map(|_| draw(rng)).collect()
}

/// 1 us to a year.
pub(crate) fn time(rng: &mut Rng) -> Duration {
    match rng.u8(..4) {
        0 => Duration::from_micros(rng.u64(1_000..1_000_000)),
        1 => Duration::from_millis(rng.u64(1..100_000)),
        2 => Duration::from_secs(rng.u64(1..365 * 24 * 3_600)),
        _ => Duration::from_secs(365 * 24 * 3_600),
    }
}

/// 0 to all, in parts per million.
pub(crate) fn ppm(rng: &mut Rng) -> u32 {
    *[0, 1, 999_999, 1_000_000, rng.u32(..=1_000_000)].get(rng.usize(..5)).unwrap_or(&0)
}

fn regex(rng: &mut Rng) -> Regex {
    Regex::new(&format!("^(?:{})$", one(rng, &REGEXES))).unwrap()
}

pub(crate) fn codes(rng: &mut Rng) -> Codes {
    some(rng, 4, |rng| rng.u8(1..=16)).into_iter().collect()
}

/// A match; `hosts` are those of the service.
pub(crate) fn matches(rng: &mut Rng, hosts: &[String]) -> Match {
    let service = maybe(rng, |rng| one(rng, &SERVICES).to_owned());
    let method = maybe(rng, |rng| match rng.u8(..3) {
        0 => MethodMatch::Exact(match &service {
            Some(service) => format!("{service}/{}", one(rng, &["Create", "Watch", "Get"])),
            None => one(rng, &METHODS).to_owned(),
        }),
        1 => MethodMatch::Prefix(one(rng, &PREFIXES).to_owned()),
        _ => MethodMatch::Regex(regex(rng)),
    });
    Match {
        host: maybe(rng, |rng| hosts[rng.usize(..hosts.len())].clone()),
        service,
        method,
        headers: some(rng, 3, |rng| header(rng, &HEADERS)),
    }
}

fn header(rng: &mut Rng, names: &[&str]) -> HeaderMatch {
    HeaderMatch {
        name: one(rng, names).to_owned(),
        value: match rng.u8(..4) {
            0 => HeaderValueMatch::Exact(one(rng, &VALUES).to_owned()),
            1 => HeaderValueMatch::Prefix(one(rng, &VALUES[1..]).to_owned()),
            2 => HeaderValueMatch::Regex(regex(rng)),
            _ => HeaderValueMatch::Present(rng.bool()),
        },
        invert: rng.bool(),
    }
}

pub(crate) fn deadline(rng: &mut Rng) -> Deadline {
    let (default, max) = (maybe(rng, time), maybe(rng, time));
    let default = default.map(|default| max.map_or(default, |max| default.min(max)));
    Deadline { default, max, shed_below_median: rng.bool(), inherit: rng.bool() }
}

pub(crate) fn stream(rng: &mut Rng) -> Stream {
    Stream { idle: maybe(rng, time) }
}

pub(crate) fn headers(rng: &mut Rng) -> HeaderRules {
    let changes = |rng: &mut Rng| {
        let pair = |rng: &mut Rng| (one(rng, &HEADERS[..2]).to_owned(), one(rng, &VALUES).to_owned());
        HeaderChanges {
            set: some(rng, 2, pair),
            add: some(rng, 2, pair),
            remove: some(rng, 2, |rng| one(rng, &HEADERS[..2]).to_owned()),
        }
    };
    HeaderRules { request: changes(rng), response: changes(rng) }
}

fn replay_limit(rng: &mut Rng) -> usize {
    [0, 1, REPLAY_LIMIT, 64 << 20][rng.usize(..4)]
}

pub(crate) fn repeats(rng: &mut Rng) -> Repeats {
    match rng.u8(..3) {
        0 => Repeats::Unprocessed,
        1 => {
            let initial = time(rng);
            Repeats::Retries(Retries {
                max_attempts: rng.u32(1..=10),
                codes: codes(rng),
                backoff: Backoff {
                    initial,
                    max: time(rng).max(initial),
                    multiplier: [1.0, 1.4, 2.0, 10.0][rng.usize(..4)],
                },
                per_attempt_timeout: maybe(rng, time),
                commit: match rng.bool() {
                    true => Commit::Headers,
                    false => Commit::FirstMessage { hold: time(rng) },
                },
                replay_limit: replay_limit(rng),
            })
        }
        _ => Repeats::Hedging(Hedging {
            max_attempts: rng.u32(2..=10),
            delay: if rng.bool() { Duration::ZERO } else { time(rng) },
            non_fatal: codes(rng),
            replay_limit: replay_limit(rng),
        }),
    }
}

pub(crate) fn injection(rng: &mut Rng) -> Injection {
    Injection {
        seed: maybe(rng, |rng| rng.u64(..=u64::MAX >> 1)),
        delay: maybe(rng, |rng| Delay { share_ppm: ppm(rng), duration: time(rng) }),
        abort: maybe(rng, |rng| Abort { share_ppm: ppm(rng), code: rng.u8(1..=16) }),
        stream_stall: maybe(rng, |rng| Stall {
            share_ppm: ppm(rng),
            after_messages: rng.u64(..=1_000_000_000),
            duration: time(rng),
        }),
        stream_abort: maybe(rng, |rng| StreamAbort {
            share_ppm: ppm(rng),
            after_messages: rng.u64(..=1_000_000_000),
            code: rng.u8(1..=16),
        }),
    }
}

pub(crate) fn policy(rng: &mut Rng) -> Policy {
    if rng.u8(..4) == 0 {
        return Policy::default();
    }
    Policy {
        deadline: deadline(rng),
        stream: stream(rng),
        headers: headers(rng),
        repeats: repeats(rng),
        injection: injection(rng),
    }
}

pub(crate) fn methods(rng: &mut Rng) -> BTreeMap<String, Method> {
    let method = |rng: &mut Rng| Method {
        kind: maybe(rng, |rng| {
            use CallKind::{BidiStream, ClientStream, ServerStream, Unary};
            [Unary, ClientStream, ServerStream, BidiStream][rng.usize(..4)]
        }),
        idempotent: rng.bool(),
        deadline: maybe(rng, deadline),
        stream: maybe(rng, stream),
        headers: maybe(rng, headers),
        repeats: maybe(rng, repeats),
        injection: maybe(rng, injection),
    };
    some(rng, 3, |rng| (one(rng, &METHODS).to_owned(), method(rng))).into_iter().collect()
}

fn labels(rng: &mut Rng) -> BTreeMap<String, String> {
    some(rng, 2, |rng| {
        (one(rng, &["version", "a=b;c,%", "x"]).to_owned(), one(rng, &["v1", "%2C", "/"]).to_owned())
    })
    .into_iter()
    .collect()
}

/// Routes of a service with these hosts, to `services` services.
pub(crate) fn routes(rng: &mut Rng, hosts: &[String], services: usize) -> Vec<Route> {
    some(rng, 5, |rng| {
        let mut backends = some(rng, 3, |rng| Backend {
            service: rng.usize(..services),
            labels: labels(rng),
            weight: rng.u32(..4),
        });
        if backends.iter().all(|backend| backend.weight == 0) {
            backends.push(Backend { service: 0, labels: labels(rng), weight: rng.u32(1..1_000_000) });
        }
        Route { matches: matches(rng, hosts), backends, policy: policy(rng) }
    })
}

pub(crate) fn authorization(rng: &mut Rng) -> Option<Authorization> {
    let id = |account: &str| SpiffeId::of_account("cluster.local", "shop", account);
    let rules = some(rng, 12, |rng| Rule {
        name: maybe(rng, |rng| one(rng, &["guests", "no-one", "rule-1"]).to_owned()),
        action: [Action::Allow, Action::Deny, Action::Audit][rng.usize(..3)],
        from: some(rng, 2, |rng| match rng.u8(..3) {
            0 => Caller::AnyAuthenticated,
            1 => Caller::Prefix(format!("spiffe://cluster.local/ns/{}/", one(rng, &["shop", "guests"]))),
            _ => Caller::Id(id(one(rng, &["a", "b", "c"]))),
        }),
        methods: some(rng, 2, |rng| match rng.bool() {
            true => CoveredMethods::Method(one(rng, &METHODS).to_owned()),
            false => CoveredMethods::Service(format!("{}/", one(rng, &SERVICES))),
        }),
        headers: some(rng, 3, |rng| header(rng, &["x-tenant", "x-user", "user-agent"])),
    });
    let default = if rng.bool() { Answer::Allow } else { Answer::Deny };
    let authorization = Authorization { rules, default };
    (!authorization.asks_nothing()).then_some(authorization)
}
