//! Certificates that are rotated: new connections go by the new ones at once, old ones go on.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bench::certs::LeafSpec;
use bench::client::Client;
use bench::tls::TlsIdentity;
use bench::wait::until;

use crate::kit::{ECHO, UNARY, ca, call, echo, echoes, id, pair, stream};

const EXPIRY: &str = "outrigger_certificate_expiry_timestamp_seconds";

#[tokio::test]
async fn both_ways_go_by_the_new_certificate_and_streams_go_on() {
    let (old, new) = (ca(), ca());
    let app = echo("app").await;
    let (caller, callee) = pair(&old, app.addr).await;
    let client = caller.client().await;
    let mut stream = stream(&client).await;
    let both = format!("{}{}", old.bundle_pem(), new.bundle_pem());
    let expires = SystemTime::now() + Duration::from_secs(1_800);
    let leaf = |account: &str| {
        new.leaf_with(&LeafSpec { uris: vec![id(account)], not_after: expires, ..LeafSpec::default() })
    };
    // First everybody trusts both, then everybody shows the new one, then the old one is trusted no more.
    for live in [&caller, &callee] {
        live.replace("ca.crt", &both);
        live.in_force("identity", 2).await;
    }
    caller.rotate(&leaf("caller"), &both);
    callee.rotate(&leaf("echo"), &both);
    let seconds = expires.duration_since(UNIX_EPOCH).expect("a time").as_secs() as f64;
    for live in [&caller, &callee] {
        until("the new certificate is in force", async || live.metric(EXPIRY, &[]).await == seconds).await;
        live.replace("ca.crt", new.bundle_pem());
        live.in_force("identity", 4).await;
    }
    call(&client).await;
    echoes(&mut stream).await;
    // Whoever has a certificate of the old authority only is nobody now.
    let stranger = TlsIdentity::mutual(&old.leaf(&id("caller")), new.bundle_pem());
    let admitted = match Client::connect(callee.sidecar.inbound(), Some(stranger)).await {
        Err(_) => false,
        Ok(client) => client.unary(ECHO, UNARY, b"ping").await.is_ok_and(|outcome| outcome.is_ok()),
    };
    assert!(!admitted);
    until("it is counted", async || {
        callee.metric("outrigger_handshake_failures_total", &[("reason", "unknown_issuer")]).await == 1.0
    })
    .await;
    assert!(stream.finish().await.is_ok());
    until("one connection is left", async || caller.upstream().await == 1.0).await;
}

#[tokio::test]
async fn files_that_do_not_belong_together_change_nothing_and_are_told() {
    let ca = ca();
    let app = echo("app").await;
    let (caller, _callee) = pair(&ca, app.addr).await;
    let client = caller.client().await;
    let mut stream = stream(&client).await;
    let before = caller.metric(EXPIRY, &[]).await;
    let (good, other) = (ca.leaf(&id("caller")), ca.leaf(&id("caller")));
    let expired = LeafSpec {
        uris: vec![id("caller")],
        not_after: SystemTime::now() - Duration::from_secs(60),
        ..LeafSpec::default()
    };
    let early = LeafSpec {
        uris: vec![id("caller")],
        not_before: SystemTime::now() + Duration::from_secs(3_600),
        ..LeafSpec::default()
    };
    let (expired, early, foreign) = (ca.leaf_with(&expired), ca.leaf_with(&early), ca.leaf(&id("other")));
    let half = &good.cert_pem[..good.cert_pem.len() / 2];
    let bad = [
        ("a key of another", &*good.cert_pem, &*other.key_pem, "tls.key: does not fit"),
        ("another's id", &foreign.cert_pem, &foreign.key_pem, "the certificate is for spiffe:"),
        ("expired", &expired.cert_pem, &expired.key_pem, "has expired"),
        ("not valid yet", &early.cert_pem, &early.key_pem, "is not valid yet"),
        ("half of it", half, &good.key_pem, "tls.crt"),
        ("empty", "", &good.key_pem, "no certificate in PEM"),
    ];
    for (number, (what, cert, key, said)) in bad.into_iter().enumerate() {
        caller.replace("tls.crt", cert);
        caller.replace("tls.key", key);
        let faults = caller.rejected("identity", number as u32 + 1).await;
        assert!(faults[0].contains(said), "{what}: {faults:?}");
        caller.says(&faults[0]).await;
        assert_eq!(caller.config().await["identity"]["version"], 1, "{what}");
        call(&client).await;
        echoes(&mut stream).await;
    }
    assert_eq!(caller.metric(EXPIRY, &[]).await, before);
    caller.rotate(&good, ca.bundle_pem());
    caller.in_force("identity", 2).await;
    caller.good("identity").await;
    call(&client).await;
    assert!(stream.finish().await.is_ok());
}

#[tokio::test]
async fn files_that_are_replaced_one_by_one_are_no_fault() {
    let ca = ca();
    let app = echo("app").await;
    let (caller, _callee) = pair(&ca, app.addr).await;
    let leaf = ca.leaf(&id("caller"));
    caller.replace("tls.crt", &leaf.cert_pem);
    // Long enough for the first to be seen alone, and shorter than a fault has to stay.
    tokio::time::sleep(Duration::from_millis(200)).await;
    caller.replace("tls.key", &leaf.key_pem);
    caller.in_force("identity", 2).await;
    assert_eq!(caller.metric("outrigger_config_rejected_total", &[]).await, 0.0);
    call(&caller.client().await).await;
    assert_eq!(app.calls().len(), 1);
}
