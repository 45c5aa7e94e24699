//! A reader that stops reading stops its writer, and what waits in between is bounded by windows, however
//! long it waits and however it came.

mod pair;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use bench::call::{Call, CallSpec};
use bench::client::{Client, ClientOptions};
use bench::flow;
use bench::grpc::message;
use bench::server::ServerOptions;
use bench::wait::{soon, until, within};
use bytes::Bytes;
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::time::{Instant, sleep};

use crate::pair::memory::Memory;
use crate::pair::{BIDI, CLIENT_STREAM, ECHO, MIB, Pair, SERVER_STREAM, UNARY, around, metric, peer, well};

const MESSAGE: usize = 64 << 10;
/// Windows and send buffers between app and app: the client's 1 MiB, and 256 KiB four times in the sidecars.
const WINDOWS: u64 = 2 * MIB;
/// What stands still this long has been stopped.
const STILL: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(20);
const TRANSFER: Duration = Duration::from_secs(120);

#[tokio::test]
async fn a_caller_that_stops_reading_stops_the_app_and_fills_no_memory() {
    let pair = Pair::start().await;
    let client = pair.client().await;
    well(soon("a call", client.unary(ECHO, UNARY, b"warm")).await);
    let memory = Memory::watch(&pair.caller, &pair.callee);
    let spec = CallSpec::new(ECHO, SERVER_STREAM).header("x-count", "1600").header("x-size", "65536");
    let mut call = client.call(spec).await.expect("a call");
    call.sender.send_ending(b"go").await.expect("sent");

    let method = [("grpc_method", "ServerStream")];
    let sent = standstill(async || metric(&pair.callee, "grpc_server_msg_sent_total", &method).await).await;
    assert!(sent * MESSAGE as u64 <= 2 * WINDOWS, "{sent} messages of 64 KiB have left the app");
    memory.assert_growth_below("a caller that does not read", 2 * WINDOWS);

    let outcome = within(TRANSFER, "the rest", call.receiver.finish()).await;
    assert_eq!((outcome.is_ok(), outcome.messages, outcome.bytes), (true, 1_600, 100 * MIB), "{outcome:?}");
}

#[tokio::test]
async fn an_app_that_stops_reading_stops_the_caller_and_fills_no_memory() {
    let (go, gone) = watch::channel(false);
    let app = peer::app(None, move |mut request, mut respond| {
        let mut gone = gone.clone();
        async move {
            let _ = gone.wait_for(|go| *go).await;
            let mut bytes = 0;
            while let Some(Ok(data)) = request.body_mut().data().await {
                let _ = request.body_mut().flow_control().release_capacity(data.len());
                bytes += data.len();
            }
            let bytes = bytes.to_string();
            let _ = respond.send_response(peer::head(&[("grpc-status", "0"), ("x-bytes", &bytes)]), true);
        }
    })
    .await;
    let (_site, callee, caller) = around(app.addr, "").await;
    let client = Client::connect(caller.outbound(), None).await.expect("a connection");
    let memory = Memory::watch(&caller, &callee);
    let (mut sender, receiver) =
        client.call(CallSpec::new(ECHO, CLIENT_STREAM)).await.expect("a call").split();
    let sent = Arc::new(AtomicU64::new(0));
    let sending = {
        let sent = sent.clone();
        tokio::spawn(async move {
            let payload = vec![7; MESSAGE];
            for _ in 0..1_600 {
                sender.send(&payload).await.expect("sent");
                sent.fetch_add(1, Ordering::Relaxed);
            }
            sender.half_close();
        })
    };

    let stopped_at = standstill(async || sent.load(Ordering::Relaxed)).await;
    assert!(
        stopped_at * MESSAGE as u64 <= 2 * WINDOWS,
        "{stopped_at} messages of 64 KiB have left the client"
    );
    memory.assert_growth_below("an app that does not read", 2 * WINDOWS);

    go.send_replace(true);
    let outcome = within(TRANSFER, "the rest", receiver.finish()).await;
    sending.await.expect("all is sent");
    let bytes = (1_600 * (MESSAGE + 5)).to_string();
    assert_eq!(
        (outcome.grpc_status, outcome.trailer("x-bytes")),
        (Some(0), Some(bytes.as_str())),
        "{outcome:?}"
    );
}

/// A process that hangs reads not even its socket, however wide its windows are open.
#[test]
fn a_caller_that_hangs_fills_no_memory_with_tiny_messages() {
    let runtime = runtime();
    let options = ServerOptions { record: false, ..ServerOptions::default() };
    let pair = runtime.block_on(Pair::start_with(options, ""));
    let outbound = pair.caller.outbound();
    let memory = Memory::watch(&pair.caller, &pair.callee);
    let (hanging, hangs) = oneshot::channel();
    let (go, gone) = std::sync::mpsc::channel::<()>();
    let caller = thread::spawn(move || {
        self::runtime().block_on(async {
            let options = ClientOptions { stream_window: 16 << 20, connection_window: 256 << 20, tls: None };
            let client = Client::connect_with(outbound, options).await.expect("a connection");
            let mut calls = Vec::new();
            for _ in 0..HANGING {
                let spec =
                    CallSpec::new(ECHO, SERVER_STREAM).header("x-count", "10000000").header("x-size", "2");
                let mut call = client.call(spec).await.expect("a call");
                call.sender.send_ending(b"go").await.expect("sent");
                assert!(soon("a head", call.headers()).await.is_some());
                calls.push(call);
            }
            hanging.send(()).expect("the test waits for it");
            gone.recv().expect("the test says when");
        });
    });
    runtime.block_on(async {
        soon("the caller's hanging", hangs).await.expect("all its calls are answered");
        let method = [("grpc_method", "ServerStream")];
        standstill(async || metric(&pair.callee, "grpc_server_msg_sent_total", &method).await).await;
        memory.assert_growth_below("a caller that hangs", 2 * HANGING * WINDOWS);
        go.send(()).expect("it waits");
        until("the calls' end", async || metric(&pair.caller, "outrigger_calls_in_flight", &[]).await == 0)
            .await;
    });
    caller.join().expect("its calls were answered");
}

const HANGING: u64 = 16;

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Small messages for a reader that is paused come between large ones for another. Whoever keeps a slice of
/// what was read from the socket keeps all that was read with it.
#[tokio::test]
async fn small_messages_that_wait_do_not_keep_the_large_ones_that_came_beside_them() {
    let turns = Arc::new(Semaphore::new(0));
    let app = peer::app(None, move |mut request, mut respond| {
        let turns = turns.clone();
        async move {
            let small = request.headers().contains_key("x-small");
            let mut stream = respond.send_response(peer::head(&[]), false).expect("a head");
            if small {
                loop {
                    turns.acquire().await.expect("it is never closed").forget();
                    if flow::send_all(&mut stream, message(&[1; SMALL]), false).await.is_err() {
                        return;
                    }
                }
            }
            while let Some(Ok(data)) = request.body_mut().data().await {
                let _ = request.body_mut().flow_control().release_capacity(data.len());
                turns.add_permits(1);
                if flow::send_all(&mut stream, data, false).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    let (_site, callee, caller) = around(app.addr, "").await;
    let options = ClientOptions { stream_window: 65_535, ..ClientOptions::default() };
    let client = Client::connect_with(caller.outbound(), options).await.expect("a connection");
    let _paused =
        client.call(CallSpec::new(ECHO, SERVER_STREAM).header("x-small", "1")).await.expect("a call");
    let mut busy = client.call(CallSpec::new(ECHO, BIDI)).await.expect("a call");
    soon("a first exchange", exchange(&mut busy, 1)).await;
    let memory = Memory::watch(&caller, &callee);
    within(TRANSFER, "the exchanges", exchange(&mut busy, 3_000)).await;
    memory.assert_growth_below("small answers beside large ones", WINDOWS);
}

/// As above, the other way, where besides the app has not answered: what was sent may have to be repeated.
#[tokio::test]
async fn small_requests_that_wait_do_not_keep_the_large_ones_that_came_beside_them() {
    let app = peer::app(None, |mut request, mut respond| async move {
        if request.headers().contains_key("x-small") {
            return std::future::pending().await;
        }
        let mut stream = respond.send_response(peer::head(&[]), false).expect("a head");
        while let Some(Ok(data)) = request.body_mut().data().await {
            let _ = request.body_mut().flow_control().release_capacity(data.len());
            if flow::send_all(&mut stream, data, false).await.is_err() {
                return;
            }
        }
    })
    .await;
    let (_site, callee, caller) = around(app.addr, "").await;
    let client = Client::connect(caller.outbound(), None).await.expect("a connection");
    let mut paused =
        client.call(CallSpec::new(ECHO, CLIENT_STREAM).header("x-small", "1")).await.expect("a call");
    let mut busy = client.call(CallSpec::new(ECHO, BIDI)).await.expect("a call");
    soon("a first exchange", exchange(&mut busy, 1)).await;
    let memory = Memory::watch(&caller, &callee);
    for _ in 0..3_000 {
        if paused.sender.granted(SMALL + 5) >= SMALL + 5 {
            paused.send(&[1; SMALL]).await.expect("sent");
        }
        soon("an exchange", exchange(&mut busy, 1)).await;
    }
    memory.assert_growth_below("small requests beside large ones", WINDOWS);
}

const SMALL: usize = 300;
const LARGE: usize = 15_000;

/// Sends large messages and waits for the echo of each.
async fn exchange(call: &mut Call, times: usize) {
    let large = Bytes::from(vec![2; LARGE]);
    for _ in 0..times {
        call.send(&large).await.expect("sent");
        assert!(call.recv().await.expect("an echo") == large);
    }
}

/// What `count` has come to once it has moved, and then no more.
async fn standstill(count: impl AsyncFn() -> u64) -> u64 {
    let deadline = Instant::now() + TRANSFER;
    let (mut last, mut since) = (0, Instant::now());
    while last == 0 || since.elapsed() < STILL {
        assert!(Instant::now() < deadline, "it still moves after {TRANSFER:?}: {last}");
        let now = count().await;
        if now != last {
            (last, since) = (now, Instant::now());
        }
        sleep(LOOK).await;
    }
    last
}
