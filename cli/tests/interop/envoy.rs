//! Envoy in the place of one of the sidecars.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use bench::certs::Leaf;
use bench::client::Client;
use bench::http1;
use bench::metrics::Metrics;
use bench::outcome::Outcome;
use bench::process::die_with_parent;
use bench::wait::{soon, until};
use serde_json::Value;
use tokio::process::{Child, Command};

use crate::Case;
use crate::mesh::{ORDERS_ID, PAYMENTS, PAYMENTS_ID, Site};
use crate::parts::{Part, Parts};
use crate::plane::list;
use crate::programs::{Language, Way};

/// Of the trust domain, and nobody's whom these tests expect.
const IMPOSTOR_ID: &str = "spiffe://cluster.local/ns/shop/sa/impostor";

const METHOD: &str = "/interop.Echo/Unary";

/// Counts calls that have come in.
const STARTED: &str = "grpc_server_started_total";

const NEEDS: [Part; 2] = [Part::Envoy, Part::Python];

pub(crate) fn cases() -> Vec<Case> {
    let name = str::to_owned;
    vec![
        Case::new(name("our_outbound_speaks_to_an_envoy_that_takes_mtls_only"), &NEEDS, to_envoy),
        Case::new(name("an_envoy_with_a_certificate_speaks_to_our_strict_inbound"), &NEEDS, from_envoy),
        Case::new(name("an_envoy_that_is_not_the_service_gets_no_call"), &NEEDS, to_an_impostor),
        Case::new(name("an_envoy_that_wants_another_caller_is_named"), &NEEDS, to_one_that_refuses_us),
        Case::new(name("an_envoy_without_a_certificate_is_refused"), &NEEDS, from_one_without_certificate),
    ]
}

async fn to_envoy(parts: Parts) {
    let app = Language::Python.serve(&parts).await;
    let site = Site::new();
    let envoy = Envoy::callee(&parts, &site, PAYMENTS_ID, ORDERS_ID, app.addr).await;
    let orders = site.orders(&[envoy.addr]).await;
    Language::Python.check(&parts, Way::Authority, orders.outbound(), "all").await;
}

async fn from_envoy(parts: Parts) {
    let app = Language::Python.serve(&parts).await;
    let site = Site::new();
    let payments = site.payments(app.addr).await;
    let leaf = site.ca.leaf(ORDERS_ID);
    let envoy = Envoy::caller(&parts, &site, Some(&leaf), payments.inbound()).await;
    Language::Python.check(&parts, Way::Authority, envoy.addr, "all").await;

    let metrics = payments.metrics().await.expect("a scrape");
    let seen = metrics.value(STARTED, &[("peer", "orders.shop")]);
    assert!(seen > 0.0, "the calls count under the service whose identity Envoy proved");
}

async fn to_an_impostor(parts: Parts) {
    let app = Language::Python.serve(&parts).await;
    let site = Site::new();
    let envoy = Envoy::callee(&parts, &site, IMPOSTOR_ID, ORDERS_ID, app.addr).await;
    let orders = site.orders(&[envoy.addr]).await;
    let outcome = call(orders.outbound()).await;
    assert_eq!(outcome.grpc_status, Some(14), "{outcome:?}");
    for said in [IMPOSTOR_ID, PAYMENTS_ID, &envoy.addr.to_string()] {
        assert!(outcome.message.contains(said), "{said} is missing in {:?}", outcome.message);
    }
    assert_eq!(envoy.requests().await, 0.0, "nothing was sent to it");
}

async fn to_one_that_refuses_us(parts: Parts) {
    let app = Language::Python.serve(&parts).await;
    let site = Site::new();
    let envoy = Envoy::callee(&parts, &site, PAYMENTS_ID, IMPOSTOR_ID, app.addr).await;
    let orders = site.orders(&[envoy.addr]).await;
    let outcome = call(orders.outbound()).await;
    assert_eq!(outcome.grpc_status, Some(14), "{outcome:?}");
    for said in ["alert: CertificateUnknown", &envoy.addr.to_string()] {
        assert!(outcome.message.contains(said), "{said} is missing in {:?}", outcome.message);
    }
    assert_eq!(envoy.requests().await, 0.0, "nothing was sent to it");
}

async fn from_one_without_certificate(parts: Parts) {
    let app = Language::Python.serve(&parts).await;
    let site = Site::new();
    let payments = site.payments(app.addr).await;
    let envoy = Envoy::caller(&parts, &site, None, payments.inbound()).await;
    let outcome = call(envoy.addr).await;
    assert_eq!(outcome.grpc_status, Some(14), "{outcome:?}");
    until("it counts as a handshake that failed for want of a certificate", async || {
        let metrics = payments.metrics().await.expect("a scrape");
        metrics.value("outrigger_handshake_failures_total", &[("reason", "no_certificate")]) > 0.0
    })
    .await;
    let metrics = payments.metrics().await.expect("a scrape");
    assert_eq!(metrics.value(STARTED, &[]), 0.0, "no call came in");
}

async fn call(to: SocketAddr) -> Outcome {
    let client = Client::connect(to, None).await.expect("a connection");
    soon("an answer", client.unary(PAYMENTS, METHOD, b"hello")).await.expect("an answer")
}

/// A running Envoy; it ends when dropped.
pub(crate) struct Envoy {
    /// Where it listens.
    pub(crate) addr: SocketAddr,
    admin: SocketAddr,
    _child: Child,
}

impl Envoy {
    /// It takes mTLS from `peer` alone, as `own`, and forwards to an app by plain h2c.
    async fn callee(parts: &Parts, site: &Site, own: &str, peer: &str, app: SocketAddr) -> Self {
        let leaf = site.ca.leaf(own);
        let tls = transport_socket("Downstream", "require_client_certificate: true, ", true, peer);
        Self::start(parts, &site.identity("envoy", &leaf), &config(app, &tls, ""), "entry").await
    }

    /// It takes plain h2c, and speaks mTLS to the inbound listener of `payments`.
    async fn caller(parts: &Parts, site: &Site, leaf: Option<&Leaf>, to: SocketAddr) -> Self {
        let tls = transport_socket("Upstream", "", leaf.is_some(), PAYMENTS_ID);
        let files = leaf.cloned().unwrap_or_else(|| site.ca.leaf(ORDERS_ID));
        Self::start(parts, &site.identity("envoy", &files), &config(to, "", &tls), "entry").await
    }

    /// Runs it in a folder, and waits until it listens as `listener`.
    pub(crate) async fn start(parts: &Parts, folder: &Path, config: &str, listener: &str) -> Self {
        std::fs::write(folder.join("envoy.yaml"), config).expect("a file");
        let log = std::fs::File::create(folder.join("log")).expect("a file");
        let mut command = Command::new(parts.path(Part::Envoy));
        command.args(["-c", "envoy.yaml", "--concurrency", "1", "--disable-hot-restart"]);
        command.args(["--log-level", "warning", "--admin-address-path", "admin.txt"]).current_dir(folder);
        die_with_parent(&mut command);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
        let mut child = command.spawn().expect("Envoy");
        let (mut admin, mut addr) = (None, None);
        until("Envoy listens", async || {
            if let Some(status) = child.try_wait().expect("a status") {
                let log = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
                panic!("Envoy has ended: {status}\n{log}");
            }
            let written = std::fs::read_to_string(folder.join("admin.txt")).unwrap_or_default();
            admin = written.trim().parse().ok();
            let Some(admin) = admin else { return false };
            if http1::get(admin, "/ready").await.is_ok_and(|answer| answer.status == 200) {
                addr = listens(admin, listener).await;
            }
            addr.is_some()
        })
        .await;
        let (admin, addr) = admin.zip(addr).expect("both are known by now");
        Self { addr, admin, _child: child }
    }

    /// Where another of its listeners is.
    pub(crate) async fn listener(&self, name: &str) -> SocketAddr {
        listens(self.admin, name).await.unwrap_or_else(|| panic!("no listener {name}"))
    }

    /// The certificates that it shows, as `/certs` has them.
    pub(crate) async fn certificates(&self) -> Vec<Value> {
        let answer = http1::get(self.admin, "/certs").await.expect("its certificates");
        let page: Value = serde_json::from_str(&answer.body).expect("JSON");
        list(&page["certificates"]).to_vec()
    }

    /// The sum of its counters whose names end so, and how many there are.
    pub(crate) async fn counters(&self, end: &str) -> (usize, u64) {
        let answer = http1::get(self.admin, &format!("/stats?filter={end}$")).await.expect("its statistics");
        let values = answer.body.lines().map(|line| line.rsplit(": ").next().and_then(|n| n.parse().ok()));
        let values: Vec<u64> = values.map(|value| value.expect("a counter")).collect();
        (values.len(), values.iter().sum())
    }

    /// How many requests have come in.
    async fn requests(&self) -> f64 {
        let answer = http1::get(self.admin, "/stats/prometheus").await.expect("its statistics");
        let metrics = Metrics::parse(&answer.body);
        let name = "envoy_http_downstream_rq_total";
        assert!(metrics.matching(name, &[]).next().is_some(), "{name} is missing");
        metrics.value(name, &[("envoy_http_conn_manager_prefix", "entry")])
    }
}

async fn listens(admin: SocketAddr, name: &str) -> Option<SocketAddr> {
    let listeners = http1::get(admin, "/listeners").await.expect("its listeners").body;
    listeners.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix("::")?.parse().ok())
}

/// TLS 1.3, to and from a peer that proves `peer`. Envoy stops at TLS 1.2 unless it is told otherwise.
fn transport_socket(side: &str, demand: &str, certified: bool, peer: &str) -> String {
    let own = match certified {
        true => {
            "tls_certificates: [{certificate_chain: {filename: tls.crt}, private_key: {filename: tls.key}}], "
        }
        false => "",
    };
    format!(
        "transport_socket: {{name: tls, typed_config: {{\
         \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{side}TlsContext, {demand}\
         common_tls_context: {{alpn_protocols: [h2], \
         tls_params: {{tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3}}, {own}\
         validation_context: {{trusted_ca: {{filename: ca.crt}}, match_typed_subject_alt_names: \
         [{{san_type: URI, matcher: {{exact: \"{peer}\"}}}}]}}}}}}}}"
    )
}

fn config(to: SocketAddr, downstream_tls: &str, upstream_tls: &str) -> String {
    let (ip, port) = (to.ip(), to.port());
    let http = "type.googleapis.com/envoy.extensions";
    format!(
        r#"admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}}}
static_resources:
  listeners:
  - name: entry
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          "@type": {http}.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: entry
          codec_type: HTTP2
          route_config:
            virtual_hosts:
            - {{name: all, domains: ["*"], routes: [{{match: {{prefix: "/"}}, route: {{cluster: next, timeout: 0s}}}}]}}
          http_filters:
          - name: router
            typed_config: {{"@type": {http}.filters.http.router.v3.Router}}
      {downstream_tls}
  clusters:
  - name: next
    type: STATIC
    connect_timeout: 20s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": {http}.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http2_protocol_options: {{}}}}
    load_assignment:
      cluster_name: next
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: "{ip}", port_value: {port}}}}}}}}}]}}]
    {upstream_tls}
"#
    )
}
