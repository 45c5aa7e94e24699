//! `control.yaml`: what one control plane is told.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::fault::{Sink, Wrong};
use crate::identity::{Identity, files};
use crate::sidecar::{clash, listen};
use crate::walk::{Fields, Item, path, spot};

const ADS: &str = "0.0.0.0:15012";
const ADMIN: &str = "0.0.0.0:15014";

/// `control.yaml`: the bootstrap of one control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// The folder of mesh files, or one mesh file.
    pub mesh: PathBuf,
    /// Where xDS is served.
    pub ads: SocketAddr,
    /// Without TLS; only ever on a loopback address.
    pub plaintext: bool,
    /// Where operators and Prometheus look: HTTP/1.1, not encrypted.
    pub admin: SocketAddr,
    /// Certificate, key and bundle. Where there is none, and no `plaintext`, `ca` signs our own.
    pub identity: Option<Identity>,
    /// The authority that signs certificates of the mesh; `None`: others do.
    pub ca: Option<Ca>,
    /// The folder of the last good version of each mesh file, for a start at which some file is bad; `None`: none is kept.
    pub cache: Option<PathBuf>,
    /// How changes that come together become one.
    pub debounce: Debounce,
    /// With more services than that, clients get only those that they ask for by name. Envoy gets all.
    pub on_demand_above: usize,
    /// How long an endpoint that a sidecar announced stays when that sidecar's stream is gone.
    pub registration_grace: Duration,
    /// Every limit of the control plane.
    pub limits: Limits,
}

/// `ca`: the authority that signs certificates of the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ca {
    /// Roots (`*.crt`), their keys (`*.key`), and `tokens.key`.
    pub folder: PathBuf,
    /// How long a certificate is good. At least a second.
    pub leaf_life: Duration,
    /// How long a new root is trusted before it signs.
    pub overlap: Duration,
    /// What clients dial us by: DNS names and IP addresses of our own certificate.
    pub names: Vec<String>,
    /// Where a line is written of each certificate; `None`: on stdout.
    pub audit: Option<PathBuf>,
}

/// `debounce`: a change is sent once none has followed it for `quiet`, but no later than after `longest`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Debounce {
    /// Not longer than `longest`.
    pub quiet: Duration,
    /// From the first change that has not been sent.
    pub longest: Duration,
}

impl Default for Debounce {
    fn default() -> Self {
        Self { quiet: Duration::from_millis(20), longest: Duration::from_millis(200) }
    }
}

/// Every limit of one control plane, each with a counter `outrigger_control_refused_total{limit="NAME"}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections to the xDS listener.
    pub connections: usize,
    /// Connections that have not finished TLS.
    pub handshakes: usize,
    /// How long TLS may take.
    pub handshake_timeout: Duration,
    /// xDS streams, all connections together.
    pub streams: usize,
    /// Names that one stream may subscribe to, all types together.
    pub subscriptions: usize,
    /// Bytes of one xDS request.
    pub request: usize,
    /// Requests that are read of one stream per second; those past it wait.
    pub requests_per_second: u32,
    /// Endpoints of one service that sidecars announce.
    pub registrations: usize,
    /// Certificates that all together may ask for per second, in the long run.
    pub csrs_per_second: u32,
    /// Certificates that one workload may ask for per second, in the long run.
    pub csrs_per_identity: u32,
    /// Connections on which neither a certificate nor a token was shown.
    pub unproven: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            handshakes: 256,
            handshake_timeout: Duration::from_secs(10),
            streams: 20_000,
            subscriptions: 20_000,
            request: 4 << 20,
            requests_per_second: 100,
            registrations: 2_000,
            csrs_per_second: 200,
            csrs_per_identity: 10,
            unproven: 256,
        }
    }
}

impl Control {
    /// Makes the file names in it relative to `base`, the folder of the file it was read from.
    pub fn resolve_paths(&mut self, base: &Path) {
        self.mesh = base.join(&self.mesh);
        self.cache = self.cache.take().map(|cache| base.join(cache));
        if let Some(ca) = &mut self.ca {
            ca.folder = base.join(&ca.folder);
            ca.audit = ca.audit.take().map(|audit| base.join(audit));
        }
        if let Some(identity) = &mut self.identity {
            identity.cert = base.join(&identity.cert);
            identity.key = base.join(&identity.key);
            identity.bundle = base.join(&identity.bundle);
        }
    }
}

/// Builds it; what it returns is whole only if the sink stayed empty.
pub(crate) fn build(fields: &Fields, sink: &mut Sink) -> Control {
    let ads = fields.fields("ads");
    let control = Control {
        mesh: path(fields, "mesh").unwrap_or_default(),
        ads: listen(ads, ADS),
        plaintext: ads.and_then(|ads| ads.flag("plaintext")).unwrap_or(false),
        admin: listen(fields.fields("admin"), ADMIN),
        identity: fields.fields("identity").map(files),
        ca: fields.fields("ca").map(ca),
        cache: path(fields, "cache"),
        debounce: debounce(fields.fields("debounce"), sink),
        on_demand_above: fields.size("on_demand_above").unwrap_or(200),
        registration_grace: fields
            .fields("registration")
            .and_then(|registration| registration.duration("grace"))
            .unwrap_or(Duration::from_secs(30)),
        limits: limits(fields.fields("limits")),
    };
    check_ways_in(fields, &control, sink);
    control
}

/// What certificates live unless told otherwise.
const LEAF_LIFE: Duration = Duration::from_secs(24 * 3_600);

fn ca(fields: &Fields) -> Ca {
    let leaf_life = fields.duration("leaf_life").unwrap_or(LEAF_LIFE);
    let names = fields.list("names").iter().flatten().filter_map(Item::text);
    Ca {
        folder: path(fields, "folder").unwrap_or_default(),
        leaf_life,
        overlap: fields.duration("overlap").unwrap_or(leaf_life),
        names: names.map(str::to_owned).collect(),
        audit: path(fields, "audit"),
    }
}

fn debounce(fields: Option<&Fields>, sink: &mut Sink) -> Debounce {
    let mut debounce = Debounce::default();
    let Some(fields) = fields else { return debounce };
    debounce.quiet = fields.duration("quiet").unwrap_or(debounce.quiet);
    debounce.longest = fields.duration("longest").unwrap_or(debounce.longest);
    if debounce.quiet > debounce.longest {
        let (place, path) = spot(fields, if fields.given("quiet") { "quiet" } else { "longest" });
        let wrong = Wrong::new(format!(
            "`quiet` ({:?}) is longer than `longest` ({:?})",
            debounce.quiet, debounce.longest
        ));
        sink.add(place, &path, wrong.hint("`longest` ends the waiting for quiet; make it the longer one"));
    }
    debounce
}

fn limits(fields: Option<&Fields>) -> Limits {
    let limits = Limits::default();
    let Some(fields) = fields else { return limits };
    Limits {
        connections: fields.size("connections").unwrap_or(limits.connections),
        handshakes: fields.size("handshakes").unwrap_or(limits.handshakes),
        handshake_timeout: fields.duration("handshake_timeout").unwrap_or(limits.handshake_timeout),
        streams: fields.size("streams").unwrap_or(limits.streams),
        subscriptions: fields.size("subscriptions").unwrap_or(limits.subscriptions),
        request: fields.size("request").unwrap_or(limits.request),
        requests_per_second: fields.small("requests_per_second").unwrap_or(limits.requests_per_second),
        registrations: fields.size("registrations").unwrap_or(limits.registrations),
        csrs_per_second: fields.small("csrs_per_second").unwrap_or(limits.csrs_per_second),
        csrs_per_identity: fields.small("csrs_per_identity").unwrap_or(limits.csrs_per_identity),
        unproven: fields.size("unproven").unwrap_or(limits.unproven),
    }
}

/// Whoever reaches the listener learns the whole mesh: without TLS that is this host alone.
fn check_ways_in(fields: &Fields, control: &Control, sink: &mut Sink) {
    let ads = fields.fields("ads");
    if control.plaintext
        && !control.ads.ip().is_loopback()
        && let Some(ads) = ads
    {
        let (place, path) = spot(ads, "plaintext");
        let wrong = Wrong::new(format!(
            "`{}` is not a loopback address, and `plaintext` serves it to anyone",
            control.ads
        ));
        let hint = format!(
            "write `listen: 127.0.0.1:{}`, or leave `plaintext` out and give an `identity`",
            control.ads.port()
        );
        sink.add(place, &path, wrong.hint(hint));
    }
    let faulty = ads.is_some_and(|ads| ads.given("plaintext") && ads.item("plaintext").is_none());
    let readable = fields.given("ads") == ads.is_some();
    if !control.plaintext && !faulty && readable && !fields.given("identity") && !fields.given("ca") {
        let wrong = Wrong::new("there is neither `identity` nor `ca`, and xDS is served by mTLS");
        let hint = "add `ca: {folder: ca, names: [outrigger-control]}`, or `identity: {cert, key, bundle}`; or, on a loopback \
                    address, `ads: {plaintext: true}`";
        sink.add(fields.place, "identity", wrong.hint(hint));
    }
    if clash(control.ads, control.admin) {
        let block = fields.fields("admin").or(ads);
        let (place, path) = block.map_or((fields.place, "admin".to_owned()), |block| spot(block, "listen"));
        let wrong = Wrong::new(format!("`{}` is the address of the other listener too", control.admin));
        sink.add(place, &path, wrong.hint("give `ads` and `admin` an address each"));
    }
}
