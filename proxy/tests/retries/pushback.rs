//! `grpc-retry-pushback-ms`: what a server has to say of the next attempt.

use std::time::{Duration, Instant};

use bench::call::CallSpec;

use crate::bed::Bed;
use crate::pair::{ECHO, UNARY};

/// Never waited for where a test goes well.
const PATIENT: &str =
    "retries: {initial_backoff: 1h, max_backoff: 1h, commit: first_message, header_hold: 20s}";
const HASTY: &str =
    "retries: {initial_backoff: 1ms, max_backoff: 1ms, commit: first_message, header_hold: 20s}";

#[tokio::test]
async fn the_next_attempt_comes_when_the_server_says() {
    for fail in ["trailers-only:14", "status-no-message:14"] {
        let bed = Bed::new(2, HASTY).await;
        bed.scripts.next(&format!("pushback:700,{fail}"));
        assert!(bed.call().await.is_ok());
        let gaps = bed.gaps();
        assert!(gaps.len() == 1 && gaps[0] >= Duration::from_millis(700), "{fail}: {gaps:?}");
    }
}

#[tokio::test]
async fn a_server_may_ask_for_the_next_attempt_at_once() {
    let bed = Bed::new(2, PATIENT).await;
    bed.scripts.next("pushback:0,trailers-only:14");
    let began = Instant::now();
    assert!(bed.call().await.is_ok());
    assert_eq!(bed.seen().len(), 2);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_server_that_asks_for_no_attempt_or_is_not_understood_gets_none() {
    let bed = Bed::new(2, HASTY).await;
    for value in ["-1", "-2147483648", "2147483648", "99999999999", "soon", "1.5", "0x10", ""] {
        for fail in ["trailers-only:14", "status-no-message:14"] {
            bed.clear();
            bed.scripts.next(&format!("pushback:{value},{fail}"));
            assert_eq!(bed.call().await.grpc_status, Some(14), "{value:?}, {fail}");
            assert_eq!(bed.seen().len(), 1, "{value:?}, {fail}");
        }
    }
}

#[tokio::test]
async fn pushback_makes_no_failure_retryable_that_is_not() {
    let bed = Bed::new(2, HASTY).await;
    bed.scripts.next("pushback:0,trailers-only:10");
    assert_eq!(bed.call().await.grpc_status, Some(10));
    assert_eq!(bed.seen().len(), 1);
}

#[tokio::test]
async fn pushback_adds_no_attempt_to_those_that_may_be() {
    let bed = Bed::new(2, &HASTY.replace("{", "{max_attempts: 3, ")).await;
    bed.scripts.always(Some("pushback:0,trailers-only:14"));
    assert_eq!(bed.call().await.grpc_status, Some(14));
    assert_eq!(bed.seen().len(), 3);
}

#[tokio::test]
async fn pushback_past_the_deadline_ends_the_call_at_once() {
    let bed = Bed::new(2, HASTY).await;
    bed.scripts.next("pushback:3600000,trailers-only:14");
    let spec = CallSpec::new(ECHO, UNARY).header("grpc-timeout", "20S");
    let began = Instant::now();
    assert_eq!(bed.call_with(spec).await.grpc_status, Some(14));
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert_eq!(bed.seen().len(), 1);
}
