//! Connections that begin well and then break the rules of HTTP/2.

use bench::raw::{frame, kind};
use bench::wait::until;
use h2::Reason;

use crate::Plain;
use crate::neighbour::Neighbour;
use crate::pair::{ECHO, UNARY, metric};
use crate::wire::Wire;

const PRIORITY: u8 = 2;
const PUSH_PROMISE: u8 = 5;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// So often each of them, so that the neighbour is there for all.
const ROUNDS: usize = 20;

#[tokio::test]
async fn a_connection_that_breaks_http_2_ends_with_goaway_and_no_other_does() {
    let plain = Plain::start("").await;
    let door = plain.sidecar.inbound();
    let neighbour = Neighbour::start(door, None).await;
    let breaches = breaches();
    for (what, bytes) in breaches.iter().cycle().take(ROUNDS * breaches.len()) {
        let mut wire = Wire::connect(door).await;
        wire.greet().await;
        // With a call open, so that there is something to be harmed.
        wire.call(1, ECHO, UNARY, &[]).await;
        wire.write(bytes).await;
        let frames = wire.frames(what).await;
        let goaway = frames.iter().rfind(|frame| frame.kind == kind::GOAWAY);
        let said = goaway.map(|frame| u32::from_be_bytes(frame.payload[4..8].try_into().expect("a code")));
        // Which error is h2's to say.
        assert!(said.is_some_and(|code| code != u32::from(Reason::NO_ERROR)), "{what}: {said:?}");
    }
    // The neighbour's own connection is left.
    let open = [("direction", "inbound")];
    let settled = async || metric(&plain.sidecar, "outrigger_connections", &open).await <= 2;
    until("the broken connections are gone", settled).await;
    println!(
        "{ROUNDS} times {} breaches; {} calls of the neighbour",
        breaches.len(),
        neighbour.unharmed().await
    );
    until("no call is left", async || metric(&plain.sidecar, "outrigger_calls_in_flight", &[]).await == 0)
        .await;
}

fn breaches() -> Vec<(&'static str, Vec<u8>)> {
    let breach =
        |what, kind, flags, stream, payload: &[u8]| (what, frame(kind, flags, stream, payload).to_vec());
    let window_max = (0x7fff_ffff_u32).to_be_bytes();
    vec![
        breach("DATA on no stream", kind::DATA, 0, 0, b"x"),
        breach("DATA on an idle stream", kind::DATA, 0, 9, b"x"),
        breach("HEADERS on an even stream", kind::HEADERS, END_HEADERS, 2, &[0x83]),
        breach("bad HPACK", kind::HEADERS, END_HEADERS, 3, &[0xff; 10]),
        breach("CONTINUATION of nothing", CONTINUATION, 0, 3, b"x"),
        breach("RST_STREAM of an idle stream", kind::RST_STREAM, 0, 9, &[0; 4]),
        breach("PUSH_PROMISE by a client", PUSH_PROMISE, END_HEADERS, 1, &[0; 8]),
        breach("PRIORITY on no stream", PRIORITY, 0, 0, &[0; 5]),
        breach("a short SETTINGS", kind::SETTINGS, 0, 0, &[0; 5]),
        breach("a short PING", kind::PING, 0, 0, &[0; 7]),
        breach("no window", kind::WINDOW_UPDATE, 0, 0, &[0; 4]),
        breach("too much window", kind::WINDOW_UPDATE, 0, 0, &window_max),
        ("a frame of 16 MiB", vec![0xff; 9]),
    ]
}
