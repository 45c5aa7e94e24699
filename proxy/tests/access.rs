//! The access log: a line for every call, whoever ended it, and no call that waits for who reads it.

mod pair;

use std::time::{Duration, Instant};

use bench::call::CallSpec;
use bench::client::Client;
use bench::process::Sidecar;
use bench::server::{Server, ServerOptions};
use bench::wait::{soon, until, within};
use serde_json::Value;

use crate::pair::{ANY, BIDI, ECHO, Pair, SHOPPER_ID, Site, UNARY, mesh, metric, well};

const LOG: &str = "log: {access: {}}";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

/// The next line.
async fn line(sidecar: &mut Sidecar) -> Value {
    let line = soon("a line", sidecar.print()).await.expect("stdout").expect("a line");
    serde_json::from_str(&line).unwrap_or_else(|fault| panic!("{fault}: {line}"))
}

/// Fields of a line, as text.
fn fields<'l, const N: usize>(line: &'l Value, names: [&str; N]) -> [&'l str; N] {
    names.map(|name| line[name].as_str().unwrap_or_else(|| panic!("{name} in {line}")))
}

fn numbers<const N: usize>(line: &Value, names: [&str; N]) -> [u64; N] {
    names.map(|name| line[name].as_u64().unwrap_or_else(|| panic!("{name} in {line}")))
}

#[tokio::test]
async fn a_call_is_one_line_on_each_side_that_says_all_of_it() {
    let mut pair = Pair::start_with(ServerOptions::default(), LOG).await;
    let client = pair.client().await;
    let mut call =
        client.call(CallSpec::new(ECHO, BIDI).header("traceparent", PARENT)).await.expect("a call");
    for _ in 0..3 {
        call.send(b"0123456789").await.expect("sent");
        soon("an echo", call.recv()).await.expect("an echo");
    }
    assert!(soon("the end", call.finish()).await.is_ok());
    let (caller, callee) = (line(&mut pair.caller).await, line(&mut pair.callee).await);
    for line in [&caller, &callee] {
        let words = ["event", "service", "method", "trace_id", "span_id", "grpc_status"];
        let expected = ["end", "echo.shop", "bench.Echo/Bidi", TRACE, "00f067aa0ba902b7", "OK"];
        assert_eq!(fields(line, words), expected);
        let counts = [
            "grpc_code",
            "attempts",
            "request_bytes",
            "request_messages",
            "response_bytes",
            "response_messages",
        ];
        assert_eq!(numbers(line, counts), [0, 1, 45, 3, 45, 3]);
        let [took, head] = ["duration_ms", "head_ms"].map(|name| line[name].as_f64().expect("a number"));
        assert!(0.0 < head && head <= took && took < 30_000.0, "{line}");
        let [time] = fields(line, ["time"]);
        assert!(time.len() == 24 && time.ends_with('Z') && time.as_bytes()[10] == b'T', "{time}");
        for name in ["reason", "message", "http_status", "http_method"] {
            assert!(line[name].is_null(), "{name} in {line}");
        }
    }
    let endpoint = pair.callee.inbound().to_string();
    assert_eq!(fields(&caller, ["direction", "route", "endpoint"]), ["outbound", "unrouted", &endpoint]);
    assert!(caller["peer"].is_null());
    let app = pair.app.addr.to_string();
    assert_eq!(fields(&callee, ["direction", "peer", "endpoint"]), ["inbound", SHOPPER_ID, &app]);
    assert!(callee["route"].is_null());
}

#[tokio::test]
async fn without_the_key_nothing_is_logged_and_the_first_line_stays_the_one_of_addresses() {
    let mut pair = Pair::start().await;
    well(pair.client().await.unary(ECHO, UNARY, b"ping").await);
    pair.caller.term();
    assert_eq!(soon("the end", pair.caller.print()).await.expect("stdout"), None);
}

#[tokio::test]
async fn calls_that_the_sidecar_refuses_are_logged_with_the_reason() {
    let app = Server::start(ANY).await.expect("an app");
    let site = Site::new();
    let routes = "    unmatched: refuse\n    routes: [{match: {method: bench.Echo/Bidi}, backends: [{service: echo}]}]";
    let mut caller = site.caller(&mesh(&[app.addr], routes), LOG).await;
    let client = Client::connect(caller.outbound(), None).await.expect("a connection");
    for (authority, path, reason, status) in [
        ("nobody.shop", UNARY, "UNKNOWN_SERVICE", "UNAVAILABLE"),
        (ECHO, UNARY, "NO_ROUTE", "UNIMPLEMENTED"),
        (ECHO, "/nothing", "MALFORMED_REQUEST", "INTERNAL"),
        // It does not speak TLS.
        (ECHO, BIDI, "NEVER_SENT", "UNAVAILABLE"),
    ] {
        let outcome = client.unary(authority, path, b"ping").await.expect("a call");
        let line = line(&mut caller).await;
        assert_eq!(fields(&line, ["reason", "grpc_status", "method"]), [reason, status, &path[1..]]);
        let [message] = fields(&line, ["message"]);
        assert!(outcome.message.contains(message), "{:?} {line}", outcome.message);
    }
}

#[tokio::test]
async fn a_call_that_may_not_be_made_is_logged_with_who_made_it() {
    let app = Server::start(ANY).await.expect("an app");
    let site = Site::new();
    let nobody = "    inbound: {authorization: [{allow: {from: [spiffe://cluster.local/ns/shop/sa/other]}}]}";
    let leaf = site.ca.leaf(pair::ECHO_ID);
    let mut callee = site.callee_as(&leaf, app.addr, LOG, nobody).await;
    let caller = site.caller(&mesh(&[callee.inbound()], ""), "").await;
    let client = Client::connect(caller.outbound(), None).await.expect("a connection");
    let outcome = client.unary(ECHO, UNARY, b"ping").await.expect("a call");
    assert_eq!(outcome.grpc_status, Some(7), "{outcome:?}");
    let said = line(&mut callee).await;
    assert_eq!(fields(&said, ["reason", "peer"]), ["NOT_ALLOWED", SHOPPER_ID]);
}

#[tokio::test]
async fn a_call_past_the_limit_is_logged() {
    let more = format!("{LOG}\nlimits: {{calls: 1}}");
    let mut pair = Pair::start_with(ServerOptions::default(), &more).await;
    let client = pair.client().await;
    let mut call = client.call(CallSpec::new(ECHO, BIDI)).await.expect("a call");
    call.send(b"ping").await.expect("sent");
    soon("an echo", call.recv()).await.expect("an echo");
    assert_eq!(client.unary(ECHO, UNARY, b"ping").await.expect("a call").grpc_status, Some(14));
    assert_eq!(fields(&line(&mut pair.caller).await, ["reason"]), ["TOO_MANY_CALLS"]);
}

#[tokio::test]
async fn a_call_that_its_caller_breaks_off_is_logged_as_cancelled() {
    let mut pair = Pair::start_with(ServerOptions::default(), LOG).await;
    let client = pair.client().await;
    let mut call = client.call(CallSpec::new(ECHO, BIDI)).await.expect("a call");
    call.send(b"ping").await.expect("sent");
    soon("an echo", call.recv()).await.expect("an echo");
    drop(call);
    let said = line(&mut pair.caller).await;
    assert_eq!(fields(&said, ["grpc_status", "event"]), ["CANCELLED", "end"]);
    assert_eq!(numbers(&said, ["request_messages", "response_messages"]), [1, 1]);
}

#[tokio::test]
async fn a_share_of_calls_is_logged() {
    const CALLS: u64 = 400;
    let mut pair = Pair::start_with(ServerOptions::default(), "log: {access: {sample: 50%}}").await;
    let client = pair.client().await;
    for _ in 0..CALLS {
        well(client.unary(ECHO, UNARY, b"ping").await);
    }
    drop(client);
    pair.caller.term();
    let mut lines = 0;
    while soon("a line, or the end", pair.caller.print()).await.expect("stdout").is_some() {
        lines += 1;
    }
    // Eight standard deviations wide.
    assert!((120..=280).contains(&lines), "{lines} of {CALLS}");
}

#[tokio::test]
async fn a_long_stream_is_logged_while_it_goes_on() {
    let mut pair = Pair::start_with(ServerOptions::default(), "log: {access: {streams: 50ms}}").await;
    let client = pair.client().await;
    let mut call = client.call(CallSpec::new(ECHO, BIDI)).await.expect("a call");
    let mut before = 0;
    for sent in 1..=3 {
        call.send(b"ping").await.expect("sent");
        soon("an echo", call.recv()).await.expect("an echo");
        until("a line that counts it", async || {
            let said = line(&mut pair.caller).await;
            assert!(said["event"] == "open" && said["grpc_status"].is_null(), "{said}");
            let [messages] = numbers(&said, ["response_messages"]);
            assert!((before..=sent).contains(&messages), "{said}");
            before = messages;
            messages == sent
        })
        .await;
    }
    assert!(soon("the end", call.finish()).await.is_ok());
    until("the end is logged", async || line(&mut pair.caller).await["event"] == "end").await;
}

#[tokio::test]
async fn what_callers_write_cannot_break_a_line() {
    let mut pair = Pair::start_with(ServerOptions::default(), LOG).await;
    let client = pair.client().await;
    let long = format!("/bench.Echo/{}", "x".repeat(5_000));
    for path in ["/a\"b{}/C", "/a%0A%22/C", "/a,\"grpc_status\":\"OK\"/C", &long] {
        client.unary(ECHO, path, b"ping").await.expect("a call");
        let said = line(&mut pair.caller).await;
        let [method] = fields(&said, ["method"]);
        assert!(path[1..].starts_with(method) && method.len() <= 256, "{said}");
        assert_ne!(said["grpc_status"], "OK");
    }
}

#[tokio::test]
async fn who_does_not_read_the_log_slows_nothing_down_and_what_is_lost_is_counted() {
    const CALLS: u32 = 1_500;
    let more = format!("{LOG}\nlimits: {{log_lines: 50}}");
    let plain = Pair::start().await;
    let mut pair = Pair::start_with(ServerOptions::default(), &more).await;
    let (unlogged, client) = (plain.client().await, pair.client().await);
    let mut times: [Vec<Duration>; 2] = Default::default();
    // A pipe takes 64 KiB; a line has about 400 bytes. By turns, so that both meet the same machine.
    for _ in 0..CALLS {
        for (client, times) in [&unlogged, &client].into_iter().zip(&mut times) {
            let began = Instant::now();
            well(client.unary(ECHO, UNARY, b"ping").await);
            times.push(began.elapsed());
        }
    }
    // The pipe is full long before half of the calls, so that the median is of one that met it so.
    let [plain, logged] = times.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2]
    });
    assert!(logged < 3 * plain, "{logged:?} for a call, and {plain:?} without a log");
    for sidecar in [&pair.caller, &pair.callee] {
        until("drops are counted", async || {
            metric(sidecar, "outrigger_log_dropped_total", &[]).await >= u64::from(CALLS) / 3
        })
        .await;
    }
    drop(client);
    pair.caller.term();
    // It is promised two seconds.
    let end = pair.caller.wait();
    within(Duration::from_secs(10), "the end, without a reader", end).await.expect("an end");
}

#[tokio::test]
async fn the_last_lines_are_written_when_the_sidecar_goes() {
    let mut pair = Pair::start_with(ServerOptions::default(), LOG).await;
    let client = pair.client().await;
    for _ in 0..20 {
        well(client.unary(ECHO, UNARY, b"ping").await);
    }
    drop(client);
    pair.caller.term();
    for _ in 0..20 {
        line(&mut pair.caller).await;
    }
    assert_eq!(soon("the end", pair.caller.print()).await.expect("stdout"), None);
}
