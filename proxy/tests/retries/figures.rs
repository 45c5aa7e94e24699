//! What the metrics say of all this adds up, and tokens and budget hold over calls.

use bench::call::CallSpec;

use crate::bed::Bed;
use crate::pair::{BIDI, ECHO};

const HASTY: &str =
    "retries: {max_attempts: 3, initial_backoff: 1ms, max_backoff: 1ms, per_attempt_timeout: 3s}";

#[tokio::test]
async fn attempts_repeats_and_calls_add_up() {
    let bed = Bed::new(3, HASTY).await;
    // Calls by how they end, each with the fates of its attempts.
    let saved: [&[&str]; 4] =
        [&["trailers-only:14"], &["trailers-only:14", "disconnect"], &["refused"], &["hang", "goaway-below"]];
    // INTERNAL is not retried.
    let failed: [&[&str]; 3] =
        [&["trailers-only:14"; 3], &["refused", "trailers-only:13"], &["refused", "reset:INTERNAL_ERROR"]];
    let (mut ok, mut bad) = (0, 0);
    for scripts in saved.into_iter().chain(failed) {
        scripts.iter().for_each(|script| bed.scripts.next(script));
        let outcome = bed.call().await;
        if outcome.is_ok() { ok += 1 } else { bad += 1 }
    }
    assert!(bed.call().await.is_ok(), "one that goes well at once");
    ok += 1;
    let attempts = bed.seen().len() as u64;
    assert_eq!((ok, bad, attempts), (5, 3, 18));

    let ended = async |outcome: &str| bed.count("outrigger_attempts_total", &[("outcome", outcome)]).await;
    assert_eq!(bed.count("outrigger_attempts_total", &[]).await, attempts);
    assert_eq!(ended("refused").await, 4);
    assert_eq!(ended("broken").await, 2);
    assert_eq!(ended("timed_out").await, 1);
    assert_eq!(ended("answered").await, attempts - 7);
    let repeats = async |cause: &str| bed.count("outrigger_repeats_total", &[("cause", cause)]).await;
    assert_eq!(
        bed.count("outrigger_repeats_total", &[]).await,
        attempts - 8,
        "all but the first of each call"
    );
    assert_eq!(repeats("unprocessed").await, 4);
    assert_eq!(repeats("status").await, 4);
    assert_eq!(repeats("broken").await, 1);
    assert_eq!(repeats("timed_out").await, 1);
    assert_eq!(repeats("hedge").await, 0);
    let calls = async |end: &str| bed.count("outrigger_repeated_calls_total", &[("end", end)]).await;
    assert_eq!((calls("saved").await, calls("failed").await), (4, 3));
    assert_eq!(bed.count("grpc_client_started_total", &[]).await, 8);
    assert_eq!(bed.count("grpc_client_handled_total", &[]).await, 8);
    assert_eq!(bed.count("grpc_client_handled_total", &[("grpc_code", "OK")]).await, 5);
    assert_eq!(bed.count("grpc_client_msg_sent_total", &[]).await, 8, "messages are counted once");
    for limit in ["replay_buffer", "retry_budget", "retry_throttling"] {
        assert_eq!(bed.refused(limit).await, 0, "{limit}");
    }
}

#[tokio::test]
async fn repeats_of_what_was_refused_are_in_the_budget_and_nothing_else_is_in_the_way() {
    let bed = Bed::new(3, &format!("{HASTY}\nretry_budget: {{share: 0%, min_per_second: 0}}")).await;
    for fault in ["refused", "trailers-only:14", "disconnect", "goaway-below"] {
        bed.clear();
        bed.scripts.next(fault);
        assert_eq!(bed.call().await.grpc_status, Some(14), "{fault}");
        assert_eq!(bed.seen().len(), 1, "{fault}");
    }
    assert_eq!(bed.refused("retry_budget").await, 4);
}

#[tokio::test]
async fn the_stricter_of_tokens_and_budget_wins() {
    let throttling = "retry_throttling: {max_tokens: 4, token_ratio: 0.5}";
    let open = "retry_budget: {min_per_second: 1000}";
    let bed = Bed::new(3, &format!("{HASTY}\n{throttling}\n{open}")).await;
    bed.scripts.always(Some("trailers-only:14"));
    // Four tokens, three, and two are half of them.
    assert_eq!(bed.call().await.grpc_status, Some(14));
    assert_eq!((bed.seen().len(), bed.refused("retry_throttling").await), (2, 1));
    bed.scripts.always(None);
    for _ in 0..2 {
        assert!(bed.call().await.is_ok());
    }
    // Three: the failure takes one, and two are half again.
    bed.clear();
    bed.scripts.next("trailers-only:14");
    assert_eq!(bed.call().await.grpc_status, Some(14));
    assert_eq!((bed.seen().len(), bed.refused("retry_throttling").await), (1, 2));
    for _ in 0..6 {
        assert!(bed.call().await.is_ok());
    }
    bed.clear();
    bed.scripts.next("trailers-only:14");
    assert!(bed.call().await.is_ok(), "all four are there again, and three are enough");
    assert_eq!(bed.refused("retry_budget").await, 0);
}

#[tokio::test]
async fn a_server_that_asks_for_no_retry_takes_a_token_whatever_its_status() {
    let throttling = "retry_throttling: {max_tokens: 4, token_ratio: 0.001}";
    let bed = Bed::new(3, &format!("{HASTY}\n{throttling}")).await;
    // ABORTED is not retried, but the pushback counts (A6).
    for _ in 0..2 {
        bed.scripts.next("pushback:-1,trailers-only:10");
        assert_eq!(bed.call().await.grpc_status, Some(10));
    }
    bed.clear();
    bed.scripts.next("trailers-only:14");
    assert_eq!(bed.call().await.grpc_status, Some(14));
    assert_eq!((bed.seen().len(), bed.refused("retry_throttling").await), (1, 1));
}

#[tokio::test]
async fn a_failure_that_is_not_retryable_takes_no_token_and_gives_none_back() {
    let throttling = "retry_throttling: {max_tokens: 4, token_ratio: 1}";
    let bed = Bed::new(3, &format!("{HASTY}\n{throttling}")).await;
    for _ in 0..5 {
        bed.scripts.next("trailers-only:10");
        assert_eq!(bed.call().await.grpc_status, Some(10));
    }
    bed.clear();
    bed.scripts.next("trailers-only:14");
    assert!(bed.call().await.is_ok(), "four tokens, and three are more than half");
    assert_eq!(bed.seen().len(), 2);
}

#[tokio::test]
async fn a_stream_that_breaks_after_the_commit_takes_a_token() {
    let throttling = "retry_throttling: {max_tokens: 2, token_ratio: 0.001}";
    let bed = Bed::new(3, &format!("{HASTY}\n{throttling}")).await;
    bed.scripts.next("reply:1,disconnect");
    let outcome = bed.call_with(CallSpec::new(ECHO, BIDI)).await;
    assert_eq!((outcome.grpc_status, outcome.messages), (Some(14), 1));
    bed.clear();
    bed.scripts.next("trailers-only:14");
    assert_eq!(bed.call().await.grpc_status, Some(14));
    assert_eq!(bed.refused("retry_throttling").await, 1);
}
