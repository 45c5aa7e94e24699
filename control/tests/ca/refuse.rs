//! Who is refused, each with the reason that is counted.

use std::time::{Duration, SystemTime};

use bench::certs::{Ca, Leaf, LeafSpec};
use bench::joiner::{CREATE, Connection, Csr};
use bench::tls::{TlsIdentity, client_config};
use bench::wait::{soon, until};
use rcgen::{KeyPair, PKCS_ECDSA_P521_SHA512};
use rustls::pki_types::ServerName;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::kit::{ADS, CA, CSDS, Live, ORDERS, SECRETS, USERS, folder, token, yaml};

#[tokio::test]
async fn every_wrong_request_is_refused_with_its_reason_and_told_in_the_audit() {
    let live = Live::start().await;
    let elsewhere = tempfile::tempdir().expect("a folder");
    let hour = Duration::from_secs(3_600);
    let now = SystemTime::now();
    let good = live.token(ORDERS);
    let foreign_key = token(elsewhere.path(), ORDERS, hour, false, now);
    let expired = token(&live.ca(), ORDERS, hour, false, now - 2 * hour);
    let stranger = live.token("spiffe://example.org/ns/shop/sa/orders");
    let mut changed = good.clone();
    let at = changed.len() - 3;
    let other = if changed[at..].starts_with('A') { "B" } else { "A" };
    changed.replace_range(at..=at, other);
    let orders = Csr::of(&[ORDERS]).pem;
    let p521 = Csr::with(&[ORDERS], &KeyPair::generate_for(&PKCS_ECDSA_P521_SHA512).expect("a key")).pem;
    let mut broken = orders.clone();
    let at = broken.len() / 2;
    broken.replace_range(at..at + 4, "AAAA");
    let cases: [(&str, Option<&str>, &str, &str, &str); 12] = [
        ("nothing is shown", None, &orders, "no_credentials", "UNAUTHENTICATED"),
        ("no token", Some("nonsense"), &orders, "wrong_token", "UNAUTHENTICATED"),
        ("another key", Some(&foreign_key), &orders, "wrong_token", "UNAUTHENTICATED"),
        ("a changed token", Some(&changed), &orders, "wrong_token", "UNAUTHENTICATED"),
        ("another trust domain", Some(&stranger), &orders, "wrong_token", "UNAUTHENTICATED"),
        ("an expired token", Some(&expired), &orders, "expired_token", "UNAUTHENTICATED"),
        ("a foreign id", Some(&good), &Csr::of(&[USERS]).pem, "foreign_id", "PERMISSION_DENIED"),
        ("two ids", Some(&good), &Csr::of(&[ORDERS, USERS]).pem, "bad_csr", "INVALID_ARGUMENT"),
        ("no SPIFFE id", Some(&good), &Csr::of(&["https://a/b"]).pem, "bad_csr", "INVALID_ARGUMENT"),
        ("not a request", Some(&good), "nonsense", "bad_csr", "INVALID_ARGUMENT"),
        ("a broken request", Some(&good), &broken, "bad_csr", "INVALID_ARGUMENT"),
        ("a foreign kind of key", Some(&good), &p521, "key_type", "INVALID_ARGUMENT"),
    ];
    let mut connection = live.connect(None).await.expect("a connection");
    for (what, token, csr, reason, code) in cases {
        let before = live.refused(reason).await;
        let answer = connection.create(token, csr, 0).await;
        assert_eq!(answer.code, code, "{what}: {}", answer.message);
        assert!(answer.body.is_empty() && !answer.message.is_empty(), "{what}");
        assert_eq!(live.refused(reason).await, before + 1.0, "{what}");
    }
    let lines = live.audit("refused", cases.len()).await;
    for (line, (what, _, _, reason, _)) in lines.iter().zip(cases) {
        assert_eq!(line["reason"], reason, "{what}: {line}");
        assert!(
            line["message"].is_string() && line["peer"].is_string() && line["time"].is_string(),
            "{line}"
        );
        assert!(line.get("serial").is_none(), "{line}");
    }
    assert_eq!(live.metric("outrigger_control_certificates_issued_total", &[]).await, 0.0);
}

#[tokio::test]
async fn a_certificate_brings_none_for_somebody_else() {
    let live = Live::start().await;
    let leaf = live.join(ORDERS).await;
    let mut connection = live.connect(Some(&leaf)).await.expect("a connection");
    let answer = connection.create(None, &Csr::of(&[USERS]).pem, 0).await;
    assert_eq!(answer.code, "PERMISSION_DENIED", "{}", answer.message);
    assert_eq!(live.refused("foreign_id").await, 1.0);
}

#[tokio::test]
async fn without_a_certificate_or_a_token_nothing_is_served() {
    let live = Live::start().await;
    let once = live.token_with(ORDERS, Duration::from_secs(60), true);
    let away = |reason: &'static str| {
        let live = &live;
        async move { live.metric("outrigger_control_unauthenticated_total", &[("reason", reason)]).await }
    };
    let mut connection = live.connect(None).await.expect("a connection");
    for path in [ADS, SECRETS, CSDS] {
        let (none, wrong) = (away("no_credentials").await, away("wrong_token").await);
        let answer = connection.call(path, None, b"").await.expect("an answer");
        assert_eq!(answer.code, "UNAUTHENTICATED", "{path}: {}", answer.message);
        // What is good for a certificate is good for nothing else.
        for token in ["nonsense", &once] {
            let answer = connection.call(path, Some(token), b"").await.expect("an answer");
            assert_eq!(answer.code, "UNAUTHENTICATED", "{path}: {}", answer.message);
        }
        assert_eq!(
            (away("no_credentials").await, away("wrong_token").await),
            (none + 1.0, wrong + 2.0),
            "{path}"
        );
    }
    let answer = connection.call(CSDS, Some(&live.token(ORDERS)), b"").await.expect("an answer");
    assert_eq!(answer.code, "OK", "{}", answer.message);
    // That there is such a method is told to anybody.
    let answer = connection.call("/a.B/C", None, b"").await.expect("an answer");
    assert_eq!(answer.code, "UNIMPLEMENTED");
}

#[tokio::test]
async fn a_stream_ends_with_the_token_that_opened_it() {
    let live = Live::start().await;
    let token = live.token_with(ORDERS, Duration::from_secs(6), false);
    let mut connection = live.connect(None).await.expect("a connection");
    let stream = connection.stream(SECRETS, Some(&token)).await.expect("a stream");
    let answer = stream.end().await.expect("an end");
    assert_eq!(answer.code, "UNAUTHENTICATED", "{}", answer.message);
    let was_let_in = "the token by which the stream was let in has expired";
    assert!(answer.message.contains(was_let_in), "{}", answer.message);
}

#[tokio::test]
async fn certificates_that_are_no_good_are_refused_in_tls_each_under_its_reason() {
    // An authority whose key we have, handed in: it can make every wrong kind.
    let ca = Ca::new("cluster.local");
    let dir = folder();
    let handed_in = dir.path().join("ca");
    std::fs::create_dir(&handed_in).expect("a folder");
    std::fs::write(handed_in.join("theirs.crt"), ca.bundle_pem()).expect("a file");
    outrigger_control::ca::make::make_root(&handed_in, SystemTime::now()).expect("a root");
    let live = Live::within(dir, &yaml(CA, "")).await;
    let spec = |uris: &[&str]| LeafSpec {
        uris: uris.iter().map(ToString::to_string).collect(),
        ..LeafSpec::default()
    };
    let minute = Duration::from_secs(60);
    let now = SystemTime::now();
    let over = LeafSpec { not_before: now - 9 * minute, not_after: now - minute, ..spec(&[ORDERS]) };
    let early = LeafSpec { not_before: now + 9 * minute, ..spec(&[ORDERS]) };
    let cases: [(&str, Leaf, &str); 8] = [
        ("expired", ca.leaf_with(&over), "expired"),
        ("not yet valid", ca.leaf_with(&early), "not_valid_yet"),
        ("another trust domain", ca.leaf("spiffe://example.org/ns/shop/sa/orders"), "trust_domain"),
        ("no SPIFFE id", ca.leaf_with(&spec(&[])), "not_a_workload"),
        ("two SPIFFE ids", ca.leaf_with(&spec(&[ORDERS, USERS])), "not_a_workload"),
        ("another use", ca.leaf_with(&LeafSpec { client_auth: false, ..spec(&[ORDERS]) }), "not_a_workload"),
        ("a CA's", ca.leaf_with(&LeafSpec { is_ca: true, ..spec(&[ORDERS]) }), "not_a_workload"),
        ("another authority", Ca::new("cluster.local").leaf(ORDERS), "unknown_issuer"),
    ];
    for (what, leaf, reason) in cases {
        let failed =
            async || live.metric("outrigger_control_handshakes_failed_total", &[("reason", reason)]).await;
        let before = failed().await;
        assert!(live.connect(Some(&leaf)).await.is_err(), "{what} is let in");
        until(format!("{what} is counted as {reason}"), async || failed().await == before + 1.0).await;
    }
    let mut connection = live.connect(Some(&ca.leaf(ORDERS))).await.expect("a good one is let in");
    assert_eq!(connection.create(None, &Csr::of(&[ORDERS]).pem, 0).await.code, "OK");
}

#[tokio::test]
async fn who_asks_too_often_waits_and_leaves_room_for_the_others() {
    let live = Live::within(folder(), &yaml(CA, "limits: {csrs_per_identity: 1}")).await;
    let (orders, users) = (live.token(ORDERS), live.token(USERS));
    let csr = Csr::of(&[]).pem;
    let mut connection = live.connect(None).await.expect("a connection");
    let mut refused = None;
    for _ in 0..100 {
        let answer = connection.create(Some(&orders), &csr, 0).await;
        if answer.code != "OK" {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("a limit");
    assert_eq!(refused.code, "RESOURCE_EXHAUSTED");
    assert!(refused.message.contains("limits.csrs_per_identity"), "{}", refused.message);
    assert_eq!(live.refused("rate").await, 1.0);
    assert_eq!(connection.create(Some(&users), &csr, 0).await.code, "OK");
}

#[tokio::test]
async fn a_connection_that_proves_nothing_ends_soon_and_one_that_does_stays_with_its_streams() {
    let live = Live::within(folder(), &yaml(CA, "limits: {handshake_timeout: 5s}")).await;
    let silent = live.connect(None).await.expect("a connection");
    let mut wrong = live.connect(None).await.expect("a connection");
    let mut good = live.connect(None).await.expect("a connection");
    let mut stream = good.stream(SECRETS, Some(&live.token(ORDERS))).await.expect("a stream");
    stream.send(&crate::trust::ask_for_roots(), false).expect("a request");
    stream.next().await.expect("roots").expect("roots");
    assert_eq!(wrong.create(Some("nonsense"), "", 0).await.code, "UNAUTHENTICATED");
    silent.ended().await;
    wrong.ended().await;
    let timeout = [("limit", "unproven_timeout")];
    assert_eq!(live.metric("outrigger_control_refused_total", &timeout).await, 2.0);
    assert!(good.is_open(), "it has a stream that was let in");
    drop(stream);
    good.ended().await;
    assert_eq!(live.metric("outrigger_control_refused_total", &timeout).await, 2.0);
}

#[tokio::test]
async fn those_who_prove_nothing_keep_nobody_out() {
    let limits = "limits: {unproven: 4, handshake_timeout: 1h}";
    let live = Live::within(folder(), &yaml(CA, limits)).await;
    let leaf = live.join(ORDERS).await;
    let mut proved = live.connect(None).await.expect("a connection");
    let mut stream = proved.stream(SECRETS, Some(&live.token(ORDERS))).await.expect("a stream");
    stream.send(&crate::trust::ask_for_roots(), false).expect("a request");
    stream.next().await.expect("roots").expect("roots");
    let mut silent = Vec::new();
    for _ in 0..8 {
        silent.push(live.connect(None).await.expect("a connection"));
    }
    for connection in &silent[..4] {
        connection.ended().await;
    }
    assert!(proved.is_open(), "who has proved something stays");
    live.connect(Some(&leaf)).await.expect("a connection with a certificate");
    let mut joining = live.connect(None).await.expect("a connection");
    assert_eq!(joining.create(Some(&live.token(USERS)), &Csr::of(&[USERS]).pem, 0).await.code, "OK");
    assert!(live.metric("outrigger_control_refused_total", &[("limit", "unproven")]).await >= 4.0);
}

/// Finishes TLS without a certificate, and says nothing; comes back when the control plane has finished it too.
async fn silent(live: &Live) -> TlsStream<TcpStream> {
    let taken = async || live.metric("outrigger_control_connections_total", &[]).await;
    let before = taken().await;
    let identity = TlsIdentity { leaf: None, trust: Some(live.bundle()) };
    let connector = TlsConnector::from(client_config(&identity).expect("a configuration"));
    let tcp = TcpStream::connect(live.plane.bound.ads).await.expect("a connection");
    let name = ServerName::try_from("127.0.0.1").expect("a name");
    let tls = connector.connect(name, tcp).await.expect("TLS");
    until("it is taken", async || taken().await > before).await;
    tls
}

async fn gone(mut tls: TlsStream<TcpStream>) {
    let mut rest = Vec::new();
    let _ = soon("an end", tls.read_to_end(&mut rest)).await;
}

#[tokio::test]
async fn those_who_say_nothing_after_tls_keep_nobody_out() {
    let live = Live::within(folder(), &yaml(CA, "limits: {unproven: 4, handshake_timeout: 1h}")).await;
    let mut all = Vec::new();
    for _ in 0..8 {
        all.push(silent(&live).await);
    }
    for tls in all.drain(..4) {
        gone(tls).await;
    }
    assert_eq!(live.metric("outrigger_control_refused_total", &[("limit", "unproven")]).await, 4.0);

    let limits = "limits: {connections: 3, handshake_timeout: 1h}";
    let live = Live::within(folder(), &yaml(CA, limits)).await;
    let all = [silent(&live).await, silent(&live).await, silent(&live).await];
    live.join(ORDERS).await;
    assert!(live.metric("outrigger_control_refused_total", &[("limit", "connections")]).await >= 1.0);
    let [oldest, ..] = all;
    gone(oldest).await;
}

#[tokio::test]
async fn a_token_that_was_used_takes_nothing_from_its_workload() {
    let live = Live::within(folder(), &yaml(CA, "limits: {csrs_per_identity: 1}")).await;
    let once = live.token_with(ORDERS, Duration::from_secs(600), true);
    let csr = Csr::of(&[]).pem;
    let mut connection = live.connect(None).await.expect("a connection");
    assert_eq!(connection.create(Some(&once), &csr, 0).await.code, "OK");
    for _ in 0..30 {
        assert_eq!(connection.create(Some(&once), &csr, 0).await.code, "UNAUTHENTICATED");
    }
    assert_eq!(connection.create(Some(&live.token(ORDERS)), &csr, 0).await.code, "OK");
    assert_eq!(live.refused("used_token").await, 30.0);
}

#[tokio::test]
async fn too_many_refusals_of_one_reason_are_told_as_a_number_and_hide_no_other() {
    let live = Live::start().await;
    let csr = Csr::of(&[]).pem;
    let mut connection = live.connect(None).await.expect("a connection");
    for _ in 0..100 {
        connection.create(Some("nonsense"), &csr, 0).await;
    }
    assert_eq!(connection.create(None, &csr, 0).await.code, "UNAUTHENTICATED");
    let dir = {
        let Live { mut plane, dir } = live;
        plane.term();
        soon("its end", plane.wait()).await.expect("a status");
        dir
    };
    let text = std::fs::read_to_string(dir.path().join("audit.jsonl")).expect("an audit");
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
    let (mut told, mut others) = (0, 0);
    for line in lines.filter(|line| line["event"] == "refused") {
        match line["reason"].as_str() {
            Some("wrong_token") => told += line["more"].as_u64().unwrap_or(1),
            _ => others += 1,
        }
    }
    assert_eq!((told, others), (100, 1), "{text}");
}

#[tokio::test]
async fn a_control_plane_without_a_ca_says_so() {
    let ca = Ca::new("cluster.local");
    let dir = folder();
    let spec = LeafSpec { addresses: vec![[127, 0, 0, 1].into()], ..LeafSpec::default() };
    bench::certs::write_identity(dir.path(), &ca.leaf_with(&spec), ca.bundle_pem()).expect("an identity");
    let yaml = "mesh: mesh\nads: {listen: \"127.0.0.1:0\"}\nadmin: {listen: \"127.0.0.1:0\"}\n\
                identity: {cert: tls.crt, key: tls.key, bundle: ca.crt}\n";
    let live = Live::within(dir, yaml).await;
    let tls =
        client_config(&TlsIdentity::mutual(&ca.leaf(ORDERS), ca.bundle_pem())).expect("a configuration");
    let mut connection = Connection::open(live.plane.bound.ads, tls).await.expect("a connection");
    let answer = connection.create(None, &Csr::of(&[ORDERS]).pem, 0).await;
    assert_eq!(answer.code, "UNAVAILABLE", "{}", answer.message);
    assert!(answer.message.contains("`ca`"), "{}", answer.message);
    assert_eq!(live.plane.get("/ca").await.expect("a page").status, 404);
    // Nobody is let in without a certificate there.
    let anonymous = TlsIdentity { leaf: None, trust: Some(ca.bundle_pem().to_owned()) };
    let tls = client_config(&anonymous).expect("a configuration");
    assert!(Connection::open(live.plane.bound.ads, tls).await.is_err());
}

#[tokio::test]
async fn a_request_that_is_too_large_or_no_request_ends_alone() {
    let live = Live::start().await;
    let token = live.token(ORDERS);
    let mut connection = live.connect(None).await.expect("a connection");
    let large = vec![0; 65 << 10];
    let answer = connection.call(CREATE, Some(&token), &large).await.expect("an answer");
    assert_eq!(answer.code, "RESOURCE_EXHAUSTED", "{}", answer.message);
    let answer = connection.call(CREATE, Some(&token), b"\xff\xff\xff").await.expect("an answer");
    assert_eq!(answer.code, "INVALID_ARGUMENT", "{}", answer.message);
    assert_eq!(connection.create(Some(&token), &Csr::of(&[ORDERS]).pem, 0).await.code, "OK");
    drop(TcpStream::connect(live.plane.bound.ads).await);
}
