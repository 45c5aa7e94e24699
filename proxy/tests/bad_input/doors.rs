//! Each way in has its own share of connections and handshakes: whoever uses up that of one takes nothing from
//! the other.

use std::net::SocketAddr;

use bench::client::Client;
use bench::wait::{soon, until};
use tokio::net::TcpStream;

use crate::neighbour::Neighbour;
use crate::pair::{ECHO, UNARY, metric, well};
use crate::wire::Wire;
use crate::{Plain, REFUSED, counts};

const SHARE: usize = 8;

#[tokio::test]
async fn silent_sockets_on_one_way_in_send_nobody_away_from_the_other() {
    // Else who is silent for two seconds is taken for a client of an app that speaks first.
    let times = "handshake_timeout: 1h, detection_timeout: 1h";
    let limits = format!("workers: 1\nlimits: {{handshakes: {SHARE}, {times}}}");
    for (number, direction) in ["inbound", "outbound"].iter().enumerate() {
        let plain = Plain::start(&limits).await;
        let (full, other) = (plain.doors()[number], plain.doors()[1 - number]);
        // It says nothing either, and has all its time to.
        let patient = TcpStream::connect(other).await.expect("a connection");
        let neighbour = Neighbour::start(other, None).await;
        let mut silent = Vec::new();
        for _ in 0..4 * SHARE {
            silent.push(Wire::connect(full).await);
        }
        counts(&plain.sidecar, REFUSED, &[("limit", "handshakes")], 3 * SHARE as u64).await;
        for mut gone in silent.drain(..3 * SHARE) {
            assert!(gone.rest("the oldest of too many").await.is_empty(), "{direction}");
        }
        for kept in &silent {
            assert!(is_open(&kept.tcp), "{direction}: {SHARE} may wait");
        }
        // Whoever speaks gets in here too.
        Neighbour::start(full, None).await.unharmed().await;
        neighbour.unharmed().await;
        assert!(is_open(&patient), "{direction}");
    }
}

#[tokio::test]
async fn whoever_speaks_gets_in_whichever_worker_the_silent_ones_are_with() {
    let plain =
        Plain::start("workers: 2\nlimits: {handshakes: 1, handshake_timeout: 1h, detection_timeout: 1h}")
            .await;
    for door in plain.doors() {
        let _silent = Wire::connect(door).await;
        let mut speakers = Vec::new();
        for _ in 0..SHARE {
            speakers.push(calling(door).await);
        }
    }
}

#[tokio::test]
async fn connections_that_fill_one_way_in_keep_nobody_out_of_the_other() {
    let limits = format!("workers: 2\nlimits: {{connections: {SHARE}}}");
    for number in 0..2 {
        let plain = Plain::start(&limits).await;
        let (full, other) = (plain.doors()[number], plain.doors()[1 - number]);
        let mut idle = Vec::new();
        for _ in 0..SHARE {
            idle.push(calling(full).await);
        }
        let mut late = Wire::connect(full).await;
        assert!(late.rest("one connection too many").await.is_empty());
        counts(&plain.sidecar, REFUSED, &[("limit", "connections")], 1).await;

        let mut others = Vec::new();
        for _ in 0..SHARE {
            others.push(calling(other).await);
        }
        let mut late = Wire::connect(other).await;
        assert!(late.rest("one connection too many").await.is_empty());
        counts(&plain.sidecar, REFUSED, &[("limit", "connections")], 2).await;
        for client in idle.iter().chain(&others) {
            well(soon("a call", client.unary(ECHO, UNARY, b"x")).await);
        }

        // A place that is given back is taken by whoever comes next, at the door that it belongs to.
        idle.pop().expect("a client").abort();
        let direction = ["inbound", "outbound"][number];
        let open = [("direction", direction)];
        let open = async || metric(&plain.sidecar, "outrigger_connections", &open).await;
        until("the place is free", async || open().await < SHARE as u64).await;
        idle.push(calling(full).await);
    }
}

/// A connection on which a call has gone well.
async fn calling(door: SocketAddr) -> Client {
    let client = soon("a connection", Client::connect(door, None)).await.expect("a connection");
    well(soon("a call", client.unary(ECHO, UNARY, b"x")).await);
    client
}

/// Whether the peer has neither said anything nor closed.
fn is_open(tcp: &TcpStream) -> bool {
    tcp.try_read(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}
