//! Calls that go out several times at once: the first answer that counts is the caller's, and it alone.

use std::time::{Duration, Instant};

use bench::call::CallSpec;
use bench::record::{CallEnd, digest};
use bench::wait::until;
use bytes::Bytes;
use h2::Reason;

use crate::bed::Bed;
use crate::pair::{BIDI, CLIENT_STREAM, ECHO, UNARY};

const MS: Duration = Duration::from_millis(1);
const CANCELLED: CallEnd = CallEnd::ResetByPeer(Reason::CANCEL);
/// Never waited for where a test goes well.
const PATIENT: &str = "hedging: {max_attempts: 3, hedging_delay: 1h}";
const AT_ONCE: &str = "hedging: {max_attempts: 3, hedging_delay: 0s}";

fn after(delay: &str) -> String {
    PATIENT.replace("1h", delay)
}

/// The values of `grpc-previous-rpc-attempts`, in order.
fn said(bed: &Bed) -> Vec<Option<String>> {
    bed.seen().iter().map(|seen| seen.previous().map(str::to_owned)).collect()
}

#[tokio::test]
async fn the_first_answer_is_the_callers_and_the_others_are_cancelled() {
    let bed = Bed::new(3, &after("100ms")).await;
    bed.scripts.next("hang");
    bed.scripts.next("hang");
    let outcome = bed.call().await;
    assert!(outcome.is_ok() && outcome.messages == 1, "{outcome:?}");
    let seen = bed.seen();
    assert_eq!(seen.len(), 3);
    let names: Vec<_> = outcome.headers.get_all("x-server").iter().collect();
    assert_eq!(names, [["one", "two", "three"][seen[2].server]]);
    until("cancels", async || bed.seen()[..2].iter().all(|seen| seen.record.end == CANCELLED)).await;
    let ended = async |outcome: &str| bed.count("outrigger_attempts_total", &[("outcome", outcome)]).await;
    assert_eq!((ended("outrun").await, ended("answered").await), (2, 1));
    assert_eq!(bed.count("outrigger_repeats_total", &[("cause", "hedge")]).await, 2);
    assert_eq!(bed.count("outrigger_repeated_calls_total", &[("end", "saved")]).await, 1);
    assert_eq!(bed.count("grpc_client_handled_total", &[("grpc_code", "OK")]).await, 1);
    assert_eq!(bed.count("outrigger_replay_bytes", &[]).await, 0);
}

#[tokio::test]
async fn each_attempt_comes_so_long_after_the_one_before_and_to_another_endpoint() {
    let bed = Bed::new(3, &after("300ms")).await;
    bed.scripts.next("hang");
    bed.scripts.next("hang");
    let began = Instant::now();
    assert!(bed.call().await.is_ok());
    // From the beginning of the call on: a server may see an attempt long after it left.
    let mut seen: Vec<(Option<String>, Duration)> = bed
        .seen()
        .iter()
        .map(|seen| (seen.previous().map(str::to_owned), seen.record.began - began))
        .collect();
    seen.sort();
    assert!(seen.iter().zip(0_u32..).all(|((_, after), before)| *after >= before * 300 * MS), "{seen:?}");
    let mut servers: Vec<usize> = bed.seen().iter().map(|seen| seen.server).collect();
    servers.sort_unstable();
    assert_eq!(servers, [0, 1, 2]);
    let said: Vec<Option<String>> = seen.into_iter().map(|(said, _)| said).collect();
    assert_eq!(said, [None, Some("1".into()), Some("2".into())]);
}

#[tokio::test]
async fn an_answer_in_time_is_the_only_attempt() {
    let bed = Bed::new(3, PATIENT).await;
    assert!(bed.call().await.is_ok());
    assert_eq!(bed.seen().len(), 1);
}

#[tokio::test]
async fn without_a_delay_all_go_out_at_once_each_to_its_own_endpoint() {
    let bed = Bed::new(3, AT_ONCE).await;
    bed.scripts.always(Some("hang"));
    let mut call = bed.client.call(CallSpec::new(ECHO, UNARY)).await.expect("a call");
    call.sender.send_ending(b"x").await.expect("an open call");
    until("all attempts", async || bed.seen().len() == 3).await;
    let mut servers: Vec<usize> = bed.seen().iter().map(|seen| seen.server).collect();
    servers.sort_unstable();
    assert_eq!(servers, [0, 1, 2]);
    call.cancel();
    until("cancels", async || bed.seen().iter().all(|seen| seen.record.end == CANCELLED)).await;
    until("the call's end", async || bed.count("outrigger_calls_in_flight", &[]).await == 0).await;
    assert_eq!(bed.count("outrigger_attempts_total", &[("outcome", "abandoned")]).await, 3);
}

#[tokio::test]
async fn a_failure_that_is_not_fatal_brings_the_next_attempt_at_once() {
    for fault in ["trailers-only:14", "disconnect", "goaway-above"] {
        let bed = Bed::new(3, PATIENT).await;
        bed.scripts.next(fault);
        bed.scripts.next(fault);
        assert!(bed.call().await.is_ok(), "{fault}");
        assert_eq!(bed.seen().len(), 3, "{fault}");
    }
}

#[tokio::test]
async fn a_fatal_failure_ends_the_call_and_the_other_attempts() {
    tokio::join!(fatal("trailers-only:10", 10), fatal("reset:INTERNAL_ERROR", 13));
}

/// The second attempt fails so, and there is no third.
async fn fatal(fault: &str, code: i32) {
    // So long may the failure be on its way.
    let bed = Bed::new(3, &after("2s")).await;
    bed.scripts.next("hang");
    bed.scripts.next(fault);
    assert_eq!(bed.call().await.grpc_status, Some(code), "{fault}");
    assert_eq!(bed.seen().len(), 2, "{fault}");
    until("the cancel", async || bed.seen()[0].record.end == CANCELLED).await;
}

#[tokio::test]
async fn when_all_fail_the_last_failure_is_told() {
    for rule in [PATIENT, AT_ONCE] {
        let bed = Bed::new(3, rule).await;
        bed.scripts.always(Some("trailers-only:14"));
        let outcome = bed.call().await;
        assert_eq!((outcome.grpc_status, outcome.message.as_str()), (Some(14), "as the script says"));
        assert_eq!(bed.seen().len(), 3, "there are no retries after hedges");
        assert_eq!(bed.count("outrigger_repeated_calls_total", &[("end", "failed")]).await, 1);
    }
}

#[tokio::test]
async fn a_server_may_put_the_next_attempt_off_or_ask_for_none() {
    let bed = Bed::new(3, PATIENT).await;
    bed.scripts.next("pushback:500,trailers-only:14");
    assert!(bed.call().await.is_ok());
    assert!(bed.gaps().len() == 1 && bed.gaps()[0] >= 500 * MS, "{:?}", bed.gaps());
    for value in ["-1", "soon", ""] {
        bed.clear();
        bed.scripts.next(&format!("pushback:{value},trailers-only:14"));
        assert_eq!(bed.call().await.grpc_status, Some(14), "{value:?}");
        assert_eq!(bed.seen().len(), 1, "{value:?}");
    }
}

#[tokio::test]
async fn attempts_under_way_go_on_when_a_server_asks_for_no_more() {
    // So long may the pushback be on its way; a third attempt would come before the first one is answered.
    let bed = Bed::new(3, &after("2s").replace("max_attempts: 3", "max_attempts: 10")).await;
    bed.scripts.next("reply:1,pause:10ms,trailers-only:0");
    assert_eq!(bed.call().await.grpc_status, Some(0));
    bed.clear();
    bed.scripts.next("delay:5s,trailers-only:0");
    bed.scripts.next("pushback:-1,trailers-only:14");
    assert_eq!(bed.call().await.grpc_status, Some(0), "the first one's answer counts");
    assert_eq!(bed.seen().len(), 2, "and none began after the pushback");
}

#[tokio::test]
async fn what_was_not_processed_is_repeated_at_once_and_is_no_hedge() {
    let bed = Bed::new(3, PATIENT).await;
    bed.scripts.next("refused");
    assert!(bed.call().await.is_ok());
    assert_eq!(said(&bed), [None, None], "only attempts that may have been processed are counted");
    assert_eq!(bed.count("outrigger_repeats_total", &[("cause", "unprocessed")]).await, 1);
    assert_eq!(bed.count("outrigger_repeats_total", &[]).await, 1);
}

#[tokio::test]
async fn hedges_are_in_the_budget_and_stop_for_want_of_tokens() {
    let budget = "retry_budget: {share: 0%, min_per_second: 0}";
    let bed = Bed::new(3, &format!("{AT_ONCE}\n{budget}")).await;
    assert!(bed.call().await.is_ok());
    assert_eq!(bed.seen().len(), 1);
    assert_eq!(bed.refused("retry_budget").await, 1, "one that is not granted is the last that is wanted");

    let throttling = "retry_throttling: {max_tokens: 4, token_ratio: 0.001}";
    let bed = Bed::new(3, &format!("{PATIENT}\n{throttling}")).await;
    bed.scripts.always(Some("trailers-only:14"));
    // Four tokens, three, and two are half of them.
    assert_eq!(bed.call().await.grpc_status, Some(14));
    assert_eq!((bed.seen().len(), bed.refused("retry_throttling").await), (2, 1));
    bed.clear();
    bed.scripts.always(None);
    assert!(bed.call().await.is_ok(), "a call's first attempt is always sent");
    assert_eq!(bed.seen().len(), 1);
}

#[tokio::test]
async fn a_method_that_is_not_idempotent_is_never_hedged() {
    let methods = "methods: {bench.Echo/Unary: {idempotent: false}}";
    let bed = Bed::new(3, &format!("{AT_ONCE}\n{methods}")).await;
    bed.scripts.next("trailers-only:14");
    assert_eq!(bed.call().await.grpc_status, Some(14));
    assert_eq!(bed.seen().len(), 1);
    bed.clear();
    bed.scripts.next("refused");
    assert!(bed.call().await.is_ok(), "what was not processed is repeated all the same");
    assert_eq!(bed.seen().len(), 2);
}

#[tokio::test]
async fn a_deadline_ends_all_attempts() {
    let bed = Bed::new(3, AT_ONCE).await;
    bed.scripts.always(Some("hang"));
    let began = Instant::now();
    let outcome = bed.call_with(CallSpec::new(ECHO, UNARY).header("grpc-timeout", "3S")).await;
    assert_eq!(outcome.grpc_status, Some(4), "{outcome:?}");
    assert!(began.elapsed() >= 2_900 * MS);
    assert_eq!(bed.seen().len(), 3);
    until("cancels", async || bed.seen().iter().all(|seen| seen.record.end == CANCELLED)).await;
}

/// Messages of these sizes, no two alike.
fn messages(sizes: &[usize]) -> Vec<Bytes> {
    let message = |(at, size): (usize, &usize)| -> Bytes {
        (0..*size).map(|byte| (byte * 11 + byte / 253 + at * 17) as u8).collect::<Vec<_>>().into()
    };
    sizes.iter().enumerate().map(message).collect()
}

#[tokio::test]
async fn each_attempt_has_the_whole_request_byte_for_byte() {
    let messages = messages(&[70_000, 0, 1, 60_000, 65_000]);
    for rule in [AT_ONCE.to_owned(), after("50ms")] {
        let bed = Bed::new(3, &rule).await;
        // Headers of one would be the end of the others.
        bed.scripts.always(Some("hang"));
        let mut call = bed.client.call(CallSpec::new(ECHO, CLIENT_STREAM)).await.expect("a call");
        for message in &messages[..3] {
            call.send(message).await.expect("an open call");
        }
        let first = async || bed.seen().iter().filter(|seen| seen.record.messages == 3).count() == 3;
        until("three messages at all three", first).await;
        for message in &messages[3..] {
            call.send(message).await.expect("an open call");
        }
        let all = async || bed.seen().iter().all(|seen| seen.record.digest == digest(&messages));
        until("all messages at all three", all).await;
        assert_eq!(bed.seen().len(), 3);
        call.cancel();
    }
}

#[tokio::test]
async fn a_request_past_its_limit_goes_on_with_one_attempt() {
    let bed = Bed::new(3, &AT_ONCE.replace('}', ", replay_limit: 1000}")).await;
    bed.scripts.always(Some("hang"));
    let mut call = bed.client.call(CallSpec::new(ECHO, BIDI)).await.expect("a call");
    call.send(&[1; 500]).await.expect("an open call");
    until("a message at all three", async || {
        bed.seen().iter().filter(|seen| seen.record.messages == 1).count() == 3
    })
    .await;
    call.send(&[2; 1_000]).await.expect("an open call");
    let left = async || bed.seen().iter().filter(|seen| seen.record.end == CallEnd::Open).count() == 1;
    until("one that is left", left).await;
    let whole = async || bed.seen().iter().any(|seen| seen.record.messages == 2);
    until("all of the request at that one", whole).await;
    assert_eq!(bed.refused("replay_buffer").await, 1);
    call.cancel();
    until("the call's end", async || bed.count("outrigger_calls_in_flight", &[]).await == 0).await;
}
