//! Endpoints that are not who they should be, or nobody.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bench::call::CallSpec;
use bench::certs::{Ca, Leaf, LeafSpec};
use bench::client::Client;
use bench::server::Server;
use bench::tls::{ServerTls, server_config};
use bench::wait::soon;
use tokio::io::AsyncWriteExt as _;
use tokio_rustls::TlsAcceptor;

use crate::neighbour::Neighbour;
use crate::pair::peer::{Peer, raw as raw_peer};
use crate::pair::{ANY, ECHO_ID, SHOPPER_ID, Site, TRUST_DOMAIN, UNARY};
use crate::{FAILURES, counts};

const HOUR: Duration = Duration::from_secs(3_600);

#[tokio::test]
async fn an_endpoint_that_proves_no_identity_of_the_service_gets_no_call_and_the_caller_learns_why() {
    let site = Site::new();
    let app = Server::start(ANY).await.expect("an app");
    let callee = site.callee(app.addr, "").await;
    let mut mesh = format!(
        "version: 1\nservices:\n  - {{name: shopper, namespace: shop}}\n  \
         - {{name: echo, namespace: shop, endpoints: [\"{}\"], upstream: {{connect_timeout: 20s}}}}\n",
        callee.inbound()
    );
    let impostors = impostors(&site.ca).await;
    for (number, (what, peer, _)) in impostors.iter().enumerate() {
        // All others are to be found out, however long that takes.
        let patience = if *what == "silence" { "1s" } else { "20s" };
        mesh += &format!(
            "  - {{name: bad-{number}, namespace: shop, identities: [{ECHO_ID}], endpoints: [\"{}\"], \
             upstream: {{connect_timeout: {patience}}}}}\n",
            peer.addr
        );
    }
    let caller = site.caller(&mesh, "").await;
    let neighbour = Neighbour::start(caller.outbound(), None).await;
    let client = Client::connect(caller.outbound(), None).await.expect("a connection");
    for (number, (what, peer, why)) in impostors.iter().enumerate() {
        let authority = format!("bad-{number}.shop");
        let outcome = soon(what, client.unary_with(CallSpec::new(&authority, UNARY), b"secret")).await;
        let outcome = outcome.expect("a call");
        assert_eq!((outcome.grpc_status, outcome.clean_end), (Some(14), true), "{what}: {outcome:?}");
        for part in [*why, "phase connect", &peer.addr.to_string(), &authority] {
            assert!(outcome.message.contains(part), "{what}: `{part}` in {}", outcome.message);
        }
        let labels = [("service", authority.as_str()), ("outcome", "never_sent")];
        counts(&caller, "outrigger_attempts_total", &labels, 1).await;
    }
    let all = impostors.len() as u64;
    counts(&caller, "outrigger_connect_failures_total", &[], all).await;
    counts(&caller, FAILURES, &[("direction", "outbound"), ("reason", "NEVER_SENT")], all).await;
    println!("{all} impostors; {} calls of the neighbour", neighbour.unharmed().await);
}

/// What it is, who plays it, and what the caller is told.
async fn impostors(ca: &Ca) -> Vec<(&'static str, Peer, &'static str)> {
    let (foreign, namesake) = (Ca::new("other.example"), Ca::new(TRUST_DOMAIN));
    let now = SystemTime::now();
    let good = || LeafSpec { uris: vec![ECHO_ID.to_owned()], ..LeafSpec::default() };
    let twice = vec![ECHO_ID.to_owned(), SHOPPER_ID.to_owned()];
    let elsewhere = "spiffe://other.example/ns/shop/sa/echo";
    let leaves = [
        ("another service", ca.leaf(SHOPPER_ID), SHOPPER_ID),
        ("a foreign trust domain", ca.leaf(elsewhere), "is of a foreign trust domain"),
        ("a foreign authority", foreign.leaf(elsewhere), "UnknownIssuer"),
        ("a foreign authority of our name", namesake.leaf(ECHO_ID), "BadSignature"),
        ("expired", ca.leaf_with(&LeafSpec { not_after: now - HOUR / 2, ..good() }), "expired"),
        ("not yet valid", ca.leaf_with(&LeafSpec { not_before: now + HOUR, ..good() }), "not valid yet"),
        ("no id", ca.leaf_with(&LeafSpec::default()), "no URI name"),
        ("two ids", ca.leaf_with(&LeafSpec { uris: twice, ..good() }), "more than one URI name"),
        ("an authority", ca.leaf_with(&LeafSpec { is_ca: true, ..good() }), "TLS"),
        ("a client's", ca.leaf_with(&LeafSpec { server_auth: false, ..good() }), "TLS"),
    ];
    let mut impostors = Vec::new();
    for (what, leaf, why) in leaves {
        impostors.push((what, by_tls(&leaf, ca).await, why));
    }
    let garbage = raw_peer(|mut tcp| async move {
        let _ = tcp.write_all(&[0xff; 1_000]).await;
        let _ = tokio::io::copy(&mut tcp, &mut tokio::io::sink()).await;
    });
    impostors.push(("garbage", garbage.await, "TLS"));
    let silence = raw_peer(|mut tcp| async move {
        let _ = tokio::io::copy(&mut tcp, &mut tokio::io::sink()).await;
    });
    impostors.push(("silence", silence.await, "not connected within 1s"));
    let wrong = raw_peer(|mut tcp| async move {
        let _ = tcp.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
    });
    impostors.push(("HTTP/1.1", wrong.await, "TLS"));
    impostors
}

/// Speaks TLS, and would speak HTTP/2 to whoever takes its certificate.
async fn by_tls(leaf: &Leaf, ca: &Ca) -> Peer {
    let tls = ServerTls { leaf: leaf.clone(), client_trust: Some(ca.bundle_pem().to_owned()) };
    let tls = Arc::new(TlsAcceptor::from(server_config(&tls).expect("a leaf and its key")));
    raw_peer(move |tcp| {
        let tls = tls.clone();
        async move {
            let Ok(stream) = tls.accept(tcp).await else { return };
            let Ok(mut h2) = h2::server::handshake(stream).await else { return };
            if let Some(Ok(_)) = h2.accept().await {
                panic!("a call came to an impostor");
            }
        }
    })
    .await
}
