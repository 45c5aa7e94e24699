//! Faults on purpose, as a caller and an endpoint see them: what of a response goes on to the message, what ends a call
//! that waits, and that a seed brings the same calls again.

mod kit;
#[path = "../pair/mod.rs"]
mod pair;
mod rules;
mod streams;

use std::time::{Duration, Instant};

use bench::call::CallSpec;
use bench::server::Server;
use bench::wait::{soon, until};

use crate::kit::{ANY, BIDI, CLIENT_STREAM, Caller, UNARY, exchange, kinds};

/// A server, and the sidecar of a caller with these `faults` towards it.
async fn site(faults: &str) -> (Server, Caller) {
    let server = Server::start(ANY).await.expect("a server");
    let caller = Caller::start(&server, &format!("faults: {faults}")).await;
    (server, caller)
}

#[tokio::test]
async fn an_aborted_call_reaches_no_endpoint_is_not_retried_and_says_why() {
    let server = Server::start(ANY).await.expect("a server");
    let policies = "faults: {abort: {code: UNAVAILABLE}}\nretries: {max_attempts: 5}";
    let caller = Caller::start(&server, policies).await;
    for kind in kinds(3, 100) {
        let (came, outcome) = exchange(&caller.client, CallSpec::new("far", kind.path), &kind.sends).await;
        assert_eq!((came.len(), outcome.grpc_status), (0, Some(14)), "{outcome:?}");
        assert!(outcome.trailers.is_none(), "trailers-only: {outcome:?}");
        assert_eq!(outcome.message, "outrigger outbound: fault on purpose: the call has not gone out");
    }
    assert_eq!((server.calls().len(), server.accepted()), (0, 0));
    let metrics = caller.metrics().await;
    assert_eq!(metrics.value("outrigger_attempts_total", &[]), 0.0);
    assert_eq!(caller.injected("abort").await, 4);
    assert_eq!(metrics.value("grpc_client_handled_total", &[("grpc_code", "Unavailable")]), 4.0);
}

#[tokio::test]
async fn a_delayed_call_takes_its_request_in_and_ends_with_its_deadline_or_its_caller() {
    let (server, caller) = site("{delay: {duration: 1h}}").await;
    let spec = CallSpec::new("far", UNARY).header("grpc-timeout", "300m");
    let began = Instant::now();
    let outcome = soon("the deadline", caller.client.unary_with(spec, b"ping")).await.expect("a call");
    assert_eq!(outcome.grpc_status, Some(4), "{outcome:?}");
    assert!(began.elapsed() >= Duration::from_millis(250), "not before");

    let mut call = caller.client.call(CallSpec::new("far", CLIENT_STREAM)).await.expect("a call");
    soon("its request is taken in", call.send(&[1; 200_000])).await.expect("sent");
    until("it waits", async || caller.injected("delay").await == 2).await;
    call.cancel();
    let handled = [("grpc_code", "Canceled")];
    until("it is over", async || caller.metric("grpc_client_handled_total", &handled).await == 1).await;
    assert_eq!(server.calls().len(), 0);
}

#[tokio::test]
async fn what_a_delayed_call_brought_meanwhile_arrives_whole() {
    let (server, caller) = site("{delay: {duration: 300ms}}").await;
    for kind in kinds(10, 20_000) {
        let began = Instant::now();
        let spec = CallSpec::new("far", kind.path).header("x-count", "10").header("x-size", "20000");
        let (came, outcome) = exchange(&caller.client, spec, &kind.sends).await;
        assert!(outcome.is_ok() && came == kind.comes, "{}: {outcome:?}", kind.path);
        assert!(began.elapsed() >= Duration::from_millis(300));
    }
    assert_eq!(server.calls().len(), 4);
}

#[tokio::test]
async fn a_delayed_call_is_told_when_the_sidecar_goes() {
    let server = Server::start(ANY).await.expect("a server");
    let more = "drain: {lag: 1ms, deadline: 200ms}\n";
    let mut caller = Caller::start_with(&server, "faults: {delay: {duration: 1h}}", more).await;
    let client = caller.client.clone();
    let call = tokio::spawn(async move { client.unary("far", UNARY, b"ping").await.expect("a call") });
    until("it waits", async || caller.injected("delay").await == 1).await;
    caller.sidecar.term();
    let outcome = soon("its end", call).await.expect("a call");
    assert_eq!(outcome.grpc_status, Some(14), "{outcome:?}");
    assert!(outcome.message.contains("the sidecar is shutting down"), "{outcome:?}");
    assert!(soon("the sidecar's end", caller.sidecar.wait()).await.expect("a status").success());
    assert_eq!(server.calls().len(), 0);
}

#[tokio::test]
async fn the_access_log_says_that_a_call_ended_on_purpose() {
    let server = Server::start(ANY).await.expect("a server");
    let policies = "methods:\n  bench.Echo/Unary: {faults: {abort: {code: ABORTED}}}\n  \
        bench.Echo/Bidi: {faults: {stream_abort: {after_messages: 1, code: DATA_LOSS}}}";
    let mut caller = Caller::start_with(&server, policies, "log: {access: {}}\n").await;
    for (path, status, messages) in [(UNARY, "ABORTED", 0), (BIDI, "DATA_LOSS", 1)] {
        caller.call(CallSpec::new("far", path)).await;
        let line = soon("a line", caller.sidecar.print()).await.expect("stdout").expect("a line");
        let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(
            (&line["reason"], &line["grpc_status"]),
            (&"FAULT_INJECTED".into(), &status.into()),
            "{line}"
        );
        assert_eq!(line["response_messages"], messages, "{line}");
    }
}
