//! The keys of `control.yaml`.

use std::time::Duration;

use crate::keys::{Key, Kind, Object};
use crate::sidecar_keys::IDENTITY_FILES;
use crate::text::Text;

const LISTEN: Kind = Kind::Address { port_zero: true };
const ANY_TIME: Kind = Kind::Duration { min: Duration::ZERO };
const SOME_TIME: Kind = Kind::Duration { min: Duration::from_millis(1) };
const COUNT: Kind = Kind::Integer { min: 1, max: 10_000_000 };

/// The whole file.
pub(crate) static CONTROL: Object = Object {
    doc: "One control plane.",
    keys: &[
        Key::required("mesh", Kind::Text(Text::File), "the folder of mesh files, or one mesh file"),
        Key::new("ads", Kind::Object(&ADS), "where xDS is served"),
        Key::new("admin", Kind::Object(&ADMIN), "where operators and Prometheus look"),
        Key::new(
            "identity",
            Kind::Object(&IDENTITY_FILES),
            "certificate, key and bundle; without them, `ca` signs our own, or there is plaintext only",
        ),
        Key::new("ca", Kind::Object(&CA), "the authority that signs certificates of the mesh"),
        Key::new(
            "cache",
            Kind::Text(Text::File),
            "the folder of the last good version of each mesh file, for a start at which one is bad",
        ),
        Key::new("debounce", Kind::Object(&DEBOUNCE), "how changes that come together become one"),
        Key::new(
            "on_demand_above",
            Kind::Integer { min: 0, max: 1_000_000 },
            "with more services than that, clients get only those that they ask for by name",
        ),
        Key::new("registration", Kind::Object(&REGISTRATION), "endpoints that sidecars announce"),
        Key::new("limits", Kind::Object(&LIMITS), "every limit of the control plane"),
    ],
    later: &["kubernetes", "workers"],
};

static ADS: Object = Object {
    doc: "Where xDS is served.",
    keys: &[
        Key::new("listen", LISTEN, "the listener; mTLS unless `plaintext`"),
        Key::new("plaintext", Kind::Bool, "no TLS at all; on loopback addresses only"),
    ],
    later: &[],
};

static CA: Object = Object {
    doc: "The authority that signs certificates of the mesh.",
    keys: &[
        Key::required(
            "folder",
            Kind::Text(Text::File),
            "the folder of roots, their keys, and the key of join tokens",
        ),
        Key::new(
            "leaf_life",
            Kind::Duration { min: Duration::from_secs(1) },
            "how long a certificate is good",
        ),
        Key::new(
            "overlap",
            ANY_TIME,
            "how long a new root is trusted before it signs; `leaf_life` unless given",
        ),
        Key::new(
            "names",
            Kind::List(&Kind::Text(Text::Host)),
            "the host names and IP addresses that clients dial us by, for our own certificate",
        ),
        Key::new(
            "audit",
            Kind::Text(Text::File),
            "where a line is written of each certificate; stdout unless given",
        ),
    ],
    later: &["kubernetes", "rotate"],
};

static ADMIN: Object = Object {
    doc: "Where operators and Prometheus look.",
    keys: &[Key::new(
        "listen",
        LISTEN,
        "the HTTP listener of `/proxies`, `/mesh`, `/resources`, `/metrics`, `/ready` and `/live`",
    )],
    later: &[],
};

static DEBOUNCE: Object = Object {
    doc: "How changes that come together become one.",
    keys: &[
        Key::new("quiet", ANY_TIME, "a change is sent when none has followed it for this long"),
        Key::new("longest", ANY_TIME, "but no later than this, however many follow"),
    ],
    later: &[],
};

static REGISTRATION: Object = Object {
    doc: "Endpoints that sidecars announce.",
    keys: &[Key::new("grace", ANY_TIME, "how long an endpoint stays when its sidecar's stream is gone")],
    later: &[],
};

static LIMITS: Object = Object {
    doc: "Every limit of the control plane; each refusal is counted under the limit's name.",
    keys: &[
        Key::new("connections", COUNT, "connections to the xDS listener"),
        Key::new("handshakes", COUNT, "connections that have not finished TLS"),
        Key::new("handshake_timeout", SOME_TIME, "how long TLS may take"),
        Key::new("streams", COUNT, "xDS streams, all connections together"),
        Key::new("subscriptions", COUNT, "names that one stream may subscribe to"),
        Key::new("request", Kind::Size { min: 1 << 10, max: 64 << 20 }, "bytes of one xDS request"),
        Key::new(
            "requests_per_second",
            Kind::Integer { min: 1, max: 1_000_000 },
            "requests that are read of one stream per second",
        ),
        Key::new("registrations", COUNT, "endpoints of one service that sidecars announce"),
        Key::new(
            "csrs_per_second",
            Kind::Integer { min: 1, max: 1_000_000 },
            "certificates that all together may ask for per second",
        ),
        Key::new(
            "csrs_per_identity",
            Kind::Integer { min: 1, max: 1_000_000 },
            "certificates that one workload may ask for per second",
        ),
        Key::new("unproven", COUNT, "connections on which neither a certificate nor a token was shown"),
    ],
    later: &[],
};
