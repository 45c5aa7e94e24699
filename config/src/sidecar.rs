//! Builds [`Sidecar`] from the keys of `sidecar.yaml`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use crate::collector::Collector;
use crate::fault::{Sink, Wrong};
use crate::identity::IdentitySource;
use crate::mesh_source::{CONTROL_MAX, ControlAddress, ControlPlanes, MeshSource, Protocol};
use crate::model::{
    AccessLog, Admin, Dns, Drain, Inbound, Limits, Mtls, Outbound, Propagation, SPANS, Sampling, Sidecar,
    Tracing, Unknown, Workers,
};
use crate::walk::{Fields, Item, path, spot};

const NAMESPACE: &str = "default";
const TRUST_DOMAIN: &str = "cluster.local";
const OUTBOUND: &str = "127.0.0.1:15001";
const ADMIN: &str = "127.0.0.1:15000";
const PROBES: &str = "0.0.0.0:15020";

/// What belongs to `mesh.control`.
const OF_CONTROL: [&str; 6] = ["bundle", "cache", "cache_max_age", "empty_grace", "protocol", "register"];

/// A hundred percent in parts per million.
const ALL_PPM: u32 = 1_000_000;

/// The connection window is at least this many stream windows: with fewer, slow streams stall all others.
const STREAM_WINDOWS_MIN: u32 = 4;

/// Inbound entries of one sidecar.
const INBOUND_MAX: usize = 256;

/// Builds the sidecar; what it returns is whole only if the sink stayed empty.
pub(crate) fn build(fields: &Fields, sink: &mut Sink) -> Sidecar {
    let service = fields.text("service").unwrap_or_default().to_owned();
    let text = |name: &str, default: &str| fields.text(name).unwrap_or(default).to_owned();
    let sidecar = Sidecar {
        namespace: text("namespace", NAMESPACE),
        account: text("account", &service),
        trust_domain: text("trust_domain", TRUST_DOMAIN),
        zone: fields.text("zone").map(str::to_owned),
        labels: labels(fields),
        workers: workers(fields),
        identity: identity_source(fields, sink),
        inbound: inbound(fields, &service, sink),
        outbound: outbound(fields, sink),
        admin: Admin {
            listen: listen(fields.fields("admin"), ADMIN),
            socket: fields.fields("admin").and_then(|admin| path(admin, "socket")),
        },
        probes: listen(fields.fields("probes"), PROBES),
        opaque_ports: ports(fields.list("opaque_ports")),
        dns: dns(fields.fields("dns")),
        tracing: fields.fields("tracing").map(tracing).unwrap_or_default(),
        access_log: fields.fields("log").and_then(|log| log.fields("access")).map(access_log),
        mesh: mesh(fields, sink),
        drain: drain(fields.fields("drain")),
        limits: limits(fields.fields("limits"), sink),
        service,
    };
    check_ways_in(fields, sink);
    check_listeners(fields, &sidecar, sink);
    sidecar
}

fn workers(fields: &Fields) -> Workers {
    let count = fields.integer("workers").and_then(|n| NonZeroUsize::new(usize::try_from(n).ok()?));
    count.map_or(Workers::Auto, Workers::Count)
}

fn identity_source(fields: &Fields, sink: &mut Sink) -> Option<IdentitySource> {
    let planes = fields.fields("mesh").is_some_and(|mesh| mesh.given("control"));
    Some(crate::identity::build(fields.fields("identity")?, planes, sink))
}

fn labels(fields: &Fields) -> BTreeMap<String, String> {
    let pairs = fields.map("labels").iter();
    pairs.filter_map(|(key, item)| Some((key.clone(), item.text()?.to_owned()))).collect()
}

/// Where the mesh comes from; what belongs to the one way is a fault beside the other.
fn mesh(fields: &Fields, sink: &mut Sink) -> MeshSource {
    let Some(mesh) = fields.fields("mesh") else { return MeshSource::File(PathBuf::new()) };
    let file = path(mesh, "file");
    if !mesh.given("control") {
        if !mesh.given("file") {
            let wrong = Wrong::new("there is neither `file` nor `control`");
            let hint =
                "write `mesh: {file: mesh.yaml}`, or `mesh: {control: [https://outrigger-control:15012]}`";
            sink.add(mesh.place, &mesh.path, wrong.hint(hint));
        }
        for name in OF_CONTROL.into_iter().filter(|name| mesh.given(name)) {
            let (place, path) = spot(mesh, name);
            let wrong = Wrong::new(format!("`{name}` means nothing without `control`"));
            sink.add(place, &path, wrong.hint("take it out: a mesh file is followed as it is"));
        }
        return MeshSource::File(file.unwrap_or_default());
    }
    if mesh.given("file") {
        let (place, path) = spot(mesh, "file");
        let wrong = Wrong::new("there are both `file` and `control`");
        sink.add(place, &path, wrong.hint("take one of them out: the mesh comes from one place"));
    }
    MeshSource::Control(control(fields, mesh, sink))
}

fn control(fields: &Fields, mesh: &Fields, sink: &mut Sink) -> ControlPlanes {
    let defaults = ControlPlanes::default();
    let list = mesh.list("control");
    let (place, path_of_list) = spot(mesh, "control");
    if mesh.item("control").is_some() && !(1..=CONTROL_MAX).contains(&list.len()) {
        let wrong = Wrong::new(format!("there are {} control planes", list.len()));
        sink.add(place, &path_of_list, wrong.hint(format!("name 1 to {CONTROL_MAX}")));
    }
    let mut addresses = Vec::new();
    for item in list.iter().flatten() {
        let Some(address) = item.text().and_then(ControlAddress::parse) else { continue };
        if !address.tls && !address.is_loopback() {
            let wrong = Wrong::new(format!("`{address}` is not on loopback, and nothing would be encrypted"));
            let hint = format!("write `https://{}:{}`", address.host, address.port);
            sink.add(item.place, &item.path, wrong.hint(hint));
        }
        addresses.push(address);
    }
    let by_files = |identity: &Fields| identity.given("bundle");
    let vouched = mesh.given("bundle") || fields.fields("identity").is_some_and(by_files);
    if addresses.iter().any(|address| address.tls) && !vouched {
        let wrong = Wrong::new("nothing vouches for a control plane that is reached by `https`");
        let hint = "add `bundle: ca.crt` here, or `identity: {cert, key, bundle}`";
        sink.add(place, &path_of_list, wrong.hint(hint));
    }
    ControlPlanes {
        addresses,
        bundle: path(mesh, "bundle"),
        cache: path(mesh, "cache"),
        cache_max_age: mesh.duration("cache_max_age").unwrap_or(defaults.cache_max_age),
        empty_grace: mesh.duration("empty_grace").unwrap_or(defaults.empty_grace),
        protocol: if mesh.text("protocol") == Some("sotw") { Protocol::Sotw } else { defaults.protocol },
        register: mesh.fields("register").and_then(|register| register.address("address")),
    }
}

fn inbound(fields: &Fields, own_service: &str, sink: &mut Sink) -> Vec<Inbound> {
    let list = fields.list("inbound");
    if list.len() > INBOUND_MAX
        && let Some(item) = fields.item("inbound")
    {
        let wrong = Wrong::new(format!("there are {} inbound entries", list.len()));
        sink.add(item.place, &item.path, wrong.hint(format!("at most {INBOUND_MAX} are possible")));
    }
    let mut inbound = Vec::new();
    for entry in list.iter().flatten().filter_map(|item| item.fields()) {
        let mtls = match entry.text("mtls") {
            Some("strict") => Mtls::Strict,
            Some("off") => Mtls::Off,
            _ => Mtls::Permissive,
        };
        let faulty = entry.given("mtls") && entry.item("mtls").is_none();
        if mtls != Mtls::Off && !faulty && !fields.given("identity") {
            let word = if mtls == Mtls::Strict { "strict" } else { "permissive" };
            let wrong = Wrong::new(format!("`mtls: {word}` needs an identity"));
            let (place, path) = spot(entry, "mtls");
            sink.add(place, &path, wrong.hint("add `identity: {cert, key, bundle}`, or write `mtls: off`"));
        }
        let (Some(listen), Some(app)) = (entry.address("listen"), entry.address("app")) else { continue };
        let service = entry.text("service").unwrap_or(own_service).to_owned();
        inbound.push(Inbound { listen, app, mtls, service });
    }
    inbound
}

fn outbound(fields: &Fields, sink: &mut Sink) -> Option<Outbound> {
    let outbound = fields.fields("outbound")?;
    let address = listen(Some(outbound), OUTBOUND);
    let listen_ipv6 = outbound.address("listen_ipv6");
    for (name, address) in [("listen", Some(address)), ("listen_ipv6", listen_ipv6)] {
        let Some(address) = address.filter(|address| !address.ip().is_loopback()) else { continue };
        let (place, path) = spot(outbound, name);
        let wrong = Wrong::new(format!("`{address}` is not a loopback address"));
        let own = if name == "listen" { "127.0.0.1" } else { "[::1]" };
        let hint = format!("whoever reaches it speaks with our identity; write `{own}:{}`", address.port());
        sink.add(place, &path, wrong.hint(hint));
    }
    if let Some(address) = listen_ipv6.filter(|address| address.is_ipv4()) {
        let (place, path) = spot(outbound, "listen_ipv6");
        let wrong = Wrong::new(format!("`{address}` is not an IPv6 address"));
        sink.add(place, &path, wrong.hint(format!("write `[::1]:{}`", address.port())));
    }
    let unknown = match outbound.text("unknown") {
        Some("refuse") => Unknown::Refuse,
        _ => Unknown::Passthrough,
    };
    Some(Outbound { listen: address, listen_ipv6, unknown })
}

fn ports(list: &[Option<Item>]) -> Vec<u16> {
    list.iter().flatten().filter_map(|item| u16::try_from(item.integer()?).ok()).collect()
}

fn dns(fields: Option<&Fields>) -> Dns {
    let mut dns = Dns::default();
    let Some(fields) = fields else { return dns };
    dns.servers = fields.list("servers").iter().flatten().filter_map(Item::address).collect();
    dns.min_ttl = fields.duration("min_ttl").unwrap_or(dns.min_ttl);
    dns.timeout = fields.duration("timeout").unwrap_or(dns.timeout);
    dns
}

fn tracing(fields: &Fields) -> Tracing {
    let propagate = fields.item("propagate").map(|_| {
        let words = fields.list("propagate").iter().flatten().filter_map(Item::text);
        words
            .map(|word| match word {
                "b3" => Propagation::B3,
                "b3multi" => Propagation::B3Multi,
                _ => Propagation::W3c,
            })
            .collect()
    });
    let sampling = fields.fields("sampling");
    let number =
        |name| sampling.and_then(|sampling| sampling.integer(name)).and_then(|n| u32::try_from(n).ok());
    Tracing {
        endpoint: fields.text("endpoint").and_then(|url| Collector::parse(url, None)),
        propagate,
        sampling: Sampling {
            parent: sampling.and_then(|sampling| sampling.flag("parent")),
            ratio_ppm: number("ratio"),
            rate: number("rate"),
        },
    }
}

fn access_log(fields: &Fields) -> AccessLog {
    let sample_ppm = fields.integer("sample").and_then(|n| u32::try_from(n).ok()).unwrap_or(ALL_PPM);
    AccessLog { sample_ppm, streams: fields.duration("streams") }
}

fn drain(fields: Option<&Fields>) -> Drain {
    let time = |name: &str, default: u64| {
        fields.and_then(|fields| fields.duration(name)).unwrap_or(Duration::from_secs(default))
    };
    Drain { lag: time("lag", 5), deadline: time("deadline", 30) }
}

fn limits(fields: Option<&Fields>, sink: &mut Sink) -> Limits {
    let mut limits = Limits::default();
    let Some(fields) = fields else { return limits };
    let count = |name: &str, default: usize| {
        fields.integer(name).map_or(default, |n| usize::try_from(n).unwrap_or(usize::MAX))
    };
    let small = |name: &str, default: u32| {
        fields.integer(name).map_or(default, |n| u32::try_from(n).unwrap_or(u32::MAX))
    };
    limits = Limits {
        connections: count("connections", limits.connections),
        handshakes: count("handshakes", limits.handshakes),
        detection_timeout: fields.duration("detection_timeout").unwrap_or(limits.detection_timeout),
        handshake_timeout: fields.duration("handshake_timeout").unwrap_or(limits.handshake_timeout),
        streams_per_connection: small("streams_per_connection", limits.streams_per_connection),
        calls: count("calls", limits.calls),
        header_list: small("header_list", limits.header_list),
        stream_window: small("stream_window", limits.stream_window),
        connection_window: small("connection_window", limits.connection_window),
        stall_timeout: fields.duration("stall_timeout").unwrap_or(limits.stall_timeout),
        send_buffer: count("send_buffer", limits.send_buffer),
        resets_per_second: small("resets_per_second", limits.resets_per_second),
        spans: fields.given("spans").then(|| count("spans", SPANS)),
        log_lines: count("log_lines", limits.log_lines),
        replay_buffer: count("replay_buffer", limits.replay_buffer),
        series: count("series", limits.series),
    };
    let least = limits.stream_window.saturating_mul(STREAM_WINDOWS_MIN);
    if limits.connection_window < least {
        let name = if fields.given("connection_window") { "connection_window" } else { "stream_window" };
        let (place, path) = spot(fields, name);
        let wrong = Wrong::new(format!(
            "`connection_window` is {} bytes, less than {STREAM_WINDOWS_MIN} times `stream_window`",
            limits.connection_window
        ));
        let hint = format!("with fewer, slow streams stall all others; write at least {least}");
        sink.add(place, &path, wrong.hint(hint));
    }
    limits
}

fn check_ways_in(fields: &Fields, sink: &mut Sink) {
    let some_inbound =
        fields.given("inbound") && fields.item("inbound").is_none_or(|_| !fields.list("inbound").is_empty());
    if !some_inbound && !fields.given("outbound") {
        let wrong = Wrong::new("there is neither `inbound` nor `outbound`, so no call comes in");
        sink.add(fields.place, "", wrong.hint("add `inbound` for a server, `outbound` for a client"));
    }
}

/// No two listeners on one address, but for `inbound` entries that share theirs on purpose; and no app where a
/// listener of ours is: its calls would go round.
fn check_listeners(fields: &Fields, sidecar: &Sidecar, sink: &mut Sink) {
    let mut taken: Vec<(SocketAddr, String)> = Vec::new();
    let mut listeners: Vec<(&Fields, &str, SocketAddr)> = Vec::new();
    let inbound = || fields.list("inbound").iter().flatten().filter_map(|item| item.fields());
    for entry in inbound() {
        listeners.extend(entry.address("listen").map(|address| (entry, "listen", address)));
    }
    // An entry that takes the address of a default is where the fault is.
    let defaults = [
        ("outbound", sidecar.outbound.map(|outbound| outbound.listen)),
        ("admin", Some(sidecar.admin.listen)),
        ("probes", Some(sidecar.probes)),
    ];
    for (name, address) in defaults {
        let named = fields.fields(name).is_some_and(|block| block.given("listen"));
        taken.extend(address.filter(|_| !named).map(|address| (address, format!("{name}.listen"))));
    }
    for name in ["outbound", "admin", "probes"] {
        let block = fields.fields(name);
        listeners.extend(block.and_then(|block| Some((block, "listen", block.address("listen")?))));
        let second = block.filter(|_| name == "outbound");
        listeners
            .extend(second.and_then(|block| Some((block, "listen_ipv6", block.address("listen_ipv6")?))));
    }
    let mut shared: Vec<(SocketAddr, u16, String)> = Vec::new();
    for (block, name, address) in listeners {
        let (place, path) = spot(block, name);
        if path.starts_with("inbound[") && address.port() != 0 {
            let shares = shared.iter().any(|(other, ..)| *other == address);
            let app = block.address("app").map(|app| app.port());
            let twin = shared.iter().find(|(other, port, _)| *other == address && Some(*port) == app);
            if let Some((_, port, other)) = twin {
                let wrong = Wrong::new(format!("`{other}` has this `listen` and the app's port {port} too"));
                let hint = "entries that share a `listen` are told apart by the port of `app`; give it another `listen`";
                sink.add(place, &path, wrong.hint(hint));
            }
            shared.extend(app.map(|port| (address, port, block.path.clone())));
            if shares {
                continue;
            }
        }
        if let Some((_, other)) = taken.iter().find(|(other, _)| clash(*other, address)) {
            let wrong = Wrong::new(format!("`{address}` is taken by `{other}`"));
            sink.add(place, &path, wrong.hint("give each listener an address of its own"));
        }
        taken.push((address, path));
    }
    for entry in inbound() {
        let Some(app) = entry.address("app") else { continue };
        if let Some((_, other)) = taken.iter().find(|(other, _)| clash(*other, app)) {
            let (place, path) = spot(entry, "app");
            let wrong = Wrong::new(format!("`{app}` is our own listener `{other}`, not the app"));
            sink.add(place, &path, wrong.hint("write the address that the app listens on"));
        }
    }
}

/// Whether two listeners cannot both be there.
pub(crate) fn clash(a: SocketAddr, b: SocketAddr) -> bool {
    let same_family = a.is_ipv4() == b.is_ipv4();
    a.port() == b.port()
        && a.port() != 0
        && (a.ip() == b.ip() || same_family && (a.ip().is_unspecified() || b.ip().is_unspecified()))
}

/// Where a block says to listen, or the default.
pub(crate) fn listen(fields: Option<&Fields>, default: &str) -> SocketAddr {
    let given = fields.and_then(|fields| fields.address("listen"));
    given.unwrap_or_else(|| default.parse().expect("the default is an address"))
}
