//! A caller that stops reading its socket.

use std::time::Instant;

use bench::grpc;
use bench::raw::{frame, kind};

use crate::neighbour::Neighbour;
use crate::pair::{ECHO, Pair, SERVER_STREAM, UNARY, metric};
use crate::wire::Wire;
use bench::record::CallEnd;
use bench::wait::{soon, until};

const STOPPED: u64 = 10;
/// Windows and send buffers of all of them, at both sidecars, and what an allocator keeps besides.
const GROWTH_MAX: u64 = 64 << 20;
const DATA_END_STREAM: u8 = 1;

#[tokio::test]
async fn callers_that_stop_reading_are_ended_by_their_deadline_and_hold_little() {
    let pair = Pair::start().await;
    let neighbour = Neighbour::start(pair.caller.outbound(), None).await;
    let before = memory(&pair);
    // By their deadline all that lies between app and caller must be full, on a slow machine too.
    let mut wires = Vec::new();
    for _ in 0..STOPPED {
        let mut wire = Wire::narrow(pair.caller.outbound()).await;
        wire.greet().await;
        let more = [("x-count", "100000"), ("x-size", "10000"), ("x-nonce", "s"), ("grpc-timeout", "8S")];
        wire.call(1, ECHO, SERVER_STREAM, &more).await;
        wire.write(&frame(kind::DATA, DATA_END_STREAM, 1, &grpc::message(b"go"))).await;
        wires.push(wire);
    }
    let late = [("service", ECHO), ("grpc_code", "DeadlineExceeded")];
    let ended = async || metric(&pair.caller, "grpc_client_handled_total", &late).await == STOPPED;
    until("all are ended by their deadline", ended).await;
    let grown = memory(&pair).saturating_sub(before);
    assert!(grown < GROWTH_MAX, "{grown} bytes");
    // What could not be said within a second is said by RST, and counted.
    let resets = async || metric(&pair.caller, "outrigger_flush_resets_total", &[]).await == STOPPED;
    until("each is reset", resets).await;
    let cut = |end: CallEnd| end != CallEnd::Open && end != CallEnd::Clean;
    let stopped = async || pair.app.calls_with_nonce("s").iter().all(|call| cut(call.end));
    until("the app is told of each", stopped).await;
    assert_eq!(pair.app.calls_with_nonce("s").len() as u64, STOPPED);
    println!("{} KiB for {STOPPED}; {} calls of the neighbour", grown >> 10, neighbour.unharmed().await);

    let began = Instant::now();
    for mut wire in wires {
        // A good call would be answered; these connections are full, and theirs to close.
        wire.call(3, ECHO, UNARY, &[]).await;
    }
    let gone = [("direction", "outbound")];
    let closed = async || metric(&pair.caller, "outrigger_connections", &gone).await == 0;
    soon("their connections", until("closed", closed)).await;
    println!("closed after {:?}", began.elapsed());
}

fn memory(pair: &Pair) -> u64 {
    let of = |sidecar: &bench::process::Sidecar| sidecar.rss_bytes().expect("a process");
    of(&pair.caller) + of(&pair.callee)
}
