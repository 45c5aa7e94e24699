//! Room for one more stream: the peer's SETTINGS_MAX_CONCURRENT_STREAMS, and what waits for it.

use bench::raw::{self, kind};
use bench::server::{Server, ServerOptions};
use bench::wait::{soon, until};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::kit::{ANY, Caller, NEVER, ends_well, heard, unary};
use crate::peers::{Frames, client_preface};

/// SETTINGS_MAX_CONCURRENT_STREAMS (RFC 9113, 6.5.2).
const MAX_CONCURRENT_STREAMS: [u8; 2] = [0, 3];

#[tokio::test]
async fn a_further_connection_is_opened_at_the_peers_limit_of_streams_and_past_the_last_calls_wait() {
    let server = server(4).await;
    let caller = Caller::start(&[server.addr], "upstream: {connections: 3}").await;
    let mut streams = Vec::new();
    for open in 1..=12_usize {
        streams.push(caller.stream().await);
        assert_eq!(server.accepted(), open.div_ceil(4), "with {open} streams");
    }
    let mut waiting = caller.begin().await;
    until("the sidecar has taken it in", async || caller.in_flight().await == 13).await;
    assert!(timeout(NEVER, waiting.recv()).await.is_err(), "there is no room for it");
    assert_eq!((server.calls().len(), server.accepted()), (12, 3));
    ends_well(streams.remove(5)).await;
    heard(&mut waiting).await;
    streams.push(waiting);
    for stream in streams {
        ends_well(stream).await;
    }
    assert_eq!((server.calls().len(), server.accepted()), (13, 3));
    assert_eq!(caller.attempts("answered").await, 13);
}

#[tokio::test]
async fn a_burst_over_a_cold_pool_overruns_no_limit_and_every_call_is_answered_once() {
    let server = server(5).await;
    let caller = Caller::start(&[server.addr], "upstream: {connections: 3}").await;
    let mut calls = JoinSet::new();
    for _ in 0..500 {
        let client = caller.client.clone();
        calls.spawn(async move { unary(&client).await });
    }
    for outcome in soon("the burst", calls.join_all()).await {
        assert!(outcome.is_ok(), "{outcome:?}");
    }
    assert_eq!(server.calls().len(), 500);
    assert!(server.accepted() <= 3, "{}", server.accepted());
    assert_eq!((caller.attempts("answered").await, caller.attempts("refused").await), (500, 0));
}

#[tokio::test]
async fn nothing_of_a_call_is_written_before_the_peers_settings_and_then_no_more_than_they_let() {
    let peer = TcpListener::bind(ANY).await.expect("a port");
    let caller =
        Caller::start(&[peer.local_addr().expect("an address")], "upstream: {connect_timeout: 1m}").await;
    let (first, second) = (caller.begin().await, caller.begin().await);
    until("the sidecar has taken both in", async || caller.in_flight().await == 2).await;

    for connection in 1..=2 {
        let (mut tcp, _) = soon("a connection", peer.accept()).await.expect("a connection");
        client_preface(&mut tcp).await;
        let mut frames = Frames::new(tcp);
        let early = timeout(NEVER, async { frames.next(&[kind::HEADERS, kind::DATA]).await.kind }).await;
        assert!(early.is_err(), "connection {connection}: {early:?} before our SETTINGS");
        let one_stream = [&MAX_CONCURRENT_STREAMS[..], &1_u32.to_be_bytes()].concat();
        let settings = raw::frame(kind::SETTINGS, 0, 0, &one_stream);
        frames.tcp.write_all(&settings).await.expect("an open socket");
        assert_eq!(soon("a call", frames.next(&[kind::HEADERS])).await.stream, 1);
        let more = timeout(NEVER, async { frames.next(&[kind::HEADERS]).await.stream }).await;
        assert!(more.is_err(), "connection {connection} takes one stream, and {more:?} came");
        // Kept open, so that the second call cannot come this way.
        tokio::spawn(async move { frames.next(&[]).await });
    }
    drop((first, second));
}

async fn server(max_concurrent_streams: u32) -> Server {
    let options = ServerOptions { max_concurrent_streams, ..ServerOptions::default() };
    Server::start_with(ANY, options).await.expect("a server")
}
