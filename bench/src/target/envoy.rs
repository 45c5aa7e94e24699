//! Envoy as a target: minimal, one worker, no access log, no statistics beyond its own.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::certs::Ca;
use crate::http1;
use crate::process::{START_MAX, die_with_parent};
use crate::site::{Own, Process, Site, ready};

pub(super) async fn inbound(site: &Site<'_>) -> io::Result<(SocketAddr, Vec<Process>)> {
    let dir = site.folder("envoy", None)?;
    let own = run(site, &dir, &config(site.echo, "", "")).await?;
    Ok((own.listen, vec![Process::Other(Box::new(own))]))
}

pub(super) async fn pair(site: &Site<'_>) -> io::Result<(SocketAddr, Vec<Process>)> {
    let ca = Ca::new("cluster.local");
    let dir = site.folder("callee", Some((&ca, "spiffe://cluster.local/ns/bench/sa/echo")))?;
    let callee = run(site, &dir, &config(site.echo, &tls("Downstream", true), "")).await?;
    let dir = site.folder("caller", Some((&ca, "spiffe://cluster.local/ns/bench/sa/caller")))?;
    let caller = run(site, &dir, &config(callee.listen, "", &tls("Upstream", false))).await?;
    Ok((caller.listen, vec![Process::Other(Box::new(callee)), Process::Other(Box::new(caller))]))
}

async fn run(site: &Site<'_>, dir: &Path, config: &str) -> io::Result<Own> {
    let Some(envoy) = &site.binaries.envoy else {
        return Err(io::Error::other("no Envoy: set OUTRIGGER_ENVOY, or put `envoy` on the PATH"));
    };
    std::fs::write(dir.join("envoy.yaml"), config)?;
    let mut command = site.command(envoy);
    command.args(["-c", "envoy.yaml", "--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]);
    command.args(["--admin-address-path", "admin.txt"]).current_dir(dir);
    die_with_parent(&mut command);
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true).spawn()?;
    let admin = admin(&dir.join("admin.txt")).await?;
    ready(admin, "/ready").await?;
    let listeners = http1::get(admin, "/listeners").await?.body;
    let listen = listeners.trim().strip_prefix("entry::").and_then(|text| text.parse().ok());
    let listen = listen.ok_or_else(|| io::Error::other(format!("Envoy's /listeners: {listeners}")))?;
    Ok(Own { listen, child, _stdout: None })
}

async fn admin(file: &Path) -> io::Result<SocketAddr> {
    let deadline = Instant::now() + START_MAX;
    loop {
        if let Some(addr) = std::fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok()) {
            return Ok(addr);
        }
        if Instant::now() > deadline {
            return Err(io::Error::other(format!("Envoy wrote no admin address within {START_MAX:?}")));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A transport socket; the peer's certificate is checked against the bundle.
fn tls(side: &str, demand: bool) -> String {
    let demand = if demand { "require_client_certificate: true, " } else { "" };
    format!(
        "transport_socket: {{name: tls, typed_config: {{\
         \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{side}TlsContext, {demand}\
         common_tls_context: {{alpn_protocols: [h2], \
         tls_params: {{tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3}}, \
         tls_certificates: [{{certificate_chain: {{filename: tls.crt}}, private_key: {{filename: tls.key}}}}], \
         validation_context: {{trusted_ca: {{filename: ca.crt}}}}}}}}}}"
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
          generate_request_id: false
          route_config:
            virtual_hosts:
            - {{name: all, domains: ["*"], routes: [{{match: {{prefix: "/"}}, route: {{cluster: echo, timeout: 0s}}}}]}}
          http_filters:
          - name: router
            typed_config: {{"@type": {http}.filters.http.router.v3.Router}}
      {downstream_tls}
  clusters:
  - name: echo
    type: STATIC
    connect_timeout: 5s
    circuit_breakers: {{thresholds: [{{max_connections: 100000, max_pending_requests: 100000, max_requests: 100000}}]}}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": {http}.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http2_protocol_options: {{}}}}
    load_assignment:
      cluster_name: echo
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: "{ip}", port_value: {port}}}}}}}}}]}}]
    {upstream_tls}
"#
    )
}
