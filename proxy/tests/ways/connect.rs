//! CONNECT to a service of the mesh: what is inside is routed if it is HTTP/2, else it goes to one endpoint as it is.

use std::time::Duration;

use bench::call::CallSpec;
use bench::certs::Ca;
use bench::client::{Client, ClientOptions};
use bench::closed::ClosedPort;
use bench::process::Sidecar;
use bench::server::Server;
use bench::tls::{ServerTls, TlsIdentity, client_config, server_config};
use bench::wait::{soon, within};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::kit::{
    HANDSHAKES, INBOUND, OUTBOUND, REFUSED, TUNNEL_BYTES, TUNNELS, TUNNELS_TOTAL, answer_head, byte_echo,
    connect, connect_head, counts, greeted, greeter, noise, none_left, rest_and_end, round_trip, tunnel,
    turned_away,
};
use crate::pair::peer;
use crate::pair::{ANY, BIDI, CLIENT_STREAM, ECHO_ID, SERVER_STREAM, Site, UNARY, mesh, metric, well};
use crate::web::{self, Web};

/// The service as a CONNECT names it.
const TARGET: &str = "echo.shop:50051";
/// What `echo` says of itself. By default two seconds to connect, which a handshake may take on a loaded machine.
const POLICIES: &str = "    ports: [50051]\n    upstream: {connect_timeout: 20s}";
/// An authority that no service answers to.
const ELSEWHERE: &str = "somebody.else:1234";

/// Two sidecars around an app.
struct Row {
    caller: Sidecar,
    callee: Sidecar,
    _site: Site,
}

impl Row {
    /// `more` is added to the `sidecar.yaml` of the caller's.
    async fn start(app: std::net::SocketAddr, more: &str) -> Self {
        let site = Site::new();
        let callee = site.callee(app, "").await;
        let caller = site.caller(&mesh(&[callee.inbound()], POLICIES), more).await;
        Self { caller, callee, _site: site }
    }

    async fn tunnel(&self) -> TcpStream {
        tunnel(self.caller.outbound(), TARGET).await
    }
}

#[tokio::test]
async fn calls_of_all_four_kinds_are_routed_by_the_target_whatever_authority_stands_inside() {
    let app = Server::start(ANY).await.expect("an app");
    let row = Row::start(app.addr, "").await;
    let client = over(row.tunnel().await).await;
    for authority in [ELSEWHERE, TARGET, "shopper.shop"] {
        let unary = well(soon("unary", client.unary(authority, UNARY, b"hello")).await);
        assert_eq!(unary.last.as_deref(), Some(&b"hello"[..]));
    }
    let mut bidi = client.call(CallSpec::new(ELSEWHERE, BIDI)).await.expect("a call");
    for message in [&b"one"[..], b"two", &noise(100_000, 1)] {
        bidi.send(message).await.expect("sent");
        assert_eq!(soon("an echo", bidi.recv()).await.as_deref(), Some(message));
    }
    assert!(soon("bidi's end", bidi.finish()).await.is_ok());
    let up = well(soon("client stream", client.unary(ELSEWHERE, CLIENT_STREAM, b"abc")).await);
    assert_eq!(up.last.as_deref(), Some(&b"1 3"[..]));
    let spec = CallSpec::new(ELSEWHERE, SERVER_STREAM).header("x-count", "50").header("x-size", "1007");
    let down = well(soon("server stream", client.unary_with(spec, b"go")).await);
    assert_eq!((down.messages, down.bytes), (50, 50_350));

    assert_eq!(app.calls().len(), 6);
    assert!(app.calls().iter().filter(|call| call.authority == ELSEWHERE).count() == 4, "{:?}", app.calls());
    counts(&row.caller, TUNNELS_TOTAL, &[], 0).await;
    counts(&row.callee, "grpc_server_handled_total", &[("grpc_code", "OK")], 6).await;
}

#[tokio::test]
async fn a_service_is_found_by_each_of_its_names_and_another_port_of_its_host_is_not_of_the_mesh() {
    let app = Server::start(ANY).await.expect("an app");
    // Nobody answers there, so that the host has no address.
    let row = Row::start(app.addr, "dns: {servers: [\"127.0.0.1:9\"], timeout: 200ms}").await;
    let outbound = row.caller.outbound();
    for target in [
        "echo:50051",
        "echo.shop:50051",
        "echo.shop.svc:50051",
        "echo.shop.svc.cluster.local:50051",
        "echo.shop.svc.cluster.local.:50051",
        "ECHO.Shop:50051",
    ] {
        let client = over(tunnel(outbound, target).await).await;
        well(soon(target, client.unary(ELSEWHERE, UNARY, b"hello")).await);
    }
    for target in ["echo.shop:50052", "echo.shop:80"] {
        let (status, text) = turned_away(outbound, target).await;
        assert_eq!(status, 502, "{text}");
        assert!(text.starts_with("outrigger outbound: `echo.shop` has no address: "), "{text}");
    }
    counts(&row.caller, HANDSHAKES, &[("reason", "unreachable")], 2).await;
    counts(&row.caller, HANDSHAKES, &[], 2).await;
}

#[tokio::test]
async fn what_comes_in_the_segment_of_the_connect_is_not_lost() {
    let app = Server::start(ANY).await.expect("an app");
    let row = Row::start(app.addr, "").await;
    // What an impatient client would send: it does not wait for the 200.
    let (near, mut far) = tokio::io::duplex(1 << 20);
    let client = over(near).await;
    let payload = noise(20_000, 2);
    let calling = tokio::spawn(async move { client.unary(ELSEWHERE, UNARY, &payload).await });
    let mut segment = connect_head(TARGET).into_bytes();
    while segment.len() < 20_000 {
        soon("the client's frames", far.read_buf(&mut segment)).await.expect("frames");
    }
    let mut tcp = connect(row.caller.outbound()).await;
    tcp.write_all(&segment).await.expect("sent");
    assert_eq!(answer_head(&mut tcp).await.0, 200);
    let relay = tokio::spawn(async move { copy_bidirectional(&mut far, &mut tcp).await });
    let outcome = well(soon("the call", calling).await.expect("no panic"));
    assert_eq!(outcome.last.as_deref(), Some(&noise(20_000, 2)[..]));
    relay.abort();
}

#[tokio::test]
async fn a_connect_in_tiny_pieces_is_one_all_the_same() {
    let app = Server::start(ANY).await.expect("an app");
    let row = Row::start(app.addr, "").await;
    let mut tcp = connect(row.caller.outbound()).await;
    for byte in connect_head(TARGET).as_bytes() {
        tcp.write_all(&[*byte]).await.expect("sent");
        tokio::task::yield_now().await;
    }
    let (status, head) = answer_head(&mut tcp).await;
    assert_eq!(status, 200);
    // No length: what follows is the tunnel (RFC 9110, 9.3.6).
    assert!(!head.to_ascii_lowercase().contains("content-length"), "{head}");
    assert!(!head.to_ascii_lowercase().contains("transfer-encoding"), "{head}");
    well(soon("a call", over(tcp).await.unary(ELSEWHERE, UNARY, b"hello")).await);
}

#[tokio::test]
async fn tls_inside_is_the_apps_own_and_goes_through_the_mesh_as_it_is() {
    let own = Ca::new("app.example");
    let leaf = own.leaf("spiffe://app.example/own");
    let tls =
        server_config(&ServerTls { leaf: leaf.clone(), client_trust: None }).expect("a leaf and its key");
    let app = peer::raw(move |tcp| {
        let acceptor = TlsAcceptor::from(tls.clone());
        async move {
            let Ok(stream) = acceptor.accept(tcp).await else { return };
            let (mut read, mut write) = tokio::io::split(stream);
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = write.shutdown().await;
        }
    })
    .await;
    let row = Row::start(app.addr, "").await;
    let trusts = TlsIdentity { leaf: None, trust: Some(own.bundle_pem().to_owned()) };
    let connector = TlsConnector::from(client_config(&trusts).expect("a root"));
    let name = ServerName::try_from("localhost").expect("a name");
    let stream = soon("the app's TLS", connector.connect(name, row.tunnel().await)).await;
    let stream = stream.expect("the app's own TLS");
    let shown = stream.get_ref().1.peer_certificates().expect("a certificate")[0].clone();
    assert_eq!(shown, CertificateDer::from_pem_slice(leaf.cert_pem.as_bytes()).expect("a certificate"));

    let bytes = noise(2_000_000, 4);
    for (sidecar, direction) in [(&row.caller, &OUTBOUND), (&row.callee, &INBOUND)] {
        counts(sidecar, TUNNELS, direction, 1).await;
    }
    assert!(round_trip(stream, &bytes).await == bytes);
    for (sidecar, direction) in [(&row.caller, "outbound"), (&row.callee, "inbound")] {
        none_left(sidecar, TUNNELS).await;
        counts(sidecar, TUNNELS_TOTAL, &[], 1).await;
        for way in ["received", "sent"] {
            let labels = [("direction", direction), ("way", way)];
            let passed = metric(sidecar, TUNNEL_BYTES, &labels).await;
            assert!((2_000_000..2_200_000).contains(&passed), "{direction} {way}: {passed}");
        }
        counts(sidecar, HANDSHAKES, &[], 0).await;
    }
    // Between the sidecars it was inside mTLS, which that of the callee asks for.
    let mtls = [("direction", "inbound"), ("security", "mtls")];
    counts(&row.callee, "outrigger_connections_total", &mtls, 1).await;
    counts(&row.callee, "outrigger_connections_total", &[("direction", "inbound")], 1).await;
}

#[tokio::test]
async fn a_server_that_speaks_first_does_once_its_client_has_been_silent() {
    let app = greeter().await;
    let limits = "limits: {detection_timeout: 100ms}";
    let row = Row::start(app.addr, limits).await;
    greeted(row.tunnel().await).await;
    counts(&row.caller, TUNNELS_TOTAL, &OUTBOUND, 1).await;
    counts(&row.callee, TUNNELS_TOTAL, &INBOUND, 1).await;
}

#[tokio::test]
async fn on_an_opaque_port_a_server_speaks_first_at_once() {
    let app = greeter().await;
    let limits = "opaque_ports: [50051]\nlimits: {detection_timeout: 1h, handshake_timeout: 1h}";
    let row = Row::start(app.addr, limits).await;
    // Were the port not opaque, its client would be waited for: see the test before.
    within(Duration::from_secs(20), "a greeting at once", greeted(row.tunnel().await)).await;
    counts(&row.caller, TUNNELS_TOTAL, &OUTBOUND, 1).await;
}

#[tokio::test]
async fn a_port_that_is_opaque_on_both_sides_keeps_its_mtls() {
    let app = greeter().await;
    let port = app.addr.port();
    let limits =
        format!("opaque_ports: [50051, {port}]\nlimits: {{detection_timeout: 1h, handshake_timeout: 1h}}");
    let row = Row::start(app.addr, &limits).await;
    within(Duration::from_secs(20), "a greeting at once", greeted(row.tunnel().await)).await;
    let mtls = [("direction", "inbound"), ("security", "mtls")];
    counts(&row.callee, "outrigger_connections_total", &mtls, 1).await;
    counts(&row.callee, TUNNELS_TOTAL, &INBOUND, 1).await;
}

#[tokio::test]
async fn http_1_and_http_2_that_is_not_grpc_go_through_a_connect_as_well() {
    let app = byte_echo().await;
    let row = Row::start(app.addr, "").await;
    let request = b"GET / HTTP/1.1\r\nhost: somebody.else\r\n\r\n";
    assert_eq!(round_trip(row.tunnel().await, request).await, request);
    counts(&row.callee, TUNNELS_TOTAL, &INBOUND, 1).await;

    let app = web::app().await;
    let row = Row::start(app.addr, "").await;
    let found = Web::over(row.tunnel().await).await.get(ELSEWHERE, "/find?a=1").await;
    assert_eq!((found.status, found.header("x-path")), (200, "/find?a=1"));
    assert_eq!(found.header("x-authority"), ELSEWHERE, "what the app is told is the app's own");
    counts(&row.callee, TUNNELS_TOTAL, &[], 0).await;
}

#[tokio::test]
async fn bytes_that_the_callee_does_not_let_in_end_in_a_reset() {
    let app = byte_echo().await;
    let site = Site::new();
    let rules = "    inbound:\n      authorization: [{allow: {methods: [bench.Echo/*]}}]";
    let callee = site.callee_as(&site.ca.leaf(ECHO_ID), app.addr, "", rules).await;
    let caller = site.caller(&mesh(&[callee.inbound()], POLICIES), "").await;
    let mut tcp = tunnel(caller.outbound(), TARGET).await;
    tcp.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("sent");
    assert_eq!(rest_and_end(&mut tcp).await, (Vec::new(), false));
    counts(&callee, HANDSHAKES, &[("reason", "not_allowed")], 1).await;
}

#[tokio::test]
async fn silence_inside_of_a_connect_is_bounded_by_the_handshakes_time_too() {
    let app = greeter().await;
    let limits = "limits: {detection_timeout: 1h, handshake_timeout: 2s}";
    let row = Row::start(app.addr, limits).await;
    // A clean end would say that there was a server, and that it had nothing to say.
    assert_eq!(rest_and_end(&mut row.tunnel().await).await, (Vec::new(), false));
    counts(&row.caller, REFUSED, &[("limit", "handshake_timeout")], 1).await;
    counts(&row.caller, TUNNELS_TOTAL, &[], 0).await;
}

#[tokio::test]
async fn bytes_to_a_service_whose_endpoints_are_away_end_in_a_reset() {
    let away = ClosedPort::take().expect("a port");
    let site = Site::new();
    let caller = site.caller(&mesh(&[away.addr], POLICIES), "").await;
    let mut tcp = tunnel(caller.outbound(), TARGET).await;
    tcp.write_all(b"\0\0\0 no protocol that anybody knows").await.expect("sent");
    let (bytes, clean) = rest_and_end(&mut tcp).await;
    assert_eq!((&bytes[..], clean), (&b""[..], false));
    counts(&caller, HANDSHAKES, &[("reason", "unreachable")], 1).await;
}

/// HTTP/2 over a tunnel.
async fn over<T>(io: T) -> Client
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    Client::over(io, &ClientOptions::default()).await.expect("a greeting")
}
