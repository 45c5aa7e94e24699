//! Callers whose certificate is not one of the mesh.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bench::call::CallSpec;
use bench::certs::KeyUsagePurpose::{self, CrlSign, KeyCertSign};
use bench::certs::{Ca, Leaf, LeafSpec};
use bench::client::{Client, ClientOptions};
use bench::tls::{TlsIdentity, client_config};
use bench::wait::soon;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::pair::{ECHO, SHOPPER_ID, TRUST_DOMAIN, UNARY};
use crate::{HANDSHAKES, Strict, counts};

const HOUR: Duration = Duration::from_secs(3_600);
/// Each kind comes so often.
const TIMES: u64 = 5;

#[tokio::test]
async fn a_certificate_that_is_not_of_the_mesh_is_refused_by_its_reason_before_any_call() {
    let strict = Strict::start("").await;
    let neighbour = strict.neighbour().await;
    let mut total = 0;
    for (what, leaf, reason) in strangers(&strict.site.ca) {
        let before = metric(&strict, reason).await;
        let identity = TlsIdentity { leaf, trust: Some(strict.site.ca.bundle_pem().to_owned()) };
        for _ in 0..TIMES {
            let came = soon(what, comes_through(&strict, &identity, b"h2")).await;
            assert!(!came, "{what}");
        }
        counts(&strict.callee, HANDSHAKES, &[("reason", reason)], before + TIMES).await;
        total += TIMES;
    }
    assert!(!comes_through(&strict, &strict.good(), b"http/1.1").await, "another protocol by ALPN");
    counts(&strict.callee, HANDSHAKES, &[], total + 1).await;
    assert!(
        comes_through(&strict, &strict.good(), b"h2").await,
        "and with a good one it would have gone well"
    );
    assert!(strict.app.calls_with_nonce("stranger").len() == 1, "of all these the good one alone");
    println!("{total} refused; {} calls of the neighbour", neighbour.unharmed().await);
}

async fn metric(strict: &Strict, reason: &str) -> u64 {
    crate::metric(&strict.callee, HANDSHAKES, &[("reason", reason)]).await
}

/// What it is, what is shown, and the reason under which it is counted.
fn strangers(ca: &Ca) -> Vec<(&'static str, Option<Leaf>, &'static str)> {
    let (foreign, namesake) = (Ca::new("other.example"), Ca::new(TRUST_DOMAIN));
    let now = SystemTime::now();
    let good = || LeafSpec { uris: vec![SHOPPER_ID.to_owned()], ..LeafSpec::default() };
    let named = |uris: &[&str]| {
        let uris = uris.iter().map(ToString::to_string).collect();
        Some(ca.leaf_with(&LeafSpec { uris, ..LeafSpec::default() }))
    };
    let of = |spec: LeafSpec| Some(ca.leaf_with(&spec));
    let uses = |key_usages: Vec<KeyUsagePurpose>| of(LeafSpec { key_usages, ..good() });
    let elsewhere = "spiffe://other.example/ns/shop/sa/shopper";
    vec![
        ("no certificate", None, "no_certificate"),
        ("a foreign authority", Some(foreign.leaf(elsewhere)), "unknown_issuer"),
        ("a foreign authority of our name", Some(namesake.leaf(SHOPPER_ID)), "unknown_issuer"),
        ("a foreign trust domain", named(&[elsewhere]), "trust_domain"),
        ("expired", of(LeafSpec { not_after: now - HOUR / 2, ..good() }), "expired"),
        ("not yet valid", of(LeafSpec { not_before: now + HOUR, ..good() }), "not_valid_yet"),
        ("no SPIFFE id", named(&[]), "spiffe_id"),
        ("two SPIFFE ids", named(&[SHOPPER_ID, "spiffe://cluster.local/ns/shop/sa/admin"]), "spiffe_id"),
        ("twice the same SPIFFE id", named(&[SHOPPER_ID, SHOPPER_ID]), "spiffe_id"),
        ("a SPIFFE id and another URI", named(&[SHOPPER_ID, "https://shop.example"]), "spiffe_id"),
        ("another URI", named(&["https://shop.example"]), "spiffe_id"),
        ("a SPIFFE id without a path", named(&["spiffe://cluster.local"]), "spiffe_id"),
        ("a SPIFFE id with a bad path", named(&["spiffe://cluster.local/ns//sa/shopper"]), "spiffe_id"),
        ("an authority as leaf", of(LeafSpec { is_ca: true, ..good() }), "ca_as_leaf"),
        ("a server's certificate", of(LeafSpec { client_auth: false, ..good() }), "key_usage"),
        (
            "no extended key usage",
            of(LeafSpec { client_auth: false, server_auth: false, ..good() }),
            "key_usage",
        ),
        ("a key for certificates", uses(vec![KeyUsagePurpose::DigitalSignature, KeyCertSign]), "key_usage"),
        (
            "a key for lists of revoked ones",
            uses(vec![KeyUsagePurpose::DigitalSignature, CrlSign]),
            "key_usage",
        ),
        ("a key that wraps keys alone", uses(vec![KeyUsagePurpose::KeyEncipherment]), "key_usage"),
    ]
}

/// Whether a call by this identity reaches the app. In TLS 1.3 a client may be told no after its handshake.
async fn comes_through(strict: &Strict, identity: &TlsIdentity, protocol: &[u8]) -> bool {
    let config = client_config(identity).expect("a leaf and its key");
    let mut config = Arc::unwrap_or_clone(config);
    config.alpn_protocols = vec![protocol.to_vec()];
    let addr = strict.callee.inbound();
    let tcp = TcpStream::connect(addr).await.expect("a connection");
    let name = ServerName::IpAddress(addr.ip().into());
    let Ok(tls) = TlsConnector::from(Arc::new(config)).connect(name, tcp).await else { return false };
    let options = ClientOptions { tls: Some(identity.clone()), ..ClientOptions::default() };
    let Ok(client) = Client::over(tls, &options).await else { return false };
    let spec = CallSpec::new(ECHO, UNARY).header("x-nonce", "stranger");
    client.unary_with(spec, b"let me in").await.is_ok_and(|outcome| outcome.is_ok())
}
