//! How long a call may take, and how long it may be silent.

use bench::call::CallSpec;

use crate::kit::{BIDI, Case, DEADLINE_EXCEEDED, ECHO, UNARY, UNAVAILABLE, echo, echoes, open, stays_away};
use crate::level::Level;

levels! {
    [method]
    "deadline.default" => a_call_without_a_deadline_gets_one,
    "deadline.max" => a_call_may_not_ask_for_more,
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
