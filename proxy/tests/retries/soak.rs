//! Many calls at once, of every kind, while attempts fail in every way: each call has one whole answer or one failure, what
//! is not idempotent is never seen twice, and nothing is left over.

use std::collections::HashMap;

use bench::call::CallSpec;
use bench::client::Client;
use bench::wait::{PATIENCE, until, within};
use bytes::Bytes;
use tokio::task::JoinSet;

use crate::bed::Bed;
use crate::pair::{BIDI, CLIENT_STREAM, ECHO, UNARY};

const CONNECTIONS: usize = 8;
const CALLS_EACH: usize = 60;
const CALLS: usize = CONNECTIONS * CALLS_EACH;
/// `max_attempts` of both rules.
const ATTEMPTS: usize = 4;

/// What attempts meet; the empty ones serve the call well.
const FATES: [&str; 14] = [
    "delay:0ms",
    "delay:3ms",
    "trailers-only:14",
    "after:1,trailers-only:14",
    "status-no-message:14",
    "reset:INTERNAL_ERROR",
    "after:1,reset:INTERNAL_ERROR",
    "reply:0,pause:2ms,trailers-only:14",
    "reply:0,reset:INTERNAL_ERROR",
    "after:1,disconnect",
    "disconnect",
    "goaway-above",
    "delay:20ms,trailers-only:14",
    "hang",
];

const CODES: &str = "[UNAVAILABLE, INTERNAL]";
const OPEN: &str = "retry_budget: {min_per_second: 100000}";
const ONCE: &str = "methods: {bench.Echo/Bidi: {idempotent: false}}";

#[tokio::test]
async fn with_retries_each_call_has_one_answer_and_nothing_is_left() {
    let times = "initial_backoff: 1ms, max_backoff: 3ms, per_attempt_timeout: 2s";
    let commit = "commit: first_message, header_hold: 20s";
    let rule = format!("retries: {{max_attempts: 4, retryable_status_codes: {CODES}, {times}, {commit}}}");
    soak(&rule, 7).await;
}

#[tokio::test]
async fn with_hedges_each_call_has_one_answer_and_nothing_is_left() {
    let rule = format!("hedging: {{max_attempts: 4, hedging_delay: 2ms, non_fatal_status_codes: {CODES}}}");
    soak(&rule, 8).await;
}

async fn soak(rule: &str, seed: u64) {
    let bed = Bed::with(4, &format!("{rule}\n{OPEN}\n{ONCE}"), "workers: 2").await;
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..CALLS {
        bed.scripts.next(FATES[random.usize(..FATES.len())]);
    }
    let mut calling = JoinSet::new();
    for connection in 0..CONNECTIONS {
        let client = Client::connect(bed.caller.outbound(), None).await.expect("a connection");
        let random = fastrand::Rng::with_seed(random.u64(..));
        calling.spawn(converse(client, connection, random));
    }
    let mut saved = 0;
    while let Some(called) = within(2 * PATIENCE, "all calls", calling.join_next()).await {
        saved += called.expect("each call has one answer or one failure");
    }
    let mut attempts = HashMap::<String, (usize, String)>::new();
    for seen in bed.seen() {
        let nonce = seen.record.nonce.clone().expect("a nonce");
        attempts.entry(nonce).or_insert((0, seen.record.path)).0 += 1;
    }
    let (mut repeated, mut most) = (0, 0);
    for (nonce, (count, path)) in &attempts {
        let allowed = if path == BIDI { 1 } else { ATTEMPTS };
        assert!(*count <= allowed, "{nonce} of {path} was seen {count} times");
        repeated += usize::from(*count > 1);
        most = most.max(*count);
    }
    println!("{CALLS} calls, {saved} went well, {repeated} were seen more than once, one {most} times");
    assert!(saved > CALLS / 4 && repeated > CALLS / 20, "{saved} saved, {repeated} repeated");
    until("nothing in flight", async || bed.count("outrigger_calls_in_flight", &[]).await == 0).await;
    assert_eq!(bed.count("outrigger_replay_bytes", &[]).await, 0);
    assert_eq!(bed.count("grpc_client_started_total", &[]).await, CALLS as u64);
    assert_eq!(bed.count("grpc_client_handled_total", &[]).await, CALLS as u64);
    assert_eq!(bed.count("grpc_client_handled_total", &[("grpc_code", "OK")]).await, saved as u64);
}

/// Calls one after another; how many went well.
async fn converse(client: Client, connection: usize, mut random: fastrand::Rng) -> usize {
    let mut saved = 0;
    for number in 0..CALLS_EACH {
        let path = [UNARY, CLIENT_STREAM, BIDI][random.usize(..3)];
        let count = if path == UNARY { 1 } else { random.usize(1..4) };
        let message = |at: usize| -> Bytes { vec![(number + at) as u8; 1 + number * 37].into() };
        let messages: Vec<Bytes> = (0..count).map(message).collect();
        let nonce = format!("{connection}-{number}");
        let spec = CallSpec::new(ECHO, path).header("x-nonce", &nonce).header("grpc-timeout", "5S");
        let (mut sender, mut receiver) = client.call(spec).await.expect("a call").split();
        for message in &messages {
            // An answer may come before the request is over; the outcome tells.
            let _ = sender.send(message).await;
        }
        sender.half_close();
        let mut answer = Vec::new();
        while let Some(message) = receiver.recv().await {
            answer.push(message);
        }
        let outcome = receiver.finish().await;
        assert!(outcome.clean_end, "{nonce} of {path}: {outcome:?}");
        let bytes: usize = messages.iter().map(Bytes::len).sum();
        let whole = if path == CLIENT_STREAM { vec![format!("{count} {bytes}").into()] } else { messages };
        match outcome.grpc_status {
            Some(0) => {
                assert_eq!(answer, whole, "{nonce} of {path}");
                saved += 1;
            }
            // A failure may come behind messages of the one answer there was.
            Some(4 | 13 | 14) => assert!(whole.starts_with(&answer), "{nonce} of {path}: {outcome:?}"),
            _ => panic!("{nonce} of {path}: {outcome:?}"),
        }
    }
    saved
}
