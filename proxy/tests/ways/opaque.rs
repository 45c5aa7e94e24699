//! Inbound bytes that are neither TLS nor HTTP/2: where they pass to the app as they are, and where they don't.

use std::net::SocketAddr;
use std::time::Duration;

use bench::certs::Ca;
use bench::client::Client;
use bench::closed::ClosedPort;
use bench::http1;
use bench::process::Sidecar;
use bench::raw::{PREFACE, kind};
use bench::server::{Server, ServerOptions};
use bench::tls::{ServerTls, TlsIdentity};
use bench::wait::soon;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::kit::{
    HANDSHAKES, INBOUND, REFUSED, TUNNEL_BYTES, TUNNELS_TOTAL, byte_echo, connect, counts, greeter, noise,
    none_left, rest, rest_and_end, round_trip, sidecar,
};
use crate::pair::{ANY, ECHO, SHOPPER_ID, Site, UNARY, mesh, well};

/// Each `mtls` that lets plaintext in.
const OPEN: [&str; 2] = ["permissive", "off"];
const LENGTH: u64 = 20_000_000;

/// A sidecar in front of `app`, one word of `mtls`, and `policies` of its service, each line indented by four.
async fn before(app: SocketAddr, mtls: &str, more: &str, policies: &str) -> (Site, Sidecar) {
    let site = Site::new();
    let ways = format!("inbound: [{{listen: \"127.0.0.1:0\", app: \"{app}\", mtls: {mtls}}}]\n{more}");
    let sidecar = sidecar(&site, &ways, &mesh(&[], policies)).await;
    (site, sidecar)
}

#[tokio::test]
async fn http_1_passes_to_the_app() {
    for mtls in OPEN {
        let app = TcpListener::bind(ANY).await.expect("a port");
        let (_site, sidecar) = before(app.local_addr().expect("an address"), mtls, "", "").await;
        let asking = tokio::spawn(http1::get(sidecar.inbound(), "/health?deep=1"));
        let mut far = soon("a connection", app.accept()).await.expect("a connection").0;
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            soon("a request", far.read_buf(&mut asked)).await.expect("a request");
        }
        assert!(asked.starts_with(b"GET /health?deep=1 HTTP/1.1\r\n"), "{}", String::from_utf8_lossy(&asked));
        far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.expect("sent");
        drop(far);
        let answer = asking.await.expect("no panic").expect("an answer");
        assert_eq!((answer.status, answer.body.as_str()), (200, "ok"));
        counts(&sidecar, TUNNELS_TOTAL, &INBOUND, 1).await;
        counts(&sidecar, HANDSHAKES, &[], 0).await;
    }
}

#[tokio::test]
async fn twenty_megabytes_go_both_ways() {
    for mtls in OPEN {
        let app = byte_echo().await;
        let (_site, sidecar) = before(app.addr, mtls, "", "").await;
        let mut bytes = noise(LENGTH as usize, 21);
        // Neither TLS nor the preface of HTTP/2.
        bytes[0] = 0;
        let back = round_trip(connect(sidecar.inbound()).await, &bytes).await;
        assert!(back == bytes, "{} bytes are not the same", back.len());
        for way in ["received", "sent"] {
            counts(&sidecar, TUNNEL_BYTES, &[("direction", "inbound"), ("way", way)], LENGTH).await;
        }
        none_left(&sidecar, "outrigger_tunnels").await;
        none_left(&sidecar, "outrigger_connections").await;
    }
}

#[tokio::test]
async fn an_end_passes_as_an_end_and_a_reset_as_a_reset() {
    let app = TcpListener::bind(ANY).await.expect("a port");
    let (_site, sidecar) = before(app.local_addr().expect("an address"), "permissive", "", "").await;
    let open = async || {
        let mut near = connect(sidecar.inbound()).await;
        near.write_all(b"?").await.expect("sent");
        let mut far = soon("a connection", app.accept()).await.expect("a connection").0;
        assert_eq!(soon("a byte", far.read_u8()).await.expect("a byte"), b'?');
        (near, far)
    };
    let (mut near, mut far) = open().await;
    near.shutdown().await.expect("ended");
    assert_eq!(rest(&mut far).await, b"");
    far.write_all(&noise(100_000, 1)).await.expect("the other way is open");
    drop(far);
    assert!(rest(&mut near).await == noise(100_000, 1));

    let (mut near, far) = open().await;
    crate::kit::reset(far);
    assert_eq!(rest_and_end(&mut near).await, (Vec::new(), false));
    let (near, mut far) = open().await;
    crate::kit::reset(near);
    assert_eq!(rest_and_end(&mut far).await, (Vec::new(), false));
    none_left(&sidecar, "outrigger_tunnels").await;
}

#[tokio::test]
async fn an_app_that_is_away_is_a_reset_and_counted_as_unreachable() {
    let away = ClosedPort::take().expect("a port");
    for mtls in OPEN {
        let (_site, sidecar) = before(away.addr, mtls, "", "").await;
        let mut tcp = connect(sidecar.inbound()).await;
        tcp.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("sent");
        assert_eq!(rest_and_end(&mut tcp).await, (Vec::new(), false));
        counts(&sidecar, HANDSHAKES, &[("reason", "unreachable")], 1).await;
        counts(&sidecar, TUNNELS_TOTAL, &[], 0).await;
    }
}

#[tokio::test]
async fn a_server_that_speaks_first_does_once_its_client_has_been_silent() {
    for mtls in OPEN {
        let app = greeter().await;
        let (_site, sidecar) = before(app.addr, mtls, "limits: {detection_timeout: 100ms}", "").await;
        crate::kit::greeted(connect(sidecar.inbound()).await).await;
        counts(&sidecar, TUNNELS_TOTAL, &INBOUND, 1).await;
    }
}

#[tokio::test]
async fn an_opaque_port_opens_no_strict_listener_to_who_dials_it_itself() {
    let app = Server::start(ANY).await.expect("an app");
    let more = format!("opaque_ports: [{}]", app.addr.port());
    let (site, sidecar) = before(app.addr, "strict", &more, "").await;
    let mut tcp = connect(sidecar.inbound()).await;
    tcp.write_all(PREFACE).await.expect("sent");
    assert_eq!(rest_and_end(&mut tcp).await.0, b"");
    counts(&sidecar, HANDSHAKES, &[("reason", "plaintext")], 1).await;
    // The mesh comes in as ever.
    let peer = TlsIdentity::mutual(&site.ca.leaf(SHOPPER_ID), site.ca.bundle_pem());
    let client = Client::connect(sidecar.inbound(), Some(peer)).await.expect("a connection");
    well(client.unary(ECHO, UNARY, b"hello").await);
    counts(&sidecar, TUNNELS_TOTAL, &[], 0).await;
}

#[tokio::test]
async fn where_mtls_is_off_the_apps_own_tls_passes() {
    let own = Ca::new("app.example");
    let tls = ServerTls { leaf: own.leaf("spiffe://app.example/own"), client_trust: None };
    let app = Server::start_with(ANY, ServerOptions { tls: Some(tls), ..ServerOptions::default() });
    let app = app.await.expect("an app");
    let (_site, sidecar) = before(app.addr, "off", "", "").await;
    let trusts = TlsIdentity { leaf: None, trust: Some(own.bundle_pem().to_owned()) };
    let client = soon("the app's TLS", Client::connect(sidecar.inbound(), Some(trusts))).await;
    well(soon("a call", client.expect("the app's TLS").unary(ECHO, UNARY, b"hello")).await);
    counts(&sidecar, TUNNELS_TOTAL, &INBOUND, 1).await;
    counts(&sidecar, "grpc_server_handled_total", &[], 0).await;
}

#[tokio::test]
async fn plaintext_is_refused_where_mtls_is_strict() {
    let app = TcpListener::bind(ANY).await.expect("a port");
    let more = "limits: {handshake_timeout: 2s, detection_timeout: 50ms}";
    let (_site, sidecar) = before(app.local_addr().expect("an address"), "strict", more, "").await;
    for first in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\0", PREFACE] {
        let mut tcp = connect(sidecar.inbound()).await;
        tcp.write_all(first).await.expect("sent");
        assert_eq!(rest_and_end(&mut tcp).await.0, b"");
    }
    counts(&sidecar, HANDSHAKES, &[("reason", "plaintext")], 3).await;
    // Silence is no way in either.
    assert_eq!(rest_and_end(&mut connect(sidecar.inbound()).await).await.0, b"");
    counts(&sidecar, REFUSED, &[("limit", "handshake_timeout")], 1).await;
    counts(&sidecar, TUNNELS_TOTAL, &[], 0).await;
    let nobody = tokio::time::timeout(Duration::from_millis(50), app.accept()).await;
    assert!(nobody.is_err(), "the app is not even connected to");
}

#[tokio::test]
async fn bytes_that_may_hold_any_call_are_let_in_only_where_every_call_is() {
    let app = byte_echo().await;
    let opaque = format!("opaque_ports: [{}]", app.addr.port());
    let rules = |rules: &str| format!("    inbound:\n      authorization: {rules}");
    for (rules, more, allowed) in [
        (rules("[]"), "", false),
        (rules("[{allow: {methods: [bench.Echo/Unary]}}]"), "", false),
        (rules("[{allow: {methods: [bench.Echo/*]}}]"), "", false),
        (rules("[{allow: {from: [\"*\"]}}]"), "", false),
        (rules("[{allow: {from: [\"*\"]}}]"), &opaque[..], false),
        (rules("[{allow: {methods: [bench.Echo/Unary]}}]"), &opaque, false),
        (rules("[]"), &opaque, false),
        (rules("[{allow: {}}]"), "", true),
        (rules("[{allow: {}}]"), &opaque, true),
        (String::new(), "", true),
    ] {
        let (_site, sidecar) = before(app.addr, "permissive", more, &rules).await;
        let mut tcp = connect(sidecar.inbound()).await;
        let passed = crate::kit::echoes(&mut tcp, b"\0bytes").await;
        assert_eq!(passed, allowed, "{rules} {more}");
        counts(&sidecar, HANDSHAKES, &[("reason", "not_allowed")], u64::from(!allowed)).await;
        counts(&sidecar, TUNNELS_TOTAL, &INBOUND, u64::from(allowed)).await;
    }
}

#[tokio::test]
async fn of_entries_that_share_a_listener_none_is_for_a_connection_that_was_not_redirected() {
    let (one, two) = (byte_echo().await, byte_echo().await);
    let site = Site::new();
    // An address of loopback where nobody else takes a port.
    let free = TcpListener::bind("127.81.7.4:0").await.expect("a port").local_addr().expect("an address");
    let ways = format!(
        "inbound:\n  - {{listen: \"{free}\", app: \"{}\", mtls: off}}\n  - {{listen: \"{free}\", app: \"{}\", mtls: off}}",
        one.addr, two.addr
    );
    let sidecar = sidecar(&site, &ways, &mesh(&[], "")).await;
    assert_eq!(sidecar.bound.inbound, [free, free]);
    for first in [&b"GET / HTTP/1.1\r\n\r\n"[..], PREFACE, b""] {
        let mut tcp = connect(free).await;
        let _ = tcp.write_all(first).await;
        assert_eq!(rest_and_end(&mut tcp).await.0, b"");
    }
    counts(&sidecar, HANDSHAKES, &[("reason", "no_entry")], 3).await;
    counts(&sidecar, HANDSHAKES, &[], 3).await;
    counts(&sidecar, TUNNELS_TOTAL, &[], 0).await;
}

#[tokio::test]
async fn a_preface_that_comes_byte_by_byte_is_one_and_half_of_one_is_waited_for_in_vain() {
    let app = Server::start(ANY).await.expect("an app");
    // Its first byte must come before it is taken for silent.
    let more = "limits: {handshake_timeout: 2s, detection_timeout: 1s}";
    for mtls in OPEN {
        let (_site, sidecar) = before(app.addr, mtls, more, "").await;
        let mut half = connect(sidecar.inbound()).await;
        half.write_all(&PREFACE[..11]).await.expect("sent");
        let mut tcp = connect(sidecar.inbound()).await;
        for byte in PREFACE.iter().chain(&bench::raw::settings()) {
            tcp.write_all(&[*byte]).await.expect("sent");
            tokio::task::yield_now().await;
        }
        let mut header = [0; 9];
        soon("SETTINGS", tcp.read_exact(&mut header)).await.expect("a frame");
        assert_eq!(header[3], kind::SETTINGS);
        assert_eq!(rest_and_end(&mut half).await.0, b"");
        counts(&sidecar, REFUSED, &[("limit", "handshake_timeout")], 1).await;
        counts(&sidecar, TUNNELS_TOTAL, &[], 0).await;
        counts(&sidecar, "outrigger_connections_total", &[("direction", "inbound")], 1).await;
    }
}
