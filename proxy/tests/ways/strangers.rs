//! Bytes by chance, in pieces by chance, at both doors: each connection ends, and nobody beside it feels anything.

use std::net::SocketAddr;

use bench::raw::PREFACE;
use bench::server::Server;
use bench::wait::until;
use tokio::io::AsyncWriteExt as _;
use tokio::task::JoinSet;

use crate::kit::{connect, none_left, reset, rest_and_end, sidecar};
use crate::neighbour::Neighbour;
use crate::pair::{ANY, Site, mesh, metric};

/// Strangers at each door, so many at a time.
const STRANGERS: u64 = 240;
const AT_ONCE: usize = 16;

#[tokio::test]
async fn whatever_comes_in_whatever_pieces_ends_and_harms_nobody() {
    let app = Server::start(ANY).await.expect("an app");
    let site = Site::new();
    // No stranger names by chance what it would really be connected to.
    let ways = format!(
        "inbound: [{{listen: \"127.0.0.1:0\", app: \"{}\", mtls: permissive}}]\n\
         outbound: {{listen: 127.0.0.1:0, unknown: refuse}}\n\
         limits: {{handshake_timeout: 1s, detection_timeout: 20ms}}",
        app.addr
    );
    let endpoints = format!("endpoints: [{{address: \"{}\", tls: none}}]", app.addr);
    let mesh = mesh(&[], "    upstream: {connect_timeout: 20s}").replace("endpoints: []", &endpoints);
    let sidecar = sidecar(&site, &ways, &mesh).await;
    let doors = [sidecar.inbound(), sidecar.outbound()];
    let neighbours = [Neighbour::start(doors[0], None).await, Neighbour::start(doors[1], None).await];
    let mut visits = JoinSet::new();
    for seed in 0..STRANGERS {
        for door in doors {
            if visits.len() >= AT_ONCE {
                visits.join_next().await.expect("one of them").expect("it ends");
            }
            visits.spawn(visit(door, seed));
        }
    }
    while let Some(visit) = visits.join_next().await {
        visit.expect("it ends");
    }
    for neighbour in neighbours {
        println!("{} calls of a neighbour", neighbour.unharmed().await);
    }
    for gauge in ["outrigger_tunnels", "outrigger_calls_in_flight"] {
        none_left(&sidecar, gauge).await;
    }
    for direction in ["inbound", "outbound"] {
        until(format!("no connection is left {direction}"), async || {
            metric(&sidecar, "outrigger_connections", &[("direction", direction)]).await == 0
        })
        .await;
    }
    // Of both kinds there were many.
    assert!(metric(&sidecar, "outrigger_tunnels_total", &[]).await > 20);
    assert!(metric(&sidecar, "outrigger_handshake_failures_total", &[]).await > 20);
}

/// Comes, says something, and leaves in one way or another.
async fn visit(door: SocketAddr, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let words = words(&mut random);
    let mut tcp = connect(door).await;
    let mut rest = &words[..];
    while !rest.is_empty() {
        let (piece, more) = rest.split_at(random.usize(1..=rest.len()));
        // It may have been sent away.
        if tcp.write_all(piece).await.is_err() {
            return;
        }
        tokio::task::yield_now().await;
        rest = more;
    }
    match random.u8(..4) {
        0 => reset(tcp),
        1 => drop(tcp),
        _ => {
            let _ = tcp.shutdown().await;
            rest_and_end(&mut tcp).await;
        }
    }
}

/// Something that begins like what is known, goes on by chance, and perhaps has a fault.
fn words(random: &mut fastrand::Rng) -> Vec<u8> {
    let known: [&[u8]; 8] = [
        PREFACE,
        b"CONNECT echo.shop:50051 HTTP/1.1\r\nhost: echo.shop\r\n\r\n",
        b"CONNECT nobody.example:80 HTTP/1.1\r\n\r\n",
        b"CONNECT echo.shop:1 HTTP/1.1\r\n\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        b"POST /a HTTP/1.1\r\ncontent-length: 99999999999999999999\r\n\r\n",
        &[22, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3],
        b"",
    ];
    let mut words = random.choice(known).map(<[u8]>::to_vec).unwrap_or_default();
    if random.bool() {
        words.truncate(random.usize(..=words.len()));
    }
    for _ in 0..random.usize(..3) {
        if !words.is_empty() {
            let at = random.usize(..words.len());
            words[at] = random.u8(..);
        }
    }
    let more = [0, 0, 9, 300, 20_000][random.usize(..5)];
    words.extend(std::iter::repeat_with(|| random.u8(..)).take(more));
    words
}
