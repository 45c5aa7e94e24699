//! What one client may ask of the control plane: by control.yaml, and besides. Every limit that refuses is counted
//! (`Counters::refused`).

use std::time::Duration;

use config::control::Control;

/// What control.yaml says to the sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `on_demand_above`: with more services than that, a wildcard means none but those asked for by name. Envoy gets all.
    pub on_demand_above: usize,
    /// `registration.grace`: how long an announced endpoint stays when its sidecar's stream is gone.
    pub registration_grace: Duration,
    /// `limits.streams`: ADS and CSDS streams of all connections; one more is ended with RESOURCE_EXHAUSTED.
    pub streams: usize,
    /// `limits.subscriptions`: names on one stream, over all types; one more ends it with RESOURCE_EXHAUSTED.
    pub subscriptions: usize,
    /// `limits.request`: bytes of one request; a larger one ends its stream with RESOURCE_EXHAUSTED.
    pub request: usize,
    /// `limits.requests_per_second`: of one stream, in the long run. One that sends more is read more slowly and never
    /// answered with an error.
    pub requests_per_second: u32,
    /// `limits.handshake_timeout` again: from a connection (TLS done) to its HTTP/2 preface, and from a stream's head to its first request.
    pub first_words: Duration,
    /// Between two looks at whether the peer is there.
    pub ping_every: Duration,
    /// How long the answer to a ping may take; then the connection is closed.
    pub pong_max: Duration,
}

impl From<&Control> for Settings {
    fn from(control: &Control) -> Self {
        let limits = &control.limits;
        Self {
            on_demand_above: control.on_demand_above,
            registration_grace: control.registration_grace,
            streams: limits.streams,
            subscriptions: limits.subscriptions,
            request: limits.request,
            requests_per_second: limits.requests_per_second,
            first_words: limits.handshake_timeout,
            ping_every: PING_EVERY,
            pong_max: PONG_MAX,
        }
    }
}

/// Requests that may come at once, whatever `limits.requests_per_second` says: a client that starts asks for much, and
/// gRPC's C-core sends a request for each name.
pub(crate) const BURST_MIN: u32 = 2_000;
/// Of a resource's name; what is longer is no name of ours.
pub(crate) const NAME_BYTES_MAX: usize = 1_024;
/// Streams of one connection at a time; a client needs one for ADS and perhaps one for CSDS.
pub(crate) const STREAMS_PER_CONNECTION_MAX: u32 = 16;
/// Types that we do not serve and that one stream is answered for; more of them are ignored.
pub(crate) const UNKNOWN_TYPES_MAX: usize = 16;
/// Names of such types that wait for their answer on one stream; more of them are not answered for.
pub(crate) const UNKNOWN_NAMES_MAX: usize = 1_000;
/// Answers to CSDS on one connection, each of which may be as large as `STATUS_BYTES_MAX`: so many a second in the long run, and so
/// many at once.
pub(crate) const STATUS_PER_SECOND: u32 = 2;
pub(crate) const STATUS_BURST: u32 = 10;
/// Audiences that are served at a time: an Envoy says itself where it listens, so clients could make up any number.
pub(crate) const AUDIENCES_MAX: usize = 64;
/// Of the reason of a NACK, so much is kept.
pub(crate) const REASON_BYTES_MAX: usize = 4 << 10;
/// A delta response is cut when its resources reach this.
pub(crate) const DELTA_BYTES_MAX: usize = 256 << 10;
/// How long changes of routes wait for the client to answer those of clusters, and so on in the order of `Kind`.
pub(crate) const ORDER_WAIT_MAX: Duration = Duration::from_secs(2);
/// Of an answer to CSDS.
pub(crate) const STATUS_BYTES_MAX: usize = 16 << 20;
/// Between two looks at whether the peer is there.
const PING_EVERY: Duration = Duration::from_secs(30);
/// How long the answer to a ping may take.
const PONG_MAX: Duration = Duration::from_secs(20);
/// How long streams may take to end when the control plane goes.
pub(crate) const FAREWELL_MAX: Duration = Duration::from_secs(1);
/// Endpoints that one sidecar may announce; a pod has one for each of its services.
pub(crate) const REGISTRATIONS_MAX: usize = 100;
/// Labels of an endpoint that a sidecar announces.
pub(crate) const LABELS_MAX: usize = 16;
/// Of a request for a certificate; a CSR in PEM has some 500 bytes.
pub(crate) const CSR_BYTES_MAX: usize = 64 << 10;
