//! Clients that ask for too much, too fast, or for nonsense: each is bounded, counted and told, and nobody else notices.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bench::wait::{soon, until};
use bytes::Bytes;
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use outrigger_control::ads::counters::Limit;
use outrigger_control::ads::limits::Settings;
use outrigger_control::ads::server;
use outrigger_control::peer::Peer;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tonic::Code;
use xds::Kind;

use crate::plane::{Client, Plane, SETTINGS, names, node, services};

#[tokio::test]
async fn a_request_that_is_too_large_ends_its_stream_with_the_limit_in_words() {
    let plane = Plane::start(&services(1, 1), SETTINGS).await;
    let mut good = plane.client("good").await;
    good.ask(Kind::Cluster, &["*"]).await;
    good.take().await;
    let mut bad = Client::over(plane.channel().await, node("bad", &[])).await;
    bad.ask(Kind::Endpoints, &[&"x".repeat(SETTINGS.request)]).await;
    let status = bad.end().await;
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("limits.request"), "{status}");
    assert_eq!(plane.hub.counters().refused(Limit::Request), 1);
    plane.edit(&services(2, 1));
    assert_eq!(names(&good.take().await), ["s1.shop"]);
}

#[tokio::test]
async fn a_hundred_megabytes_are_refused_by_their_first_five_bytes() {
    let plane = Plane::start(&services(1, 1), SETTINGS).await;
    let tcp = TcpStream::connect(plane.address).await.unwrap();
    let (sender, connection) = h2::client::handshake(tcp).await.unwrap();
    let connection = tokio::spawn(connection);
    let path = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
    let request = http::Request::post(format!("http://mesh.test{path}")).body(()).unwrap();
    let (response, mut body) = sender.ready().await.unwrap().send_request(request, false).unwrap();
    let mut prefix = vec![0];
    prefix.extend_from_slice(&(100_u32 << 20).to_be_bytes());
    body.send_data(Bytes::from(prefix), false).unwrap();
    let mut response = soon("a response", response).await.unwrap().into_body();
    while let Some(chunk) = soon("the end", response.data()).await {
        chunk.unwrap();
    }
    let trailers = soon("trailers", response.trailers()).await.unwrap().unwrap();
    assert_eq!(trailers["grpc-status"], "8");
    connection.abort();
}

#[tokio::test]
async fn ten_thousand_requests_at_once_are_read_slowly_and_hold_nobody_up() {
    let plane = Plane::start(&services(1, 1), Settings { requests_per_second: 100, ..SETTINGS }).await;
    let mut good = plane.client("good").await;
    good.ask(Kind::Endpoints, &["s0.shop"]).await;
    good.until_ports("s0.shop", &[1]).await;
    let mut flood = plane.client("flood").await;
    for n in 0..10_000 {
        flood.ask(Kind::Endpoints, &[&format!("nobody{}", n % 100)]).await;
    }
    until("the pause", async || plane.hub.counters().refused(Limit::RequestRate) > 0).await;
    for port in 2..10 {
        plane.edit(&services(1, port));
        good.until_ports("s0.shop", &[port]).await;
    }
    assert!(plane.hub.counters().requests.load(Relaxed) < 10_000, "there is still something to read");
    assert_eq!(plane.hub.registry().page().as_array().unwrap().len(), 2, "it is not sent away");
}

#[tokio::test]
async fn a_million_names_end_the_stream_that_asks_for_them() {
    let plane = Plane::start(&services(1, 1), Settings { subscriptions: 1_000, ..SETTINGS }).await;
    let mut greedy = plane.client("greedy").await;
    let names: Vec<String> = (0..1_001).map(|n| format!("n{n}")).collect();
    greedy.ask(Kind::Endpoints, &names[..900].iter().map(String::as_str).collect::<Vec<_>>()).await;
    greedy.ask(Kind::Cluster, &names[900..].iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert_eq!(greedy.end().await.code(), Code::ResourceExhausted);
    assert_eq!(plane.hub.counters().refused(Limit::Subscriptions), 1);
}

#[tokio::test]
async fn one_stream_more_than_there_may_be_is_refused_and_those_that_are_go_on() {
    let plane = Plane::start(&services(1, 1), Settings { streams: 2, ..SETTINGS }).await;
    let mut good = plane.client("one").await;
    good.ask(Kind::Cluster, &["*"]).await;
    good.take().await;
    let mut two = plane.client("two").await;
    two.ask(Kind::Cluster, &["*"]).await;
    two.take().await;
    let channel = plane.channel().await;
    let refused = Box::pin(tokio::spawn(async move { Client::over(channel, node("three", &[])).await }));
    assert!(refused.await.is_err_and(|error| error.is_panic()), "no stream");
    assert_eq!(plane.hub.counters().refused(Limit::Streams), 1);
    drop(two);
    until("a place", async || plane.hub.registry().streams() == 1).await;
    let mut three = plane.client("three").await;
    three.ask(Kind::Cluster, &["*"]).await;
    three.take().await;
}

#[tokio::test]
async fn nonsense_ends_its_stream_and_an_unknown_type_does_not() {
    let plane = Plane::start(&services(1, 1), SETTINGS).await;
    let mut client = plane.client("curious").await;
    client
        .send(DeltaDiscoveryRequest {
            type_url: "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret".to_owned(),
            resource_names_subscribe: vec!["mine".to_owned()],
            ..DeltaDiscoveryRequest::default()
        })
        .await;
    assert_eq!(client.take().await.removed_resources, ["mine"]);
    client.ask(Kind::Cluster, &["*"]).await;
    assert_eq!(names(&client.take().await), ["s0.shop"]);
    assert_eq!(plane.hub.counters().unknown_types.load(Relaxed), 1);
}

#[tokio::test]
async fn who_opens_a_connection_or_a_stream_and_says_nothing_is_sent_away() {
    let soon_over = Settings { first_words: Duration::from_millis(100), ..SETTINGS };
    let plane = Plane::start(&services(1, 1), soon_over).await;
    let (_theirs, ours) = tokio::io::duplex(1 << 10);
    soon("the end", server::serve(ours, nobody(), plane.hub.clone())).await;
    assert_eq!(plane.hub.counters().refused(Limit::FirstWords), 1);
    let mut client = plane.client("mute").await;
    assert_eq!(client.end().await.code(), Code::DeadlineExceeded);
    assert_eq!(plane.hub.counters().refused(Limit::FirstWords), 2);
}

#[tokio::test]
async fn a_peer_that_answers_no_ping_is_given_up() {
    let (ping_every, pong_max) = (Duration::from_millis(50), Duration::from_millis(100));
    let plane = Plane::start(&services(1, 1), Settings { ping_every, pong_max, ..SETTINGS }).await;
    let (theirs, ours) = tokio::io::duplex(64 << 10);
    let serving = tokio::spawn(server::serve(ours, nobody(), plane.hub.clone()));
    // It greets, and is never seen again.
    let connection = h2::client::handshake(theirs).await.unwrap();
    soon("the end", serving).await.unwrap();
    assert_eq!(plane.hub.counters().dead_peers.load(Relaxed), 1);
    drop(connection);
}

#[tokio::test]
async fn a_peer_that_answers_pings_stays() {
    let (ping_every, pong_max) = (Duration::from_millis(10), Duration::from_secs(10));
    let plane = Plane::start(&services(1, 1), Settings { ping_every, pong_max, ..SETTINGS }).await;
    let mut client = plane.client("quiet").await;
    client.ask(Kind::Cluster, &["*"]).await;
    client.take().await;
    until("a few pings", async || plane.hub.counters().pings.load(Relaxed) > 3).await;
    plane.edit(&services(2, 1));
    assert_eq!(names(&client.take().await), ["s1.shop"]);
}

#[tokio::test]
async fn bytes_that_are_no_http_end_the_connection_and_nothing_else() {
    let plane = Plane::start(&services(1, 1), SETTINGS).await;
    let mut tcp = TcpStream::connect(plane.address).await.unwrap();
    tcp.write_all(b"GET / HTTP/1.1\r\nhost: mesh\r\n\r\n").await.unwrap();
    soon("the end", async {
        while tcp.readable().await.is_ok() && tcp.try_read(&mut [0; 64]).is_ok_and(|n| n > 0) {}
    })
    .await;
    let mut after = plane.client("after").await;
    after.ask(Kind::Cluster, &["*"]).await;
    assert_eq!(names(&after.take().await), ["s0.shop"]);
}

fn nobody() -> Peer {
    Peer {
        address: "127.0.0.1:1".parse().unwrap(),
        identity: None,
        expires: None,
        chain: std::sync::Arc::default(),
        unproven: false,
    }
}
