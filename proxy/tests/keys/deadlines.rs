//! How long a call may take, and how long it may be silent.

use bench::call::CallSpec;
use bench::client::Client;
use bench::wait::soon;
use serde_json::json;
use tokio::task::JoinSet;

use crate::kit::{
    BIDI, Case, DEADLINE_EXCEEDED, ECHO, UNARY, UNAVAILABLE, echo, echoes, open, stays_away, stays_away_from,
    until,
};
use crate::level::Level;

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

levels! {
    [method]
    "deadline.default" => a_call_without_a_deadline_gets_one,
    "deadline.max" => a_call_may_not_ask_for_more,
    "deadline.inherit" => a_call_ends_with_the_one_that_it_is_made_for,
    "deadline.shed_below_median" => a_call_without_the_time_that_calls_take_ends_at_once,
    "stream.idle" => a_silent_call_is_ended,
}

async fn a_call_without_a_deadline_gets_one(case: &Case, level: Level) {
    a_hanging_call_ends(case, level, "default", CallSpec::new(ECHO, UNARY)).await;
}

async fn a_call_may_not_ask_for_more(case: &Case, level: Level) {
    a_hanging_call_ends(case, level, "max", CallSpec::new(ECHO, UNARY).header("grpc-timeout", "1H")).await;
}

async fn a_hanging_call_ends(case: &Case, level: Level, key: &str, spec: CallSpec<'static>) {
    let server = echo("echo").await;
    let base = level.base(&server);
    let changed = case.change(&base, &level.place(UNARY, &format!("deadline {key}")), "150ms");
    let spec = spec.header("x-script", "hang");
    let (before, after) = (base.start().await, changed.start().await);
    let outcome = after.call(spec.clone()).await;
    assert_eq!(outcome.grpc_status, DEADLINE_EXCEEDED, "{outcome:?}");
    assert!(outcome.message.contains("the call's 150ms are over"), "{}", outcome.message);
    assert!(stays_away(before.call(spec)).await);
}

async fn a_call_ends_with_the_one_that_it_is_made_for(case: &Case, level: Level) {
    let server = echo("echo").await;
    let mut base = level.base(&server);
    base.sidecar["inbound"] =
        json!([{"listen": "127.0.0.1:0", "app": server.addr.to_string(), "mtls": "off"}]);
    let changed = case.change(&base, &level.place(UNARY, "deadline inherit"), true);
    for (site, inherits) in [(base, false), (changed, true)] {
        let running = site.start().await;
        let hanging = |authority| {
            CallSpec::new(authority, UNARY).header("x-script", "hang").header("traceparent", TRACE)
        };
        let inbound = Client::connect(running.inbound(), None).await.expect("a connection of the mesh");
        let caused = inbound.call(hanging("caller.shop").header("grpc-timeout", "5S")).await.expect("a call");
        until("the app has the inbound call", async || server.calls().len() == 1).await;
        let call = running.call(hanging(ECHO));
        if inherits {
            let outcome = soon("the inherited deadline", call).await;
            assert_eq!(outcome.grpc_status, DEADLINE_EXCEEDED, "{outcome:?}");
        } else {
            assert!(stays_away_from(call, async || server.calls().len() == 2).await);
        }
        drop(caused);
        let told: Vec<bool> =
            server.calls().iter().map(|call| call.headers.contains_key("grpc-timeout")).collect();
        assert_eq!(told, [true, inherits]);
        server.clear();
    }
}

async fn a_call_without_the_time_that_calls_take_ends_at_once(case: &Case, level: Level) {
    let server = echo("echo").await;
    let base = level.base(&server);
    let changed = case.change(&base, &level.place(UNARY, "deadline shed_below_median"), true);
    let (before, after) = (base.start().await, changed.start().await);
    // Enough of them that the second tells of them, each far longer than the short ones are granted.
    let mut calls = JoinSet::new();
    for running in [&before, &after] {
        let client = running.client().await;
        for _ in 0..60 {
            let client = client.clone();
            let slow = CallSpec::new(ECHO, UNARY).header("x-script", "delay:2s");
            calls.spawn(async move { client.unary_with(slow, b"ping").await });
        }
    }
    for outcome in calls.join_all().await {
        assert!(outcome.expect("a call").is_ok());
    }
    let short = || CallSpec::new(ECHO, UNARY).header("grpc-timeout", "1400m");
    until("the median is known", async || {
        let outcome = after.call(short().header("x-script", "trailers-only:5")).await;
        outcome.grpc_status == DEADLINE_EXCEEDED && outcome.message.contains("half of such calls")
    })
    .await;
    let calls = server.calls().len();
    assert_eq!(after.call(short()).await.grpc_status, DEADLINE_EXCEEDED);
    assert_eq!(server.calls().len(), calls, "nothing of it has gone out");
    let outcome = before.call(short()).await;
    assert!(!outcome.message.contains("half of such calls"), "{outcome:?}");
    assert_eq!(server.calls().len(), calls + 1);
}

async fn a_silent_call_is_ended(case: &Case, level: Level) {
    let server = echo("echo").await;
    let base = level.base(&server);
    let changed = case.change(&base, &level.place(BIDI, "stream idle"), "150ms");
    let (before, after) = (base.start().await, changed.start().await);
    let client = after.client().await;
    let outcome = client.call(CallSpec::new(ECHO, BIDI)).await.expect("a call").receiver.finish().await;
    assert_eq!(outcome.grpc_status, UNAVAILABLE, "{outcome:?}");
    assert!(outcome.message.contains("idle"), "{}", outcome.message);

    let client = before.client().await;
    let mut call = open(&client).await;
    assert!(stays_away(call.recv()).await);
    assert!(echoes(&mut call).await);
}
