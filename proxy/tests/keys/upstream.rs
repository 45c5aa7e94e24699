//! How a worker keeps its connections to an endpoint.

use bench::server::{Server, ServerOptions};
use tokio::net::TcpListener;

use crate::kit::{
    Case, ECHO, Running, Site, UNARY, UNAVAILABLE, echo, echoes, landings, open, serve, stays_away, until,
};
use crate::level::Level;

levels! {
    [service]
    "upstream.connect_timeout" => an_endpoint_has_this_long_to_greet,
    "upstream.connections" => as_many_connections_may_be_open,
    "upstream.idle_timeout" => a_connection_without_a_call_is_closed,
    "upstream.max_age" => an_old_connection_takes_no_new_call,
    "upstream.max_calls" => a_connection_takes_as_many_calls,
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
