//! Calls that are begun and reset in one breath.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bench::call::{Call, CallSpec};
use bench::client::Client;
use bench::raw::{self, kind};
use bench::server::{Server, ServerOptions};
use bench::wait::{soon, until};
use bytes::Bytes;
use h2::Reason;

use crate::pair::peer::{self, Peer};
use crate::pair::{ANY, BIDI, ECHO, UNARY, metric};
use crate::wire::{Wire, head};
use crate::{Plain, counts};

/// Ten times what h2 lets a peer reset before it looks at the calls; beyond that it ends the connection.
const BURST: u64 = 200;
/// Where the flags of a frame stand.
const FLAGS: usize = 4;
/// Of HEADERS.
const END_STREAM: u8 = 1;

/// All of it leaves by one write and is read in one turn, so that no call is looked at before its reset is here.
#[tokio::test]
async fn calls_that_are_reset_as_soon_as_begun_never_reach_the_app_and_cost_nobody_his_connection() {
    let (app, begun) = app().await;
    let plain = Plain::before(app.addr, "workers: 1").await;
    for (door, handled) in
        plain.doors().into_iter().zip(["grpc_server_handled_total", "grpc_client_handled_total"])
    {
        let canceled = [("grpc_code", "Canceled")];
        let before = begun.load(Ordering::Relaxed);
        let mut cold = Wire::connect(door).await;
        burst(&mut cold).await;
        counts(&plain.sidecar, handled, &canceled, BURST).await;

        let client = Client::connect(door, None).await.expect("a connection");
        let mut neighbour = client.call(CallSpec::new(ECHO, BIDI)).await.expect("a call");
        echoed(&mut neighbour).await;
        let connections = connections(&plain).await;
        for round in 2..=4 {
            let mut wire = Wire::connect(door).await;
            burst(&mut wire).await;
            counts(&plain.sidecar, handled, &canceled, round * BURST).await;
            echoed(&mut neighbour).await;
        }
        assert_eq!(begun.load(Ordering::Relaxed) - before, 1, "the app saw the neighbour, and nobody else");
        assert_eq!(self::connections(&plain).await, connections, "{handled}");
        assert!(soon("the neighbour's end", neighbour.finish()).await.is_ok());
    }
}

/// A place that is free because its call was reset is none for a call that was reset in the same breath.
#[tokio::test]
async fn calls_that_wait_and_are_reset_with_those_they_wait_for_never_reach_the_app() {
    const PLACES: usize = 4;
    // By default, the connections that one worker may have to one endpoint.
    const HELD: usize = 16 * PLACES;
    let options = ServerOptions { max_concurrent_streams: PLACES as u32, ..ServerOptions::default() };
    let app = Server::start_with(ANY, options).await.expect("an app");
    app.script_always(Some("hang"));
    let plain = Plain::before(app.addr, "workers: 1").await;
    for door in plain.doors() {
        app.clear();
        let mut wire = Wire::connect(door).await;
        wire.greet().await;
        wire.settle().await;
        let streams = || (1..).step_by(2).take(HELD + BURST as usize);
        let heads: Vec<u8> = streams().flat_map(|stream| head(stream, ECHO, UNARY, &[])).collect();
        wire.write(&heads).await;
        until("those that there is a place for", async || app.calls().len() == HELD).await;
        let in_flight = async || metric(&plain.sidecar, "outrigger_calls_in_flight", &[]).await;
        until("all calls", async || in_flight().await == HELD as u64 + BURST).await;

        let resets: Vec<u8> = streams().flat_map(reset).collect();
        wire.write(&resets).await;
        until("the calls' end", async || in_flight().await == 0).await;
        assert_eq!(app.calls().len(), HELD);
    }
}

async fn burst(wire: &mut Wire) {
    wire.greet().await;
    wire.settle().await;
    let mut bytes = Vec::new();
    for stream in (1..).step_by(2).take(BURST as usize) {
        let begin = bytes.len();
        bytes.extend_from_slice(&head(stream, ECHO, UNARY, &[]));
        if stream % 4 == 1 {
            bytes[begin + FLAGS] |= END_STREAM;
        }
        bytes.extend_from_slice(&reset(stream));
    }
    wire.write(&bytes).await;
}

fn reset(stream: u32) -> Bytes {
    raw::frame(kind::RST_STREAM, 0, stream, &u32::from(Reason::CANCEL).to_be_bytes())
}

/// An app with h2's own limit on calls that are reset before they are accepted; it counts those it gets.
async fn app() -> (Peer, Arc<AtomicU64>) {
    let begun = Arc::new(AtomicU64::new(0));
    let count = begun.clone();
    let app = peer::app(None, move |request, respond| {
        count.fetch_add(1, Ordering::Relaxed);
        peer::echo(request, respond)
    });
    (app.await, begun)
}

async fn echoed(call: &mut Call) {
    call.send(b"x").await.expect("the stream is open");
    assert!(soon("an echo", call.recv()).await.is_some());
}

/// Connections to the app since the start.
async fn connections(plain: &Plain) -> u64 {
    metric(&plain.sidecar, "outrigger_connections_total", &[("direction", "upstream")]).await
}
