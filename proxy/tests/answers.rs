//! What an endpoint may do when it answers, and what its caller is told then: the endpoint's status as far as it
//! has said one, else one that says what was wrong. A bad answer is the affair of its own call.

mod pair;

use bench::call::{Call, CallSpec};
use bench::client::Client;
use bench::grpc;
use bench::process::Sidecar;
use bench::tls::ServerTls;
use bench::wait::{soon, until};
use bytes::Bytes;
use http::{HeaderValue, Response};

use crate::pair::frames::{self, Farewell, Frames, OK, Replies, Reply, data, headers};
use crate::pair::{BIDI, ECHO, ECHO_ID, Site, UNARY, around, mesh, metric, peer, well};

/// Each way to go, so often.
const FAREWELLS: usize = 50;
const ATTEMPTS: &str = "outrigger_attempts_total";
const FAILURES: &str = "outrigger_failures_total";

#[tokio::test]
async fn a_status_is_the_status_of_the_call_whatever_ends_right_behind_it() {
    let replies = Replies::default();
    let app = frames::app(None, &replies).await;
    let (_site, callee, caller) = around(app.addr, "").await;
    let client = Client::connect(caller.outbound(), None).await.expect("a connection");
    let mut calls = 0;
    for (what, frames, trailers_only) in answers() {
        for farewell in [Farewell::Reset, Farewell::Fin, Farewell::Goaway] {
            for round in 0..FAREWELLS {
                let what = format!("{what}, {farewell:?}, round {round}");
                replies.next(Reply::Last(frames, farewell));
                let mut call = client.call(CallSpec::new(ECHO, UNARY)).await.expect("a call");
                if round % 2 == 0 {
                    let _ = call.send(b"who am I?").await;
                }
                let (_still_open, receiver) = call.split();
                let outcome = soon(&what, receiver.finish()).await;
                let seen = (outcome.grpc_status, outcome.message.as_str(), outcome.trailers.is_none());
                assert_eq!(seen, (Some(16), "who?", trailers_only), "{what}: {outcome:?}");
                assert_eq!(outcome.messages, u64::from(!trailers_only), "{what}");
                calls += 1;
            }
        }
    }
    assert_eq!(replies.seen().1, calls, "none came twice");
    for sidecar in [&callee, &caller] {
        assert_eq!(metric(sidecar, ATTEMPTS, &[("outcome", "answered")]).await, calls as u64);
        assert_eq!(metric(sidecar, FAILURES, &[]).await, 0);
    }
}

/// What is said, and whether it is all in the head.
fn answers() -> [(&'static str, Frames, bool); 2] {
    const STATUS: [(&str, &str); 2] = [("grpc-status", "16"), ("grpc-message", "who?")];
    let only = |stream| headers(stream, &[OK, &STATUS].concat(), true);
    let whole = |stream| {
        let message = data(stream, &grpc::message(b"by the way"), false);
        [headers(stream, OK, false), message, headers(stream, &STATUS, true)].concat()
    };
    [("trailers-only", only, true), ("head, message and trailers", whole, false)]
}

#[tokio::test]
async fn a_sidecar_that_hands_a_call_back_and_closes_is_believed() {
    const HANDED_BACK: [(&str, &str); 2] = [("grpc-status", "14"), ("outrigger-unprocessed", "1")];
    let site = Site::new();
    let replies = Replies::default();
    let tls = ServerTls { leaf: site.ca.leaf(ECHO_ID), client_trust: Some(site.ca.bundle_pem().to_owned()) };
    let callee = frames::app(Some(&tls), &replies).await;
    let caller = site.caller(&mesh(&[callee.addr], "    upstream: {connect_timeout: 20s}"), "").await;
    let client = Client::connect(caller.outbound(), None).await.expect("a connection");
    // Less than what the retry budget grants in any case.
    for round in 0..FAREWELLS {
        // Without a GOAWAY the second attempt might be placed on the connection that is about to end.
        let handed_back = |stream| headers(stream, &[OK, &HANDED_BACK].concat(), true);
        replies.next(Reply::Last(handed_back, Farewell::Goaway));
        let mut call = client.call(CallSpec::new(ECHO, BIDI)).await.expect("a call");
        call.send(b"again").await.expect("sent");
        let echo = soon(format!("round {round}: an echo by the second attempt"), call.recv()).await;
        let outcome = soon("its end", call.finish()).await;
        assert!(outcome.is_ok() && echo.as_deref() == Some(b"again"), "round {round}: {outcome:?}");
    }
    let ended = async |outcome| metric(&caller, ATTEMPTS, &[("outcome", outcome)]).await;
    assert_eq!((ended("refused").await, ended("answered").await), (FAREWELLS as u64, FAREWELLS as u64));
}

#[tokio::test]
async fn a_malformed_answer_ends_its_call_as_internal_and_no_other() {
    let replies = Replies::default();
    let app = frames::app(None, &replies).await;
    let (_site, callee, caller) = around(app.addr, "").await;
    let client = Client::connect(caller.outbound(), None).await.expect("a connection");
    let mut neighbour = client.call(CallSpec::new(ECHO, BIDI)).await.expect("a call");
    echoed(&mut neighbour, "before").await;
    for (number, (what, frames)) in malformed().into_iter().enumerate() {
        replies.next(Reply::Frames(frames));
        let outcome = soon(what, client.unary(ECHO, UNARY, b"x")).await.expect("a call");
        assert_eq!((outcome.grpc_status, outcome.clean_end), (Some(13), true), "{what}: {outcome:?}");
        assert!(outcome.message.starts_with("outrigger inbound:"), "{what}: {}", outcome.message);
        let failures = [("direction", "inbound"), ("reason", "MALFORMED_RESPONSE")];
        assert_eq!(metric(&callee, FAILURES, &failures).await, number as u64 + 1, "{what}: {outcome:?}");
        echoed(&mut neighbour, what).await;
    }
    assert_eq!(replies.seen(), (1, malformed().len() + 1), "one connection, and no call came twice");
    assert_eq!(metric(&callee, FAILURES, &[]).await, malformed().len() as u64);
    assert_eq!(metric(&caller, FAILURES, &[]).await, 0, "the other hop has nothing to say");
}

/// Answers that break RFC 9113 (8.1 to 8.3), or are larger than we take. (Not among them: a name in capitals, which h2
/// takes for broken HPACK that ends the connection, and a pseudo header in trailers, which h2 drops.)
fn malformed() -> Vec<(&'static str, Frames)> {
    const STATUS: [(&str, &str); 1] = [("grpc-status", "0")];
    vec![
        ("a head of 100 kB", |stream| {
            headers(stream, &[OK, &[("x-large", &"x".repeat(100_000))]].concat(), false)
        }),
        ("a content-length that is no number", |stream| {
            headers(stream, &[OK, &[("content-length", "much")]].concat(), false)
        }),
        ("a content-length that promises more", |stream| {
            let head = headers(stream, &[OK, &[("content-length", "100")]].concat(), false);
            [head, data(stream, &grpc::message(b"less"), false), headers(stream, &STATUS, true)].concat()
        }),
        ("a content-length that promises less", |stream| {
            let head = headers(stream, &[OK, &[("content-length", "3")]].concat(), false);
            [head, data(stream, &grpc::message(b"more"), false)].concat()
        }),
        ("a field of HTTP/1.1", |stream| {
            headers(stream, &[OK, &[("connection", "close")], &STATUS].concat(), true)
        }),
        ("a pseudo header behind a field", |stream| {
            headers(stream, &[("content-type", "application/grpc"), (":status", "200")], true)
        }),
        ("trailers that do not end it", |stream| {
            [headers(stream, OK, false), headers(stream, &STATUS, false)].concat()
        }),
    ]
}

#[tokio::test]
async fn trailers_without_a_status_are_told_as_that_whatever_else_they_hold() {
    let replies = Replies::default();
    let app = frames::app(None, &replies).await;
    let (_site, callee, caller) = around(app.addr, "").await;
    let client = Client::connect(caller.outbound(), None).await.expect("a connection");
    let trailers: [(&str, Frames); 2] = [
        ("another field", |stream| {
            [headers(stream, OK, false), headers(stream, &[("x-other", "1")], true)].concat()
        }),
        // h2 hands out what is within the limit.
        ("a status behind 100 kB", |stream| {
            let late = headers(stream, &[("x-large", &*"x".repeat(100_000)), ("grpc-status", "0")], true);
            [headers(stream, OK, false), late].concat()
        }),
    ];
    for (number, (what, trailers)) in trailers.into_iter().enumerate() {
        replies.next(Reply::Frames(trailers));
        let outcome = soon(what, client.unary(ECHO, UNARY, b"x")).await.expect("a call");
        assert_eq!((outcome.grpc_status, outcome.clean_end), (Some(13), true), "{what}: {outcome:?}");
        assert!(outcome.trailers.is_some(), "{what}: {outcome:?}");
        let failures = [("direction", "inbound"), ("reason", "MISSING_STATUS")];
        assert_eq!(metric(&callee, FAILURES, &failures).await, number as u64 + 1, "{what}");
    }
}

#[tokio::test]
async fn an_answer_that_is_not_grpc_has_the_status_that_its_http_status_stands_for() {
    // gRPC core, `http-grpc-status-mapping.md`.
    const MAPPED: [(u16, i32, &str); 9] = [
        (400, 13, "Internal"),
        (401, 16, "Unauthenticated"),
        (403, 7, "PermissionDenied"),
        (404, 12, "Unimplemented"),
        (429, 14, "Unavailable"),
        (500, 2, "Unknown"),
        (502, 14, "Unavailable"),
        (503, 14, "Unavailable"),
        (504, 14, "Unavailable"),
    ];
    let app = peer::app(None, |request, mut respond| async move {
        let status: u16 = request.headers()["x-status"].to_str().unwrap_or_default().parse().unwrap_or(200);
        let mut response = Response::builder().status(status).body(()).expect("a head");
        response.headers_mut().insert("content-type", HeaderValue::from_static("text/html"));
        let mut stream = respond.send_response(response, false).expect("an open call");
        stream.send_data(Bytes::from_static(b"gone"), true).expect("an open call");
    })
    .await;
    let (_site, callee, caller) = around(app.addr, "").await;
    let client = Client::connect(caller.outbound(), None).await.expect("a connection");
    for (http, code, _) in MAPPED {
        let http = http.to_string();
        let spec = CallSpec::new(ECHO, UNARY).header("x-status", &http);
        let outcome = soon(&http, client.unary_with(spec, b"x")).await.expect("a call");
        assert_eq!((outcome.grpc_status, outcome.clean_end), (Some(code), true), "{http}: {outcome:?}");
    }
    for (sidecar, name) in [(&callee, "grpc_server_handled_total"), (&caller, "grpc_client_handled_total")] {
        for (_, _, label) in MAPPED {
            let want = MAPPED.iter().filter(|(_, _, other)| *other == label).count() as u64;
            let handled = async || handled(sidecar, name, label).await;
            until(format!("{want} {label}"), async || handled().await >= want).await;
            assert_eq!(handled().await, want, "{label}");
        }
    }
}

async fn handled(sidecar: &Sidecar, name: &str, code: &str) -> u64 {
    metric(sidecar, name, &[("grpc_code", code)]).await
}

#[tokio::test]
async fn a_content_length_does_not_go_on_where_trailers_may_follow() {
    // Whoever believed it would take the sidecar's own status for a malformed answer.
    let app = peer::app(None, |request, mut respond| async move {
        let fields = [("content-length", "9")];
        let mut stream = respond.send_response(peer::head(&fields), false).expect("an open call");
        let message = grpc::message(b"four");
        if request.uri().path() == UNARY {
            stream.send_data(message, false).expect("an open call");
            stream.send_trailers(peer::headers(&[("grpc-status", "0")])).expect("an open call");
        } else {
            stream.send_data(message.slice(..3), false).expect("an open call");
            stream.send_reset(h2::Reason::INTERNAL_ERROR);
        }
    })
    .await;
    let (_site, _callee, caller) = around(app.addr, "").await;
    let client = Client::connect(caller.outbound(), None).await.expect("a connection");
    let whole = well(soon("a whole answer", client.unary(ECHO, UNARY, b"x")).await);
    assert!(!whole.headers.contains_key("content-length"), "{whole:?}");
    let cut = soon("half an answer", client.unary(ECHO, BIDI, b"x")).await.expect("a call");
    assert_eq!((cut.grpc_status, cut.clean_end), (Some(13), true), "{cut:?}");
    assert!(!cut.headers.contains_key("content-length"), "{cut:?}");
}

async fn echoed(call: &mut Call, what: &str) {
    call.send(what.as_bytes()).await.unwrap_or_else(|fault| panic!("{what}: a neighbour's end: {fault}"));
    let echo = soon(format!("{what}: a neighbour's echo"), call.recv()).await;
    assert_eq!(echo.as_deref(), Some(what.as_bytes()), "{what}: a neighbour");
}
