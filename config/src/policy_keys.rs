//! The keys of policy blocks, which stand in services and `defaults`, and some of them in routes and methods.

use std::time::Duration;

use crate::code::CODES;
use crate::keys::{Key, Kind, Object};
use crate::text::Text;

const SOME_TIME: Kind = Kind::Duration { min: Duration::from_millis(1) };
const ANY_TIME: Kind = Kind::Duration { min: Duration::ZERO };
const COUNT: Kind = Kind::Integer { min: 1, max: 1_000_000 };
const CODE_LIST: Kind = Kind::List(&FAILURE);
/// Every status but OK.
const FAILURE: Kind = Kind::Word(CODES.split_at(1).1);
const REPLAY_LIMIT: Key = Key::new(
    "replay_limit",
    Kind::Size { min: 0, max: 64 << 20 },
    "what is kept of a request for another attempt; past it the call is committed",
);
const PERCENTAGE: Key = Key::new("percentage", Kind::Percentage, "the share of calls");
const AFTER_MESSAGES: Key = Key::new(
    "after_messages",
    Kind::Integer { min: 0, max: 1_000_000_000 },
    "once so many messages of the response have gone on",
);
const CODE: Key = Key::new("code", FAILURE, "the status that the caller is told");
const ENFORCEMENT: Key =
    Key::new("enforcement_percentage", Kind::Percentage, "the share of outliers that are ejected");
const MINIMUM_HOSTS: Key =
    Key::new("minimum_hosts", COUNT, "nothing is done where fewer endpoints had `request_volume`");
const REQUEST_VOLUME: Key =
    Key::new("request_volume", COUNT, "an endpoint with fewer calls in the interval is not looked at");

pub(crate) const DEADLINE: Key =
    Key::new("deadline", Kind::Object(&DEADLINE_BLOCK), "how long a call may take");
pub(crate) const STREAM: Key =
    Key::new("stream", Kind::Object(&STREAM_BLOCK), "how long a stream may be silent");
pub(crate) const HEADERS: Key = Key::new("headers", Kind::Object(&HEADERS_BLOCK), "header changes");
pub(crate) const BALANCING: Key =
    Key::new("balancing", Kind::Object(&BALANCING_BLOCK), "how an endpoint is chosen, for each call anew");
pub(crate) const UPSTREAM: Key =
    Key::new("upstream", Kind::Object(&UPSTREAM_BLOCK), "how connections to endpoints are kept");

pub(crate) const RETRIES: Key =
    Key::new("retries", Kind::Object(&RETRIES_BLOCK), "when a call that failed goes out again (gRFC A6)");
pub(crate) const HEDGING: Key =
    Key::new("hedging", Kind::Object(&HEDGING_BLOCK), "calls go out several times at once (gRFC A6)");
pub(crate) const FAULTS: Key =
    Key::new("faults", Kind::Object(&FAULTS_BLOCK), "what is done to some calls on purpose");
pub(crate) const HEALTH: Key =
    Key::new("health", Kind::Object(&HEALTH_BLOCK), "each endpoint is asked now and then whether it is well");
pub(crate) const OUTLIERS: Key = Key::new(
    "outliers",
    Kind::Object(&OUTLIERS_BLOCK),
    "endpoints that fail too often are left alone a while",
);
pub(crate) const RETRY_BUDGET: Key =
    Key::new("retry_budget", Kind::Object(&RETRY_BUDGET_BLOCK), "what repeats of calls may come to");
pub(crate) const RETRY_THROTTLING: Key = Key::new(
    "retry_throttling",
    Kind::Object(&RETRY_THROTTLING_BLOCK),
    "repeats pause while too many calls fail (gRFC A6)",
);

static BALANCING_BLOCK: Object = Object {
    doc: "How an endpoint is chosen, for each call anew.",
    keys: &[
        Key::new(
            "policy",
            Kind::Word(&["round_robin", "random", "least_request", "peak_ewma"]),
            "the rule of choice",
        ),
        Key::new("slow_start", Kind::Object(&SLOW_START), "new endpoints begin with a part of their weight"),
        Key::new(
            "panic_threshold",
            Kind::Percentage,
            "where fewer of the endpoints are fit, calls go to the unfit too",
        ),
    ],
    later: &["zone_aware", "hash", "subset"],
};

static UPSTREAM_BLOCK: Object = Object {
    doc: "How one worker keeps its connections to one endpoint.",
    keys: &[
        Key::new("connect_timeout", SOME_TIME, "TCP, TLS and the peer's SETTINGS together"),
        Key::new(
            "connections",
            Kind::Integer { min: 1, max: 1_024 },
            "connections of one worker to one endpoint",
        ),
        Key::new("idle_timeout", SOME_TIME, "a connection without a call is closed after this long"),
        Key::new("max_age", SOME_TIME, "a connection takes no new call after this long, give or take 10 %"),
        Key::new(
            "max_calls",
            Kind::Integer { min: 1, max: 1 << 30 },
            "a connection takes no new call after this many",
        ),
        Key::new(
            "user_timeout",
            SOME_TIME,
            "how long sent bytes may stay unacknowledged before a connection is given up (TCP_USER_TIMEOUT)",
        ),
        Key::new("keepalive", Kind::Object(&KEEPALIVE), "PINGs on connections between sidecars"),
    ],
    later: &["proxy_protocol"],
};

static KEEPALIVE: Object = Object {
    doc: "HTTP/2 PINGs while a call is open.",
    keys: &[
        Key::new("interval", SOME_TIME, "between two PINGs"),
        Key::new("timeout", SOME_TIME, "how long the answer may take before the connection is given up"),
    ],
    later: &[],
};

static DEADLINE_BLOCK: Object = Object {
    doc: "How long a call may take.",
    keys: &[
        Key::new("default", SOME_TIME, "for calls that bring no `grpc-timeout`; none: no deadline"),
        Key::new("max", SOME_TIME, "the most that a call may ask for"),
        Key::new(
            "shed_below_median",
            Kind::Bool,
            "a call that has less time left than half of the route's calls take ends at once",
        ),
        Key::new(
            "inherit",
            Kind::Bool,
            "a call without a deadline takes that of the inbound call of the same trace",
        ),
    ],
    later: &[],
};

static STREAM_BLOCK: Object = Object {
    doc: "How long a stream may be silent.",
    keys: &[Key::new("idle", SOME_TIME, "a call ends when no message moved for this long; none: never")],
    later: &["max_age"],
};

static HEADERS_BLOCK: Object = Object {
    doc: "Header changes.",
    keys: &[
        Key::new("request", Kind::Object(&HEADER_CHANGES), "changes to what goes to the endpoint"),
        Key::new("response", Kind::Object(&HEADER_CHANGES), "changes to response headers on their way back"),
    ],
    later: &[],
};

static HEADER_CHANGES: Object = Object {
    doc: "Applied in the order remove, set, add.",
    keys: &[
        Key::new(
            "set",
            Kind::Map { key: Text::ChangedHeader, value: &Kind::Text(Text::HeaderValue) },
            "replaces every value of the name",
        ),
        Key::new(
            "add",
            Kind::Map { key: Text::ChangedHeader, value: &Kind::Text(Text::HeaderValue) },
            "adds a value beside those that are there",
        ),
        Key::new("remove", Kind::List(&Kind::Text(Text::ChangedHeader)), "removes every value of the name"),
    ],
    later: &[],
};

static RETRIES_BLOCK: Object = Object {
    doc: "When a call that failed goes out again (gRFC A6).",
    keys: &[
        Key::new("max_attempts", Kind::Integer { min: 1, max: 10 }, "attempts in all, the first one counted"),
        Key::new("retryable_status_codes", CODE_LIST, "the statuses after which there is another attempt"),
        Key::new("initial_backoff", SOME_TIME, "the wait before the second attempt, a fifth more or less"),
        Key::new("max_backoff", SOME_TIME, "the longest wait"),
        Key::new("backoff_multiplier", Kind::Number { min: 1.0, max: 100.0 }, "from one wait to the next"),
        Key::new(
            "per_attempt_timeout",
            SOME_TIME,
            "how long an attempt may take until the call is committed",
        ),
        Key::new("commit", Kind::Word(&["headers", "first_message"]), "what commits a call to an attempt"),
        Key::new("header_hold", SOME_TIME, "how long `first_message` holds headers back; then they commit"),
        REPLAY_LIMIT,
    ],
    later: &[],
};

static HEDGING_BLOCK: Object = Object {
    doc: "Calls go out several times at once; the first good answer counts (gRFC A6).",
    keys: &[
        Key::new("max_attempts", Kind::Integer { min: 2, max: 10 }, "attempts in all"),
        Key::required("hedging_delay", ANY_TIME, "from one attempt to the next; 0s: all at once"),
        Key::new("non_fatal_status_codes", CODE_LIST, "the statuses that do not end the other attempts"),
        REPLAY_LIMIT,
    ],
    later: &[],
};

static RETRY_BUDGET_BLOCK: Object = Object {
    doc: "What repeats of calls to one service may come to, over all workers of a sidecar.",
    keys: &[
        Key::new("share", Kind::Percentage, "of the calls begun in the last ten seconds"),
        Key::new(
            "min_per_second",
            Kind::Integer { min: 0, max: 1_000_000 },
            "repeats that are granted however few calls there are",
        ),
    ],
    later: &[],
};

static RETRY_THROTTLING_BLOCK: Object = Object {
    doc: "Repeats pause while more than half of the tokens are gone (gRFC A6).",
    keys: &[
        Key::required("max_tokens", Kind::Integer { min: 1, max: 1_000 }, "tokens; a failure takes one"),
        Key::required("token_ratio", Kind::Number { min: 0.001, max: 1_000.0 }, "what a success gives back"),
    ],
    later: &[],
};

static FAULTS_BLOCK: Object = Object {
    doc: "What is done to some calls on purpose; each is drawn for by itself.",
    keys: &[
        Key::new("seed", Kind::Integer { min: 0, max: u64::MAX >> 1 }, "where the draws begin"),
        Key::new("delay", Kind::Object(&DELAY), "the call waits before it goes out"),
        Key::new("abort", Kind::Object(&ABORT), "the call ends before it goes out"),
        Key::new("stream_stall", Kind::Object(&STREAM_STALL), "the response stands still for a while"),
        Key::new("stream_abort", Kind::Object(&STREAM_ABORT), "the call ends in the middle of the response"),
    ],
    later: &[],
};

static DELAY: Object = Object {
    doc: "The call waits before it goes out.",
    keys: &[PERCENTAGE, Key::required("duration", SOME_TIME, "how long")],
    later: &[],
};

static ABORT: Object =
    Object { doc: "The call ends before it goes out.", keys: &[PERCENTAGE, CODE], later: &[] };

static STREAM_STALL: Object = Object {
    doc: "The response stands still for a while.",
    keys: &[PERCENTAGE, AFTER_MESSAGES, Key::required("duration", SOME_TIME, "how long")],
    later: &[],
};

static STREAM_ABORT: Object = Object {
    doc: "The call ends in the middle of the response.",
    keys: &[PERCENTAGE, AFTER_MESSAGES, CODE],
    later: &[],
};

static HEALTH_BLOCK: Object = Object {
    doc: "Each endpoint is asked now and then whether it is well.",
    keys: &[
        Key::required(
            "check",
            Kind::Word(&["grpc", "tcp"]),
            "by `grpc.health.v1.Health/Check`, or by connecting",
        ),
        Key::new(
            "service",
            Kind::Text(Text::GrpcService),
            "what is asked for; left out: the server as a whole",
        ),
        Key::new("interval", SOME_TIME, "from one check to the next, a tenth more or less"),
        Key::new("timeout", SOME_TIME, "how long one may take"),
        Key::new("unhealthy_threshold", COUNT, "failures in a row after which an endpoint is unhealthy"),
        Key::new("healthy_threshold", COUNT, "successes in a row after which it is healthy again"),
    ],
    later: &[],
};

static OUTLIERS_BLOCK: Object = Object {
    doc: "Endpoints that fail too often are left alone for a while (Envoy; gRFC A50).",
    keys: &[
        Key::new(
            "error_codes",
            CODE_LIST,
            "the statuses that count as errors, besides attempts without an answer",
        ),
        Key::new(
            "consecutive_errors",
            Kind::Integer { min: 0, max: 1_000_000 },
            "errors in a row after which an endpoint is ejected; 0: however many",
        ),
        Key::new("interval", SOME_TIME, "how often the rates are looked at"),
        Key::new("base_ejection_time", SOME_TIME, "the first ejection; the next lasts twice that, and so on"),
        Key::new("max_ejection_time", SOME_TIME, "the longest ejection"),
        Key::new(
            "max_ejection_percent",
            Kind::Percentage,
            "at most this share of the endpoints is ejected at a time; one may always be",
        ),
        Key::new(
            "success_rate",
            Kind::Object(&SUCCESS_RATE),
            "ejects those whose share of successes is far below that of the others",
        ),
        Key::new(
            "failure_percentage",
            Kind::Object(&FAILURE_PERCENTAGE),
            "ejects those that fail more often than this",
        ),
    ],
    later: &[],
};

static SUCCESS_RATE: Object = Object {
    doc: "Ejects endpoints whose share of successes is far below that of the others.",
    keys: &[
        Key::new(
            "stdev_factor",
            Kind::Number { min: 0.0, max: 100.0 },
            "below the mean by more than so many standard deviations",
        ),
        ENFORCEMENT,
        MINIMUM_HOSTS,
        REQUEST_VOLUME,
    ],
    later: &[],
};

static FAILURE_PERCENTAGE: Object = Object {
    doc: "Ejects endpoints that fail more often than this.",
    keys: &[
        Key::new("threshold", Kind::Percentage, "the share of failures at which an endpoint is an outlier"),
        ENFORCEMENT,
        MINIMUM_HOSTS,
        REQUEST_VOLUME,
    ],
    later: &[],
};

static SLOW_START: Object = Object {
    doc: "A new endpoint begins with a part of its weight (Envoy).",
    keys: &[
        Key::required("window", SOME_TIME, "how long it takes to the whole of it"),
        Key::new(
            "aggression",
            Kind::Number { min: 0.1, max: 100.0 },
            "1: in a straight line; more: faster at the beginning",
        ),
        Key::new("min_weight", Kind::Percentage, "the part that it begins with"),
    ],
    later: &[],
};
