//! How a worker keeps its connections to an endpoint.

use std::net::SocketAddr;

use bench::call::CallSpec;
use bench::raw::{frame, kind};
use bench::server::{Server, ServerOptions};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket};

use crate::kit::{
    BIDI, Case, ECHO, NEVER, Running, Site, UNARY, UNAVAILABLE, echo, echoes, landings, open, serve,
    stays_away, until,
};
use crate::level::Level;

levels! {
    [service]
    "upstream.connect_timeout" => an_endpoint_has_this_long_to_greet,
    "upstream.connections" => as_many_connections_may_be_open,
    "upstream.idle_timeout" => a_connection_without_a_call_is_closed,
    "upstream.max_age" => an_old_connection_takes_no_new_call,
    "upstream.max_calls" => a_connection_takes_as_many_calls,
    "upstream.user_timeout" => what_is_sent_may_wait_so_long_for_the_endpoint,
}

async fn an_endpoint_has_this_long_to_greet(case: &Case, level: Level) {
    // The kernel accepts for it, and nobody ever says a word.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let mut base = level.base(&echo("unused").await);
    *base.at("mesh services 0 endpoints 0") = silent.local_addr().expect("an address").to_string().into();
    let place = level.place("", "upstream connect_timeout");
    *base.at(&place) = "1h".into();
    let changed = case.change(&base, &place, "100ms");
    let (before, after) = (base.start().await, changed.start().await);
    let outcome = after.unary(ECHO).await;
    assert_eq!(outcome.grpc_status, UNAVAILABLE, "{outcome:?}");
    assert!(outcome.message.contains("not connected within 100ms"), "{}", outcome.message);
    assert!(stays_away(before.unary(ECHO)).await);
}

async fn as_many_connections_may_be_open(case: &Case, level: Level) {
    let server = serve(ServerOptions { max_concurrent_streams: 1, ..ServerOptions::default() }).await;
    let base = level.base(&server);
    let changed = case.change(&base, &level.place("", "upstream connections"), 1);

    let before = base.start().await;
    let client = before.client().await;
    let _first = open(&client).await;
    assert!(client.unary(ECHO, UNARY, b"ping").await.expect("a call").is_ok());
    assert_eq!(server.accepted(), 2);

    let after = changed.start().await;
    let client = after.client().await;
    let first = open(&client).await;
    let mut second = std::pin::pin!(client.unary(ECHO, UNARY, b"ping"));
    assert!(stays_away(&mut second).await, "the only connection is taken");
    assert!(first.finish().await.is_ok());
    assert!(second.await.expect("a call").is_ok());
    assert_eq!(server.accepted(), 3);
}

async fn a_connection_without_a_call_is_closed(case: &Case, level: Level) {
    let server = echo("echo").await;
    let base = level.base(&server);
    let changed = case.change(&base, &level.place("", "upstream idle_timeout"), "100ms");
    let before = used(&base).await;
    assert!(stays_away(closed(&server)).await);
    drop(before);
    closed(&server).await;

    let after = used(&changed).await;
    closed(&server).await;
    assert_eq!(landings(&after.client().await, 1).await, ["echo"], "there is a new one when it is needed");
}

async fn an_old_connection_takes_no_new_call(case: &Case, level: Level) {
    let server = echo("echo").await;
    let base = level.base(&server);
    let changed = case.change(&base, &level.place("", "upstream max_age"), "100ms");
    let before = used(&base).await;
    assert!(stays_away(moved(&before, &server, 1)).await);

    let after = changed.start().await;
    let client = after.client().await;
    let mut old = open(&client).await;
    let connections = server.accepted();
    moved(&after, &server, connections).await;
    assert!(echoes(&mut old).await, "a call goes on on the old one");
    assert!(old.finish().await.is_ok());
}

async fn a_connection_takes_as_many_calls(case: &Case, level: Level) {
    let server = echo("echo").await;
    let base = level.base(&server);
    let changed = case.change(&base, &level.place("", "upstream max_calls"), 2);
    let connections = async |site: &Site| {
        let before = server.accepted();
        landings(&site.start().await.client().await, 6).await;
        server.accepted() - before
    };
    assert_eq!(connections(&base).await, 1);
    assert_eq!(connections(&changed).await, 3);
}

async fn what_is_sent_may_wait_so_long_for_the_endpoint(case: &Case, level: Level) {
    let endpoint = reads_nothing().await;
    let mut base = level.base(&echo("unused").await);
    *base.at("mesh services 0 endpoints 0") = endpoint.to_string().into();
    let place = level.place("", "upstream user_timeout");
    *base.at(&place) = "1h".into();
    let changed = case.change(&base, &place, "100ms");
    // Until nothing more can be sent, and then to the end.
    let upload = async |site: &Site, limit: Option<()>| {
        let sidecar = site.start().await;
        let client = sidecar.client().await;
        let (mut sender, receiver) = client.call(CallSpec::new(ECHO, BIDI)).await.expect("a call").split();
        let mut end = std::pin::pin!(receiver.finish());
        let fill = async { while sender.send(&[0; 64 << 10]).await.is_ok() {} };
        tokio::select! {
            outcome = &mut end => return Some(outcome),
            () = fill => {}
            () = tokio::time::sleep(4 * NEVER), if limit.is_some() => return None,
        }
        Some(end.await)
    };
    assert!(upload(&base, Some(())).await.is_none());
    let outcome = upload(&changed, None).await.expect("an end");
    assert_eq!(outcome.grpc_status, UNAVAILABLE, "{outcome:?}");
    assert!(outcome.message.contains("the connection to the endpoint was lost"), "{}", outcome.message);
}

/// An endpoint that grants all the windows of HTTP/2 and then reads nothing, so that those of TCP close.
async fn reads_nothing() -> SocketAddr {
    const MOST: u32 = (1 << 31) - 1;
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(16 << 10).expect("a small buffer");
    socket.bind(([127, 0, 0, 1], 0).into()).expect("an address");
    let listener = socket.listen(8).expect("a listener");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((mut tcp, _)) = listener.accept().await {
            // SETTINGS_INITIAL_WINDOW_SIZE is 4 (RFC 9113, section 6.5.2).
            let window = [&[0, 4], &MOST.to_be_bytes()[..]].concat();
            let more = (MOST - 65_535).to_be_bytes();
            for frame in [frame(kind::SETTINGS, 0, 0, &window), frame(kind::WINDOW_UPDATE, 0, 0, &more)] {
                tcp.write_all(&frame).await.expect("a caller");
            }
            held.push(tcp);
        }
    });
    address
}

/// A sidecar whose upstream connection has carried a call.
async fn used(site: &Site) -> Running {
    let sidecar = site.start().await;
    landings(&sidecar.client().await, 1).await;
    sidecar
}

/// Waits until nobody is connected to the server.
async fn closed(server: &Server) {
    until("no connection is left", async || server.open_connections() == 0).await;
}

/// Makes calls until one of them has opened a connection beyond these.
async fn moved(sidecar: &Running, server: &Server, connections: usize) {
    let client = sidecar.client().await;
    let call = async || landings(&client, 1).await.len() == 1 && server.accepted() > connections;
    until("a call goes by a new connection", call).await;
}
