//! The xDS listener's TLS: whom it lets in, and a certificate that is renewed while it serves.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bench::certs::{Ca, Leaf, LeafSpec, write_identity};
use bench::wait::{soon, until};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::kit::{Live, USERS, folder};

const MTLS: &str = "mesh: mesh\nads: {listen: \"127.0.0.1:0\"}\nadmin: {listen: \"127.0.0.1:0\"}\n\
    identity: {cert: tls.crt, key: tls.key, bundle: ca.crt}\n";
const SIDECAR: &str = "spiffe://cluster.local/ns/shop/sa/orders";

/// A certificate as a control plane needs it: clients check the address that they dial.
fn own(ca: &Ca) -> Leaf {
    let spec = LeafSpec { addresses: vec![[127, 0, 0, 1].into()], ..LeafSpec::default() };
    ca.leaf_with(&spec)
}

/// A folder with a mesh and an identity.
fn site(ca: &Ca, leaf: &Leaf) -> TempDir {
    let dir = folder(&[("u.yaml", USERS)]);
    write_identity(dir.path(), leaf, ca.bundle_pem()).expect("files of an identity");
    dir
}

/// A connection on which the control plane has spoken HTTP/2: it has let us in.
async fn connect(
    to: SocketAddr,
    ca: &Ca,
    leaf: Option<&Leaf>,
    version: &'static SupportedProtocolVersion,
) -> io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.bundle_pem().as_bytes()).expect("a root")).expect("a root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .map_err(io::Error::other)?
        .with_root_certificates(roots);
    let mut config = match leaf {
        Some(leaf) => {
            let cert = CertificateDer::from_pem_slice(leaf.cert_pem.as_bytes()).expect("a certificate");
            let key = PrivateKeyDer::from_pem_slice(leaf.key_pem.as_bytes()).expect("a key");
            builder.with_client_auth_cert(vec![cert], key).map_err(io::Error::other)?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let tcp = TcpStream::connect(to).await?;
    let name = ServerName::IpAddress(to.ip().into());
    let mut tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
    // The preface and empty SETTINGS; the answer begins with a frame's head.
    tls.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await?;
    let mut head = [0; 9];
    tls.read_exact(&mut head).await?;
    Ok(tls)
}

fn certificate(tls: &TlsStream<TcpStream>) -> Vec<u8> {
    tls.get_ref().1.peer_certificates().expect("a chain")[0].to_vec()
}

#[tokio::test]
async fn only_workloads_of_the_trust_domain_are_let_in() {
    let (ca, foreign) = (Ca::new("cluster.local"), Ca::new("cluster.local"));
    let live = Live::within(site(&ca, &own(&ca)), MTLS).await;
    let to = live.plane.bound.ads;
    let good = ca.leaf(SIDECAR);
    for version in [&TLS13, &TLS12] {
        connect(to, &ca, Some(&good), version).await.unwrap_or_else(|error| panic!("{version:?}: {error}"));
    }
    let nobody = ca.leaf_with(&LeafSpec::default());
    let stranger = ca.leaf("spiffe://example.org/ns/shop/sa/orders");
    let domain = ca.leaf("spiffe://cluster.local");
    let ends = SystemTime::now() - Duration::from_secs(60);
    let expired =
        ca.leaf_with(&LeafSpec { uris: vec![SIDECAR.to_owned()], not_after: ends, ..LeafSpec::default() });
    let forged = foreign.leaf(SIDECAR);
    let cases = [
        ("no certificate", None),
        ("no SPIFFE id", Some(&nobody)),
        ("another trust domain", Some(&stranger)),
        ("a trust domain and no workload", Some(&domain)),
        ("an expired certificate", Some(&expired)),
        ("another authority", Some(&forged)),
    ];
    for (what, leaf) in cases {
        for version in [&TLS13, &TLS12] {
            assert!(connect(to, &ca, leaf, version).await.is_err(), "{what} is let in by {version:?}");
        }
    }
    until("all are counted", async || {
        live.metric("outrigger_control_handshakes_failed_total", &[]).await == 2.0 * cases.len() as f64
    })
    .await;
    live.says("no connection to xDS").await;
}

#[tokio::test]
async fn a_certificate_that_is_renewed_is_used_from_the_next_handshake_on() {
    let ca = Ca::new("cluster.local");
    let live = Live::within(site(&ca, &own(&ca)), MTLS).await;
    let (to, me) = (live.plane.bound.ads, ca.leaf(SIDECAR));
    let mut held = connect(to, &ca, Some(&me), &TLS13).await.expect("a connection");
    let first = certificate(&held);
    let next = own(&ca);
    // One by one, as volumes and people do: what does not fit together is not used, and not told at once.
    let (begun, mut apart) = (Instant::now(), Duration::ZERO);
    for (name, text) in [("tls.crt", &next.cert_pem), ("tls.key", &next.key_pem)] {
        std::fs::write(live.dir.path().join("next"), text).expect("a file");
        std::fs::rename(live.dir.path().join("next"), live.dir.path().join(name)).expect("a rename");
        apart = begun.elapsed();
        connect(to, &ca, Some(&me), &TLS13).await.expect("a connection meanwhile");
    }
    until("the new certificate is shown", async || {
        certificate(&connect(to, &ca, Some(&me), &TLS13).await.expect("a connection")) != first
    })
    .await;
    // Where this machine stood still for longer between the two, it was told, and rightly so.
    if apart < Duration::from_secs(1) {
        assert_eq!(live.metric("outrigger_control_identity_rejected_total", &[]).await, 0.0);
    }
    // A PING on the connection of before is answered: it goes on.
    held.write_all(b"\0\0\x08\x06\0\0\0\0\0outrider").await.expect("a write");
    let mut read = Vec::new();
    soon("the answer to a PING", async {
        while !read.windows(8).any(|window| window == b"outrider") {
            read.push(held.read_u8().await.expect("the connection is open"));
        }
    })
    .await;
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_changes_nothing_and_is_told() {
    let ca = Ca::new("cluster.local");
    let live = Live::within(site(&ca, &own(&ca)), MTLS).await;
    std::fs::write(live.dir.path().join("tls.key"), own(&ca).key_pem).expect("a file");
    live.says("the identity cannot be used, and what was in force stays so").await;
    live.says("tls.key: does not fit").await;
    assert_eq!(live.metric("outrigger_control_identity_rejected_total", &[]).await, 1.0);
    connect(live.plane.bound.ads, &ca, Some(&ca.leaf(SIDECAR)), &TLS13).await.expect("a connection");
}

#[tokio::test]
async fn a_connection_ends_when_the_callers_certificate_expires() {
    let ca = Ca::new("cluster.local");
    let live = Live::within(site(&ca, &own(&ca)), MTLS).await;
    let ends = SystemTime::now() + Duration::from_secs(6);
    let spec = LeafSpec { uris: vec![SIDECAR.to_owned()], not_after: ends, ..LeafSpec::default() };
    let mut tls =
        connect(live.plane.bound.ads, &ca, Some(&ca.leaf_with(&spec)), &TLS13).await.expect("a connection");
    soon("the end", async { while tls.read_u8().await.is_ok() {} }).await;
    assert!(SystemTime::now() + Duration::from_secs(1) >= ends, "it ended before its time");
}

#[tokio::test]
async fn callers_who_say_nothing_keep_nobody_out_who_has_a_certificate() {
    let ca = Ca::new("cluster.local");
    // The first limit is reached in one of them, the second in the other.
    for limits in ["handshakes: 4", "connections: 4"] {
        let yaml = format!("{MTLS}limits: {{handshake_timeout: 1h, {limits}}}\n");
        let live = Live::within(site(&ca, &own(&ca)), &yaml).await;
        let to = live.plane.bound.ads;
        let mut silent = Vec::new();
        for _ in 0..8 {
            silent.push(TcpStream::connect(to).await.expect("a connection"));
        }
        let me = ca.leaf(SIDECAR);
        let mut held = connect(to, &ca, Some(&me), &TLS13).await.expect("a connection beside them");
        for tcp in &mut silent[..4] {
            let read = soon("the end of the oldest", tcp.read(&mut [0])).await;
            assert!(matches!(read, Ok(0) | Err(_)), "{limits}: {read:?}");
        }
        for _ in 0..8 {
            silent.push(TcpStream::connect(to).await.expect("a connection"));
        }
        connect(to, &ca, Some(&me), &TLS13).await.expect("one more connection");
        held.write_all(b"\0\0\x08\x06\0\0\0\0\0outrider").await.expect("who is in stays");
        let mut read = Vec::new();
        soon("the answer to a PING", async {
            while !read.windows(8).any(|window| window == b"outrider") {
                read.push(held.read_u8().await.expect("the connection is open"));
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_caller_who_says_nothing_is_sent_away_in_time() {
    let ca = Ca::new("cluster.local");
    let yaml = format!("{MTLS}limits: {{handshake_timeout: 5s, handshakes: 1}}\n");
    let live = Live::within(site(&ca, &own(&ca)), &yaml).await;
    let to = live.plane.bound.ads;
    let mut silent = TcpStream::connect(to).await.expect("a connection");
    let mut one_more = TcpStream::connect(to).await.expect("a connection");
    for tcp in [&mut one_more, &mut silent] {
        let read = soon("its end", tcp.read(&mut [0])).await;
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    }
    let refused = |limit: &'static str| {
        let live = &live;
        async move { live.metric("outrigger_control_refused_total", &[("limit", limit)]).await }
    };
    until("one and the other are counted", async || {
        (refused("handshakes").await, refused("handshake_timeout").await) == (1.0, 1.0)
    })
    .await;
    connect(to, &ca, Some(&ca.leaf(SIDECAR)), &TLS13).await.expect("a connection after them");
}
