//! The keys of `mesh.yaml`.

use crate::keys::{Key, Kind, Object};
use crate::policy_keys::{
    BALANCING, DEADLINE, FAULTS, HEADERS, HEALTH, HEDGING, OUTLIERS, RETRIES, RETRY_BUDGET, RETRY_THROTTLING,
    STREAM, UPSTREAM,
};
use crate::text::Text;

const WEIGHT: Kind = Kind::Integer { min: 0, max: 1_000_000 };
const LABELS: Kind = Kind::Map { key: Text::Label, value: &Kind::Text(Text::Label) };

/// Policies that later versions bring, at every level where a policy may stand.
const LATER_POLICIES: [&str; 6] =
    ["circuit_breakers", "mirror", "rate_limits", "concurrency", "compression", "subsets"];

/// The whole file.
pub(crate) static MESH: Object = Object {
    doc: "Everything that the sidecars of one mesh agree on.",
    keys: &[
        Key::required("version", Kind::Integer { min: 1, max: 1 }, "the version of this format: 1"),
        Key::new("trust_domain", Kind::Text(Text::TrustDomain), "the trust domain of default identities"),
        Key::new(
            "defaults",
            Kind::Object(&DEFAULTS),
            "policy blocks for services that have none of their own",
        ),
        Key::required("services", Kind::List(&Kind::Object(&SERVICE)), "the services"),
    ],
    later: &["gateways", "join_tokens"],
};

static DEFAULTS: Object = Object {
    doc: "Policy blocks for services that have none of their own.",
    keys: &[
        DEADLINE,
        STREAM,
        HEADERS,
        RETRIES,
        HEDGING,
        FAULTS,
        BALANCING,
        UPSTREAM,
        HEALTH,
        OUTLIERS,
        RETRY_BUDGET,
        RETRY_THROTTLING,
        Key::new(
            "inbound",
            Kind::Object(&DEFAULT_INBOUND),
            "what the sidecars of services enforce that say nothing of their own",
        ),
    ],
    later: &LATER_POLICIES,
};

static SERVICE: Object = Object {
    doc: "One service: what it is called, where it is, and how calls to it are treated.",
    keys: &[
        Key::required("name", Kind::Text(Text::Name), "its name, unique within the namespace"),
        Key::new("namespace", Kind::Text(Text::Name), "its namespace"),
        Key::new(
            "ports",
            Kind::List(&Kind::Integer { min: 1, max: 65_535 }),
            "the ports that an `:authority` may name",
        ),
        Key::new("hosts", Kind::List(&Kind::Text(Text::Host)), "further host names it answers to"),
        Key::new("identities", Kind::List(&Kind::Text(Text::SpiffeId)), "the SPIFFE ids that may serve it"),
        Key::new(
            "endpoints",
            Kind::List(&Kind::Either { short: &Kind::Address { port_zero: false }, long: &ENDPOINT }),
            "where it is",
        ),
        Key::new(
            "registration",
            Kind::Bool,
            "sidecars may announce further endpoints of it to the control plane",
        ),
        Key::new(
            "methods",
            Kind::Map { key: Text::Method, value: &Kind::Object(&METHOD) },
            "what is known of its methods, and what holds for them alone",
        ),
        BALANCING,
        UPSTREAM,
        HEALTH,
        OUTLIERS,
        RETRY_BUDGET,
        RETRY_THROTTLING,
        DEADLINE,
        STREAM,
        HEADERS,
        RETRIES,
        HEDGING,
        FAULTS,
        Key::new("routes", Kind::List(&Kind::Object(&ROUTE)), "where its calls go; the first match wins"),
        Key::new(
            "unmatched",
            Kind::Word(&["forward", "refuse"]),
            "what happens to a call that no route takes",
        ),
        Key::new("inbound", Kind::Object(&INBOUND), "what the service's own sidecar enforces"),
    ],
    later: &LATER_POLICIES,
};

static ENDPOINT: Object = Object {
    doc: "An address to dial.",
    keys: &[
        Key::new("address", Kind::Address { port_zero: false }, "the address dialled"),
        Key::new("dns", Kind::Text(Text::DnsTarget), "a name that stands for all its addresses, and a port"),
        Key::new("tls", Kind::Word(&["mesh", "none"]), "how it is spoken to; never a silent fallback"),
        Key::new("weight", WEIGHT, "its share of calls relative to its siblings; 0 takes it out"),
        Key::new("labels", LABELS, "what route backends select by"),
    ],
    later: &["zone"],
};

static METHOD: Object = Object {
    doc: "What is known of one method; its blocks win over those of routes and services.",
    keys: &[
        Key::new(
            "type",
            Kind::Word(&["unary", "client_stream", "server_stream", "bidi_stream"]),
            "the `grpc_type` of its metrics",
        ),
        Key::new("idempotent", Kind::Bool, "false: never repeated once it may have been processed"),
        DEADLINE,
        STREAM,
        HEADERS,
        RETRIES,
        HEDGING,
        FAULTS,
    ],
    later: &["rate_limits"],
};

static ROUTE: Object = Object {
    doc: "One route.",
    keys: &[
        Key::new("match", Kind::Object(&MATCH), "what a call must look like; nothing: every call"),
        Key::new("backends", Kind::List(&Kind::Object(&BACKEND)), "where its calls go, by weight"),
        DEADLINE,
        STREAM,
        HEADERS,
        RETRIES,
        HEDGING,
        FAULTS,
    ],
    later: &LATER_POLICIES,
};

static MATCH: Object = Object {
    doc: "What a call must look like; all that is given must hold.",
    keys: &[
        Key::new("host", Kind::Text(Text::Host), "one of the service's hosts"),
        Key::new("service", Kind::Text(Text::GrpcService), "a gRPC service, `package.Service`"),
        Key::new(
            "method",
            Kind::Either { short: &Kind::Text(Text::Method), long: &METHOD_MATCH },
            "the method: `package.Service/Method`, or one of exact, prefix and regex",
        ),
        Key::new("headers", Kind::List(&Kind::Object(&HEADER_MATCH)), "metadata, all of which must match"),
    ],
    later: &["from", "source"],
};

static METHOD_MATCH: Object = Object {
    doc: "One of exact, prefix and regex, over `package.Service/Method`.",
    keys: &[
        Key::new("exact", Kind::Text(Text::Method), "the whole of it"),
        Key::new("prefix", Kind::Text(Text::MethodPrefix), "its beginning"),
        Key::new("regex", Kind::Text(Text::Regex), "all of it, anchored at both ends"),
    ],
    later: &[],
};

static HEADER_MATCH: Object = header_match(&HEADER_MATCH_KEYS);
static HEADER_MATCH_KEYS: [Key; 6] = header_keys(Text::HeaderName);

const fn header_match(keys: &'static [Key]) -> Object {
    let doc = "A header, and one of exact, prefix, regex and present.";
    Object { doc, keys, later: &["suffix", "contains"] }
}

/// `name`: which headers may stand there.
const fn header_keys(name: Text) -> [Key; 6] {
    [
        Key::required("name", Kind::Text(name), "the name, in lower case"),
        Key::new("exact", Kind::Text(Text::HeaderValue), "the whole value"),
        Key::new("prefix", Kind::Text(Text::HeaderPrefix), "the beginning of the value"),
        Key::new("regex", Kind::Text(Text::Regex), "all of the value, anchored at both ends"),
        Key::new("present", Kind::Bool, "whether the header is there, whatever its value"),
        Key::new("invert", Kind::Bool, "turns the outcome around"),
    ]
}

static BACKEND: Object = Object {
    doc: "A weighted target of a route.",
    keys: &[
        Key::required(
            "service",
            Kind::Text(Text::Target),
            "`NAME` in the same namespace, or `NAME.NAMESPACE`",
        ),
        Key::new("labels", LABELS, "only endpoints that carry all of these"),
        Key::new("weight", WEIGHT, "relative to its siblings"),
    ],
    later: &["headers"],
};

/// What becomes of calls that no rule decides.
const ANSWERS: Kind = Kind::Word(&["allow", "deny"]);

static DEFAULT_INBOUND: Object = Object {
    doc: "What the sidecars of services enforce that say nothing of their own.",
    keys: &[Key::new(
        "authorization_default",
        ANSWERS,
        "what becomes of calls to services that have no rule with `allow`; left out: allow",
    )],
    later: &["authorization", "rate_limits", "concurrency", "faults"],
};

static INBOUND: Object = Object {
    doc: "What the service's own sidecar enforces.",
    keys: &[
        Key::new(
            "authorization",
            Kind::List(&Kind::Object(&RULE)),
            "who may call what: a call that a `deny` covers is refused, else one that an `allow` covers is let in",
        ),
        Key::new(
            "authorization_default",
            ANSWERS,
            "what becomes of calls that no rule decides; left out: deny where a rule says `allow` or the list is empty, \
             else what `defaults` say",
        ),
    ],
    later: &["rate_limits", "concurrency", "faults"],
};

static RULE: Object = Object {
    doc: "One rule of authorization: one of allow, deny and audit.",
    keys: &[
        Key::new("name", Kind::Text(Text::Name), "what logs, metrics and `explain` call it by"),
        Key::new("allow", Kind::Object(&COVERED), "lets calls in that no rule denies"),
        Key::new("deny", Kind::Object(&COVERED), "refuses calls, whatever else covers them"),
        Key::new(
            "audit",
            Kind::Object(&COVERED),
            "tells of calls in metrics and access log, and decides nothing",
        ),
    ],
    later: &["when"],
};

static COVERED: Object = Object {
    doc: "The calls that a rule covers: all that is given must hold.",
    keys: &[
        Key::new(
            "from",
            Kind::List(&Kind::Either { short: &Kind::Text(Text::Caller), long: &CALLER }),
            "SPIFFE ids, `spiffe://TRUST_DOMAIN/ns/NAMESPACE/*`, a service, a namespace, or `\"*\"` for every verified \
             caller; left out: anyone",
        ),
        Key::new(
            "methods",
            Kind::List(&Kind::Text(Text::CoveredMethods)),
            "methods, or `package.Service/*`; left out: every method",
        ),
        Key::new("headers", Kind::List(&Kind::Object(&RULE_HEADER)), "metadata, all of which must match"),
    ],
    later: &["hosts", "ports", "not_from"],
};

static CALLER: Object = Object {
    doc: "One of service and namespace.",
    keys: &[
        Key::new(
            "service",
            Kind::Text(Text::Target),
            "whoever proves one of its `identities`: `NAME` in the same namespace, or `NAME.NAMESPACE`",
        ),
        Key::new("namespace", Kind::Text(Text::Name), "every account of a namespace"),
    ],
    later: &["account", "service_account"],
};

static RULE_HEADER: Object = header_match(&RULE_HEADER_KEYS);
static RULE_HEADER_KEYS: [Key; 6] = header_keys(Text::RuleHeader);
