//! Streams of tiny messages over one connection, one of their readers paused: none is lost, no other stream
//! waits, and no limit of HTTP/2 on small frames ends the connection.

mod pair;

use std::sync::Arc;
use std::time::Duration;

use bench::call::{Call, CallSpec};
use bench::client::{Client, ClientOptions};
use bench::flow;
use bench::grpc::{Deframer, message};
use bench::process::Sidecar;
use bench::wait::{soon, within};
use h2::RecvStream;
use tokio::sync::{Barrier, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::pair::memory::Memory;
use crate::pair::{CLIENT_STREAM, ECHO, MIB, SERVER_STREAM, UNARY, around, metric, peer, well};

const STREAMS: usize = 16;
const MESSAGES: u32 = 100_000;
/// How long one reader reads nothing, at least.
const PAUSE: Duration = Duration::from_secs(5);
/// Smaller than what a stream carries in all, so that a reader that pauses stops its writer.
const WINDOW: u32 = 65_535;
/// All that waits at a time, by windows and send buffers, is 8 MiB in a sidecar, and costs about twice that
/// in tiny frames; what passes in all would cost hundreds.
const GROWTH_MAX: u64 = 64 * MIB;
/// A slow machine must not make a stall of the pause: that is another test's concern.
const PATIENT: &str = "limits: {stall_timeout: 1h}\n";
/// All of it must be over by then, on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(300);

#[tokio::test]
async fn tiny_answers_on_sixteen_streams_all_arrive_while_one_reader_pauses() {
    let all_begun = Arc::new(Barrier::new(STREAMS));
    let app = peer::app(None, move |mut request, mut respond| {
        let all_begun = all_begun.clone();
        async move {
            peer::drain(request.body_mut()).await;
            let mut stream = respond.send_response(peer::head(&[]), false).expect("a head");
            let mut count = 1;
            if request.uri().path() == SERVER_STREAM {
                count = MESSAGES;
                all_begun.wait().await;
            }
            for number in 0..count {
                if flow::send_all(&mut stream, message(&tiny(number)), false).await.is_err() {
                    return;
                }
            }
            let _ = stream.send_trailers(peer::headers(&[("grpc-status", "0")]));
        }
    })
    .await;
    let (_site, callee, caller) = around(app.addr, PATIENT).await;
    let options = ClientOptions { stream_window: WINDOW, ..ClientOptions::default() };
    let client = Client::connect_with(caller.outbound(), options).await.expect("a connection");
    well(soon("a call", client.unary(ECHO, UNARY, b"warm")).await);
    let memory = Memory::watch(&caller, &callee);

    let mut calls = Vec::new();
    for _ in 0..STREAMS {
        let mut call = client.call(CallSpec::new(ECHO, SERVER_STREAM)).await.expect("a call");
        call.sender.send_ending(b"go").await.expect("sent");
        calls.push(call);
    }
    let paused = calls.pop().expect("sixteen calls");
    let pause_over = Instant::now() + PAUSE;
    let mut others: JoinSet<()> = calls.into_iter().map(read_all).collect();
    let neighbour = async {
        while let Some(read) = others.join_next().await {
            read.expect("all messages, in order");
        }
    };
    within(PATIENCE, "the other streams, beside a paused one", neighbour).await;
    well(soon("a call", client.unary(ECHO, UNARY, b"x")).await);
    sleep_until(pause_over).await;
    let sent = metric(&callee, "grpc_server_msg_sent_total", &[("grpc_method", "ServerStream")]).await;
    assert!(sent < u64::from(MESSAGES) * STREAMS as u64, "the paused stream has been stopped");
    within(PATIENCE, "the paused stream", read_all(paused)).await;

    memory.assert_growth_below("tiny answers", GROWTH_MAX);
    assert_one_connection_each(&caller, &callee).await;
    let received =
        metric(&caller, "grpc_client_msg_received_total", &[("grpc_method", "ServerStream")]).await;
    assert_eq!(received, u64::from(MESSAGES) * STREAMS as u64);
}

#[tokio::test]
async fn tiny_requests_on_sixteen_streams_all_arrive_while_one_reader_pauses() {
    let (go, gone) = watch::channel(false);
    let (heads, mut headed) = mpsc::channel(STREAMS);
    let app = peer::app(None, move |mut request, mut respond| {
        let (mut gone, heads) = (gone.clone(), heads.clone());
        async move {
            if request.headers().contains_key("x-pause") {
                heads.send(()).await.expect("the test waits for it");
                let _ = gone.wait_for(|go| *go).await;
            }
            let count = receive_all(request.body_mut()).await.to_string();
            let _ = respond.send_response(peer::head(&[("grpc-status", "0"), ("x-count", &count)]), true);
        }
    })
    .await;
    let (_site, callee, caller) = around(app.addr, PATIENT).await;
    let client = Client::connect(caller.outbound(), None).await.expect("a connection");
    well(soon("a call", client.unary(ECHO, UNARY, &tiny(0))).await);
    let memory = Memory::watch(&caller, &callee);

    let pausing =
        client.call(CallSpec::new(ECHO, CLIENT_STREAM).header("x-pause", "1")).await.expect("a call");
    let paused = tokio::spawn(write_all(pausing));
    soon("the app's paused reader", headed.recv()).await;
    let pause_over = Instant::now() + PAUSE;
    let mut others = JoinSet::new();
    for _ in 1..STREAMS {
        others.spawn(write_all(client.call(CallSpec::new(ECHO, CLIENT_STREAM)).await.expect("a call")));
    }
    let neighbour = async {
        while let Some(written) = others.join_next().await {
            written.expect("all messages, in order");
        }
    };
    within(PATIENCE, "the other streams, beside a paused one", neighbour).await;
    well(soon("a call", client.unary(ECHO, UNARY, &tiny(0))).await);
    sleep_until(pause_over).await;
    assert!(!paused.is_finished(), "the paused stream has been stopped");
    go.send_replace(true);
    within(PATIENCE, "the paused stream", paused).await.expect("all messages, in order");

    memory.assert_growth_below("tiny requests", GROWTH_MAX);
    assert_one_connection_each(&caller, &callee).await;
    let received =
        metric(&callee, "grpc_server_msg_received_total", &[("grpc_method", "ClientStream")]).await;
    assert_eq!(received, u64::from(MESSAGES) * STREAMS as u64);
}

/// The message with this number: no two neighbours are alike.
fn tiny(number: u32) -> [u8; 2] {
    (number as u16).to_be_bytes()
}

/// Reads an answer and fails if anything is missing, out of order or too much.
async fn read_all(mut call: Call) {
    for number in 0..MESSAGES {
        let got = call.recv().await;
        assert_eq!(got.as_deref(), Some(&tiny(number)[..]), "message {number}");
    }
    let outcome = call.receiver.finish().await;
    assert!(outcome.is_ok() && outcome.messages == u64::from(MESSAGES), "{outcome:?}");
}

/// Writes a request and fails unless the app has got all of it.
async fn write_all(call: Call) {
    let (mut sender, receiver) = call.split();
    for number in 0..MESSAGES {
        sender.send(&tiny(number)).await.unwrap_or_else(|fault| panic!("message {number}: {fault}"));
    }
    sender.half_close();
    let outcome = receiver.finish().await;
    let count = MESSAGES.to_string();
    assert_eq!((outcome.grpc_status, outcome.trailer("x-count")), (Some(0), Some(&*count)), "{outcome:?}");
}

/// How many messages came, each the one that was due.
async fn receive_all(body: &mut RecvStream) -> u32 {
    let (mut deframer, mut count) = (Deframer::default(), 0);
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
        deframer.push(&data);
        while let Some(got) = deframer.next_message() {
            assert_eq!(got[..], tiny(count), "message {count}");
            count += 1;
        }
    }
    count
}

/// One connection of each kind, since the start.
async fn assert_one_connection_each(caller: &Sidecar, callee: &Sidecar) {
    for (sidecar, direction) in
        [(caller, "outbound"), (caller, "upstream"), (callee, "inbound"), (callee, "upstream")]
    {
        let opened = metric(sidecar, "outrigger_connections_total", &[("direction", direction)]).await;
        assert_eq!(opened, 1, "{direction}");
    }
}
