//! What a call may rely on between its app and another: content, status, cancel, deadline, refusal.

mod pair;

use std::time::{Duration, Instant};

use bench::call::CallSpec;
use bench::record::CallEnd;
use bench::wait::{PATIENCE, soon, until};
use h2::Reason;

use crate::pair::{BIDI, CLIENT_STREAM, ECHO, Pair, SERVER_STREAM, UNARY, metric, well};

#[tokio::test]
async fn all_four_kinds_bring_their_content_there_and_back() {
    let pair = Pair::start().await;
    let client = pair.client().await;
    let mut random = fastrand::Rng::with_seed(1);
    let payloads: Vec<Vec<u8>> = [0, 1, 5, 16_384, 65_531, 300_000, 3 << 20]
        .into_iter()
        .map(|size| (0..size).map(|_| random.u8(..)).collect())
        .collect();
    let total: usize = payloads.iter().map(Vec::len).sum();

    for payload in &payloads {
        let outcome = soon("unary", client.unary(ECHO, UNARY, payload)).await.expect("a call");
        assert!(outcome.is_ok(), "{outcome:?}");
        assert!(
            outcome.last.as_deref() == Some(payload.as_slice()),
            "{} bytes are not the same",
            payload.len()
        );
    }

    let mut bidi = client.call(CallSpec::new(ECHO, BIDI)).await.expect("a call");
    for payload in &payloads {
        bidi.send(payload).await.expect("sent");
        let echo = soon("bidi", bidi.recv()).await.expect("an echo before the next message");
        assert!(echo == payload, "{} bytes are not the same", payload.len());
    }
    assert!(soon("bidi's end", bidi.finish()).await.is_ok());

    let mut up = client.call(CallSpec::new(ECHO, CLIENT_STREAM)).await.expect("a call");
    for payload in &payloads {
        up.send(payload).await.expect("sent");
    }
    let outcome = soon("client stream", up.finish()).await;
    assert_eq!(outcome.last.as_deref(), Some(format!("{} {total}", payloads.len()).as_bytes()));

    let spec = CallSpec::new(ECHO, SERVER_STREAM).header("x-count", "500").header("x-size", "10007");
    let outcome = soon("server stream", client.unary_with(spec, b"go")).await.expect("a call");
    assert_eq!((outcome.is_ok(), outcome.messages, outcome.bytes), (true, 500, 5_003_500));
    assert!(pair.app.calls().iter().all(|call| call.end == CallEnd::Clean), "{:?}", pair.app.calls());
}

#[tokio::test]
async fn the_end_of_a_request_goes_on_by_itself() {
    let pair = Pair::start().await;
    let client = pair.client().await;
    // END_STREAM on HEADERS, on an empty DATA frame and on the last DATA frame.
    let empty = CallSpec { end_stream: true, ..CallSpec::new(ECHO, CLIENT_STREAM) };
    let call = client.call(empty).await.expect("a call");
    assert_eq!(soon("on HEADERS", call.finish()).await.last.as_deref(), Some(&b"0 0"[..]));
    let mut call = client.call(CallSpec::new(ECHO, CLIENT_STREAM)).await.expect("a call");
    call.send(b"abc").await.expect("sent");
    call.half_close();
    assert_eq!(soon("on an empty frame", call.recv()).await.as_deref(), Some(&b"1 3"[..]));
    let outcome = soon("on the last frame", client.unary(ECHO, CLIENT_STREAM, b"abc")).await.expect("a call");
    assert_eq!(outcome.last.as_deref(), Some(&b"1 3"[..]));
}

#[tokio::test]
async fn every_status_arrives_in_the_place_where_it_was_said() {
    let pair = Pair::start().await;
    let client = pair.client().await;
    for code in 0..=17 {
        for (script, in_trailers, messages) in
            [("status", true, 1), ("status-no-message", true, 0), ("trailers-only", false, 0)]
        {
            let script = format!("{script}:{code}");
            let spec = CallSpec::new(ECHO, UNARY).header("x-script", &script);
            let outcome = soon(&script, client.unary_with(spec, b"x")).await.expect("a call");
            let seen = (outcome.grpc_status, outcome.trailers.is_some(), outcome.messages);
            assert_eq!(seen, (Some(code), in_trailers, messages), "{script}: {outcome:?}");
            let message = if code == 0 { "" } else { "as the script says" };
            assert_eq!(outcome.message, message, "{script}");
        }
    }
}

#[tokio::test]
async fn a_cancel_by_the_caller_reaches_the_app_before_and_amid_the_answer() {
    let pair = Pair::start().await;
    let client = pair.client().await;
    let hang = CallSpec::new(ECHO, UNARY).header("x-script", "hang").header("x-nonce", "hang");
    let mut before = client.call(hang).await.expect("a call");
    before.send(b"x").await.expect("sent");
    let bidi = CallSpec::new(ECHO, BIDI).header("x-nonce", "bidi");
    let mut amid = client.call(bidi).await.expect("a call");
    amid.send(b"x").await.expect("sent");
    assert!(soon("an echo", amid.recv()).await.is_some());
    let end = |nonce: &str| pair.app.calls_with_nonce(nonce).first().map(|call| (call.messages, call.end));
    until("both calls at the app", async || end("hang") == Some((1, CallEnd::Open))).await;

    before.cancel();
    amid.cancel();
    let cancelled = Some((1, CallEnd::ResetByPeer(Reason::CANCEL)));
    until("the cancel before the answer", async || end("hang") == cancelled).await;
    until("the cancel amid the answer", async || end("bidi") == cancelled).await;
    well(soon("another call", client.unary(ECHO, UNARY, b"x")).await);
}

#[tokio::test]
async fn a_caller_that_goes_away_cancels_its_calls() {
    let pair = Pair::start().await;
    let client = pair.client().await;
    let mut call = client.call(CallSpec::new(ECHO, BIDI).header("x-nonce", "n")).await.expect("a call");
    call.send(b"x").await.expect("sent");
    assert!(soon("an echo", call.recv()).await.is_some());
    client.abort();
    let end = || pair.app.calls_with_nonce("n")[0].end;
    until("the cancel", async || end() == CallEnd::ResetByPeer(Reason::CANCEL)).await;
}

#[tokio::test]
async fn a_reset_by_the_app_becomes_the_status_that_grpc_gives_it_after_all_messages() {
    let pair = Pair::start().await;
    let client = pair.client().await;
    for (reason, code) in [
        ("CANCEL", 1),
        ("ENHANCE_YOUR_CALM", 8),
        ("INADEQUATE_SECURITY", 7),
        ("INTERNAL_ERROR", 13),
        ("REFUSED_STREAM", 14),
    ] {
        for after in [0, 1, 7] {
            let script = format!("reset-after:{after}:{reason}");
            let spec = CallSpec::new(ECHO, SERVER_STREAM).header("x-count", "50").header("x-size", "9000");
            let spec = spec.header("x-script", &script).header("x-nonce", &script);
            let outcome = soon(&script, client.unary_with(spec, b"x")).await.expect("a call");
            let seen = (outcome.grpc_status, outcome.messages, outcome.clean_end, outcome.cut_in_message);
            assert_eq!(seen, (Some(code), after, true, false), "{script}: {outcome:?}");
            assert!(outcome.trailers.is_some(), "{script}");
            assert_eq!(outcome.trailer("outrigger-unprocessed"), None, "{script}: it had been answered");
            assert_eq!(pair.app.calls_with_nonce(&script).len(), 1, "{script} must not be repeated");
        }
    }
}

#[tokio::test]
async fn a_deadline_travels_as_what_remains_of_it() {
    let pair = Pair::start().await;
    let client = pair.client().await;
    let spec = CallSpec::new(ECHO, UNARY).header("grpc-timeout", "2M");
    well(soon("a call", client.unary_with(spec, b"x")).await);
    let call = &pair.app.calls()[0];
    let seen = call.headers["grpc-timeout"].to_str().expect("ASCII");
    let (digits, unit) = seen.split_at(seen.len() - 1);
    let nanos = match unit {
        "u" => 1_000,
        "m" => 1_000_000,
        _ => panic!("{seen}: the finest unit that holds two minutes in eight digits is u or m"),
    };
    let left = Duration::from_nanos(digits.parse::<u64>().expect("digits") * nanos);
    assert!(left < Duration::from_secs(120) && left > Duration::from_secs(120) - PATIENCE, "{seen}");
}

#[tokio::test]
async fn a_deadline_ends_the_call_for_both_sides_before_and_amid_the_answer() {
    let pair = Pair::start().await;
    let client = pair.client().await;
    let limit = Duration::from_secs(1);
    // The connections are there already: the time is for the call.
    well(soon("a call", client.unary(ECHO, UNARY, b"x")).await);
    for (nonce, path, script) in [("before", UNARY, "hang"), ("amid", BIDI, "status:0")] {
        let spec = CallSpec::new(ECHO, path).header("x-script", script).header("x-nonce", nonce);
        let began = Instant::now();
        let mut call = client.call(spec.header("grpc-timeout", "1S")).await.expect("a call");
        call.send(b"x").await.expect("sent");
        let outcome = soon(nonce, call.receiver.finish()).await;
        assert!(began.elapsed() >= limit, "{nonce}: {:?}", began.elapsed());
        assert_eq!((outcome.grpc_status, outcome.clean_end), (Some(4), true), "{nonce}: {outcome:?}");
        assert_eq!(outcome.trailers.is_some(), nonce == "amid", "{nonce}: {outcome:?}");
        let end = || pair.app.calls_with_nonce(nonce).first().map(|call| call.end);
        until(nonce, async || end() == Some(CallEnd::ResetByPeer(Reason::CANCEL))).await;
    }
}

#[tokio::test]
async fn a_malformed_deadline_is_internal_and_none_left_is_exceeded() {
    let pair = Pair::start().await;
    let client = pair.client().await;
    for (timeout, code) in [
        ("5", 13),
        ("S", 13),
        ("123456789S", 13),
        ("-1S", 13),
        ("1s", 13),
        ("1 S", 13),
        ("0S", 4),
        ("00000000n", 4),
    ] {
        let spec = CallSpec::new(ECHO, UNARY).header("grpc-timeout", timeout);
        let outcome = soon(timeout, client.unary_with(spec, b"x")).await.expect("a call");
        assert_eq!(outcome.grpc_status, Some(code), "{timeout:?}: {outcome:?}");
    }
    assert_eq!(pair.app.calls().len(), 0, "none of them is for the app");
}

#[tokio::test]
async fn an_unknown_authority_is_unavailable_and_named() {
    let pair = Pair::start().await;
    let client = pair.client().await;
    let outcome = soon("a call", client.unary("nobody.shop:80", UNARY, b"x")).await.expect("a call");
    assert_eq!(outcome.grpc_status, Some(14), "{outcome:?}");
    assert!(outcome.message.contains("nobody.shop"), "{}", outcome.message);
    let spec = CallSpec::new(ECHO, UNARY).header("host", "other.shop");
    let outcome = soon("a call", client.unary_with(spec, b"x")).await.expect("a call");
    assert_eq!(outcome.grpc_status, Some(13), ":authority and host differ: {outcome:?}");
    assert_eq!(pair.app.calls().len(), 0);
}

#[tokio::test]
async fn what_is_not_grpc_goes_through_as_plain_http_and_is_counted_apart() {
    let pair = Pair::start().await;
    let client = pair.client().await;
    for kind in ["application/json", "application/grpcx", "text/plain"] {
        let spec = CallSpec::new(ECHO, UNARY).header("content-type", kind);
        let outcome = soon(kind, client.unary_with(spec, b"x")).await.expect("a call");
        assert_eq!((outcome.http_status, outcome.bytes), (Some(200), 1), "{kind}: {outcome:?}");
        assert!(outcome.clean_end, "{kind}: {outcome:?}");
    }
    assert_eq!(pair.app.calls().len(), 3);
    for (sidecar, direction) in [(&pair.caller, "outbound"), (&pair.callee, "inbound")] {
        let labels = [("direction", direction), ("code", "2xx")];
        until("counted", async || metric(sidecar, "outrigger_http_requests_total", &labels).await == 3).await;
        for name in ["grpc_client_started_total", "grpc_server_started_total"] {
            assert_eq!(metric(sidecar, name, &[]).await, 0, "{name}");
        }
    }
}
