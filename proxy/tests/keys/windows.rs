//! Limits that push back: what a peer may have on its way to us, and we to it.

use std::net::SocketAddr;
use std::time::Duration;

use bench::call::CallSpec;
use bench::client::Client;
use bench::grpc;
use bench::outcome::Outcome;
use bench::server::ServerOptions;
use bytes::Bytes;
use http::{Method, Request, Version};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;

use crate::kit::{
    BIDI, Case, ECHO, RESOURCE_EXHAUSTED, Running, Site, UNARY, echo, serve, service, stays_away, until,
};

cases! {
    "sidecar.limits.stream_window" => a_caller_may_send_as_much_on_one_stream,
    "sidecar.limits.connection_window" => a_caller_may_send_as_much_on_one_connection,
    "sidecar.limits.send_buffer" => as_much_may_wait_for_a_slow_socket,
    "sidecar.limits.stall_timeout" => a_reader_that_stalls_others_is_ended,
}

async fn a_caller_may_send_as_much_on_one_stream(case: &Case) {
    let app = echo("app").await;
    let base = Site::inbound(&app);
    let changed = case.change(&base, "sidecar limits stream_window", "32KiB");
    assert_eq!(granted(&base, 1).await, 256 << 10);
    assert_eq!(granted(&changed, 1).await, 32 << 10);
}

async fn a_caller_may_send_as_much_on_one_connection(case: &Case) {
    let app = echo("app").await;
    let base = Site::inbound(&app);
    let changed = case.change(&base, "sidecar limits connection_window", "1MiB");
    // A call has been made before, whose few bytes need not have been given back.
    let (before, after) = (granted(&base, 24).await, granted(&changed, 24).await);
    assert!(((4 << 20) - 1_024..=4 << 20).contains(&before), "{before}");
    assert!(((1 << 20) - 1_024..=1 << 20).contains(&after), "{after}");
}

async fn as_much_may_wait_for_a_slow_socket(case: &Case) {
    const MESSAGE: f64 = 65_536.0;
    const BETWEEN: f64 = (24 << 20) as f64;
    let server = echo("echo").await;
    let base = Site::outbound(&[service("echo", &[&server])]);
    let changed = case.change(&base, "sidecar limits send_buffer", "48MiB");
    let (before, after) = (base.start().await, changed.start().await);
    let _deaf = [deaf(before.entry()).await, deaf(after.entry()).await];
    let buffered =
        async |sidecar: &Running| sidecar.counter("grpc_client_msg_received_total", &[]).await * MESSAGE;
    until("the larger buffer fills", async || buffered(&after).await > BETWEEN).await;
    let mut last = -1.0;
    until("the smaller buffer is full", async || {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = buffered(&before).await;
        std::mem::replace(&mut last, now) == now && now > 0.0
    })
    .await;
    // The kernel's own buffers of both ends hold some MiB besides.
    assert!(last < BETWEEN, "{last} bytes wait for a socket that is not read");
}

/// An app that reads nothing takes up the window of the caller's connection, and a further call waits for it.
async fn a_reader_that_stalls_others_is_ended(case: &Case) {
    let app = serve(ServerOptions { stream_window: 64 << 10, ..ServerOptions::default() }).await;
    let mut base = Site::inbound(&app);
    *base.at("sidecar limits stream_window") = "64KiB".into();
    *base.at("sidecar limits connection_window") = "256KiB".into();
    *base.at("sidecar limits stall_timeout") = "1h".into();
    let changed = case.change(&base, "sidecar limits stall_timeout", "200ms");

    let before = base.start().await;
    let client = before.client().await;
    let _unread = unread(&client, 8).await;
    let waits = async || stays_away(client.unary(ECHO, UNARY, b"ping")).await;
    until("the window is used up", waits).await;
    before.refuses("stall_timeout", 0.0).await;

    let after = changed.start().await;
    let client = after.client().await;
    let mut unread = unread(&client, 8).await;
    let ended = unread.join_next().await.expect("a call").expect("its outcome");
    assert_eq!(ended.grpc_status, RESOURCE_EXHAUSTED, "{ended:?}");
    assert!(client.unary(ECHO, UNARY, b"ping").await.expect("a call").is_ok());
}

/// Begins calls whose messages nobody reads, each larger than all the windows on its way.
async fn unread(client: &Client, calls: usize) -> JoinSet<Outcome> {
    let mut outcomes = JoinSet::new();
    for _ in 0..calls {
        let spec = CallSpec::new(ECHO, BIDI).header("x-script", "delay:3600s");
        let (mut sender, receiver) = client.call(spec).await.expect("a call").split();
        outcomes.spawn(async move {
            // It fails when the call is ended; the outcome says how.
            let _ = sender.send(&[0; 1 << 20]).await;
            receiver.finish().await
        });
    }
    outcomes
}

/// Bytes that a caller may send on as many new streams together.
async fn granted(site: &Site, streams: usize) -> usize {
    let sidecar = site.start().await;
    let client = sidecar.client().await;
    // After a whole call the sidecar's SETTINGS and the window of the connection are known.
    assert!(client.unary(ECHO, UNARY, b"ping").await.expect("a call").is_ok());
    let (mut granted, mut calls) = (0, Vec::new());
    for _ in 0..streams {
        let mut call = client.call(CallSpec::new(ECHO, BIDI)).await.expect("a call");
        // A stream has a window once its own head is on the wire.
        assert!(call.headers().await.is_some());
        granted += call.sender.granted(16 << 20);
        calls.push(call);
    }
    granted
}

/// A caller that asks for 64 MiB, with windows that never close, and reads nothing of it but
/// its beginning. What is returned keeps it there.
async fn deaf(addr: SocketAddr) -> impl Sized {
    const OPEN: u32 = (1 << 31) - 1;
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(64 << 10).expect("a small buffer");
    let tcp = socket.connect(addr).await.expect("a connection");
    let (mut requests, mut connection) = h2::client::Builder::new()
        .initial_window_size(OPEN)
        .initial_connection_window_size(OPEN)
        .handshake::<_, Bytes>(tcp)
        .await
        .expect("a preface");
    let request = Request::builder()
        .method(Method::POST)
        .version(Version::HTTP_2)
        .uri(format!("http://{ECHO}/bench.Echo/ServerStream"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("x-count", "1024")
        .header("x-size", "65536")
        .body(())
        .expect("a request");
    let (mut response, mut stream) = requests.send_request(request, false).expect("a call");
    stream.send_data(grpc::message(b"go"), true).expect("a message");
    let begun = tokio::select! {
        begun = &mut response => begun.expect("an answer"),
        end = &mut connection => panic!("the connection ended: {end:?}"),
    };
    (connection, requests, stream, begun)
}
