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
        Key::new(
            "workers",
            Kind::WordOrInteger { word: "auto", min: 1, max: 256 },
            "data-plane threads: `auto` follows the CPU quota",
        ),
        Key::new("identity", Kind::Object(&IDENTITY), "certificate, key and bundle; without them no TLS"),
        Key::new("inbound", Kind::List(&Kind::Object(&INBOUND)), "one entry per port of the app"),
        Key::new("outbound", Kind::Object(&OUTBOUND), "where the app's own calls come in"),
        Key::new("admin", Kind::Object(&ADMIN), "where operators look"),
        Key::new("probes", Kind::Object(&PROBES), "where `/metrics`, `/ready` and `/live` are served"),
        Key::required("mesh", Kind::Object(&MESH_SOURCE), "where the mesh comes from"),
        Key::new("drain", Kind::Object(&DRAIN), "how the sidecar leaves"),
        Key::new("limits", Kind::Object(&LIMITS), "every limit of the sidecar"),
    ],
    later: &["zone", "labels", "opaque_ports", "tracing", "log"],
};

static IDENTITY: Object = Object {
    doc: "The files of a workload identity, in PEM.",
    keys: &[
        Key::required("cert", Kind::Text(Text::File), "the certificate and its intermediates, leaf first"),
        Key::required("key", Kind::Text(Text::File), "the private key of the certificate"),
        Key::required("bundle", Kind::Text(Text::File), "the roots that vouch for the trust domain"),
    ],
    later: &["control", "token", "cache", "workload_api"],
};

static INBOUND: Object = Object {
    doc: "One port of the app, as others reach it.",
    keys: &[
        Key::required("listen", LISTEN, "what others dial"),
        Key::required("app", Kind::Address { port_zero: false }, "where the app listens, by plain h2c"),
        Key::new("mtls", Kind::Word(&["strict", "permissive", "off"]), "what is asked of a caller"),
        Key::new("service", Kind::Text(Text::Name), "the service behind this port"),
    ],
    later: &["opaque_ports"],
};

static OUTBOUND: Object = Object {
    doc: "Where the app's own calls come in.",
    keys: &[Key::new("listen", LISTEN, "a loopback address: whoever reaches it speaks with our identity")],
    later: &["unknown"],
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
    doc: "Where the mesh comes from.",
    keys: &[Key::required("file", Kind::Text(Text::File), "the mesh file, relative to this one")],
    later: &["control", "bundle", "cache"],
};

static DRAIN: Object = Object {
    doc: "How the sidecar leaves without failing a call.",
    keys: &[
        Key::new("lag", ANY_TIME, "how long inbound goes on after readiness has failed"),
        Key::new("deadline", ANY_TIME, "how long calls may then go on before they are ended"),
    ],
    later: &[],
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
        Key::new("series", COUNT, "time series of calls; those past it are counted under the method `other`"),
    ],
    later: &["buffers", "opaque_connections"],
};
