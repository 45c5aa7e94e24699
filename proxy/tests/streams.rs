//! Long streams over two sidecars: whole, counted as they pass, and ended from either side.

mod pair;

use std::time::Duration;

use bench::call::CallSpec;
use bench::client::{Client, ClientOptions};
use bench::record::CallEnd;
use bench::wait::{soon, until, within};
use h2::Reason;

use crate::pair::memory::Memory;
use crate::pair::{BIDI, CLIENT_STREAM, ECHO, MIB, Pair, SERVER_STREAM, UNARY, metric, well};

const MESSAGE: usize = 64 << 10;
/// 100 MiB of them.
const MESSAGES: u64 = 1_600;
/// How much a sidecar may grow while they pass.
const GROWTH_MAX: u64 = 16 * MIB;
/// 100 MiB must be there by then, on the slowest machine.
const TRANSFER: Duration = Duration::from_secs(180);

#[tokio::test]
async fn a_hundred_mebibytes_both_ways_arrive_whole_and_cost_a_sidecar_less_than_sixteen() {
    let pair = Pair::start().await;
    let client = pair.client().await;
    well(soon("a call", client.unary(ECHO, UNARY, b"warm")).await);
    let memory = Memory::watch(&pair.caller, &pair.callee);

    let (mut sender, mut receiver) = client.call(CallSpec::new(ECHO, BIDI)).await.expect("a call").split();
    let sending = async {
        for number in 0..MESSAGES {
            sender.send(&message(number)).await.expect("sent");
        }
        sender.half_close();
    };
    let receiving = async {
        for number in 0..MESSAGES {
            let echo = receiver.recv().await.unwrap_or_else(|| panic!("message {number} is missing"));
            assert!(echo == message(number), "message {number} is not the same");
        }
        receiver.finish().await
    };
    let ((), outcome) =
        within(TRANSFER, "100 MiB both ways", async { tokio::join!(sending, receiving) }).await;
    assert!(outcome.is_ok() && outcome.messages == MESSAGES, "{outcome:?}");
    memory.assert_growth_below("both ways", GROWTH_MAX);

    let (mut sender, receiver) =
        client.call(CallSpec::new(ECHO, CLIENT_STREAM)).await.expect("a call").split();
    let up = async {
        for number in 0..MESSAGES {
            sender.send(&message(number)).await.expect("sent");
        }
        sender.half_close();
        receiver.finish().await
    };
    let outcome = within(TRANSFER, "100 MiB up", up).await;
    assert_eq!(outcome.last.as_deref(), Some(&b"1600 104857600"[..]), "{outcome:?}");
    memory.assert_growth_below("up", GROWTH_MAX);

    let spec = CallSpec::new(ECHO, SERVER_STREAM).header("x-count", "1600").header("x-size", "65536");
    let outcome = within(TRANSFER, "100 MiB down", client.unary_with(spec, b"go")).await.expect("a call");
    assert_eq!((outcome.is_ok(), outcome.messages, outcome.bytes), (true, MESSAGES, 100 << 20));
    memory.assert_growth_below("down", GROWTH_MAX);
}

/// A message that is like no other.
fn message(number: u64) -> Vec<u8> {
    let mut bytes = vec![0; MESSAGE];
    fastrand::Rng::with_seed(number).fill(&mut bytes);
    bytes
}

#[tokio::test]
async fn the_head_of_an_answer_comes_before_the_first_message_of_either_side() {
    let pair = Pair::start().await;
    let client = pair.client().await;
    let mut call = client.call(CallSpec::new(ECHO, BIDI)).await.expect("a call");
    assert!(soon("the head", call.headers()).await.is_some());
    call.send(b"first").await.expect("sent");
    assert_eq!(soon("the echo", call.recv()).await.as_deref(), Some(&b"first"[..]));
    assert!(soon("the end", call.finish()).await.is_ok());
}

#[tokio::test]
async fn messages_are_counted_while_their_stream_is_open() {
    let pair = Pair::start().await;
    let client = pair.client().await;
    let method = [("grpc_service", "bench.Echo"), ("grpc_method", "Bidi")];
    let mut call = client.call(CallSpec::new(ECHO, BIDI)).await.expect("a call");
    let mut sent = 0;
    for round in [1, 2, 100] {
        for _ in 0..round {
            call.send(&message(sent)).await.expect("sent");
            soon("an echo", call.recv()).await.expect("an echo");
            sent += 1;
        }
        for (sidecar, family) in [(&pair.caller, "grpc_client"), (&pair.callee, "grpc_server")] {
            for (what, want) in [
                ("started_total", 1),
                ("msg_sent_total", sent),
                ("msg_received_total", sent),
                ("handled_total", 0),
                ("handling_seconds_count", 0),
            ] {
                let name = format!("{family}_{what}");
                assert_eq!(metric(sidecar, &name, &method).await, want, "{name} after {sent} messages");
            }
            assert_eq!(metric(sidecar, "outrigger_calls_in_flight", &[]).await, 1);
        }
    }
    assert!(soon("the end", call.finish()).await.is_ok());
    for (sidecar, family) in [(&pair.caller, "grpc_client"), (&pair.callee, "grpc_server")] {
        until("the call's end", async || metric(sidecar, "outrigger_calls_in_flight", &[]).await == 0).await;
        let ended = [method[0], method[1], ("grpc_code", "OK")];
        assert_eq!(metric(sidecar, &format!("{family}_handled_total"), &ended).await, 1);
        assert_eq!(metric(sidecar, &format!("{family}_handling_seconds_count"), &method).await, 1);
    }
}

#[tokio::test]
async fn an_answer_that_ends_amid_the_request_is_delivered_and_ends_the_request() {
    let pair = Pair::start().await;
    let client = pair.client().await;
    for (script, code, in_trailers) in
        [("trailers-only:8", 8, false), ("status-no-message:0", 0, true), ("status-no-message:9", 9, true)]
    {
        let spec = CallSpec::new(ECHO, CLIENT_STREAM).header("x-script", script);
        let (mut sender, receiver) = client.call(spec).await.expect("a call").split();
        let uploading = async {
            // Nobody reads it: only the end of the call can end this.
            loop {
                if let Err(fault) = sender.send(&message(0)).await {
                    break fault;
                }
            }
        };
        let (fault, outcome) = soon(script, async { tokio::join!(uploading, receiver.finish()) }).await;
        let seen = (outcome.grpc_status, outcome.trailers.is_some(), outcome.messages);
        assert_eq!(seen, (Some(code), in_trailers, 0), "{script}: {outcome:?}");
        assert_eq!(fault.reason(), Some(Reason::NO_ERROR), "{script}: the rest is not wanted: {fault}");
    }
    for sidecar in [&pair.caller, &pair.callee] {
        until("the calls' end", async || metric(sidecar, "outrigger_calls_in_flight", &[]).await == 0).await;
    }
    well(soon("another call", client.unary(ECHO, UNARY, b"x")).await);
}

#[tokio::test]
async fn a_request_that_has_ended_leaves_the_answer_all_the_time_it_wants() {
    let pair = Pair::start().await;
    // A window that is smaller than a message: the answer comes as slowly as it is read.
    let options = ClientOptions { stream_window: 20_000, ..ClientOptions::default() };
    let client = Client::connect_with(pair.caller.outbound(), options).await.expect("a connection");
    let spec = CallSpec::new(ECHO, SERVER_STREAM).header("x-count", "200").header("x-size", "65536");
    let mut call = client.call(spec).await.expect("a call");
    call.sender.send_ending(b"go").await.expect("sent");
    let mut seen = 0;
    while let Some(message) = soon("a message", call.recv()).await {
        assert_eq!(message.len(), MESSAGE);
        seen += 1;
    }
    assert_eq!(seen, 200);
    let outcome = soon("the end", call.receiver.finish()).await;
    assert!(outcome.is_ok(), "{outcome:?}");
    until("the app's end", async || pair.app.calls()[0].end == CallEnd::Clean).await;
}
