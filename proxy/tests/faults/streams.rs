//! Responses that are cut or stand still.

use std::time::{Duration, Instant};

use bench::call::{Call, CallSpec};
use bench::grpc;
use bench::record::CallEnd;
use bench::server::Server;
use bench::wait::{soon, until};
use h2::Reason;

use crate::kit::{ANY, BIDI, Caller, NEVER, SERVER_STREAM, exchange, kinds};
use crate::pair::frames::{self, OK, Replies, Reply, data, headers};
use crate::site;

#[tokio::test]
async fn a_response_of_any_kind_is_cut_behind_exactly_so_many_messages() {
    for (after, size) in [(0, 10), (1, 0), (1, 10), (2, 70_000), (7, 3), (19, 1_000)] {
        let faults = format!("{{stream_abort: {{after_messages: {after}, code: DATA_LOSS}}}}");
        let (server, caller) = site(&faults).await;
        let mut cuts = 0;
        for kind in kinds(20, size) {
            let what = format!("{} after {after}", kind.path);
            let size = size.to_string();
            let spec = CallSpec::new("far", kind.path).header("x-count", "20").header("x-size", &size);
            let (came, outcome) = exchange(&caller.client, spec, &kind.sends).await;
            let whole = kind.comes.len() < after;
            let expected = &kind.comes[..after.min(kind.comes.len())];
            assert!(came == expected, "{what}: {} messages, or other ones: {outcome:?}", came.len());
            assert!(outcome.clean_end && !outcome.cut_in_message, "{what}: {outcome:?}");
            if whole {
                assert_eq!(outcome.grpc_status, Some(0), "{what} has fewer: {outcome:?}");
                continue;
            }
            cuts += 1;
            assert_eq!(outcome.grpc_status, Some(15), "{what}: {outcome:?}");
            assert!(outcome.trailers.is_some(), "{what}: behind a head: {outcome:?}");
            let message = &outcome.message;
            assert!(message.starts_with("outrigger outbound: fault on purpose:"), "{what}: {message}");
        }
        assert_eq!(caller.injected("stream_abort").await, cuts);
        let failures = caller.metrics().await;
        assert_eq!(failures.value("outrigger_failures_total", &[("reason", "FAULT_INJECTED")]) as u64, cuts);
        let received =
            failures.value("grpc_client_msg_received_total", &[("service", "far.default")]) as usize;
        let expected: usize = kinds(20, size).iter().map(|kind| kind.comes.len().min(after)).sum();
        assert_eq!(received, expected, "what is cut off counts as received by nobody");
        let ends = || server.calls().into_iter().map(|call| call.end);
        until("the endpoint has seen every end", async || ends().all(|end| end != CallEnd::Open)).await;
    }
}

#[tokio::test]
async fn the_endpoint_of_a_cut_response_is_told_by_a_cancel() {
    let (server, caller) = site("{stream_abort: {after_messages: 1}}").await;
    // It waits for more of the request, so nothing but the cancel can end it there.
    let mut call = caller.client.call(CallSpec::new("far", BIDI)).await.expect("a call");
    call.send(b"one").await.expect("sent");
    let outcome = soon("the cut", call.receiver.finish()).await;
    assert_eq!((outcome.grpc_status, outcome.messages), (Some(14), 1), "{outcome:?}");
    until("the cancel", async || server.calls()[0].end == CallEnd::ResetByPeer(Reason::CANCEL)).await;
}

/// A head, and five messages in DATA frames of so many bytes; with `END`, a status behind them.
fn answer<const PIECE: usize, const END: bool>(stream: u32) -> Vec<u8> {
    let messages: Vec<u8> = MESSAGES.iter().flat_map(|message| grpc::message(message)).collect();
    let mut bytes = headers(stream, OK, false);
    bytes.extend(messages.chunks(PIECE).flat_map(|piece| data(stream, piece, false)));
    if END {
        bytes.extend(headers(stream, &[("grpc-status", "0")], true));
    }
    bytes
}

const MESSAGES: [&[u8]; 5] = [b"one", b"", b"the third", b"4", b"fifth"];

#[tokio::test]
async fn the_cut_is_between_two_messages_however_they_are_framed() {
    const ALL_IN_ONE: usize = 1_000;
    let frames: [(&str, frames::Frames); 6] = [
        ("one frame", answer::<ALL_IN_ONE, true>),
        ("one frame, and the end is still to come", answer::<ALL_IN_ONE, false>),
        ("frames of a byte", answer::<1, true>),
        ("frames that cut prefixes", answer::<3, true>),
        ("frames of more than a message", answer::<11, true>),
        ("the same, open", answer::<11, false>),
    ];
    let replies = Replies::default();
    let app = frames::app(None, &replies).await;
    for after in 0..=MESSAGES.len() {
        let faults = format!("faults: {{stream_abort: {{after_messages: {after}, code: ABORTED}}}}");
        let caller = Caller::start_at(app.addr, &faults, "").await;
        for (what, frames) in frames {
            replies.next(Reply::Frames(frames));
            let spec = CallSpec::new("far", SERVER_STREAM);
            let (came, outcome) = exchange(&caller.client, spec, &[b"go".to_vec()]).await;
            assert_eq!(came, MESSAGES[..after], "{what}, after {after}");
            assert_eq!(
                (outcome.grpc_status, outcome.cut_in_message),
                (Some(10), false),
                "{what}: {outcome:?}"
            );
        }
        assert_eq!(caller.injected("stream_abort").await, frames.len() as u64);
    }
}

#[tokio::test]
async fn what_stands_still_is_between_two_messages_however_they_are_framed() {
    let replies = Replies::default();
    let app = frames::app(None, &replies).await;
    for after in 0..=MESSAGES.len() {
        let faults = format!("faults: {{stream_stall: {{after_messages: {after}, duration: 300ms}}}}");
        let caller = Caller::start_at(app.addr, &faults, "").await;
        replies.next(Reply::Frames(answer::<1_000, true>));
        let began = Instant::now();
        let mut call = caller.client.call(CallSpec::new("far", SERVER_STREAM)).await.expect("a call");
        call.half_close();
        for (number, message) in MESSAGES.iter().enumerate() {
            assert_eq!(soon("a message", call.recv()).await.as_deref(), Some(*message));
            let waited = began.elapsed() >= Duration::from_millis(300);
            assert!(waited || number < after, "message {number} went on with those before {after}");
        }
        assert!(soon("the end", call.finish()).await.is_ok());
        assert!(began.elapsed() >= Duration::from_millis(300));
    }
}

#[tokio::test]
async fn a_cut_is_what_its_caller_sees_whatever_breaks_behind_it() {
    let (server, caller) = site("{stream_abort: {after_messages: 3, code: ABORTED}}").await;
    // Fewer than three, and broken: that is what the caller learns.
    let spec = CallSpec::new("far", SERVER_STREAM).header("x-script", "reset-after:2:INTERNAL_ERROR");
    let (came, outcome) = exchange(&caller.client, spec.header("x-count", "9"), &[b"go".to_vec()]).await;
    assert_eq!((came.len(), outcome.grpc_status), (2, Some(13)), "{outcome:?}");
    let spec = CallSpec::new("far", SERVER_STREAM).header("x-script", "trailers-only:5");
    let (came, outcome) = exchange(&caller.client, spec, &[b"go".to_vec()]).await;
    assert_eq!((came.len(), outcome.grpc_status), (0, Some(5)), "{outcome:?}");
    // The one that takes the connection along comes last.
    for script in ["status:0", "reset-after:5:INTERNAL_ERROR", "disconnect-after:5"] {
        let spec = CallSpec::new("far", SERVER_STREAM)
            .header("x-count", "9")
            .header("x-size", "4")
            .header("x-script", script);
        let (came, outcome) = exchange(&caller.client, spec, &[b"go".to_vec()]).await;
        assert_eq!((came.len(), outcome.grpc_status), (3, Some(10)), "{script}: {outcome:?}");
    }
    assert_eq!(server.calls().len(), 5, "none was repeated");
}

#[tokio::test]
async fn a_response_of_any_kind_stands_still_where_it_should_and_then_goes_on_whole() {
    const STALL: Duration = Duration::from_millis(400);
    for after in [0, 1, 5] {
        let faults = format!("{{stream_stall: {{after_messages: {after}, duration: 400ms}}}}");
        let (_server, caller) = site(&faults).await;
        let mut stalls = 0;
        for kind in kinds(10, 2_000) {
            let what = format!("{} after {after}", kind.path);
            let spec = CallSpec::new("far", kind.path).header("x-count", "10").header("x-size", "2000");
            let mut call = caller.client.call(spec).await.expect("a call");
            let began = Instant::now();
            for message in &kind.sends {
                call.send(message).await.expect("sent");
            }
            call.half_close();
            let mut came = Vec::new();
            let mut behind = None;
            while let Some(message) = soon(&what, call.recv()).await {
                came.push(message);
                if came.len() == after + 1 {
                    behind = Some(began.elapsed());
                }
            }
            let outcome = soon(&what, call.finish()).await;
            assert!(outcome.is_ok() && came == kind.comes, "{what}: {} messages: {outcome:?}", came.len());
            if kind.comes.len() >= after {
                stalls += 1;
                let behind = behind.unwrap_or_else(|| began.elapsed());
                assert!(behind >= STALL, "{what}: what comes behind came after {behind:?}");
            }
        }
        assert_eq!(caller.injected("stream_stall").await, stalls);
    }
}

/// A call whose response stands still for an hour after one message.
async fn standing(caller: &Caller, spec: CallSpec<'_>) -> Call {
    let mut call = caller.client.call(spec).await.expect("a call");
    call.send(b"one").await.expect("sent");
    assert!(soon("the first", call.recv()).await.is_some());
    call.send(b"two").await.expect("sent");
    assert!(tokio::time::timeout(NEVER, call.recv()).await.is_err(), "the second waits");
    call
}

#[tokio::test]
async fn a_response_that_stands_still_ends_with_its_deadline_its_caller_or_its_endpoint() {
    let (server, caller) = site("{stream_stall: {after_messages: 1, duration: 1h}}").await;
    let ended = async |number: usize, end: CallEnd| {
        until("the endpoint is told", async || server.calls()[number].end == end).await;
    };
    let call = standing(&caller, CallSpec::new("far", BIDI).header("grpc-timeout", "4S")).await;
    let outcome = soon("the deadline", call.receiver.finish()).await;
    assert_eq!(outcome.grpc_status, Some(4), "{outcome:?}");
    ended(0, CallEnd::ResetByPeer(Reason::CANCEL)).await;

    let mut call = standing(&caller, CallSpec::new("far", BIDI)).await;
    call.cancel();
    ended(1, CallEnd::ResetByPeer(Reason::CANCEL)).await;

    let spec = CallSpec::new("far", BIDI).header("x-script", "reset-after:3:INTERNAL_ERROR");
    let mut call = standing(&caller, spec).await;
    call.send(b"three").await.expect("sent");
    let outcome = soon("the endpoint's end", call.receiver.finish()).await;
    assert_eq!((outcome.grpc_status, outcome.messages), (Some(13), 3), "{outcome:?}");
    assert_eq!(caller.injected("stream_stall").await, 3);
}

#[tokio::test]
async fn a_response_that_stands_still_pushes_back_and_is_no_stalled_reader() {
    let server = Server::start(ANY).await.expect("a server");
    // What a few of them hold fills the connection to the endpoint, and readers may stand still for a part of that time.
    let limits = "limits: {stream_window: 64KiB, connection_window: 256KiB, stall_timeout: 700ms}\n";
    let faults = "upstream: {connections: 1}\nfaults: {stream_stall: {after_messages: 1, duration: 2s}}";
    let caller = Caller::start_with(&server, faults, limits).await;
    let mut calls = Vec::new();
    for _ in 0..4 {
        let spec = CallSpec::new("far", SERVER_STREAM).header("x-count", "100").header("x-size", "9995");
        let mut call = caller.client.call(spec).await.expect("a call");
        call.send(b"go").await.expect("sent");
        call.half_close();
        calls.push(call);
    }
    for call in calls {
        let outcome = soon("a whole response", call.finish()).await;
        assert!(outcome.is_ok(), "{outcome:?}");
        assert_eq!((outcome.messages, outcome.bytes), (100, 999_500));
    }
    let refused = caller.metrics().await;
    assert_eq!(refused.value("outrigger_refused_total", &[("limit", "stall_timeout")]), 0.0);
}

#[tokio::test]
async fn what_is_cut_off_gives_its_window_back_to_the_calls_that_follow() {
    let server = Server::start(ANY).await.expect("a server");
    let limits = "limits: {stream_window: 64KiB, connection_window: 256KiB}\n";
    let faults = "upstream: {connections: 1}\nfaults: {stream_abort: {after_messages: 3}}";
    let caller = Caller::start_with(&server, faults, limits).await;
    // What is cut off of each would take up to a quarter of the connection's window.
    for round in 0..60 {
        let spec = CallSpec::new("far", SERVER_STREAM).header("x-count", "100").header("x-size", "9995");
        let outcome =
            soon(format!("call {round}"), caller.client.unary_with(spec, b"go")).await.expect("a call");
        assert_eq!((outcome.grpc_status, outcome.messages), (Some(14), 3), "call {round}: {outcome:?}");
    }
    assert_eq!(server.accepted(), 1, "all of them on one connection");
}

#[tokio::test]
async fn a_stall_comes_before_a_cut_at_the_same_place_and_a_cut_before_a_later_stall() {
    let faults = "{stream_stall: {after_messages: 2, duration: 300ms}, stream_abort: {after_messages: 2}}";
    let (_server, caller) = site(faults).await;
    let spec = || CallSpec::new("far", SERVER_STREAM).header("x-count", "5");
    let began = Instant::now();
    let (came, outcome) = exchange(&caller.client, spec(), &[b"go".to_vec()]).await;
    assert_eq!((came.len(), outcome.grpc_status), (2, Some(14)), "{outcome:?}");
    assert!(began.elapsed() >= Duration::from_millis(300));

    let faults = "{stream_stall: {after_messages: 3, duration: 1h}, stream_abort: {after_messages: 2}}";
    let (_server, caller) = site(faults).await;
    let (came, outcome) = exchange(&caller.client, spec(), &[b"go".to_vec()]).await;
    assert_eq!((came.len(), outcome.grpc_status), (2, Some(14)), "{outcome:?}");
    assert_eq!(caller.injected("stream_stall").await, 0, "what does not take effect does not count");
}
