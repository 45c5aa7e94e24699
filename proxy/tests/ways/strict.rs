//! Bytes inside of mTLS: announced by ALPN, or found out by what they are; and who may send them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bench::client::{Client, ClientOptions};
use bench::closed::ClosedPort;
use bench::process::Sidecar;
use bench::server::Server;
use bench::tls::{TlsIdentity, client_config};
use bench::wait::{soon, within};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::kit::{
    HANDSHAKES, INBOUND, REFUSED, TUNNEL_BYTES, TUNNELS_TOTAL, byte_echo, connect, counts, echoes, greeted,
    greeter, noise, none_left, reset, rest_and_end, round_trip,
};
use crate::pair::{ANY, ECHO, ECHO_ID, SHOPPER_ID, Site, UNARY, well};

/// What sidecars say of bytes to one another.
const OPAQUE: &[u8] = b"outrigger-tcp";
/// What is announced: bytes, or nothing at all.
const ANNOUNCED: [Option<&[u8]>; 2] = [Some(OPAQUE), None];

/// A sidecar that asks for mTLS, and its authority.
struct Strict {
    callee: Sidecar,
    site: Site,
}

impl Strict {
    async fn start(app: SocketAddr, more: &str) -> Self {
        Self::with_rules(app, more, "").await
    }

    /// `policies` of its service, each line indented by four.
    async fn with_rules(app: SocketAddr, more: &str, policies: &str) -> Self {
        let site = Site::new();
        let callee = site.callee_as(&site.ca.leaf(ECHO_ID), app, more, policies).await;
        Self { callee, site }
    }

    /// A connection of the service `shopper`, whose ALPN is this one.
    async fn mtls(&self, alpn: Option<&[u8]>) -> TlsStream<TcpStream> {
        let connecting = self.try_mtls(SHOPPER_ID, alpn);
        connecting.await.expect("a handshake that both sides agree to")
    }

    async fn try_mtls(&self, id: &str, alpn: Option<&[u8]>) -> std::io::Result<TlsStream<TcpStream>> {
        let identity = TlsIdentity::mutual(&self.site.ca.leaf(id), self.site.ca.bundle_pem());
        let mut config: ClientConfig = (*client_config(&identity)?).clone();
        config.alpn_protocols = alpn.map(<[u8]>::to_vec).into_iter().collect();
        let connector = TlsConnector::from(Arc::new(config));
        let name = ServerName::try_from("localhost").expect("a name");
        let tcp = connect(self.callee.inbound()).await;
        soon("a handshake", connector.connect(name, tcp)).await
    }
}

#[tokio::test]
async fn bytes_inside_of_mtls_pass_to_the_app_announced_or_not() {
    let app = byte_echo().await;
    let strict = Strict::start(app.addr, "").await;
    let bytes = noise(2_000_000, 30);
    for (passed, alpn) in [1, 2].into_iter().zip(ANNOUNCED) {
        let tls = strict.mtls(alpn).await;
        assert!(round_trip(tls, &bytes).await == bytes, "{alpn:?}");
        counts(&strict.callee, TUNNELS_TOTAL, &INBOUND, passed).await;
        counts(&strict.callee, TUNNEL_BYTES, &[("way", "received")], passed * 2_000_000).await;
        counts(&strict.callee, TUNNEL_BYTES, &[("way", "sent")], passed * 2_000_000).await;
    }
    none_left(&strict.callee, "outrigger_tunnels").await;
    counts(&strict.callee, HANDSHAKES, &[], 0).await;
}

#[tokio::test]
async fn http_2_inside_of_mtls_is_calls_though_nothing_was_announced() {
    let app = Server::start(ANY).await.expect("an app");
    let strict = Strict::start(app.addr, "").await;
    for alpn in [Some(&b"h2"[..]), None] {
        let client = Client::over(strict.mtls(alpn).await, &ClientOptions::default()).await.expect("sent");
        well(soon("a call", client.unary(ECHO, UNARY, b"hello")).await);
    }
    counts(&strict.callee, TUNNELS_TOTAL, &[], 0).await;
    // Announced as bytes, it is bytes.
    let client =
        Client::over(strict.mtls(Some(OPAQUE)).await, &ClientOptions::default()).await.expect("sent");
    well(soon("a call", client.unary(ECHO, UNARY, b"hello")).await);
    counts(&strict.callee, TUNNELS_TOTAL, &INBOUND, 1).await;
    counts(&strict.callee, "grpc_server_handled_total", &[], 2).await;
}

#[tokio::test]
async fn a_server_speaks_first_inside_of_mtls_at_once_if_bytes_were_announced_and_else_after_silence() {
    let app = greeter().await;
    let waits_long = Strict::start(app.addr, "limits: {detection_timeout: 1h, handshake_timeout: 1h}").await;
    let tls = waits_long.mtls(Some(OPAQUE)).await;
    within(Duration::from_secs(20), "a greeting at once", greeted(tls)).await;

    let waits = Strict::start(app.addr, "limits: {detection_timeout: 100ms}").await;
    greeted(waits.mtls(None).await).await;
    counts(&waits.callee, TUNNELS_TOTAL, &INBOUND, 1).await;
}

#[tokio::test]
async fn other_words_of_alpn_are_refused() {
    let app = byte_echo().await;
    let strict = Strict::start(app.addr, "").await;
    for alpn in [&b"http/1.1"[..], b"outrigger-tcp2", b"istio"] {
        // The client learns of it when the server has judged.
        let refused = match strict.try_mtls(SHOPPER_ID, Some(alpn)).await {
            Ok(mut tls) => tls.read_u8().await.is_err(),
            Err(_) => true,
        };
        assert!(refused, "{}", String::from_utf8_lossy(alpn));
    }
    counts(&strict.callee, HANDSHAKES, &[("reason", "tls_error")], 3).await;
    counts(&strict.callee, TUNNELS_TOTAL, &[], 0).await;
}

#[tokio::test]
async fn an_identified_caller_sends_bytes_only_if_a_rule_lets_it_call_everything() {
    let app = byte_echo().await;
    let rules = "    inbound:\n      authorization:\n        \
                 - {allow: {from: [spiffe://cluster.local/ns/shop/sa/shopper], methods: [bench.Echo/*]}}\n        \
                 - {allow: {from: [spiffe://cluster.local/ns/shop/sa/backup]}}";
    let strict = Strict::with_rules(app.addr, "", rules).await;
    for alpn in ANNOUNCED {
        let mut tls = strict.mtls(alpn).await;
        assert!(!echoes(&mut tls, b"\0bytes").await, "{alpn:?}");
        let backup = strict.try_mtls("spiffe://cluster.local/ns/shop/sa/backup", alpn).await;
        assert!(echoes(&mut backup.expect("a handshake"), b"\0bytes").await, "{alpn:?}");
    }
    counts(&strict.callee, HANDSHAKES, &[("reason", "not_allowed")], 2).await;
    counts(&strict.callee, HANDSHAKES, &[], 2).await;
    counts(&strict.callee, TUNNELS_TOTAL, &INBOUND, 2).await;
}

#[tokio::test]
async fn an_end_inside_of_mtls_passes_as_an_end_and_a_cut_off_as_a_reset() {
    let app = TcpListener::bind(ANY).await.expect("a port");
    let strict = Strict::start(app.local_addr().expect("an address"), "").await;
    let open = async || {
        let mut near = strict.mtls(Some(OPAQUE)).await;
        near.write_all(b"?").await.expect("sent");
        let mut far = soon("a connection", app.accept()).await.expect("a connection").0;
        assert_eq!(soon("a byte", far.read_u8()).await.expect("a byte"), b'?');
        (near, far)
    };
    let (mut near, mut far) = open().await;
    near.write_all(b"more").await.expect("sent");
    near.shutdown().await.expect("ended");
    assert_eq!(rest_and_end(&mut far).await, (b"more".to_vec(), true));
    far.write_all(b"the rest").await.expect("the other way is open");
    drop(far);
    assert_eq!(rest_and_end(&mut near).await, (b"the rest".to_vec(), true));

    // FIN without close_notify: somebody between the two may have cut it off.
    let (near, mut far) = open().await;
    let mut cut = near.into_inner().0;
    cut.shutdown().await.expect("cut off");
    assert_eq!(rest_and_end(&mut far).await, (Vec::new(), false));

    let (near, mut far) = open().await;
    reset(near.into_inner().0);
    assert_eq!(rest_and_end(&mut far).await, (Vec::new(), false));

    let (mut near, far) = open().await;
    reset(far);
    assert!(!rest_and_end(&mut near).await.1);
    none_left(&strict.callee, "outrigger_tunnels").await;
}

#[tokio::test]
async fn an_app_that_is_away_is_a_reset_inside_of_mtls_too() {
    let away = ClosedPort::take().expect("a port");
    let strict = Strict::start(away.addr, "").await;
    let mut tls = strict.mtls(Some(OPAQUE)).await;
    let _ = tls.write_all(b"bytes").await;
    assert_eq!(rest_and_end(&mut tls).await, (Vec::new(), false));
    counts(&strict.callee, HANDSHAKES, &[("reason", "unreachable")], 1).await;
}

#[tokio::test]
async fn half_a_preface_inside_of_mtls_is_waited_for_in_vain() {
    let app = byte_echo().await;
    // What is there of it must come before the caller is taken for silent.
    let strict = Strict::start(app.addr, "limits: {handshake_timeout: 2s, detection_timeout: 1s}").await;
    let mut tls = strict.mtls(None).await;
    tls.write_all(b"PRI * HTTP").await.expect("sent");
    assert_eq!(rest_and_end(&mut tls).await.0, b"");
    counts(&strict.callee, REFUSED, &[("limit", "handshake_timeout")], 1).await;
    counts(&strict.callee, TUNNELS_TOTAL, &[], 0).await;
}
