//! What is kept of a request for another attempt.

use bench::call::CallSpec;
use bench::outcome::Outcome;
use bench::record::{CallEnd, digest};
use bench::wait::until;
use bytes::Bytes;

use crate::bed::Bed;
use crate::pair::{BIDI, CLIENT_STREAM, ECHO};

const HASTY: &str = "retries: {initial_backoff: 1ms, max_backoff: 1ms}";
const KIB: usize = 1 << 10;

/// Messages of these sizes, no two alike.
fn messages(sizes: &[usize]) -> Vec<Bytes> {
    let message = |(at, size): (usize, &usize)| -> Bytes {
        (0..*size).map(|byte| (byte * 7 + byte / 251 + at * 31) as u8).collect::<Vec<_>>().into()
    };
    sizes.iter().enumerate().map(message).collect()
}

/// A client stream that sends all of these.
async fn stream(bed: &Bed, messages: &[Bytes]) -> Outcome {
    let mut call = bed.client.call(CallSpec::new(ECHO, CLIENT_STREAM)).await.expect("a call");
    for message in messages {
        // An answer may come before the request is over; the outcome tells.
        let _ = call.send(message).await;
    }
    call.finish().await
}

#[tokio::test]
async fn two_hundred_kib_in_several_messages_are_sent_again_byte_for_byte() {
    let messages = messages(&[70 * KIB, 0, 1, 60 * KIB, 3, 65 * KIB, 4 * KIB]);
    for fault in
        ["after:7,trailers-only:14", "after:4,reset:INTERNAL_ERROR", "after:1,disconnect", "disconnect"]
    {
        let codes = "retryable_status_codes: [UNAVAILABLE, INTERNAL]";
        let bed = Bed::new(3, &HASTY.replace('}', &format!(", {codes}}}"))).await;
        bed.scripts.next(fault);
        bed.scripts.next(fault);
        let outcome = stream(&bed, &messages).await;
        assert!(outcome.is_ok(), "{fault}: {outcome:?}");
        let seen = bed.seen();
        assert_eq!(seen.len(), 3, "{fault}");
        let last = &seen[2].record;
        assert_eq!((last.messages, last.digest), (7, digest(&messages)), "{fault}");
        assert_eq!(bed.count("outrigger_replay_bytes", &[]).await, 0, "{fault}");
    }
}

#[tokio::test]
async fn a_request_past_its_limit_goes_on_and_is_not_repeated() {
    let messages = messages(&[100 * KIB, 100 * KIB, 100 * KIB]);
    for fault in ["after:3,trailers-only:14", "after:3,reset:INTERNAL_ERROR"] {
        let codes = "retryable_status_codes: [UNAVAILABLE, INTERNAL]";
        let bed = Bed::new(2, &HASTY.replace('}', &format!(", {codes}}}"))).await;
        bed.scripts.next(fault);
        let outcome = stream(&bed, &messages).await;
        assert!(matches!(outcome.grpc_status, Some(13 | 14)), "{fault}: {outcome:?}");
        let seen = bed.seen();
        assert_eq!(seen.len(), 1, "{fault}");
        assert_eq!(seen[0].record.digest, digest(&messages), "all of it went on");
        assert_eq!(bed.refused("replay_buffer").await, 1, "{fault}");
        assert!(stream(&bed, &messages).await.is_ok(), "{fault}");
        assert_eq!(bed.refused("replay_buffer").await, 1, "only a repeat that was wanted is counted");
    }
}

#[tokio::test]
async fn a_request_at_its_limit_is_repeated_and_one_byte_more_is_not() {
    // A message has five bytes before it.
    for (size, attempts) in [(995, 2), (996, 1)] {
        let bed = Bed::new(2, &HASTY.replace('}', ", replay_limit: 1000}")).await;
        bed.scripts.next("after:1,trailers-only:14");
        let outcome = stream(&bed, &messages(&[size])).await;
        assert_eq!(outcome.is_ok(), attempts == 2, "{outcome:?}");
        assert_eq!(bed.seen().len(), attempts);
    }
}

#[tokio::test]
async fn a_call_past_its_limit_is_no_longer_timed_as_an_attempt() {
    let rule = HASTY.replace('}', ", replay_limit: 1000, per_attempt_timeout: 2s}");
    let bed = Bed::new(2, &rule).await;
    bed.scripts.next("after:1,delay:0ms,pause:3s,trailers-only:0");
    assert_eq!(stream(&bed, &messages(&[2_000])).await.grpc_status, Some(0));
    assert_eq!(bed.seen().len(), 1);
}

#[tokio::test]
async fn what_all_calls_together_keep_is_bounded_and_comes_free_with_each() {
    let bed = Bed::with(2, HASTY, "limits: {replay_buffer: 100KiB}").await;
    let large = messages(&[80 * KIB]);
    bed.scripts.next("hang");
    let mut first = bed.client.call(CallSpec::new(ECHO, BIDI)).await.expect("a call");
    first.send(&large[0]).await.expect("an open call");
    until("the first request", async || bed.seen().iter().any(|seen| seen.record.messages == 1)).await;
    assert_eq!(bed.count("outrigger_replay_bytes", &[]).await, (80 * KIB + 5) as u64);

    bed.scripts.next("after:1,trailers-only:14");
    assert_eq!(stream(&bed, &large).await.grpc_status, Some(14), "there is no room for a second one");
    assert_eq!((bed.seen().len(), bed.refused("replay_buffer").await), (2, 1));
    bed.scripts.next("after:1,trailers-only:14");
    assert!(stream(&bed, &messages(&[10 * KIB])).await.is_ok(), "there is room for a small one");
    assert_eq!((bed.seen().len(), bed.refused("replay_buffer").await), (4, 1));

    first.cancel();
    until("the first call's end", async || bed.count("outrigger_replay_bytes", &[]).await == 0).await;
    bed.scripts.next("after:1,trailers-only:14");
    assert!(stream(&bed, &large).await.is_ok(), "what the first one kept is free again");
    assert_eq!((bed.seen().len(), bed.refused("replay_buffer").await), (6, 1));
}

#[tokio::test]
async fn a_stream_that_goes_on_after_a_repeat_is_whole() {
    let bed = Bed::new(2, HASTY).await;
    let messages = messages(&[100, 10 * KIB, 7, 40 * KIB]);
    bed.scripts.next("after:2,trailers-only:14");
    let mut call = bed.client.call(CallSpec::new(ECHO, BIDI)).await.expect("a call");
    for message in &messages[..2] {
        call.send(message).await.expect("an open call");
    }
    for message in &messages[..2] {
        assert_eq!(call.recv().await.as_ref(), Some(message), "the second attempt echoes");
    }
    for message in &messages[2..] {
        call.send(message).await.expect("an open call");
        assert_eq!(call.recv().await.as_ref(), Some(message));
    }
    assert!(call.finish().await.is_ok());
    let seen = bed.seen();
    assert_eq!(seen.len(), 2);
    assert_eq!((seen[1].record.digest, seen[1].record.end), (digest(&messages), CallEnd::Clean));
}
