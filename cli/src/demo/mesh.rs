//! What the demo consists of: which services, how many of each, where, and the YAML that says so.

use std::collections::hash_map::RandomState;
use std::fmt::Write;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;

use control::ca::make::bundle_path;

/// The namespace of the store.
pub(crate) const NAMESPACE: &str = "shop";

/// The trust domain of the demo.
pub(crate) const TRUST_DOMAIN: &str = "cluster.local";

/// The folder of the authority, below that of all files. The control plane makes the root in it.
pub(crate) const AUTHORITY: &str = "ca";

/// Services, and how many replicas each has.
pub(crate) type Services = [(&'static str, usize); 5];

/// The services in the order of the table, with their replicas. Those called stand before their callers,
/// the storefront last.
pub(crate) const SERVICES: Services =
    [("users", 1), ("products", 2), ("payments", 1), ("orders", 2), ("storefront", 1)];

/// The only service that may call `shop.PaymentService/Charge`.
const MAY_CHARGE: &str = "orders";

/// What the store's methods are, so that metrics can tell streams from unary calls.
const METHODS: [(&str, &str, &str); 9] = [
    ("users", "shop.UserService/GetUser", "unary"),
    ("users", "shop.UserService/Register", "unary"),
    ("products", "shop.ProductService/ListProducts", "server_stream"),
    ("products", "shop.ProductService/GetProduct", "unary"),
    ("payments", "shop.PaymentService/Charge", "unary"),
    ("orders", "shop.OrderService/CreateOrder", "unary"),
    ("orders", "shop.OrderService/ImportOrders", "client_stream"),
    ("orders", "shop.OrderService/WatchOrder", "bidi_stream"),
    ("storefront", "shop.StorefrontService/Tally", "server_stream"),
];

/// How long a connection may take, where a service does not say. A machine that stands still for the two
/// seconds that it may take by default is no fault of the mesh.
const CONNECT_TIMEOUT: &str = "20s";

/// Loopback hosts that are tried before giving up.
const HOSTS_TRIED_MAX: usize = 16;

/// One replica of a service: an app and the sidecar beside it.
#[derive(Debug)]
pub(crate) struct Replica {
    /// The service's short name.
    pub(crate) service: &'static str,
    /// `products-2`, or `users` where there is only one.
    pub(crate) name: String,
    /// Where the app listens.
    pub(crate) app: Port,
    /// Where its sidecar takes calls from the others.
    pub(crate) inbound: Port,
    /// What the others dial: `inbound`, unless something stands before it.
    pub(crate) dialled: SocketAddr,
    /// The version of the app, where routes tell versions apart.
    pub(crate) version: Option<&'static str>,
}

/// An address that is ours until it is let go for the process that is to listen there.
#[derive(Debug)]
pub(crate) struct Port {
    /// The address.
    pub(crate) address: SocketAddr,
    held: Option<TcpListener>,
}

impl Port {
    /// Takes a free one of `host`.
    pub(crate) fn take(host: IpAddr) -> io::Result<Self> {
        let held = TcpListener::bind((host, 0))?;
        Ok(Self { address: held.local_addr()?, held: Some(held) })
    }

    /// Frees the address, right before its process starts.
    pub(crate) fn let_go(&mut self) {
        self.held = None;
    }

    /// What holds it, if it was not let go yet.
    pub(crate) fn listener(self) -> Option<TcpListener> {
        self.held
    }
}

/// Takes an address for every listener that others must know beforehand, on a loopback host that no other
/// run uses, so that no other process takes a port in the moment between letting go and listening.
pub(crate) fn lay_out(services: &Services) -> io::Result<(IpAddr, Vec<Replica>)> {
    let mut last = io::Error::other("no host was tried");
    for _ in 0..HOSTS_TRIED_MAX {
        let host = random_loopback();
        match replicas(host, services) {
            Ok(replicas) => return Ok((host, replicas)),
            Err(error) => last = io::Error::new(error.kind(), format!("cannot listen on {host}: {error}")),
        }
    }
    Err(last)
}

fn replicas(host: IpAddr, services: &Services) -> io::Result<Vec<Replica>> {
    let mut replicas = Vec::new();
    for &(service, count) in services {
        for number in 1..=count {
            let name = if count == 1 { service.to_owned() } else { format!("{service}-{number}") };
            let (app, inbound) = (Port::take(host)?, Port::take(host)?);
            let dialled = inbound.address;
            replicas.push(Replica { service, name, app, inbound, dialled, version: None });
        }
    }
    Ok(replicas)
}

/// Anything in 127/8 but 127.0.x.y, where everybody else is.
fn random_loopback() -> IpAddr {
    let [a, b, c, ..] = RandomState::new().build_hasher().finish().to_ne_bytes();
    IpAddr::V4(Ipv4Addr::new(127, a.max(1), b, c.clamp(1, 254)))
}

/// The SPIFFE id of a service of the demo.
pub(crate) fn spiffe_id(service: &str) -> String {
    format!("spiffe://{TRUST_DOMAIN}/ns/{NAMESPACE}/sa/{service}")
}

/// The file of a service's join token.
pub(crate) fn token_file(service: &str) -> String {
    format!("{service}.token")
}

/// A service's file in the mesh folder. `policies` are further lines of it.
pub(crate) fn service_yaml(service: &str, replicas: &[Replica], policies: &str) -> String {
    let mut yaml = format!("version: 1\ntrust_domain: {TRUST_DOMAIN}\n");
    let _ = writeln!(yaml, "defaults: {{upstream: {{connect_timeout: {CONNECT_TIMEOUT}}}}}\nservices:");
    let _ = writeln!(yaml, "  - name: {service}\n    namespace: {NAMESPACE}\n    endpoints:");
    for Replica { dialled, version, .. } in replicas.iter().filter(|replica| replica.service == service) {
        let labels = version.map(|version| format!(", labels: {{version: {version}}}")).unwrap_or_default();
        let _ = writeln!(yaml, "      - {{address: \"{dialled}\", tls: mesh{labels}}}");
    }
    let _ = writeln!(yaml, "    methods:");
    for (_, method, kind) in METHODS.iter().filter(|(of, ..)| *of == service) {
        let _ = writeln!(yaml, "      {method}: {{type: {kind}}}");
    }
    yaml += policies;
    if service == "payments" {
        let caller = spiffe_id(MAY_CHARGE);
        let _ = writeln!(yaml, "    inbound:\n      authorization:");
        let _ = writeln!(yaml, "        - allow:");
        let _ = writeln!(yaml, "            from: [\"{caller}\"]");
        let _ = writeln!(yaml, "            methods: [shop.PaymentService/Charge]");
        // Everybody may ask how it is, as checks do.
        let _ = writeln!(yaml, "        - allow:");
        let _ = writeln!(yaml, "            from: [\"*\"]");
        let _ = writeln!(yaml, "            methods: [grpc.health.v1.Health/Check]");
    }
    yaml
}

/// The `sidecar.yaml` of one replica, whose mesh comes from the control plane at `ads`; whatever only we need to know is
/// on a port that the system picks. It keeps what was in force on disk, so that it starts without a control plane too.
pub(crate) fn sidecar_yaml(host: IpAddr, replica: &Replica, ads: SocketAddr) -> String {
    let Replica { service, name, app, inbound, .. } = replica;
    let (listen, app) = (inbound.address, app.address);
    let (token, bundle) = (token_file(service), bundle_path(Path::new(AUTHORITY)));
    let bundle = bundle.display();
    format!(
        "service: {service}\n\
         namespace: {NAMESPACE}\n\
         trust_domain: {TRUST_DOMAIN}\n\
         workers: 1\n\
         identity: {{control: true, token: {token}, cache: identity-{name}}}\n\
         inbound:\n  - {{listen: \"{listen}\", app: \"{app}\", mtls: strict}}\n\
         outbound: {{listen: \"{host}:0\"}}\n\
         admin: {{listen: \"{host}:0\", socket: {name}.sock}}\n\
         probes: {{listen: \"{host}:0\"}}\n\
         mesh: {{control: [\"https://{ads}\"], bundle: {bundle}, cache: cache-{name}}}\n\
         drain: {{lag: 0s, deadline: 5s}}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_replica_has_addresses_of_its_own_on_a_host_of_this_run() {
        let (host, replicas) = lay_out(&SERVICES).expect("addresses");
        assert!(host.is_loopback());
        let mut taken: Vec<_> = replicas.iter().flat_map(|r| [r.app.address, r.inbound.address]).collect();
        taken.sort_unstable();
        taken.dedup();
        assert_eq!(taken.len(), 14);
        assert!(taken.iter().all(|address| address.ip() == host && address.port() != 0));
    }
}
