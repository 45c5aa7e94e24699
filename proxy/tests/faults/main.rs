//! Faults on purpose, as a caller and an endpoint see them: what of a response goes on to the message, what ends a call
//! that waits, and that a seed brings the same calls again.

mod kit;
mod streams;

use std::time::{Duration, Instant};

use bench::call::CallSpec;
use bench::server::Server;
use bench::wait::{soon, until};

use crate::kit::{ANY, CLIENT_STREAM, Caller, SERVER_STREAM, UNARY, exchange, kinds};

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

/// What becomes of calls that are made one after another.
async fn fates(faults: &str, calls: usize) -> Vec<(Option<i32>, u64)> {
    let (_server, caller) = site(faults).await;
    let mut fates = Vec::with_capacity(calls);
    for _ in 0..calls {
        let spec = CallSpec::new("far", SERVER_STREAM).header("x-count", "4");
        let outcome = soon("a call", caller.client.unary_with(spec, b"go")).await.expect("a call");
        fates.push((outcome.grpc_status, outcome.messages));
    }
    fates
}

#[tokio::test]
async fn a_seed_hits_the_same_calls_again_and_another_one_hits_others() {
    let faults = |seed: u64| {
        format!(
            "{{seed: {seed}, abort: {{percentage: 30%, code: ABORTED}}, \
             stream_abort: {{percentage: 30%, after_messages: 2, code: DATA_LOSS}}}}"
        )
    };
    let first = fates(&faults(42), 200).await;
    assert_eq!(first, fates(&faults(42), 200).await);
    assert_ne!(first, fates(&faults(43), 200).await);
    // Six standard deviations of a binomial with 200 tries and 30 % are 39, with 21 % 35.
    let count = |fate| first.iter().filter(|seen| **seen == fate).count();
    let (aborted, cut, whole) = (count((Some(10), 0)), count((Some(15), 2)), count((Some(0), 4)));
    assert_eq!(aborted + cut + whole, 200, "{first:?}");
    assert!((21..=99).contains(&aborted), "{aborted} of 200 aborted");
    assert!((7..=77).contains(&cut), "{cut} of 200 cut");
}

#[tokio::test]
async fn a_change_of_the_mesh_that_leaves_the_rule_alone_leaves_its_sequence_alone() {
    let faults = "{seed: 42, abort: {percentage: 50%}}";
    let whole = fates(faults, 60).await;
    let (_server, caller) = site(faults).await;
    let mut seen = Vec::new();
    for change in 0..3 {
        for _ in 0..20 {
            let spec = CallSpec::new("far", SERVER_STREAM).header("x-count", "4");
            let outcome = caller.client.unary_with(spec, b"go").await.expect("a call");
            seen.push((outcome.grpc_status, outcome.messages));
        }
        caller.rewrite(&format!("  - name: more{change}\n")).await;
    }
    assert_eq!(seen, whole);
}
