//! Certificates that are rotated: new connections go by the new ones at once, old ones go on while their roots are trusted.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bench::certs::LeafSpec;
use bench::client::Client;
use bench::tls::{TlsIdentity, client_config};
use bench::wait::{soon, until};
use rustls::HandshakeKind;
use rustls::client::Resumption;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use crate::kit::{ANY, ECHO, UNARY, ca, call, echo, echoes, id, pair, stream};

const EXPIRY: &str = "outrigger_certificate_expiry_timestamp_seconds";
const DISTRUSTED: &str = "outrigger_connections_distrusted_total";
const LEAF: [(&str, &str); 1] = [("certificate", "leaf")];

#[tokio::test]
async fn both_ways_go_by_the_new_certificate_and_streams_go_on_while_the_old_one_is_trusted() {
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
        until("the new certificate is in force", async || live.metric(EXPIRY, &LEAF).await == seconds).await;
    }
    echoes(&mut stream).await;
    // The callee first, and until it has ended the stream: else the caller gives the stream's connection up.
    callee.replace("ca.crt", new.bundle_pem());
    callee.in_force("identity", 4).await;
    // The stream came on a connection that the old authority vouched for, and that nobody trusts any more.
    assert_eq!(soon("the end of the stream", stream.recv()).await, None);
    assert_eq!(stream.finish().await.grpc_status, Some(7));
    caller.replace("ca.crt", new.bundle_pem());
    caller.in_force("identity", 4).await;
    call(&client).await;
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
    until("one connection is left", async || caller.upstream().await == 1.0).await;
}

#[tokio::test]
async fn other_roots_open_no_connection_anew_whose_server_they_still_vouch_for() {
    let (ca, other) = (ca(), ca());
    let app = echo("app").await;
    let (caller, _callee) = pair(&ca, app.addr).await;
    let client = caller.client().await;
    let mut stream = stream(&client).await;
    let opened = async || caller.metric("outrigger_connections_total", &[("direction", "upstream")]).await;
    let before = opened().await;
    // One more, and then one less.
    for (version, bundle) in
        [(2, format!("{}{}", ca.bundle_pem(), other.bundle_pem())), (3, ca.bundle_pem().to_owned())]
    {
        caller.replace("ca.crt", &bundle);
        caller.in_force("identity", version).await;
        call(&client).await;
        echoes(&mut stream).await;
    }
    assert_eq!(opened().await, before);
    assert_eq!(caller.metric(DISTRUSTED, &[]).await, 0.0);
    assert!(stream.finish().await.is_ok());
}

#[tokio::test]
async fn calls_to_a_server_whose_root_has_gone_end_and_no_call_goes_there() {
    let (ours, theirs) = (ca(), ca());
    let app = echo("app").await;
    let (caller, callee) = pair(&ours, app.addr).await;
    let both = format!("{}{}", ours.bundle_pem(), theirs.bundle_pem());
    callee.rotate(&theirs.leaf(&id("echo")), &both);
    callee.in_force("identity", 2).await;
    caller.replace("ca.crt", &both);
    caller.in_force("identity", 2).await;
    let client = caller.client().await;
    let (mut first, second) = (stream(&client).await, stream(&client).await);
    echoes(&mut first).await;
    caller.replace("ca.crt", ours.bundle_pem());
    for mut stream in [first, second] {
        assert_eq!(soon("the end of a stream", stream.recv()).await, None);
        let outcome = stream.finish().await;
        assert_eq!(outcome.grpc_status, Some(14), "{outcome:?}");
        assert!(outcome.message.contains("no longer leads to a root"), "{outcome:?}");
    }
    until("it is counted", async || caller.metric(DISTRUSTED, &[("direction", "upstream")]).await >= 1.0)
        .await;
    until("nothing is left of it", async || caller.upstream().await == 0.0).await;
    let refused = client.unary(ECHO, UNARY, b"ping").await.expect("a call");
    assert_eq!(refused.grpc_status, Some(14), "{refused:?}");
    // It is the callee's turn to show one that is believed.
    callee.rotate(&ours.leaf(&id("echo")), &both);
    until("calls go there again", async || {
        client.unary(ECHO, UNARY, b"ping").await.is_ok_and(|outcome| outcome.is_ok())
    })
    .await;
}

#[tokio::test]
async fn bytes_to_a_server_whose_root_has_gone_end_too() {
    let (ours, theirs) = (ca(), ca());
    let app = TcpListener::bind(ANY).await.expect("a port");
    let (caller, callee) = pair(&ours, app.local_addr().expect("an address")).await;
    let both = format!("{}{}", ours.bundle_pem(), theirs.bundle_pem());
    callee.rotate(&theirs.leaf(&id("echo")), &both);
    callee.in_force("identity", 2).await;
    caller.replace("ca.crt", &both);
    caller.in_force("identity", 2).await;
    let mut near = TcpStream::connect(caller.sidecar.outbound()).await.expect("a connection");
    near.write_all(b"CONNECT echo.shop:80 HTTP/1.1\r\nhost: echo.shop:80\r\n\r\n").await.expect("it is open");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(soon("an answer", near.read_u8()).await.expect("a byte"));
    }
    near.write_all(b"neither one nor the other").await.expect("it is open");
    let (mut far, _) = soon("a connection to the app", app.accept()).await.expect("one");
    let mut bytes = [0; 25];
    soon("bytes", far.read_exact(&mut bytes)).await.expect("bytes");
    // What they still vouch for stays.
    far.write_all(b"back").await.expect("it is open");
    soon("bytes back", near.read_exact(&mut bytes[..4])).await.expect("bytes");
    caller.replace("ca.crt", ours.bundle_pem());
    let end = soon("the end", near.read_u8()).await;
    assert!(end.is_err(), "{end:?}");
    until("it is gone", async || caller.metric("outrigger_tunnels", &[]).await == 0.0).await;
}

#[tokio::test]
async fn files_that_do_not_belong_together_change_nothing_and_are_told() {
    let ca = ca();
    let app = echo("app").await;
    let (caller, _callee) = pair(&ca, app.addr).await;
    let client = caller.client().await;
    let mut stream = stream(&client).await;
    let before = caller.metric(EXPIRY, &LEAF).await;
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
    for (what, cert, key, said) in bad {
        let before = caller.rejections().await;
        let late = caller.replace_apart(cert, key, Duration::ZERO).await;
        let first = async || caller.faults("identity").await.into_iter().next().unwrap_or_default();
        // The one before may have been told in the same words.
        let is_told = async || caller.rejections().await > before && first().await.contains(said);
        until(format!("{what} is told"), is_told).await;
        // What is found between the two files is not told: it does not stay.
        let times = caller.rejections().await - before;
        assert!((1..=1 + u32::from(late)).contains(&times), "{what}: {times}");
        caller.says(&first().await).await;
        assert_eq!(caller.config().await["identity"]["version"], 1, "{what}");
        call(&client).await;
        echoes(&mut stream).await;
    }
    assert_eq!(caller.metric(EXPIRY, &LEAF).await, before);
    caller.rotate(&good, ca.bundle_pem());
    caller.in_force("identity", 2).await;
    caller.good("identity").await;
    call(&client).await;
    assert!(stream.finish().await.is_ok());
}

#[tokio::test]
async fn files_that_are_replaced_one_by_one_are_no_fault_nor_is_the_mending_of_one() {
    // Long enough for the first to be seen alone, and shorter than a fault has to stay.
    const GAP: Duration = Duration::from_millis(200);
    let ca = ca();
    let app = echo("app").await;
    let (caller, _callee) = pair(&ca, app.addr).await;
    let [first, other, mended] = [(); 3].map(|()| ca.leaf(&id("caller")));
    let late = caller.replace_apart(&first.cert_pem, &first.key_pem, GAP).await;
    caller.in_force("identity", 2).await;
    let before = caller.rejections().await;
    assert!(before <= u32::from(late), "{before}");
    // What comes after a fault that has been told is no fault at once: whoever mends it has as much time.
    caller.replace("tls.key", &other.key_pem);
    caller.rejected("identity", before + 1).await;
    let late = caller.replace_apart(&mended.cert_pem, &mended.key_pem, GAP).await;
    caller.in_force("identity", 3).await;
    let more = caller.rejections().await - before - 1;
    assert!(more <= u32::from(late), "{more}");
    call(&caller.client().await).await;
    assert_eq!(app.calls().len(), 1);
}

#[tokio::test]
async fn no_session_is_resumed_before_or_after_the_roots_have_changed() {
    let (old, new) = (ca(), ca());
    let app = echo("app").await;
    let (_caller, callee) = pair(&old, app.addr).await;
    let trusting = format!("{}{}", old.bundle_pem(), new.bundle_pem());
    let config = client_config(&TlsIdentity::mutual(&old.leaf(&id("caller")), &trusting)).expect("a config");
    let mut config = Arc::unwrap_or_clone(config);
    // Whoever wants to resume keeps tickets, and offers them again.
    config.resumption = Resumption::in_memory_sessions(8);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let config = Arc::new(config);
    let greets = async || -> std::io::Result<HandshakeKind> {
        let to = callee.sidecar.inbound();
        let tcp = TcpStream::connect(to).await?;
        let mut tls = TlsConnector::from(config.clone()).connect(ServerName::from(to.ip()), tcp).await?;
        tls.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await?;
        // In TLS 1.3 a client is told no after its own handshake.
        soon("SETTINGS", tls.read_exact(&mut [0; 9])).await?;
        Ok(tls.get_ref().1.handshake_kind().expect("it is over"))
    };
    for _ in 0..2 {
        let kind = greets().await.expect("it is let in");
        assert!(matches!(kind, HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest), "{kind:?}");
    }
    callee.rotate(&new.leaf(&id("echo")), new.bundle_pem());
    callee.in_force("identity", 2).await;
    until("the old root is believed no more", async || greets().await.is_err()).await;
    until("it is counted", async || {
        callee.metric("outrigger_handshake_failures_total", &[("reason", "unknown_issuer")]).await >= 1.0
    })
    .await;
}
