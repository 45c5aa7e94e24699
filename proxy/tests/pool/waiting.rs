//! Calls that wait for a place on a connection: they get the first that there is, whatever becomes of the
//! connections that are full.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bench::call::Call;
use bench::wait::{soon, until};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::kit::{Caller, NEVER, echoed, ends_well, heard};
use crate::pair::peer::{self, Peer};

#[tokio::test]
async fn a_call_that_waits_gets_a_place_on_a_further_connection_as_soon_as_the_full_one_says_goaway() {
    let goaway = Arc::new(Notify::new());
    let (app, accepted) = app(1, usize::MAX, goaway.clone()).await;
    let caller = Caller::start(&[app.addr], "upstream: {connections: 1}").await;
    let (mut holder, mut waiting) = held_and_waiting(&caller).await;
    assert!(timeout(NEVER, waiting.recv()).await.is_err(), "there is no place for it");
    goaway.notify_one();
    heard(&mut waiting).await;
    assert_eq!(accepted.load(Ordering::Relaxed), 2);
    echoed(&mut holder).await;
    ends_well(waiting).await;
    ends_well(holder).await;
}

#[tokio::test]
async fn a_call_that_waits_gets_a_place_on_a_further_connection_as_soon_as_the_full_one_is_too_old() {
    let (app, accepted) = app(1, usize::MAX, Arc::default()).await;
    let caller = Caller::start(&[app.addr], "upstream: {connections: 1, max_age: 1s}").await;
    let (mut holder, mut waiting) = held_and_waiting(&caller).await;
    heard(&mut waiting).await;
    assert_eq!(accepted.load(Ordering::Relaxed), 2);
    echoed(&mut holder).await;
    ends_well(waiting).await;
    ends_well(holder).await;
}

#[tokio::test]
async fn calls_that_wait_get_a_place_on_a_further_connection_when_the_full_one_has_had_its_last_call() {
    let (app, accepted) = app(1, usize::MAX, Arc::default()).await;
    let caller = Caller::start(&[app.addr], "upstream: {connections: 1, max_calls: 2}").await;
    let (holder, mut second) = held_and_waiting(&caller).await;
    let mut third = caller.begin().await;
    until("the sidecar has taken it in", async || caller.in_flight().await == 3).await;
    // One takes its place, which is the last on this connection; the other must not wait for that one's end.
    ends_well(holder).await;
    heard(&mut second).await;
    heard(&mut third).await;
    assert_eq!(accepted.load(Ordering::Relaxed), 2);
    echoed(&mut second).await;
    ends_well(second).await;
    ends_well(third).await;
}

#[tokio::test]
async fn a_call_waits_for_a_place_where_a_further_connection_cannot_be_opened_and_the_endpoint_stays_good() {
    let (app, accepted) = app(2, 1, Arc::default()).await;
    let caller = Caller::start(&[app.addr], "").await;
    let (first, mut second) = (caller.stream().await, caller.stream().await);
    let mut waiting = [caller.begin().await, caller.begin().await];
    for attempts in 2..=4 {
        until("one more connection is tried", async || accepted.load(Ordering::Relaxed) >= attempts).await;
        let failures = async || caller.metrics().await.value("outrigger_connect_failures_total", &[]);
        until("and fails", async || failures().await >= (attempts - 1) as f64).await;
        assert!(!is_cooling(&caller).await, "it serves two calls at this moment");
    }
    for waiting in &mut waiting {
        assert!(timeout(NEVER, waiting.recv()).await.is_err(), "there is no place for it");
    }
    echoed(&mut second).await;
    ends_well(first).await;
    ends_well(second).await;
    for mut waiting in waiting {
        heard(&mut waiting).await;
        ends_well(waiting).await;
    }
    let attempts = (caller.attempts("answered").await, caller.attempts("never_sent").await);
    assert_eq!(attempts, (4, 0));
    println!("{} connections were tried", accepted.load(Ordering::Relaxed));
}

#[tokio::test]
async fn a_call_that_waits_where_no_connection_is_left_ends_unavailable() {
    let goaway = Arc::new(Notify::new());
    let (app, _) = app(1, 1, goaway.clone()).await;
    let caller = Caller::start(&[app.addr], "").await;
    let (holder, waiting) = held_and_waiting(&caller).await;
    assert!(timeout(NEVER, caller.call()).await.is_err(), "while there is a connection, calls wait");
    goaway.notify_one();
    let outcome = soon("the end", waiting.finish()).await;
    assert_eq!((outcome.grpc_status, outcome.clean_end), (Some(14), true), "{outcome:?}");
    ends_well(holder).await;
}

/// A stream that holds the one place there is, and a call that waits for it.
async fn held_and_waiting(caller: &Caller) -> (Call, Call) {
    let holder = caller.stream().await;
    let waiting = caller.begin().await;
    until("the sidecar has taken it in", async || caller.in_flight().await == 2).await;
    (holder, waiting)
}

async fn is_cooling(caller: &Caller) -> bool {
    let page = caller.sidecar.get("/clusters").await.expect("an answer").body;
    let page: Value = serde_json::from_str(&page).expect("JSON");
    let clusters = page["clusters"].as_array().expect("a list").iter();
    let mut far = clusters.filter(|cluster| cluster["service"] == "far.default");
    far.any(|cluster| cluster["endpoints"][0]["cooling"].as_bool().expect("a bool"))
}

/// An echo app that takes `streams` calls on each connection, and closes all connections but the first `good`
/// as soon as it has accepted them. One of its connections says GOAWAY at `goaway`. How many it has accepted.
async fn app(streams: u32, good: usize, goaway: Arc<Notify>) -> (Peer, Arc<AtomicUsize>) {
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = accepted.clone();
    let serve = move |tcp| {
        let (goaway, number) = (goaway.clone(), count.fetch_add(1, Ordering::Relaxed));
        async move {
            if number < good {
                converse(tcp, streams, &goaway).await;
            }
        }
    };
    (peer::raw(serve).await, accepted)
}

async fn converse(tcp: TcpStream, streams: u32, goaway: &Notify) {
    let handshake = h2::server::Builder::new().max_concurrent_streams(streams).handshake(tcp).await;
    let Ok(mut h2) = handshake else { return };
    let mut calls = JoinSet::new();
    loop {
        tokio::select! {
            () = goaway.notified() => h2.graceful_shutdown(),
            accepted = h2.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    calls.spawn(peer::echo(request, respond));
                }
                _ => return,
            },
            Some(_) = calls.join_next() => {}
        }
    }
}
