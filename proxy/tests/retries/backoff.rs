//! How often, how late, and after which failures.

use std::time::{Duration, Instant};

use bench::call::CallSpec;
use bench::grpc::CODES;
use bench::wait::until;

use crate::bed::Bed;
use crate::pair::{ECHO, UNARY};

const MS: Duration = Duration::from_millis(1);
/// How late an attempt may be on a machine that has much to do.
const LATE_MAX: Duration = Duration::from_secs(5);

#[tokio::test]
async fn each_wait_is_within_a_fifth_of_what_the_policy_says() {
    let rule = "retries: {max_attempts: 6, initial_backoff: 50ms, backoff_multiplier: 3, max_backoff: 300ms}";
    let bed = Bed::new(2, rule).await;
    bed.scripts.always(Some("trailers-only:14"));
    assert_eq!(bed.call().await.grpc_status, Some(14));
    let gaps = bed.gaps();
    assert_eq!(gaps.len(), 5);
    for (gap, wait) in gaps.into_iter().zip([50, 150, 300, 300, 300]) {
        let wait = wait * MS;
        // A server may have seen the attempt before a moment after it came.
        assert!(gap + 5 * MS >= wait * 4 / 5 && gap <= wait * 6 / 5 + LATE_MAX, "{gap:?} for {wait:?}");
    }
}

#[tokio::test]
async fn waits_of_many_calls_are_spread_over_the_jitter() {
    const CALLS: usize = 20;
    let budget = "retry_budget: {min_per_second: 1000}";
    let bed =
        Bed::new(2, &format!("retries: {{max_attempts: 2, initial_backoff: 2s, max_backoff: 2s}}\n{budget}"))
            .await;
    bed.scripts.always(Some("trailers-only:14"));
    let calls = (0..CALLS).map(|number| {
        let client = bed.client.clone();
        tokio::spawn(async move {
            let nonce = number.to_string();
            let spec = CallSpec::new(ECHO, UNARY).header("x-nonce", &nonce);
            client.unary_with(spec, b"x").await.expect("a call").grpc_status
        })
    });
    for call in calls.collect::<Vec<_>>() {
        assert_eq!(call.await.expect("a call"), Some(14));
    }
    let seen = bed.seen();
    let mut gaps = Vec::new();
    for number in 0..CALLS {
        let nonce = number.to_string();
        let of: Vec<_> = seen.iter().filter(|seen| seen.record.nonce.as_deref() == Some(&nonce)).collect();
        assert_eq!(of.len(), 2);
        gaps.push(of[1].record.began - of[0].record.began);
    }
    let (shortest, longest) = (gaps.iter().min().expect("gaps"), gaps.iter().max().expect("gaps"));
    // Chance alone puts no 20 of them within a sixteenth of the jitter. A machine that stands still draws those together
    // that are due meanwhile, and no others.
    assert!(*shortest >= 1_595 * MS && *longest - *shortest > 50 * MS, "{shortest:?} to {longest:?}");
}

#[tokio::test]
async fn ten_attempts_are_ten_attempts() {
    let bed = Bed::new(3, "retries: {max_attempts: 10, initial_backoff: 1ms, max_backoff: 1ms}").await;
    for fails in [9, 10] {
        bed.clear();
        for _ in 0..fails {
            bed.scripts.next("trailers-only:14");
        }
        let saved = fails < 10;
        assert_eq!(bed.call().await.grpc_status, Some(if saved { 0 } else { 14 }));
        assert_eq!(bed.seen().len(), 10);
    }
}

#[tokio::test]
async fn one_attempt_is_one_attempt_but_for_what_was_not_processed() {
    let bed = Bed::new(3, "retries: {max_attempts: 1}").await;
    bed.scripts.next("trailers-only:14");
    assert_eq!(bed.call().await.grpc_status, Some(14));
    assert_eq!(bed.seen().len(), 1);
    bed.clear();
    bed.scripts.next("refused");
    assert!(bed.call().await.is_ok());
    assert_eq!(bed.seen().len(), 2);
}

#[tokio::test]
async fn a_deadline_that_ends_before_the_wait_would_lets_the_failure_be_told_at_once() {
    let bed = Bed::new(2, "retries: {initial_backoff: 1h, max_backoff: 1h}").await;
    bed.scripts.always(Some("trailers-only:14"));
    let began = Instant::now();
    let outcome = bed.call_with(CallSpec::new(ECHO, UNARY).header("grpc-timeout", "20S")).await;
    assert_eq!(outcome.grpc_status, Some(14), "{outcome:?}");
    assert_eq!(outcome.message, "as the script says");
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert_eq!(bed.seen().len(), 1);
}

#[tokio::test]
async fn each_attempt_is_told_the_time_that_is_left() {
    let bed = Bed::new(2, "retries: {initial_backoff: 300ms}").await;
    bed.scripts.next("trailers-only:14");
    assert!(bed.call_with(CallSpec::new(ECHO, UNARY).header("grpc-timeout", "20S")).await.is_ok());
    let left: Vec<Duration> =
        bed.seen().iter().map(|seen| timeout(seen.header("grpc-timeout").expect("a timeout"))).collect();
    assert_eq!(left.len(), 2);
    assert!(left[0] <= 20_000 * MS && left[1] + 240 * MS <= left[0], "{left:?}");
}

/// As gRPC over HTTP/2 writes it.
fn timeout(text: &str) -> Duration {
    let (number, unit) = text.split_at(text.len() - 1);
    let number: u64 = number.parse().expect("a number");
    match unit {
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => panic!("{text} is no timeout of some seconds"),
    }
}

#[tokio::test]
async fn a_caller_that_gives_up_during_the_wait_costs_no_further_attempt() {
    let bed = Bed::new(2, "retries: {initial_backoff: 1h, max_backoff: 1h}").await;
    bed.scripts.always(Some("trailers-only:14"));
    let mut call = bed.client.call(CallSpec::new(ECHO, UNARY)).await.expect("a call");
    call.sender.send_ending(b"x").await.expect("an open call");
    until("the first attempt", async || bed.seen().len() == 1).await;
    let answered = [("outcome", "answered")];
    until("its end", async || bed.count("outrigger_attempts_total", &answered).await == 1).await;
    call.cancel();
    // The call is gone, long before the wait would be over.
    until("the call's end", async || bed.count("outrigger_calls_in_flight", &[]).await == 0).await;
    assert_eq!(bed.seen().len(), 1);
    let cancelled = [("grpc_code", "Canceled")];
    assert_eq!(bed.count("grpc_client_handled_total", &cancelled).await, 1);
    assert_eq!(bed.count("outrigger_replay_bytes", &[]).await, 0);
}

#[tokio::test]
async fn every_status_but_ok_can_be_retried_and_no_other_is() {
    for (code, name) in CODES.into_iter().enumerate().skip(1) {
        let rule = format!("retries: {{initial_backoff: 1ms, retryable_status_codes: [{name}]}}");
        let bed = Bed::new(2, &rule).await;
        for other in 1..=16 {
            bed.clear();
            bed.scripts.next(&format!("trailers-only:{other}"));
            let outcome = bed.call().await;
            let (status, attempts) = if other == code { (0, 2) } else { (other as i32, 1) };
            assert_eq!((outcome.grpc_status, bed.seen().len()), (Some(status), attempts), "{name}, {other}");
        }
    }
}
