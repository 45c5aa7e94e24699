//! What the two YAML files mean, once every fault has been ruled out.
//!
//! A value of these types is valid by construction: nothing past the parser checks it again, and all
//! precedence that the parser can settle (service over `defaults`) is settled here. The one step left to
//! the proxy is method over route, because a call knows both only when it is routed.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use regex::Regex;

use crate::collector::Collector;
use crate::health::{Health, Outliers, SlowStart};
use crate::identity::IdentitySource;
use crate::injection::Injection;
use crate::mesh_source::MeshSource;
use crate::repeats::{Repeats, RetryBudget, RetryThrottling};
use crate::spiffe::SpiffeId;

/// `sidecar.yaml`: the bootstrap of one sidecar.
#[derive(Clone, Debug)]
pub struct Sidecar {
    /// The service that this sidecar stands beside.
    pub service: String,
    /// The namespace of that service.
    pub namespace: String,
    /// The service account; names the SPIFFE id. Default: the service's name.
    pub account: String,
    /// Where the sidecar is, as its control plane is told.
    pub zone: Option<String>,
    /// What marks the app beside it, as its control plane is told.
    pub labels: BTreeMap<String, String>,
    /// The trust domain of our own identity and of the bundle.
    pub trust_domain: String,
    /// Data-plane worker threads.
    pub workers: Workers,
    /// Where its certificate comes from; without it nothing is encrypted and no endpoint may say `tls: mesh`.
    pub identity: Option<IdentitySource>,
    /// One entry per port of the app; may be empty for a pure client.
    pub inbound: Vec<Inbound>,
    /// Where the app's own calls come in; absent for a pure server.
    pub outbound: Option<Outbound>,
    /// Ports on which nothing is detected and bytes pass as they are: of the app for inbound connections, of the
    /// original destination or the CONNECT target for outbound ones.
    pub opaque_ports: Vec<u16>,
    /// Where `/config`, `/clusters` and the rest are served, and the socket that takes `drain`.
    pub admin: Admin,
    /// Where `/metrics`, `/ready` and `/live` are served.
    pub probes: SocketAddr,
    /// Where the mesh comes from.
    pub mesh: MeshSource,
    /// How the sidecar leaves.
    pub drain: Drain,
    /// How names are resolved.
    pub dns: Dns,
    /// Spans: where they go, and which calls are recorded.
    pub tracing: Tracing,
    /// `None`: no line is logged of any call.
    pub access_log: Option<AccessLog>,
    /// Every limit of the sidecar.
    pub limits: Limits,
}

impl Sidecar {
    /// The SPIFFE id this sidecar must prove: `spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT`.
    pub fn spiffe_id(&self) -> SpiffeId {
        SpiffeId::of_account(&self.trust_domain, &self.namespace, &self.account)
    }

    /// Makes the file names in it relative to `base`, the folder of the file it was read from.
    pub fn resolve_paths(&mut self, base: &Path) {
        self.mesh.resolve_paths(base);
        if let Some(identity) = &mut self.identity {
            identity.resolve_paths(base);
        }
        if let Some(socket) = &mut self.admin.socket {
            *socket = base.join(&*socket);
        }
    }
}

/// How many data-plane threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workers {
    /// The cgroup's CPU quota rounded up; without a quota min(cores, 2).
    Auto,
    /// This many.
    Count(NonZeroUsize),
}

/// One port of the app, as others reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inbound {
    /// What others dial.
    pub listen: SocketAddr,
    /// Where the app listens; plain h2c.
    pub app: SocketAddr,
    /// What is asked of a caller.
    pub mtls: Mtls,
    /// The service behind this port. Default: the sidecar's own.
    pub service: String,
}

/// Where the app's own calls come in. Loopback addresses: whoever reaches them speaks with our identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outbound {
    /// The listener.
    pub listen: SocketAddr,
    /// A second one, for redirected IPv6 connections, which arrive at `::1`.
    pub listen_ipv6: Option<SocketAddr>,
    /// What happens to what is not for a service of the mesh.
    pub unknown: Unknown,
}

/// What happens to a connection or call that is not for a service of the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// On to where it was meant to go, where that is known; as it is, without our identity.
    Passthrough,
    /// Refused.
    Refuse,
}

/// How the names of endpoints and of CONNECT targets are resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// The name servers, asked by UDP and TCP; empty: those of `/etc/resolv.conf`.
    pub servers: Vec<SocketAddr>,
    /// An answer is kept at least this long, whatever its TTL.
    pub min_ttl: Duration,
    /// How long one question may take, all servers and repetitions together.
    pub timeout: Duration,
}

impl Default for Dns {
    fn default() -> Self {
        Self { servers: Vec::new(), min_ttl: Duration::from_secs(5), timeout: Duration::from_secs(5) }
    }
}

/// `tracing`: what the file says; what it leaves open, `OTEL_*` may say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tracing {
    /// Where OTLP/gRPC is served.
    pub endpoint: Option<Collector>,
    /// The headers that a trace which begins here is told in.
    pub propagate: Option<Vec<Propagation>>,
    /// Which calls are recorded.
    pub sampling: Sampling,
}

/// A way to write a trace's context into headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// `traceparent` and `tracestate`.
    W3c,
    /// `b3`.
    B3,
    /// `x-b3-traceid` and the rest.
    B3Multi,
}

/// Which calls are recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sampling {
    /// Whether a call that brings a decision keeps to it. Default: yes.
    pub parent: Option<bool>,
    /// The share, in parts per million, of those calls that bring no decision, or none that counts. Default: all.
    pub ratio_ppm: Option<u32>,
    /// The most of those that are recorded per second. Default: no limit.
    pub rate: Option<u32>,
}

/// `log.access`: one line of JSON for each call, on stdout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccessLog {
    /// The share of calls that are logged, in parts per million. Default: all.
    pub sample_ppm: u32,
    /// How often a call that goes on is logged meanwhile; `None`: at its end only.
    pub streams: Option<Duration>,
}

/// What an inbound listener asks of its callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mtls {
    /// A TLS handshake that yields a SPIFFE id of the trust domain, or nothing.
    Strict,
    /// mTLS where the caller offers TLS, plain h2c else.
    Permissive,
    /// Plain h2c only.
    Off,
}

/// Where operators look and what changes state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// The HTTP listener (`/config`, `/clusters`, `/metrics`, `/ready`, `/live`).
    pub listen: SocketAddr,
    /// The Unix socket of `drain`. Default: `outrigger-SERVICE.NAMESPACE.sock` in the temporary folder.
    pub socket: Option<PathBuf>,
}

/// How a sidecar leaves without failing a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// How long inbound goes on as before after readiness has failed, so that callers learn of it.
    pub lag: Duration,
    /// How long calls may then go on before they are ended.
    pub deadline: Duration,
}

/// Every limit of one sidecar, each with a counter `outrigger_refused_total{limit="NAME"}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Downstream connections, both listeners together.
    pub connections: usize,
    /// How long a connection may be silent before its bytes pass as they are, where that is allowed.
    pub detection_timeout: Duration,
    /// Connections that have not finished TLS and the HTTP/2 preface.
    pub handshakes: usize,
    /// From accept to the end of the HTTP/2 preface.
    pub handshake_timeout: Duration,
    /// Concurrent streams on one downstream connection (SETTINGS_MAX_CONCURRENT_STREAMS).
    pub streams_per_connection: u32,
    /// Calls in flight, both directions together.
    pub calls: usize,
    /// Bytes of one header list as RFC 9113 section 6.5.2 counts them.
    pub header_list: u32,
    /// Receive window of one stream, in bytes: what one call may hold in each direction.
    pub stream_window: u32,
    /// Receive window of one connection, in bytes; at least four stream windows.
    pub connection_window: u32,
    /// How long a reader may stand still while what waits for it uses up its connection's window.
    pub stall_timeout: Duration,
    /// Bytes of one stream that may wait for a slow socket.
    pub send_buffer: usize,
    /// Streams per second that one downstream connection may reset before they are answered.
    pub resets_per_second: u32,
    /// Spans that wait to be exported; those past it are dropped and counted. `None`: what `OTEL_BSP_MAX_QUEUE_SIZE` says,
    /// else [`SPANS`].
    pub spans: Option<usize>,
    /// Lines of the access log that wait to be written; those past it are dropped and counted.
    pub log_lines: usize,
    /// Bytes of requests that are kept for another attempt, all calls together.
    pub replay_buffer: usize,
    /// Time series of calls (`grpc_*`); calls past it are counted under the method `other`.
    pub series: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            handshakes: 256,
            detection_timeout: Duration::from_secs(2),
            handshake_timeout: Duration::from_secs(10),
            streams_per_connection: 1_024,
            calls: 20_000,
            header_list: 64 << 10,
            stream_window: 256 << 10,
            connection_window: 4 << 20,
            stall_timeout: Duration::from_secs(30),
            send_buffer: 256 << 10,
            resets_per_second: 10_000,
            spans: None,
            log_lines: 4_096,
            replay_buffer: 64 << 20,
            series: 2_000,
        }
    }
}

/// `limits.spans`, where neither the file nor the environment says it.
pub const SPANS: usize = 2_048;

/// `mesh.yaml`: everything that the sidecars of one mesh agree on.
#[derive(Clone, Debug, PartialEq)]
pub struct Mesh {
    /// The trust domain of the services' default identities.
    pub trust_domain: String,
    /// The services, in the order of the file; names are unique within a namespace.
    pub services: Vec<Service>,
}

impl Mesh {
    /// Finds a service by name and namespace.
    pub fn service(&self, name: &str, namespace: &str) -> Option<usize> {
        self.services.iter().position(|s| s.name == name && s.namespace == namespace)
    }
}

/// One service: what it is called, where it is, and how calls to it are treated.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Its name, unique within the namespace.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// The ports that an `:authority` may name; empty: any port, or none.
    pub ports: Vec<u16>,
    /// Every host name it answers to, in lower case, the derived ones first; unique in the mesh.
    /// The derived ones: `NAME` (only where no other namespace has a service of that name),
    /// `NAME.NS`, `NAME.NS.svc`, `NAME.NS.svc.cluster.local`.
    pub hosts: Vec<String>,
    /// The SPIFFE ids that may serve it, and that a caller is recognised by. Never empty.
    pub identities: Vec<SpiffeId>,
    /// Where it is. Empty: calls end UNAVAILABLE.
    pub endpoints: Vec<Endpoint>,
    /// Sidecars may announce further endpoints of it. For the control plane alone: it does not go over the wire, and what
    /// is decoded from there says `false`.
    pub registration: bool,
    /// What is known of its methods, by `package.Service/Method`.
    pub methods: BTreeMap<String, Method>,
    /// How an endpoint is chosen for a call.
    pub balancing: Balancing,
    /// How connections to its endpoints are kept.
    pub upstream: Upstream,
    /// Whether and how its endpoints are asked how they are.
    pub health: Option<Health>,
    /// Whether and when its endpoints are left alone for a while.
    pub outliers: Option<Outliers>,
    /// What repeats of calls to its endpoints may come to.
    pub retry_budget: RetryBudget,
    /// When they pause.
    pub retry_throttling: Option<RetryThrottling>,
    /// What holds for its calls where neither method nor route says otherwise.
    pub policy: Policy,
    /// Ordered; the first match wins.
    pub routes: Vec<Route>,
    /// What happens to a call that matches no route.
    pub unmatched: Unmatched,
    /// What the service's own sidecar asks of callers. `None`: nothing, so that any caller that the listener let in may call
    /// everything. Never rules that come to the same without a rule ([`Authorization::asks_nothing`]).
    pub authorization: Option<Authorization>,
}

impl Service {
    /// `NAME.NAMESPACE`, as metrics and errors name it.
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.name, self.namespace)
    }
}

/// Where a service is, or some of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// What is dialled.
    pub target: Target,
    /// `None`: mesh TLS when the sidecar has an identity, else plain.
    pub tls: Option<EndpointTls>,
    /// Its share of calls relative to its siblings; 1 unless given; 0 takes it out.
    pub weight: u32,
    /// What route backends select by.
    pub labels: BTreeMap<String, String>,
}

impl Endpoint {
    /// Whether a backend with these labels has it.
    pub fn carries(&self, labels: &BTreeMap<String, String>) -> bool {
        labels.iter().all(|(key, value)| self.labels.get(key) == Some(value))
    }
}

/// What is dialled.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// An address; its port is not 0.
    Address(SocketAddr),
    /// All addresses that a name has, each with this port.
    Name {
        /// In lower case.
        host: String,
        /// Not 0.
        port: u16,
    },
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

/// How an endpoint is spoken to; there is never a silent fallback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointTls {
    /// TLS 1.3 with our identity; the peer must be one of the service's identities.
    Mesh,
    /// Plain h2c.
    None,
}

/// What is known of one method.
#[derive(Clone, Debug, PartialEq)]
pub struct Method {
    /// The `grpc_type` label of its metrics.
    pub kind: Option<CallKind>,
    /// It may be processed more than once without harm. Default: yes, which lets the retry policy decide.
    pub idempotent: bool,
    /// Replaces the route's and the service's block.
    pub deadline: Option<Deadline>,
    /// Replaces the route's and the service's block.
    pub stream: Option<Stream>,
    /// Replaces the route's and the service's block.
    pub headers: Option<HeaderRules>,
    /// Replaces the route's and the service's block.
    pub repeats: Option<Repeats>,
    /// Replaces the route's and the service's block.
    pub injection: Option<Injection>,
}

/// The four kinds of gRPC call. No policy depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallKind {
    /// One message each way.
    Unary,
    /// Many messages from the client, one back.
    ClientStream,
    /// One message from the client, many back.
    ServerStream,
    /// Many messages both ways.
    BidiStream,
}

impl CallKind {
    /// The value of the `grpc_type` label, which is also the word in the YAML.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unary => "unary",
            Self::ClientStream => "client_stream",
            Self::ServerStream => "server_stream",
            Self::BidiStream => "bidi_stream",
        }
    }
}

/// `balancing`: how an endpoint is chosen, for each call anew.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Balancing {
    /// The rule of choice.
    pub policy: BalancingPolicy,
    /// New endpoints begin with a part of their weight.
    pub slow_start: Option<SlowStart>,
    /// Where a smaller share of the endpoints is fit for calls (healthy, not ejected), in parts per million, the unfit are
    /// used as well.
    pub panic_ppm: u32,
}

impl Default for Balancing {
    fn default() -> Self {
        Self { policy: BalancingPolicy::default(), slow_start: None, panic_ppm: 500_000 }
    }
}

/// The rule by which an endpoint is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum BalancingPolicy {
    /// In turn, by weight.
    RoundRobin,
    /// By chance, by weight.
    Random,
    /// The better of two drawn by weight, by calls in flight.
    #[default]
    LeastRequest,
    /// The better of two drawn by weight, by peak-sensitive latency times calls in flight.
    PeakEwma,
}

/// How one worker keeps its connections to one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// TCP, TLS and the peer's SETTINGS together.
    pub connect_timeout: Duration,
    /// Connections that one worker may have open to one endpoint.
    pub connections: usize,
    /// A connection without a call is closed after this long.
    pub idle_timeout: Duration,
    /// A connection takes no new call after this long, give or take 10 %.
    pub max_age: Duration,
    /// A connection takes no new call after this many.
    pub max_calls: u32,
    /// How long sent bytes may stay unacknowledged before the connection is given up: TCP_USER_TIMEOUT (gRFC A18).
    pub user_timeout: Duration,
    /// PINGs while calls are open; between sidecars only, unless set for the service by hand.
    pub keepalive: Keepalive,
}

impl Default for Upstream {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(2),
            connections: 16,
            idle_timeout: Duration::from_secs(600),
            max_age: Duration::from_secs(1_800),
            max_calls: 1_000_000,
            user_timeout: Duration::from_secs(20),
            keepalive: Keepalive { interval: Duration::from_secs(10), timeout: Duration::from_secs(5) },
        }
    }
}

/// HTTP/2 PINGs on an upstream connection. Sent only over mesh TLS: a plain gRPC server may answer
/// frequent PINGs with GOAWAY `too_many_pings`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Between two PINGs while a call is open.
    pub interval: Duration,
    /// How long the answer may take before the connection is given up.
    pub timeout: Duration,
}

/// The policy blocks of a route, each already the winner of route, service and `defaults`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    /// How long a call may take.
    pub deadline: Deadline,
    /// How long a stream may be silent.
    pub stream: Stream,
    /// Header changes.
    pub headers: HeaderRules,
    /// When a call may go out more than once.
    pub repeats: Repeats,
    /// Faults on purpose.
    pub injection: Injection,
}

/// `deadline`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deadline {
    /// For calls that bring no `grpc-timeout`; none: no deadline.
    pub default: Option<Duration>,
    /// The most that a call may ask for. A call without any deadline is not touched by it.
    pub max: Option<Duration>,
    /// A call that has less time left than half of the route's calls take ends at once.
    pub shed_below_median: bool,
    /// A call without a deadline takes that of the inbound call of the same trace.
    pub inherit: bool,
}

/// `stream: {idle}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stream {
    /// The call ends with CANCELLED-by-mesh when no DATA moved in either direction for this long;
    /// none: a stream may be silent for ever.
    pub idle: Option<Duration>,
}

/// `headers: {request, response}`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderRules {
    /// Changes to what goes to the endpoint.
    pub request: HeaderChanges,
    /// Changes to the response headers (or to trailers-only answers) on their way back.
    pub response: HeaderChanges,
}

/// Applied in the order remove, set, add. Names are lower case; `:pseudo`, `grpc-*`, `te`, `host`,
/// `content-type` and connection headers cannot be changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderChanges {
    /// Replaces every value of the name.
    pub set: Vec<(String, String)>,
    /// Adds a value beside those that are there.
    pub add: Vec<(String, String)>,
    /// Removes every value of the name.
    pub remove: Vec<String>,
}

impl HeaderChanges {
    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }
}

/// One route.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// All that is given must hold; an empty match takes every call.
    pub matches: Match,
    /// Where the call goes, by weight. Never empty: a route without `backends` has its own service.
    pub backends: Vec<Backend>,
    /// What holds for its calls, method blocks aside.
    pub policy: Policy,
}

/// What a call must look like.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Match {
    /// One of the service's hosts, lower case.
    pub host: Option<String>,
    /// A gRPC service, `package.Service`.
    pub service: Option<String>,
    /// The method.
    pub method: Option<MethodMatch>,
    /// Metadata, all of which must match.
    pub headers: Vec<HeaderMatch>,
}

/// `match.method`: over `package.Service/Method`, the path without its leading slash.
#[derive(Clone, Debug)]
pub enum MethodMatch {
    /// The whole of it.
    Exact(String),
    /// Its beginning.
    Prefix(String),
    /// All of it (anchored at both ends).
    Regex(Regex),
}

/// Regular expressions are the same when they are written the same.
impl PartialEq for MethodMatch {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(a), Self::Exact(b)) | (Self::Prefix(a), Self::Prefix(b)) => a == b,
            (Self::Regex(a), Self::Regex(b)) => a.as_str() == b.as_str(),
            _ => false,
        }
    }
}

/// One entry of `match.headers`. A header with several values matches when one of them does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderMatch {
    /// Lower case.
    pub name: String,
    /// What the value must be.
    pub value: HeaderValueMatch,
    /// Turns the outcome around.
    pub invert: bool,
}

/// What a header's value must be.
#[derive(Clone, Debug)]
pub enum HeaderValueMatch {
    /// The whole value.
    Exact(String),
    /// Its beginning.
    Prefix(String),
    /// All of it (anchored at both ends).
    Regex(Regex),
    /// Present (`true`) or absent (`false`), whatever the value.
    Present(bool),
}

/// Regular expressions are the same when they are written the same.
impl PartialEq for HeaderValueMatch {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(a), Self::Exact(b)) | (Self::Prefix(a), Self::Prefix(b)) => a == b,
            (Self::Regex(a), Self::Regex(b)) => a.as_str() == b.as_str(),
            (Self::Present(a), Self::Present(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for HeaderValueMatch {}

/// A weighted target of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Index into [`Mesh::services`].
    pub service: usize,
    /// Only endpoints that carry all of these labels; empty: all.
    pub labels: BTreeMap<String, String>,
    /// Relative to its siblings; at least one backend of a route has a weight above 0.
    pub weight: u32,
}

/// What happens to a call that matches no route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unmatched {
    /// It goes to the service's own endpoints.
    #[default]
    Forward,
    /// It ends UNIMPLEMENTED.
    Refuse,
}

/// `inbound.authorization` and what holds where no rule decides.
///
/// A call that a `deny` covers is refused, whatever else covers it. Else one that an `allow` covers is let in. Else `default`
/// decides. An `audit` decides nothing: it only tells of the calls that it covers, those that are refused too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorization {
    /// In the order of the file; their places are what logs and metrics call them by, if they have no name.
    pub rules: Vec<Rule>,
    /// For calls that neither a `deny` nor an `allow` covers.
    pub default: Answer,
}

impl Authorization {
    /// Whether it is the same as none.
    pub fn asks_nothing(&self) -> bool {
        self.rules.is_empty() && self.default == Answer::Allow
    }
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is let in.
    Allow,
    /// It ends with PERMISSION_DENIED.
    Deny,
}

/// `{allow: {from, methods, headers}}`, or the same with `deny` or `audit`: for calls that all three cover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What logs and metrics call it by.
    pub name: Option<String>,
    /// What it does with the calls that it covers.
    pub action: Action,
    /// Who calls. Empty: anyone that the listener let in, a plaintext caller too.
    pub from: Vec<Caller>,
    /// What is called. Empty: every method.
    pub methods: Vec<CoveredMethods>,
    /// What its headers must be, all of them; none that a sidecar takes off or writes anew.
    pub headers: Vec<HeaderMatch>,
}

/// What a rule does with the calls that it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// Lets them in, unless another rule denies them.
    Allow,
    /// Refuses them.
    Deny,
    /// Tells of them: in the metrics and the access log.
    Audit,
}

impl Action {
    /// The key in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Audit => "audit",
        }
    }
}

/// An entry of `from`. Namespaces and services of the file stand here as what their ids are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Caller {
    /// `"*"`: any caller with a verified identity.
    AnyAuthenticated,
    /// Exactly this id.
    Id(SpiffeId),
    /// Ids that begin like this: `spiffe://td/ns/shop/*`, held without the `*` but with the slash.
    Prefix(String),
}

/// An entry of `methods`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CoveredMethods {
    /// `package.Service/Method`.
    Method(String),
    /// `package.Service/*`, held without the `*` but with the slash.
    Service(String),
}

impl fmt::Display for BalancingPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RoundRobin => "round_robin",
            Self::Random => "random",
            Self::LeastRequest => "least_request",
            Self::PeakEwma => "peak_ewma",
        })
    }
}
