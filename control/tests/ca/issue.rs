//! Who gets a certificate, and what is told of it.

use std::time::{Duration, SystemTime};

use bench::joiner::{Connection, Csr};
use bench::tls::{TlsIdentity, client_config};
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use identity::leaf::Leaf;
use identity::pem::certificates;
use prost::Message as _;
use rustls::pki_types::CertificateDer;

use crate::kit::{ADS, CA, Live, ORDERS, USERS, folder, yaml};

fn read(pem: &str) -> (Leaf, CertificateDer<'static>) {
    let der = certificates("leaf", pem.as_bytes()).expect("a certificate").remove(0);
    (Leaf::read(&der).expect("a leaf"), der)
}

#[tokio::test]
async fn a_token_brings_the_first_certificate_and_that_the_next() {
    let live = Live::start().await;
    let first = live.join(ORDERS).await;
    let (leaf, _) = read(&first.cert_pem);
    assert_eq!(leaf.id.as_str(), ORDERS);
    let life = leaf.not_after.duration_since(SystemTime::now()).expect("it is good");
    assert!(life > Duration::from_secs(24 * 3_600 - 60), "{life:?}");

    let mut connection = live.connect(Some(&first)).await.expect("a connection");
    // A request that names nobody is for whoever asks.
    let csr = Csr::of(&[]);
    let answer = connection.create(None, &csr.pem, 600).await;
    let (leaf, der) = read(&csr.leaf(&answer).cert_pem);
    assert_eq!(leaf.id.as_str(), ORDERS);
    let life = leaf.not_after.duration_since(SystemTime::now()).expect("it is good");
    assert!(life <= Duration::from_secs(601), "as long as was asked for: {life:?}");
    let chain = answer.chain();
    assert_eq!(chain.len(), 2);
    assert_eq!(chain[1], live.bundle(), "the root comes last");
    assert_ne!(chain[0], first.cert_pem);
    drop(der);

    for (by, count) in [("token", 1.0), ("certificate", 1.0)] {
        assert_eq!(live.metric("outrigger_control_certificates_issued_total", &[("by", by)]).await, count);
    }
    let lines = live.audit("issued", 2).await;
    for (line, by) in lines.iter().zip(["token", "certificate"]) {
        assert_eq!(
            (&line["by"], &line["id"], &line["asker"]),
            (&by.into(), &ORDERS.into(), &ORDERS.into()),
            "{line}"
        );
        assert_eq!(line["key_type"], "p-256");
        assert_eq!(line["serial"].as_str().map(str::len), Some(32), "{line}");
        assert!(line["peer"].as_str().is_some_and(|peer| peer.starts_with("127.0.0.1:")), "{line}");
        let root = line["root"].as_str().expect("a root");
        assert!(live.ca().join(format!("{root}.crt")).exists());
        for time in ["time", "not_after"] {
            assert!(line[time].as_str().is_some_and(|time| time.ends_with('Z')), "{line}");
        }
    }
    assert_eq!(lines[0]["jti"].as_str().map(str::len), Some(32));
    assert!(lines[1].get("jti").is_none());
}

#[tokio::test]
async fn nobody_gets_a_longer_life_than_the_ca_gives() {
    let live = Live::within(folder(), &yaml(&format!("{CA}, leaf_life: 1h"), "")).await;
    let mut connection = live.connect(None).await.expect("a connection");
    for asked in [0, -5, i64::MAX, 7 * 24 * 3_600] {
        let csr = Csr::of(&[ORDERS]);
        let answer = connection.create(Some(&live.token(ORDERS)), &csr.pem, asked).await;
        let (leaf, _) = read(&csr.leaf(&answer).cert_pem);
        let life = leaf.not_after.duration_since(SystemTime::now()).expect("it is good").as_secs();
        assert!((3_500..=3_601).contains(&life), "{asked}: {life}");
    }
}

#[tokio::test]
async fn the_control_plane_is_met_by_its_names_with_what_its_ca_signed() {
    let live = Live::start().await;
    let mut roots = rustls::RootCertStore::empty();
    for root in certificates("bundle", live.bundle().as_bytes()).expect("roots") {
        roots.add(root).expect("a root");
    }
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    // `ServerName` is 127.0.0.1, as `ca.names` says.
    Connection::open(live.plane.bound.ads, std::sync::Arc::new(tls)).await.expect("a connection");
    let own = &live.audit("own", 1).await[0];
    assert_eq!(own["id"], "spiffe://cluster.local/ns/outrigger/sa/outrigger-control");
    assert_eq!(own["names"][0], "127.0.0.1");
}

#[tokio::test]
async fn a_token_for_a_single_use_serves_once_also_after_a_restart() {
    let live = Live::start().await;
    let token = live.token_with(ORDERS, Duration::from_secs(600), true);
    let mut connection = live.connect(None).await.expect("a connection");
    // What is refused for another reason does not use it up.
    let foreign = connection.create(Some(&token), &Csr::of(&[USERS]).pem, 0).await;
    assert_eq!(foreign.code, "PERMISSION_DENIED", "{}", foreign.message);
    let csr = Csr::of(&[ORDERS]);
    csr.leaf(&connection.create(Some(&token), &csr.pem, 0).await);
    let again = connection.create(Some(&token), &csr.pem, 0).await;
    assert_eq!(again.code, "UNAUTHENTICATED", "{}", again.message);
    assert!(again.message.contains("was used"), "{}", again.message);
    assert_eq!(live.refused("used_token").await, 1.0);

    let live = live.restart(&yaml(CA, "")).await;
    let mut connection = live.connect(None).await.expect("a connection");
    let again = connection.create(Some(&token), &csr.pem, 0).await;
    assert_eq!(again.code, "UNAUTHENTICATED", "{}", again.message);
    assert_eq!(live.refused("used_token").await, 1.0);
}

#[tokio::test]
async fn of_many_who_use_one_token_at_a_time_one_gets_a_certificate() {
    let live = Live::start().await;
    let token = live.token_with(ORDERS, Duration::from_secs(600), true);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let mut connection = live.connect(None).await.expect("a connection");
        let token = token.clone();
        tasks.spawn(async move { connection.create(Some(&token), &Csr::of(&[ORDERS]).pem, 0).await.code });
    }
    let mut codes = tasks.join_all().await;
    codes.sort_unstable();
    assert_eq!(codes[0], "OK");
    assert_eq!(codes[1..], ["UNAUTHENTICATED"; 7]);
}

#[tokio::test]
async fn a_certificate_serves_for_all_that_is_served() {
    let live = Live::start().await;
    let leaf = live.join(ORDERS).await;
    let identity = TlsIdentity { leaf: Some(leaf), trust: Some(live.bundle()) };
    let tls = client_config(&identity).expect("a configuration");
    let mut connection = Connection::open(live.plane.bound.ads, tls).await.expect("a connection");
    let answer = connection.call(crate::kit::CSDS, None, b"").await.expect("an answer");
    assert_eq!(answer.code, "OK", "{}", answer.message);
}

#[tokio::test]
async fn a_client_without_certificates_is_served_by_its_token_as_who_that_says() {
    let live = Live::start().await;
    let mut connection = live.connect(None).await.expect("a connection");
    let mut stream = connection.stream(ADS, Some(&live.token(ORDERS))).await.expect("a stream");
    let request = DeltaDiscoveryRequest {
        node: Some(Node { id: "foreign".to_owned(), ..Node::default() }),
        type_url: "type.googleapis.com/envoy.config.cluster.v3.Cluster".to_owned(),
        ..DeltaDiscoveryRequest::default()
    };
    stream.send(&request.encode_to_vec(), false).expect("a request");
    let message = stream.next().await.expect("a response").expect("a response");
    DeltaDiscoveryResponse::decode(message).expect("a response");
    let page = live.plane.get("/proxies").await.expect("a page").body;
    let proxies: serde_json::Value = serde_json::from_str(&page).expect("JSON");
    assert_eq!((&proxies[0]["id"], &proxies[0]["spiffe"]), (&"foreign".into(), &ORDERS.into()), "{page}");
}
