//! Where the sidecar listens, and what it lets in there.

use std::net::SocketAddr;

use bench::certs::Ca;
use bench::client::{Client, ClientOptions};
use bench::http1;
use bench::tls::TlsIdentity;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use crate::kit::{
    Case, ECHO, OK, PERMISSION_DENIED, Running, Site, UNARY, admits, echo, id, landed, service, until,
};

cases! {
    "sidecar.inbound[].listen" => calls_come_in_where_inbound_listens,
    "sidecar.inbound[].app" => inbound_calls_go_to_the_app,
    "sidecar.inbound[].mtls" => strict_turns_plaintext_away,
    "sidecar.inbound[].service" => an_inbound_port_has_a_service_of_its_own,
    "sidecar.outbound.listen" => calls_go_out_where_outbound_listens,
    "sidecar.outbound.listen_ipv6" => calls_go_out_by_ipv6_too_where_outbound_listens,
    "sidecar.outbound.unknown" => what_is_not_of_the_mesh_passes_or_not,
    "sidecar.opaque_ports[]" => on_an_opaque_port_nothing_is_detected,
    "sidecar.admin.listen" => operators_ask_where_admin_listens,
    "sidecar.admin.socket" => drain_is_asked_for_at_the_socket,
    "sidecar.probes.listen" => the_kubelet_asks_where_probes_listen,
}

/// Another address of this host; all of 127.0.0.0/8 is loopback.
const ELSEWHERE: &str = "127.0.0.2:0";

async fn calls_come_in_where_inbound_listens(case: &Case) {
    let app = echo("app").await;
    let base = Site::inbound(&app);
    let changed = case.change(&base, "sidecar inbound 0 listen", ELSEWHERE);
    for (site, ip) in [(&base, "127.0.0.1"), (&changed, "127.0.0.2")] {
        let sidecar = site.start().await;
        takes_calls_at(sidecar.inbound(), ip).await;
    }
}

async fn inbound_calls_go_to_the_app(case: &Case) {
    let (one, two) = (echo("one").await, echo("two").await);
    let base = Site::inbound(&one);
    let changed = case.change(&base, "sidecar inbound 0 app", two.addr.to_string());
    assert_eq!(landed(&base.start().await.unary(ECHO).await), "one");
    assert_eq!(landed(&changed.start().await.unary(ECHO).await), "two");
}

async fn strict_turns_plaintext_away(case: &Case) {
    let (ca, app) = (Ca::new("cluster.local"), echo("app").await);
    let mut base = Site::inbound(&app).identified(&ca, &id("echo"));
    base.sidecar["inbound"][0]["mtls"] = json!("permissive");
    let caller = TlsIdentity::mutual(&ca.leaf(&id("caller")), ca.bundle_pem());
    let permissive = base.start().await;
    assert!(admits(permissive.inbound(), caller.clone()).await);
    assert_eq!(permissive.unary(ECHO).await.grpc_status, OK);

    let strict = case.change(&base, "sidecar inbound 0 mtls", "strict").start().await;
    assert!(admits(strict.inbound(), caller).await);
    assert!(!admits(strict.inbound(), None).await);
    let refused = [("reason", "plaintext")];
    strict.counts("outrigger_handshake_failures_total", &refused, 1.0).await;
    assert_eq!(app.calls().len(), 3, "{:?}", app.calls());
}

async fn an_inbound_port_has_a_service_of_its_own(case: &Case) {
    let app = echo("app").await;
    let mut shut = service("shut", &[]);
    shut["inbound"] = json!({"authorization": []});
    let base = Site::inbound(&app).with(shut);
    assert_eq!(base.status().await, OK);
    assert_eq!(case.change(&base, "sidecar inbound 0 service", "shut").status().await, PERMISSION_DENIED);
}

async fn calls_go_out_where_outbound_listens(case: &Case) {
    let server = echo("echo").await;
    let base = Site::outbound(&[service("echo", &[&server])]);
    let changed = case.change(&base, "sidecar outbound listen", ELSEWHERE);
    for (site, ip) in [(&base, "127.0.0.1"), (&changed, "127.0.0.2")] {
        let sidecar = site.start().await;
        takes_calls_at(sidecar.outbound(), ip).await;
    }
}

async fn calls_go_out_by_ipv6_too_where_outbound_listens(case: &Case) {
    let server = echo("echo").await;
    let base = Site::outbound(&[service("echo", &[&server])]);
    let changed = case.change(&base, "sidecar outbound listen_ipv6", "[::1]:0");
    assert_eq!(base.start().await.bound.outbound_ipv6, None);
    let both = changed.start().await;
    takes_calls_at(both.outbound(), "127.0.0.1").await;
    takes_calls_at(both.bound.outbound_ipv6.expect("a second listener"), "::1").await;
}

async fn what_is_not_of_the_mesh_passes_or_not(case: &Case) {
    let server = echo("stranger").await;
    let base = Site::outbound(&[]);
    let refuse = case.change(&base, "sidecar outbound unknown", "refuse").start().await;
    assert_eq!(connect_to(&refuse, server.addr).await.0, "HTTP/1.1 403");
    let passthrough = base.start().await;
    let (status, tunnel) = connect_to(&passthrough, server.addr).await;
    assert_eq!(status, "HTTP/1.1 200");
    let client = Client::over(tunnel, &ClientOptions::default()).await.expect("a greeting");
    let outcome = client.unary(ECHO, UNARY, b"ping").await.expect("a call");
    assert_eq!(landed(&outcome), "stranger");
}

async fn on_an_opaque_port_nothing_is_detected(case: &Case) {
    let server = echo("echo").await;
    let base = Site::outbound(&[service("echo", &[&server])]);
    let changed = case.change(&base, "sidecar opaque_ports 0", 50_051);
    for (site, tunnels) in [(&base, 0.0), (&changed, 1.0)] {
        let sidecar = site.start().await;
        let (status, tunnel) = connect_to(&sidecar, "echo:50051").await;
        assert_eq!(status, "HTTP/1.1 200");
        let client = Client::over(tunnel, &ClientOptions::default()).await.expect("a greeting");
        assert_eq!(landed(&client.unary(ECHO, UNARY, b"ping").await.expect("a call")), "echo");
        // Calls inside of a tunnel are none to the sidecar.
        sidecar.counts("outrigger_tunnels_total", &[("direction", "outbound")], tunnels).await;
        sidecar.counts("grpc_client_started_total", &[], 1.0 - tunnels).await;
    }
}

/// Asks for a tunnel to `target`: how the answer begins, and the connection behind its head.
async fn connect_to(sidecar: &Running, target: impl std::fmt::Display) -> (String, TcpStream) {
    let mut tcp = TcpStream::connect(sidecar.outbound()).await.expect("a connection");
    let asked = format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n");
    tcp.write_all(asked.as_bytes()).await.expect("sent");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tcp.read_u8().await.expect("a head"));
    }
    (String::from_utf8_lossy(&head[..12]).into_owned(), tcp)
}

async fn operators_ask_where_admin_listens(case: &Case) {
    let server = echo("echo").await;
    let base = Site::outbound(&[service("echo", &[&server])]);
    let changed = case.change(&base, "sidecar admin listen", ELSEWHERE);
    for (site, ip) in [(&base, "127.0.0.1"), (&changed, "127.0.0.2")] {
        let sidecar = site.start().await;
        answers_at(sidecar.bound.admin, ip, "/clusters").await;
    }
}

async fn the_kubelet_asks_where_probes_listen(case: &Case) {
    let server = echo("echo").await;
    let base = Site::outbound(&[service("echo", &[&server])]);
    let changed = case.change(&base, "sidecar probes listen", ELSEWHERE);
    for (site, ip) in [(&base, "127.0.0.1"), (&changed, "127.0.0.2")] {
        let sidecar = site.start().await;
        answers_at(sidecar.bound.probes, ip, "/live").await;
    }
}

async fn drain_is_asked_for_at_the_socket(case: &Case) {
    let server = echo("echo").await;
    let base = Site::outbound(&[service("echo", &[&server])]);
    let ask = async |sidecar: &Running| {
        let mut stream = UnixStream::connect(sidecar.dir.path().join("other.sock")).await?;
        stream.write_all(b"drain").await?;
        stream.shutdown().await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let before = base.start().await;
    assert_eq!(ask(&before).await.expect_err("nobody listens there").kind(), std::io::ErrorKind::NotFound);
    assert_eq!(before.probe("/ready").await.expect("an answer").status, 200);

    let after = case.change(&base, "sidecar admin socket", "other.sock").start().await;
    assert_eq!(ask(&after).await.expect("an answer"), "draining\n");
    until("not ready", async || after.probe("/ready").await.is_ok_and(|answer| answer.status == 503)).await;
}

/// Calls go well at `addr`, which is at `ip`. (The same port of another address may be anybody's.)
async fn takes_calls_at(addr: SocketAddr, ip: &str) {
    assert_eq!(addr.ip().to_string(), ip);
    assert!(admits(addr, None).await);
}

async fn answers_at(addr: SocketAddr, ip: &str, path: &str) {
    assert_eq!(addr.ip().to_string(), ip);
    assert_eq!(http1::get(addr, path).await.expect("an answer").status, 200);
}
