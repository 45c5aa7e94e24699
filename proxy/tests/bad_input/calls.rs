//! Calls that are malformed, by a caller whom the mesh knows.

use bench::call::CallSpec;
use bench::client::Client;
use bench::grpc;
use bench::server::Server;
use bench::wait::soon;

use crate::pair::peer::{self, drain};
use crate::pair::{ANY, ECHO, SHOPPER_ID, Site, UNARY};
use crate::{FAILURES, Plain, Strict, counts};

#[tokio::test]
async fn a_malformed_call_is_refused_by_its_reason_and_its_connection_goes_on() {
    let strict = Strict::start("").await;
    let neighbour = strict.neighbour().await;
    let client = Client::connect(strict.callee.inbound(), Some(strict.good())).await.expect("a connection");
    let refused = async |what: &str, spec: CallSpec<'_>, status: (u16, Option<i32>)| {
        let spec = spec.header("x-nonce", "bad");
        let outcome = soon(what, client.unary_with(spec, b"x")).await.expect("the connection goes on");
        let got = (outcome.http_status, outcome.grpc_status);
        assert_eq!(got, (Some(status.0), status.1), "{what}: {outcome:?}");
        assert!(outcome.clean_end, "{what}: {outcome:?}");
    };
    let good = || CallSpec::new(ECHO, UNARY);

    let timeouts = ["", "5", "S", "1s", "123456789S", "-1S", "+1S", "1 S", " 1S", "1.5S", "1SS", "soon"];
    for timeout in timeouts {
        refused(timeout, good().header("grpc-timeout", timeout), (200, Some(13))).await;
    }
    let failures = |reason| [("direction", "inbound"), ("reason", reason)];
    counts(&strict.callee, FAILURES, &failures("MALFORMED_TIMEOUT"), timeouts.len() as u64).await;

    let paths = ["/", "/nothing", "/?a=b", "*"];
    for path in paths {
        let spec = CallSpec { path, ..good() };
        refused(path, spec, (200, Some(13))).await;
    }
    let hosts = ["other.shop", "echo.shop:1", "", "\u{e9}"];
    for host in hosts {
        refused(host, good().header("host", host), (200, Some(13))).await;
    }
    let malformed = paths.len() + hosts.len();
    counts(&strict.callee, FAILURES, &failures("MALFORMED_REQUEST"), malformed as u64).await;

    // RFC 6585, 5; by h2 itself, before there is a call: no counter.
    let large = "x".repeat(100_000);
    refused("100 kB of headers", good().header("x-large", &large), (431, None)).await;

    assert!(strict.app.calls_with_nonce("bad").is_empty());
    let ok = soon("a good call", client.unary(ECHO, UNARY, b"x")).await.expect("the same connection");
    assert!(ok.is_ok(), "{ok:?}");
    counts(&strict.callee, FAILURES, &[], (timeouts.len() + malformed) as u64).await;
    println!("{} calls of the neighbour", neighbour.unharmed().await);
}

#[tokio::test]
async fn hosts_that_say_the_same_are_one_host_and_the_app_is_called() {
    let strict = Strict::start("").await;
    let client = Client::connect(strict.callee.inbound(), Some(strict.good())).await.expect("a connection");
    for hosts in [&[ECHO][..], &["ECHO.shop"], &[ECHO, ECHO]] {
        let spec = hosts.iter().fold(CallSpec::new(ECHO, UNARY), |spec, host| spec.header("host", host));
        let outcome = soon(hosts.join(", "), client.unary_with(spec, b"x")).await.expect("a call");
        assert!(outcome.is_ok(), "{hosts:?}: {outcome:?}");
    }
}

#[tokio::test]
async fn one_host_that_contradicts_the_others_is_enough_to_refuse_a_call() {
    let app = Server::start(ANY).await.expect("an app");
    let plain = Plain::before(app.addr, "").await;
    let hosts = [[ECHO, "evil.shop"], ["evil.shop", ECHO]];
    for (door, direction) in plain.doors().into_iter().zip(["inbound", "outbound"]) {
        let client = Client::connect(door, None).await.expect("a connection");
        for [first, second] in hosts {
            let spec = CallSpec::new(ECHO, UNARY).header("host", first).header("host", second);
            let outcome = soon(direction, client.unary_with(spec, b"x")).await.expect("a call");
            assert_eq!(
                (outcome.grpc_status, outcome.clean_end),
                (Some(13), true),
                "{direction}: {outcome:?}"
            );
        }
        let failures = [("direction", direction), ("reason", "MALFORMED_REQUEST")];
        counts(&plain.sidecar, FAILURES, &failures, hosts.len() as u64).await;
    }
    assert!(app.calls().is_empty());
}

#[tokio::test]
async fn messages_are_the_app_s_to_judge_and_pass_as_they_are() {
    // It answers with what it got.
    let app = peer::app(None, |mut request, mut respond| async move {
        let body = drain(request.body_mut()).await;
        let mut stream = respond.send_response(peer::head(&[]), false).expect("an open call");
        stream.send_data(grpc::message(&body), false).expect("an open call");
        let _ = stream.send_trailers(peer::headers(&[("grpc-status", "0")]));
    })
    .await;
    let site = Site::new();
    let callee = site.callee(app.addr, "").await;
    let good = bench::tls::TlsIdentity::mutual(&site.ca.leaf(SHOPPER_ID), site.ca.bundle_pem());
    let client = Client::connect(callee.inbound(), Some(good)).await.expect("a connection");
    for (what, bytes) in [
        ("a flag that is neither 0 nor 1", &[7, 0, 0, 0, 2, b'h', b'i'][..]),
        ("half a prefix", &[0, 0, 0]),
        ("half a message", &[0, 0, 0, 0, 9, b'h']),
        ("4 GiB announced", &[0, 0xff, 0xff, 0xff, 0xff, b'h']),
        ("a message and a byte", &[0, 0, 0, 0, 1, b'h', 0]),
        ("nothing", &[]),
    ] {
        let mut call = client.call(CallSpec::new(ECHO, UNARY)).await.expect("a call");
        if !bytes.is_empty() {
            call.sender.send_raw(bytes).await.expect("sent");
        }
        let outcome = soon(what, call.finish()).await;
        assert!(outcome.is_ok(), "{what}: {outcome:?}");
        assert_eq!(outcome.last.as_deref(), Some(bytes), "{what}");
    }
}
