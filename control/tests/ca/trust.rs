//! Trust that changes: who is told, and who goes.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bench::certs::Leaf;
use bench::joiner::{Connection, Csr};
use bench::tls::{TlsIdentity, client_config};
use bench::wait::{soon, until};
use bytes::Bytes;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::Secret;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::secret::Type;
use envoy_types::pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use prost::Message;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::kit::{CA, Live, ORDERS, SECRETS, folder, yaml};

const TYPE_URL: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

pub(crate) fn ask_for_roots() -> Vec<u8> {
    let request = DiscoveryRequest {
        type_url: TYPE_URL.to_owned(),
        resource_names: vec!["ROOTCA".to_owned()],
        ..DiscoveryRequest::default()
    };
    request.encode_to_vec()
}

/// The roots of a response, PEM.
fn roots(message: &Bytes) -> (String, DiscoveryResponse) {
    let response = DiscoveryResponse::decode(message.clone()).expect("a response");
    assert_eq!((response.type_url.as_str(), response.resources.len()), (TYPE_URL, 1));
    let secret = Secret::decode(&*response.resources[0].value).expect("a secret");
    assert_eq!(secret.name, "ROOTCA");
    let Some(Type::ValidationContext(context)) = secret.r#type else { panic!("no validation context") };
    let specifier = context.trusted_ca.expect("roots").specifier.expect("roots");
    let envoy_types::pb::envoy::config::core::v3::data_source::Specifier::InlineBytes(pem) = specifier else {
        panic!("not inline: {specifier:?}")
    };
    (String::from_utf8(pem).expect("PEM"), response)
}

fn count(pem: &str) -> usize {
    pem.matches("BEGIN CERTIFICATE").count()
}

#[tokio::test]
async fn roots_are_told_by_sds_and_again_whenever_they_change() {
    let live = Live::start().await;
    let leaf = live.join(ORDERS).await;
    let mut connection = live.connect(Some(&leaf)).await.expect("a connection");
    let mut stream = connection.stream(SECRETS, None).await.expect("a stream");
    stream.send(&ask_for_roots(), false).expect("a request");
    let (first, response) = roots(&stream.next().await.expect("roots").expect("roots"));
    assert_eq!(first, live.bundle());
    let ack = DiscoveryRequest {
        version_info: response.version_info.clone(),
        response_nonce: response.nonce,
        ..DiscoveryRequest::decode(&*ask_for_roots()).expect("a request")
    };
    stream.send(&ack.encode_to_vec(), false).expect("an ACK");

    live.add_root();
    let (second, next) = roots(&stream.next().await.expect("roots").expect("roots"));
    assert_ne!(next.version_info, response.version_info);
    assert_eq!(count(&second), 2);
    assert!(second.starts_with(&first), "the root that signs comes first");
    until("the bundle on disk is the same", async || live.bundle() == second).await;
}

#[tokio::test]
async fn connections_end_for_whom_nobody_vouches_any_more_and_others_stay() {
    let live = Live::start().await;
    let first = live.page().await["signer"].as_str().expect("a signer").to_owned();
    let old = live.join(ORDERS).await;
    let held = live.connect(Some(&old)).await.expect("a connection");
    // The first root goes at once, as when it was stolen; the second one signs.
    live.add_root();
    until("both are trusted", async || {
        live.page().await["trusted"].as_array().is_some_and(|all| all.len() == 2)
    })
    .await;
    for ending in ["crt", "key"] {
        std::fs::remove_file(live.ca().join(format!("{first}.{ending}"))).expect("a file");
    }
    held.ended().await;
    until("the other signs", async || live.page().await["signer"] != first.as_str()).await;
    until("it is counted", async || {
        live.metric("outrigger_control_connections_distrusted_total", &[]).await == 1.0
    })
    .await;
    // By the control plane: a client that reads the bundle too early or too late does not believe it either.
    let reason = [("reason", "unknown_issuer")];
    until("the old one is let in no more", async || {
        live.connect(Some(&old)).await.is_err()
            && live.metric("outrigger_control_handshakes_failed_total", &reason).await >= 1.0
    })
    .await;
    until("the bundle has one root", async || count(&live.bundle()) == 1).await;
    let new = live.join(ORDERS).await;
    let held = live.connect(Some(&new)).await.expect("a connection");
    live.add_root();
    until("another is trusted", async || {
        live.page().await["trusted"].as_array().is_some_and(|all| all.len() == 2)
    })
    .await;
    let mut again = live.connect(Some(&new)).await.expect("a connection");
    assert_eq!(again.create(None, &Csr::of(&[ORDERS]).pem, 0).await.code, "OK");
    assert!(held.is_open(), "a root that comes ends nothing");
}

/// A client that would resume its session, and trusts anybody.
fn resuming(
    leaf: &Leaf,
    bundle: &str,
    version: &'static rustls::SupportedProtocolVersion,
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        roots.add(root.expect("PEM")).expect("a root");
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let cert = CertificateDer::from_pem_slice(leaf.cert_pem.as_bytes()).expect("a certificate");
    let key = PrivateKeyDer::from_pem_slice(leaf.key_pem.as_bytes()).expect("a key");
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .expect("a version")
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![cert], key)
        .expect("a certificate");
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

/// Whether the other side lets it in, and by which kind of handshake.
async fn greets(live: &Live, config: &Arc<ClientConfig>) -> std::io::Result<HandshakeKind> {
    let tcp = TcpStream::connect(live.plane.bound.ads).await?;
    let name = ServerName::from(live.plane.bound.ads.ip());
    let mut tls = soon("TLS", TlsConnector::from(config.clone()).connect(name, tcp)).await?;
    tls.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await?;
    soon("SETTINGS", tls.read_exact(&mut [0; 9])).await?;
    Ok(tls.get_ref().1.handshake_kind().expect("it is over"))
}

#[tokio::test]
async fn no_session_is_resumed_after_the_trust_has_changed() {
    for version in [&TLS13, &TLS12] {
        let live = Live::start().await;
        let first = live.page().await["signer"].as_str().expect("a signer").to_owned();
        let old = live.join(ORDERS).await;
        live.add_root();
        until("both are trusted", async || count(&live.bundle()) == 2).await;
        let config = resuming(&old, &live.bundle(), version);
        for _ in 0..2 {
            let kind = greets(&live, &config).await.unwrap_or_else(|error| panic!("{version:?}: {error}"));
            assert!(
                matches!(kind, HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest),
                "{kind:?}"
            );
        }
        for ending in ["crt", "key"] {
            std::fs::remove_file(live.ca().join(format!("{first}.{ending}"))).expect("a file");
        }
        until("the old one is out", async || greets(&live, &config).await.is_err()).await;
        let reason = [("reason", "unknown_issuer")];
        until("it is counted", async || {
            live.metric("outrigger_control_handshakes_failed_total", &reason).await >= 1.0
        })
        .await;
    }
}

#[tokio::test]
async fn our_own_certificate_is_renewed_in_memory_and_nobody_loses_a_connection() {
    let live = Live::within(folder(), &yaml(&format!("{CA}, leaf_life: 8s"), "")).await;
    let begun = SystemTime::now();
    let leaf = live.join(ORDERS).await;
    let tls = client_config(&TlsIdentity { leaf: Some(leaf), trust: Some(live.bundle()) })
        .expect("a configuration");
    let mut connection = Connection::open(live.plane.bound.ads, tls).await.expect("a connection");
    let own = live.audit("own", 2).await;
    assert_ne!(own[0]["serial"], own[1]["serial"]);
    let passed = begun.elapsed().unwrap_or_default();
    assert!(passed < Duration::from_secs(8), "at half of the life, not at its end: {passed:?}");
    // The caller's own lives no longer.
    if passed < Duration::from_secs(5) {
        assert_eq!(connection.create(None, &Csr::of(&[ORDERS]).pem, 0).await.code, "OK");
    }
}
