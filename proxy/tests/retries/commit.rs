//! When a call is committed to an attempt.

use std::time::{Duration, Instant};

use bench::call::CallSpec;
use bench::record::CallEnd;
use bench::wait::until;
use h2::Reason;

use crate::bed::Bed;
use crate::pair::{BIDI, ECHO, SERVER_STREAM, UNARY};

const HOLD: &str = "retries: {initial_backoff: 1ms, commit: first_message, header_hold: 300ms}";
const LONG_HOLD: &str = "retries: {initial_backoff: 1ms, commit: first_message, header_hold: 1h}";

#[tokio::test]
async fn a_stream_whose_client_waits_for_headers_gets_them_after_the_hold() {
    let bed = Bed::new(2, HOLD).await;
    let began = Instant::now();
    let mut call = bed.client.call(CallSpec::new(ECHO, BIDI)).await.expect("a call");
    assert!(call.headers().await.is_some());
    assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
    call.send(b"ping").await.expect("an open call");
    assert_eq!(call.recv().await.expect("an echo"), "ping");
    assert!(call.finish().await.is_ok());
    assert_eq!(bed.seen().len(), 1);
}

#[tokio::test]
async fn a_first_message_lets_headers_go_at_once() {
    let bed = Bed::new(2, LONG_HOLD).await;
    assert!(bed.call().await.is_ok());
    let spec = CallSpec::new(ECHO, SERVER_STREAM).header("x-count", "0");
    assert!(bed.call_with(spec).await.is_ok(), "trailers do as well");
    assert_eq!(bed.seen().len(), 2);
}

#[tokio::test]
async fn headers_that_went_on_after_the_hold_have_committed_the_call() {
    let bed = Bed::new(2, HOLD).await;
    bed.scripts.next("reply:0,pause:3s,trailers-only:14");
    let outcome = bed.call().await;
    assert_eq!(outcome.grpc_status, Some(14), "{outcome:?}");
    assert!(outcome.headers.contains_key("x-server") && outcome.trailers.is_some());
    assert_eq!(bed.seen().len(), 1);
}

#[tokio::test]
async fn headers_that_are_held_back_and_then_fail_never_show() {
    for fault in ["status-no-message:14", "reply:0,pause:50ms,trailers-only:14", "reply:0,disconnect"] {
        let bed = Bed::new(2, LONG_HOLD).await;
        bed.scripts.next(fault);
        let outcome = bed.call().await;
        assert!(outcome.is_ok() && outcome.messages == 1, "{fault}: {outcome:?}");
        let seen = bed.seen();
        assert_eq!(seen.len(), 2, "{fault}");
        let names: Vec<_> = outcome.headers.get_all("x-server").iter().collect();
        assert_eq!(names, [["one", "two"][seen[1].server]], "{fault}");
    }
}

#[tokio::test]
async fn a_message_commits_whatever_comes_behind_it() {
    let faults = [
        ("reply:1,trailers-only:14", 14),
        ("reply:1,disconnect", 14),
        ("reply:1,reset:CANCEL", 1),
        ("reply:2,reset:ENHANCE_YOUR_CALM", 8),
    ];
    let codes = "retryable_status_codes: [UNAVAILABLE, CANCELLED, RESOURCE_EXHAUSTED]";
    let bed = Bed::new(2, &LONG_HOLD.replace("{", &format!("{{{codes}, "))).await;
    for (number, (fault, code)) in faults.into_iter().enumerate() {
        bed.scripts.next(fault);
        let outcome = bed.call().await;
        assert_eq!(outcome.grpc_status, Some(code), "{fault}: {outcome:?}");
        assert!(outcome.messages > 0 && outcome.clean_end && outcome.reset.is_none(), "{fault}: {outcome:?}");
        assert_eq!(bed.seen().len(), number + 1, "{fault}");
    }
}

#[tokio::test]
async fn the_time_of_an_attempt_ends_with_the_commit() {
    tokio::join!(
        in_time("commit: headers", "reply:0,pause:3s,trailers-only:0"),
        in_time("commit: headers", "reply:1,pause:3s,trailers-only:0"),
        in_time("commit: first_message, header_hold: 1h", "reply:1,pause:3s,trailers-only:0"),
    );
}

/// The call goes well and with one attempt, though its end comes later than an attempt may take.
async fn in_time(rule: &str, script: &str) {
    // So long may it take on a loaded machine until the call is committed.
    let rule = format!("retries: {{initial_backoff: 1ms, per_attempt_timeout: 2s, {rule}}}");
    let bed = Bed::new(2, &rule).await;
    bed.scripts.next(script);
    let outcome = bed.call().await;
    assert_eq!(outcome.grpc_status, Some(0), "{rule}, {script}: {outcome:?}");
    assert_eq!(bed.seen().len(), 1, "{rule}, {script}");
}

#[tokio::test]
async fn headers_that_are_held_back_do_not_stop_the_time_of_an_attempt() {
    let rule = LONG_HOLD.replace("{", "{per_attempt_timeout: 2s, ");
    let bed = Bed::new(2, &rule).await;
    bed.scripts.next("reply:0,hang");
    let outcome = bed.call().await;
    assert!(outcome.is_ok(), "{outcome:?}");
    let seen = bed.seen();
    assert_eq!(seen.len(), 2);
    let cancelled = CallEnd::ResetByPeer(Reason::CANCEL);
    until("the cancel", async || bed.seen()[0].record.end == cancelled).await;
}

#[tokio::test]
async fn when_each_attempt_takes_too_long_the_call_ends_with_deadline_exceeded() {
    let rule = "retries: {initial_backoff: 1ms, per_attempt_timeout: 700ms, retryable_status_codes: []}";
    let bed = Bed::new(2, rule).await;
    bed.scripts.always(Some("hang"));
    let outcome = bed.call_with(CallSpec::new(ECHO, UNARY)).await;
    assert_eq!(outcome.grpc_status, Some(4), "{outcome:?}");
    assert!(outcome.message.contains("700ms"), "it says which limit that was: {}", outcome.message);
    assert_eq!(bed.seen().len(), 3);
    let timed_out = [("outcome", "timed_out")];
    assert_eq!(bed.count("outrigger_attempts_total", &timed_out).await, 3);
    let cancelled = CallEnd::ResetByPeer(Reason::CANCEL);
    until("cancels", async || bed.seen().iter().all(|seen| seen.record.end == cancelled)).await;
}
