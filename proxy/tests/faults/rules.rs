//! Which calls are hit: by which block, and by which draws.

use bench::call::CallSpec;
use bench::server::Server;
use bench::wait::soon;

use crate::kit::{ANY, BIDI, CLIENT_STREAM, Caller, SERVER_STREAM, UNARY};
use crate::site;

#[tokio::test]
async fn the_nearest_block_says_what_is_done_and_an_empty_one_that_nothing_is() {
    let server = Server::start(ANY).await.expect("a server");
    let policies = "faults: {abort: {code: ABORTED}}\nroutes:\n  - match: {method: bench.Echo/Bidi}\n    \
        faults: {stream_abort: {code: DATA_LOSS}}\n  - match: {method: bench.Echo/ServerStream}\nmethods:\n  \
        bench.Echo/Unary: {faults: {}}\n  bench.Echo/ClientStream: {faults: {abort: {code: NOT_FOUND}}}";
    let caller = Caller::start(&server, policies).await;
    for (path, status) in [(UNARY, 0), (CLIENT_STREAM, 5), (SERVER_STREAM, 10), (BIDI, 15)] {
        let outcome = caller.call(CallSpec::new("far", path)).await;
        assert_eq!(outcome.grpc_status, Some(status), "{path}: {outcome:?}");
    }
    assert_eq!(server.calls().len(), 2, "the unary one, and the one that was cut");
}

#[tokio::test]
async fn what_is_not_grpc_is_left_alone() {
    let (server, caller) = site("{abort: {}, stream_abort: {}}").await;
    let spec = CallSpec::new("far", UNARY).header("content-type", "application/octet-stream");
    let outcome = caller.call(spec).await;
    assert_eq!((outcome.http_status, server.calls().len()), (Some(200), 1), "{outcome:?}");
    for kind in ["abort", "stream_abort"] {
        assert_eq!(caller.injected(kind).await, 0);
    }
}

#[tokio::test]
async fn a_response_that_was_retried_or_hedged_for_is_cut_like_any_other() {
    let server = Server::start(ANY).await.expect("a server");
    for (policy, requests) in [
        ("retries: {commit: first_message, initial_backoff: 1ms}", 2),
        ("hedging: {hedging_delay: 1h, non_fatal_status_codes: [UNAVAILABLE]}", 2),
    ] {
        let faults = "faults: {stream_abort: {after_messages: 2, code: UNAVAILABLE}}";
        let caller = Caller::start(&server, &format!("{policy}\n{faults}")).await;
        server.script_next("trailers-only:14");
        let spec = CallSpec::new("far", SERVER_STREAM).header("x-count", "9");
        let outcome = caller.call(spec).await;
        assert_eq!((outcome.grpc_status, outcome.messages), (Some(14), 2), "{policy}: {outcome:?}");
        assert!(outcome.message.contains("fault on purpose"), "{policy}: {outcome:?}");
        assert_eq!(server.calls().len(), requests, "{policy}: the endpoint's failure was, the cut was not");
        server.clear();
    }
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
