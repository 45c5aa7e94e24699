//! What is done to calls on purpose.

use std::time::{Duration, Instant};

use bench::call::CallSpec;
use bench::outcome::Outcome;
use bench::wait::soon;
use serde_json::json;

use crate::kit::{BIDI, Case, ECHO, OK, Running, Site, UNAVAILABLE, echo, stays_away, stays_away_from};
use crate::level::Level;

levels! {
    [method]
    "faults.seed" => a_seed_brings_the_same_calls_again,
    "faults.delay.percentage" => so_many_calls_wait,
    "faults.delay.duration" => a_call_waits_so_long,
    "faults.abort.percentage" => so_many_calls_end_before_they_go_out,
    "faults.abort.code" => a_call_ends_with_this_code,
    "faults.stream_stall.percentage" => so_many_responses_stand_still,
    "faults.stream_stall.after_messages" => a_response_stands_still_after_so_many_messages,
    "faults.stream_stall.duration" => a_response_stands_still_so_long,
    "faults.stream_abort.percentage" => so_many_responses_are_cut,
    "faults.stream_abort.after_messages" => a_response_is_cut_after_so_many_messages,
    "faults.stream_abort.code" => a_cut_response_ends_with_this_code,
}

/// So many draws that nobody sees the same ones twice by chance.
const DRAWS: usize = 60;
const NOT_FOUND: Option<i32> = Some(5);
const HOUR: &str = "1h";

/// A server, and two sidecars: as `faults` has it, and with one key of it changed.
async fn both(
    case: &Case,
    level: Level,
    faults: serde_json::Value,
    key: &str,
    value: impl Into<serde_json::Value>,
) -> (bench::server::Server, Site, Site) {
    let server = echo("echo").await;
    let mut base = level.base(&server);
    *base.at(&level.place(BIDI, "faults")) = faults;
    let changed = case.change(&base, &level.place(BIDI, &format!("faults {key}")), value);
    (server, base, changed)
}

async fn bidi(running: &Running) -> Outcome {
    running.call(CallSpec::new(ECHO, BIDI)).await
}

async fn status(site: &Site) -> Option<i32> {
    bidi(&site.start().await).await.grpc_status
}

async fn statuses(site: &Site) -> Vec<Option<i32>> {
    let running = site.start().await;
    let client = running.client().await;
    let mut statuses = Vec::with_capacity(DRAWS);
    for _ in 0..DRAWS {
        statuses.push(client.unary(ECHO, BIDI, b"ping").await.expect("a call").grpc_status);
    }
    statuses
}

async fn a_seed_brings_the_same_calls_again(case: &Case, level: Level) {
    let faults = json!({"abort": {"percentage": "50%"}});
    let (_server, base, changed) = both(case, level, faults, "seed", 7).await;
    assert_eq!(statuses(&changed).await, statuses(&changed).await);
    assert_ne!(statuses(&base).await, statuses(&base).await);
}

async fn so_many_calls_wait(case: &Case, level: Level) {
    let faults = json!({"delay": {"percentage": "0%", "duration": HOUR}});
    let (server, base, changed) = both(case, level, faults, "delay percentage", "100%").await;
    assert_eq!(status(&base).await, OK);
    let running = changed.start().await;
    assert!(stays_away(bidi(&running)).await);
    assert_eq!(server.calls().len(), 1, "nothing of the other has gone out");
}

async fn a_call_waits_so_long(case: &Case, level: Level) {
    let faults = json!({"delay": {"duration": "200ms"}});
    let (_server, base, changed) = both(case, level, faults, "delay duration", HOUR).await;
    let running = base.start().await;
    let began = Instant::now();
    assert_eq!(bidi(&running).await.grpc_status, OK);
    assert!(began.elapsed() >= Duration::from_millis(200));
    assert!(stays_away(bidi(&changed.start().await)).await);
}

async fn so_many_calls_end_before_they_go_out(case: &Case, level: Level) {
    let faults = json!({"abort": {"percentage": "0%"}});
    let (server, base, changed) = both(case, level, faults, "abort percentage", "100%").await;
    assert_eq!((status(&base).await, status(&changed).await), (OK, UNAVAILABLE));
    assert_eq!(server.calls().len(), 1);
}

async fn a_call_ends_with_this_code(case: &Case, level: Level) {
    let (_server, base, changed) = both(case, level, json!({"abort": {}}), "abort code", "NOT_FOUND").await;
    assert_eq!((status(&base).await, status(&changed).await), (UNAVAILABLE, NOT_FOUND));
}

async fn so_many_responses_stand_still(case: &Case, level: Level) {
    let faults = json!({"stream_stall": {"percentage": "0%", "duration": HOUR}});
    let (server, base, changed) = both(case, level, faults, "stream_stall percentage", "100%").await;
    assert_eq!(status(&base).await, OK);
    let running = changed.start().await;
    assert!(stays_away_from(bidi(&running), async || server.calls().len() == 2).await, "it has gone out");
}

async fn a_response_stands_still_after_so_many_messages(case: &Case, level: Level) {
    let faults = json!({"stream_stall": {"duration": HOUR}});
    let (_server, base, changed) = both(case, level, faults, "stream_stall after_messages", 2).await;
    for (site, messages) in [(base, 0), (changed, 2)] {
        let running = site.start().await;
        let mut call = running.client().await.call(CallSpec::new(ECHO, BIDI)).await.expect("a call");
        for _ in 0..3 {
            call.send(b"ping").await.expect("sent");
        }
        for _ in 0..messages {
            assert!(soon("a message before the stall", call.recv()).await.is_some());
        }
        assert!(stays_away(call.recv()).await, "after {messages}");
    }
}

async fn a_response_stands_still_so_long(case: &Case, level: Level) {
    let faults = json!({"stream_stall": {"duration": "200ms"}});
    let (_server, base, changed) = both(case, level, faults, "stream_stall duration", HOUR).await;
    let running = base.start().await;
    let began = Instant::now();
    assert_eq!(bidi(&running).await.grpc_status, OK);
    assert!(began.elapsed() >= Duration::from_millis(200));
    assert!(stays_away(bidi(&changed.start().await)).await);
}

async fn so_many_responses_are_cut(case: &Case, level: Level) {
    let faults = json!({"stream_abort": {"percentage": "0%"}});
    let (server, base, changed) = both(case, level, faults, "stream_abort percentage", "100%").await;
    assert_eq!((status(&base).await, status(&changed).await), (OK, UNAVAILABLE));
    assert_eq!(server.calls().len(), 2);
}

async fn a_response_is_cut_after_so_many_messages(case: &Case, level: Level) {
    let faults = json!({"stream_abort": {}});
    let (_server, base, changed) = both(case, level, faults, "stream_abort after_messages", 1).await;
    for (site, messages) in [(base, 0), (changed, 1)] {
        let outcome = bidi(&site.start().await).await;
        assert_eq!((outcome.grpc_status, outcome.messages), (UNAVAILABLE, messages), "{outcome:?}");
    }
}

async fn a_cut_response_ends_with_this_code(case: &Case, level: Level) {
    let faults = json!({"stream_abort": {}});
    let (_server, base, changed) = both(case, level, faults, "stream_abort code", "NOT_FOUND").await;
    assert_eq!((status(&base).await, status(&changed).await), (UNAVAILABLE, NOT_FOUND));
}
