//! The keys of `sidecar.yaml`.

use std::time::Duration;

use crate::keys::{Key, Kind, Object};
use crate::text::Text;

const LISTEN: Kind = Kind::Address { port_zero: true };
const ANY_TIME: Kind = Kind::Duration { min: Duration::ZERO };
const SOME_TIME: Kind = Kind::Duration { min: Duration::from_millis(1) };
const COUNT: Kind = Kind::Integer { min: 1, max: 10_000_000 };

/// The whole file.
pub(crate) static SIDECAR: Object = Object {
    doc: "The bootstrap of one sidecar.",
    keys: &[
        Key::required("service", Kind::Text(Text::Name), "the service that this sidecar stands beside"),
        Key::new("namespace", Kind::Text(Text::Name), "the namespace of that service"),
        Key::new("account", Kind::Text(Text::Account), "the service account; names the SPIFFE id"),
        Key::new("trust_domain", Kind::Text(Text::TrustDomain), "the trust domain of the own identity"),
        Key::new("zone", Kind::Text(Text::Label), "where the sidecar is, as its control plane is told"),
        Key::new(
            "labels",
            Kind::Map { key: Text::Label, value: &Kind::Text(Text::Label) },
            "what marks the app beside it, as its control plane is told",
        ),
        Key::new(
            "workers",
            Kind::WordOrInteger { word: "auto", min: 1, max: 256 },
            "data-plane threads: `auto` follows the CPU quota",
        ),
        Key::new("identity", Kind::Object(&IDENTITY), "where its certificate comes from; without it no TLS"),
        Key::new("inbound", Kind::List(&Kind::Object(&INBOUND)), "one entry per port of the app"),
        Key::new("outbound", Kind::Object(&OUTBOUND), "where the app's own calls come in"),
        Key::new(
            "opaque_ports",
            Kind::List(&Kind::Integer { min: 1, max: 65_535 }),
            "ports on which nothing is detected: bytes pass as they are",
        ),
        Key::new("admin", Kind::Object(&ADMIN), "where operators look"),
        Key::new("probes", Kind::Object(&PROBES), "where `/metrics`, `/ready` and `/live` are served"),
        Key::required("mesh", Kind::Object(&MESH_SOURCE), "where the mesh comes from"),
        Key::new("drain", Kind::Object(&DRAIN), "how the sidecar leaves"),
        Key::new("dns", Kind::Object(&DNS), "how names are resolved"),
        Key::new("tracing", Kind::Object(&TRACING), "spans: where they go, and which calls are recorded"),
        Key::new("log", Kind::Object(&LOG), "what is logged of calls"),
        Key::new("limits", Kind::Object(&LIMITS), "every limit of the sidecar"),
    ],
    later: &[],
};

static IDENTITY: Object = Object {
    doc: "A workload identity: three files, or the control plane's CA, or the SPIFFE Workload API.",
    keys: &[
        Key::new("cert", Kind::Text(Text::File), "the certificate and its intermediates, leaf first, in PEM"),
        Key::new("key", Kind::Text(Text::File), "the private key of the certificate"),
        Key::new("bundle", Kind::Text(Text::File), "the roots that vouch for the trust domain"),
        Key::new("control", Kind::Bool, "the CA of the control planes in `mesh.control` signs it"),
        Key::new("token", Kind::Text(Text::File), "the join token that the control plane is shown first"),
        Key::new(
            "cache",
            Kind::Text(Text::File),
            "the folder that keeps key and certificate over a restart; memory-backed, best",
        ),
        Key::new("workload_api", Kind::Text(Text::UnixSocket), "the socket of the SPIFFE Workload API"),
    ],
    later: &[],
};

/// Of a control plane.
pub(crate) static IDENTITY_FILES: Object = Object {
    doc: "The files of a workload identity, in PEM.",
    keys: &[
        Key::required("cert", Kind::Text(Text::File), "the certificate and its intermediates, leaf first"),
        Key::required("key", Kind::Text(Text::File), "the private key of the certificate"),
        Key::required("bundle", Kind::Text(Text::File), "the roots that vouch for the trust domain"),
    ],
    later: &[],
};

static INBOUND: Object = Object {
    doc: "One port of the app, as others reach it.",
    keys: &[
        Key::required("listen", LISTEN, "what others dial"),
        Key::required("app", Kind::Address { port_zero: false }, "where the app listens, by plain h2c"),
        Key::new("mtls", Kind::Word(&["strict", "permissive", "off"]), "what is asked of a caller"),
        Key::new("service", Kind::Text(Text::Name), "the service behind this port"),
    ],
    later: &[],
};

static OUTBOUND: Object = Object {
    doc: "Where the app's own calls come in.",
    keys: &[
        Key::new("listen", LISTEN, "a loopback address: whoever reaches it speaks with our identity"),
        Key::new("listen_ipv6", LISTEN, "the same for IPv6, which redirected connections need"),
        Key::new(
            "unknown",
            Kind::Word(&["passthrough", "refuse"]),
            "what happens to what is not for a service of the mesh",
        ),
    ],
    later: &[],
};

static ADMIN: Object = Object {
    doc: "Where operators look, and what changes state.",
    keys: &[
        Key::new("listen", LISTEN, "the HTTP listener of `/config`, `/clusters` and the rest"),
        Key::new("socket", Kind::Text(Text::Socket), "the Unix socket that takes `drain`"),
    ],
    later: &[],
};

static PROBES: Object = Object {
    doc: "Where `/metrics`, `/ready` and `/live` are served, and nothing else.",
    keys: &[Key::new("listen", LISTEN, "the HTTP listener of the probes and of Prometheus")],
    later: &[],
};

static MESH_SOURCE: Object = Object {
    doc: "Where the mesh comes from: `file`, or `control` and what belongs to it.",
    keys: &[
        Key::new("file", Kind::Text(Text::File), "the mesh file, relative to this one"),
        Key::new(
            "control",
            Kind::List(&Kind::Text(Text::Control)),
            "where control planes serve ADS; any one of them will do",
        ),
        Key::new("bundle", Kind::Text(Text::File), "the roots that vouch for the control planes"),
        Key::new("cache", Kind::Text(Text::File), "the folder that keeps what was last in force"),
        Key::new("cache_max_age", SOME_TIME, "how old that may be when the sidecar starts"),
        Key::new(
            "empty_grace",
            ANY_TIME,
            "how long the endpoints of a service stay that all at once are said to be none",
        ),
        Key::new("protocol", Kind::Word(&["delta", "sotw"]), "what has changed is sent, or all there is"),
        Key::new("register", Kind::Object(&REGISTER), "announces the app beside this sidecar as an endpoint"),
    ],
    later: &["token"],
};

static REGISTER: Object = Object {
    doc: "An endpoint of the sidecar's own service, announced while the sidecar is ready.",
    keys: &[Key::required(
        "address",
        Kind::Address { port_zero: false },
        "what other sidecars are to dial: where `inbound` is reached from outside",
    )],
    later: &[],
};

static DRAIN: Object = Object {
    doc: "How the sidecar leaves without failing a call.",
    keys: &[
        Key::new("lag", ANY_TIME, "how long inbound goes on after readiness has failed"),
        Key::new("deadline", ANY_TIME, "how long calls may then go on before they are ended"),
    ],
    later: &[],
};

static DNS: Object = Object {
    doc: "How the names of endpoints, of CONNECT targets and of the collector are resolved.",
    keys: &[
        Key::new(
            "servers",
            Kind::List(&Kind::Address { port_zero: false }),
            "the name servers; those of /etc/resolv.conf unless given",
        ),
        Key::new("min_ttl", SOME_TIME, "an answer is kept at least this long, whatever its TTL"),
        Key::new("timeout", SOME_TIME, "how long one question may take"),
    ],
    later: &["max_ttl", "search"],
};

static TRACING: Object = Object {
    doc: "Spans: where they go, and which calls are recorded. The file wins over `OTEL_*`.",
    keys: &[
        Key::new(
            "endpoint",
            Kind::Text(Text::Collector),
            "where OTLP/gRPC is served; without it nothing is recorded",
        ),
        Key::new(
            "propagate",
            Kind::List(&Kind::Word(&["w3c", "b3", "b3multi"])),
            "the headers that a trace which begins here is told in",
        ),
        Key::new("sampling", Kind::Object(&SAMPLING), "which calls are recorded"),
    ],
    later: &[],
};

static SAMPLING: Object = Object {
    doc: "Which calls are recorded.",
    keys: &[
        Key::new("parent", Kind::Bool, "whether a call that brings a decision keeps to it"),
        Key::new("ratio", Kind::Percentage, "the share of the calls that bring none"),
        Key::new(
            "rate",
            Kind::Rate { min: 1, max: 1_000_000 },
            "the most of those that are recorded per second",
        ),
    ],
    later: &[],
};

static LOG: Object = Object {
    doc: "What is logged.",
    keys: &[Key::new("access", Kind::Object(&ACCESS), "one line of JSON for each call, on stdout")],
    later: &["level"],
};

static ACCESS: Object = Object {
    doc: "One line of JSON for each call, on stdout.",
    keys: &[
        Key::new("sample", Kind::Percentage, "the share of calls that are logged"),
        Key::new("streams", SOME_TIME, "how often a call that goes on is logged meanwhile"),
    ],
    later: &["file", "format"],
};

static LIMITS: Object = Object {
    doc: "Every limit of the sidecar; each refusal is counted under the limit's name.",
    keys: &[
        Key::new("connections", COUNT, "downstream connections, inbound and outbound each"),
        Key::new(
            "handshakes",
            COUNT,
            "connections that have not finished TLS and the HTTP/2 preface, inbound and outbound each",
        ),
        Key::new(
            "detection_timeout",
            SOME_TIME,
            "how long a connection may be silent before its bytes pass as they are, where that is allowed",
        ),
        Key::new("handshake_timeout", SOME_TIME, "from accept to the end of the HTTP/2 preface"),
        Key::new(
            "streams_per_connection",
            Kind::Integer { min: 1, max: 1_000_000 },
            "concurrent streams on one downstream connection",
        ),
        Key::new("calls", COUNT, "calls in flight, both directions together"),
        Key::new(
            "header_list",
            Kind::Size { min: 1 << 10, max: 16 << 20 },
            "bytes of one header list (RFC 9113 section 6.5.2)",
        ),
        Key::new(
            "stream_window",
            Kind::Size { min: 1 << 10, max: 256 << 20 },
            "receive window of one stream: what one call may hold in each direction",
        ),
        Key::new(
            "connection_window",
            Kind::Size { min: 64 << 10, max: (1 << 31) - 1 },
            "receive window of one connection; at least four stream windows",
        ),
        Key::new(
            "stall_timeout",
            SOME_TIME,
            "how long a reader may stand still while what waits for it uses up its connection's window",
        ),
        Key::new(
            "send_buffer",
            Kind::Size { min: 1 << 10, max: 1 << 30 },
            "bytes of one stream that may wait for a slow socket",
        ),
        Key::new(
            "resets_per_second",
            Kind::Integer { min: 1, max: 1_000_000 },
            "streams that one downstream connection may reset per second",
        ),
        Key::new("spans", COUNT, "spans that wait to be exported"),
        Key::new("log_lines", COUNT, "lines of the access log that wait to be written"),
        Key::new(
            "replay_buffer",
            Kind::Size { min: 0, max: 64 << 30 },
            "bytes of requests that are kept for another attempt, all calls together",
        ),
        Key::new("series", COUNT, "time series of calls; those past it are counted under the method `other`"),
    ],
    later: &["buffers", "opaque_connections"],
};
