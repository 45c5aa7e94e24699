//! Limits that refuse: each is set so low that the next one of its kind is turned away.

use bench::call::CallSpec;
use bench::client::Client;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::kit::{
    BIDI, Case, ECHO, OK, Running, Site, UNARY, UNAVAILABLE, admits, echo, open, service, stays_away, until,
};

cases! {
    "sidecar.limits.connections" => past_the_limit_a_connection_is_closed,
    "sidecar.limits.handshakes" => past_the_limit_the_oldest_connection_without_a_preface_is_closed,
    "sidecar.limits.handshake_timeout" => a_silent_connection_is_closed_in_time,
    "sidecar.limits.detection_timeout" => a_silent_connection_may_belong_to_a_server_that_speaks_first,
    "sidecar.limits.streams_per_connection" => past_the_limit_a_stream_waits,
    "sidecar.limits.calls" => past_the_limit_a_call_is_refused,
    "sidecar.limits.header_list" => a_longer_header_list_is_refused,
    "sidecar.limits.resets_per_second" => a_caller_that_resets_too_much_is_sent_away,
    "sidecar.limits.series" => past_the_limit_a_method_counts_as_other,
}

async fn past_the_limit_a_connection_is_closed(case: &Case) {
    let app = echo("app").await;
    let base = Site::inbound(&app);
    let changed = case.change(&base, "sidecar limits connections", 1);
    for (site, refused) in [(&base, false), (&changed, true)] {
        let sidecar = site.start().await;
        let first = sidecar.client().await;
        assert!(first.unary(ECHO, UNARY, b"ping").await.expect("a call").is_ok());
        assert_eq!(admits(sidecar.inbound(), None).await, !refused);
        sidecar.refuses("connections", f64::from(u8::from(refused))).await;
        assert!(first.unary(ECHO, UNARY, b"ping").await.expect("a call").is_ok());
    }
}

async fn past_the_limit_the_oldest_connection_without_a_preface_is_closed(case: &Case) {
    let app = echo("app").await;
    let mut base = Site::inbound(&app);
    // Else who is silent for two seconds is taken for a client of a server that speaks first.
    base.sidecar["limits"] = serde_json::json!({"handshake_timeout": "1h", "detection_timeout": "1h"});
    let changed = case.change(&base, "sidecar limits handshakes", 1);
    for (site, refused) in [(&base, false), (&changed, true)] {
        let sidecar = site.start().await;
        let mut silent = TcpStream::connect(sidecar.inbound()).await.expect("a connection");
        assert!(admits(sidecar.inbound(), None).await, "whoever speaks gets in");
        if refused {
            assert_eq!(silent.read(&mut [0]).await.expect("an end"), 0);
        } else {
            assert!(stays_away(silent.read(&mut [0])).await);
        }
        sidecar.refuses("handshakes", f64::from(u8::from(refused))).await;
    }
}

async fn a_silent_connection_is_closed_in_time(case: &Case) {
    let app = echo("app").await;
    let mut base = Site::inbound(&app);
    // Else who is silent for two seconds is taken for a client of a server that speaks first.
    base.sidecar["limits"] = serde_json::json!({"handshake_timeout": "1h", "detection_timeout": "1h"});
    let changed = case.change(&base, "sidecar limits handshake_timeout", "100ms");
    let (before, after) = (base.start().await, changed.start().await);
    let mut kept = TcpStream::connect(before.inbound()).await.expect("a connection");
    let mut closed = TcpStream::connect(after.inbound()).await.expect("a connection");
    assert_eq!(closed.read(&mut [0]).await.expect("an end"), 0);
    after.refuses("handshake_timeout", 1.0).await;
    assert!(stays_away(kept.read(&mut [0])).await);
    before.refuses("handshake_timeout", 0.0).await;
}

async fn a_silent_connection_may_belong_to_a_server_that_speaks_first(case: &Case) {
    let app = echo("app").await;
    let mut base = Site::inbound(&app);
    base.sidecar["limits"] = serde_json::json!({"handshake_timeout": "1h", "detection_timeout": "1h"});
    let changed = case.change(&base, "sidecar limits detection_timeout", "100ms");
    let (before, after) = (base.start().await, changed.start().await);
    let mut waits = TcpStream::connect(before.inbound()).await.expect("a connection");
    let _passes = TcpStream::connect(after.inbound()).await.expect("a connection");
    after.counts("outrigger_tunnels_total", &[("direction", "inbound")], 1.0).await;
    assert!(stays_away(waits.read(&mut [0])).await);
    before.counts("outrigger_tunnels_total", &[("direction", "inbound")], 0.0).await;
}

async fn past_the_limit_a_stream_waits(case: &Case) {
    let app = echo("app").await;
    let base = Site::inbound(&app);
    let changed = case.change(&base, "sidecar limits streams_per_connection", 1);

    let before = base.start().await;
    let client = before.client().await;
    let _open = open(&client).await;
    assert!(client.unary(ECHO, UNARY, b"ping").await.expect("a call").is_ok());

    let after = changed.start().await;
    let client = after.client().await;
    let first = open(&client).await;
    assert_eq!(client.max_streams(), 1);
    let mut second = std::pin::pin!(client.unary(ECHO, UNARY, b"ping"));
    assert!(stays_away(&mut second).await);
    assert!(first.finish().await.is_ok());
    assert!(second.await.expect("a call").is_ok());
}

async fn past_the_limit_a_call_is_refused(case: &Case) {
    let app = echo("app").await;
    let base = Site::inbound(&app);
    let changed = case.change(&base, "sidecar limits calls", 1);
    for (site, status, refused) in [(&base, OK, 0.0), (&changed, UNAVAILABLE, 1.0)] {
        let sidecar = site.start().await;
        let client = sidecar.client().await;
        let first = open(&client).await;
        let second = client.unary(ECHO, UNARY, b"ping").await.expect("a call");
        assert_eq!(second.grpc_status, status, "{second:?}");
        sidecar.refuses("calls", refused).await;
        assert!(first.finish().await.is_ok());
    }
}

async fn a_longer_header_list_is_refused(case: &Case) {
    let app = echo("app").await;
    let base = Site::inbound(&app);
    let changed = case.change(&base, "sidecar limits header_list", "1KiB");
    // h2 answers a list that is over the limit, and ends the connection over one that is many times as long.
    let long = "x".repeat(1_200);
    let call = async |site: &Site| {
        let sidecar = site.start().await;
        let outcome = sidecar.call(CallSpec::new(ECHO, UNARY).header("x-long", &long)).await;
        assert_eq!(sidecar.unary(ECHO).await.grpc_status, OK, "a short one goes through");
        outcome
    };
    assert!(call(&base).await.is_ok());
    let outcome = call(&changed).await;
    assert_eq!(outcome.http_status, Some(431), "{outcome:?}");
    assert_eq!(app.calls().len(), 3);
}

async fn a_caller_that_resets_too_much_is_sent_away(case: &Case) {
    let app = echo("app").await;
    let base = Site::inbound(&app);
    let changed = case.change(&base, "sidecar limits resets_per_second", 1);

    let before = base.start().await;
    let client = before.client().await;
    reset_calls(&before, &client, 20).await;
    assert!(client.unary(ECHO, UNARY, b"ping").await.expect("a call").is_ok());
    before.refuses("resets_per_second", 0.0).await;

    let after = changed.start().await;
    let client = after.client().await;
    reset_calls(&after, &client, 20).await;
    let why = client.ended().await;
    assert!(why.contains("excessive load"), "{why}");
    let counted = async || after.counter("outrigger_refused_total", &[("limit", "resets_per_second")]).await;
    until("it is counted", async || counted().await >= 1.0).await;
    assert_eq!(after.unary(ECHO).await.grpc_status, OK, "a new connection begins anew");
}

async fn past_the_limit_a_method_counts_as_other(case: &Case) {
    let server = echo("echo").await;
    let base = Site::outbound(&[service("echo", &[&server])]);
    let changed = case.change(&base, "sidecar limits series", 1);
    for (site, second, refused) in [(&base, "Bidi", 0.0), (&changed, "other", 1.0)] {
        let sidecar = site.start().await;
        for path in [UNARY, BIDI] {
            assert!(sidecar.call(CallSpec::new(ECHO, path)).await.is_ok());
        }
        let started =
            async |method| sidecar.counter("grpc_client_started_total", &[("grpc_method", method)]).await;
        assert_eq!((started("Unary").await, started(second).await), (1.0, 1.0));
        sidecar.refuses("series", refused).await;
    }
}

/// Begins calls that are not answered and resets them, all at once; ends when the sidecar has seen it or has
/// closed the connection.
async fn reset_calls(sidecar: &Running, client: &Client, count: usize) {
    let mut calls = Vec::new();
    for _ in 0..count {
        let spec = CallSpec::new(ECHO, BIDI).header("x-script", "hang");
        calls.push(client.call(spec).await.expect("a call"));
    }
    let in_flight = async || sidecar.counter("outrigger_calls_in_flight", &[]).await;
    until("the calls are there", async || in_flight().await == count as f64).await;
    calls.iter_mut().for_each(bench::call::Call::cancel);
    until("the calls are gone", async || in_flight().await == 0.0).await;
}
