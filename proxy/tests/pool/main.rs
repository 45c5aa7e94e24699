//! What a worker's pool of connections to one endpoint promises: when it opens one more, when it leaves one,
//! and that no call is lost by either.

mod away;
mod kit;
#[path = "../pair/mod.rs"]
mod pair;
mod peers;
mod room;
mod waiting;

use std::time::{Duration, Instant};

use bench::server::{Server, ServerOptions};
use bench::wait::until;

use crate::kit::{ANY, Caller, echoed, ends_well};

#[tokio::test]
async fn an_idle_connection_is_closed_and_a_silent_stream_keeps_one() {
    const IDLE: Duration = Duration::from_millis(400);
    let server = Server::start(ANY).await.expect("a server");
    let caller = Caller::start(&[server.addr], "upstream: {idle_timeout: 400ms}").await;
    let mut stream = caller.stream().await;
    // Only time tells that nothing happens.
    tokio::time::sleep(3 * IDLE).await;
    assert_eq!((server.accepted(), server.open_connections()), (1, 1));
    echoed(&mut stream).await;
    let before = Instant::now();
    ends_well(stream).await;
    until("the idle connection is closed", async || server.open_connections() == 0).await;
    // It is looked at four times per timeout, so that one look may be missing.
    assert!(before.elapsed() >= IDLE * 3 / 4, "{:?}", before.elapsed());
    caller.call_well().await;
    assert_eq!(server.accepted(), 2);
}

#[tokio::test]
async fn a_connection_past_its_age_takes_no_new_call_and_finishes_what_it_carries() {
    const AGE: Duration = Duration::from_millis(300);
    let server = Server::start(ANY).await.expect("a server");
    let caller = Caller::start(&[server.addr], "upstream: {max_age: 300ms}").await;
    let began = Instant::now();
    let mut stream = caller.stream().await;
    until("calls have moved on twice", async || {
        caller.call_well().await;
        server.accepted() == 3
    })
    .await;
    // 10 % less than asked for is the least.
    assert!(began.elapsed() >= 2 * AGE * 9 / 10, "{:?}", began.elapsed());
    echoed(&mut stream).await;
    until("the one in the middle has closed", async || server.open_connections() <= 2).await;
    echoed(&mut stream).await;
    ends_well(stream).await;
    until("the first has closed as well", async || server.open_connections() <= 1).await;
    assert_eq!(caller.attempts("broken").await + caller.attempts("refused").await, 0);
}

#[tokio::test]
async fn a_connection_takes_as_many_calls_as_it_may_and_not_one_more() {
    let server = Server::start(ANY).await.expect("a server");
    let caller = Caller::start(&[server.addr], "upstream: {max_calls: 5}").await;
    let mut stream = caller.stream().await;
    for call in 2..=23 {
        caller.call_well().await;
        // The stream is the first of the five.
        assert_eq!(server.accepted(), 1 + (call - 1) / 5, "after {call} calls");
    }
    echoed(&mut stream).await;
    until("those that are full and done are closed", async || server.open_connections() == 2).await;
    ends_well(stream).await;
    until("the first is closed too", async || server.open_connections() == 1).await;
}

#[tokio::test]
async fn after_a_goaway_new_calls_go_to_a_new_connection_and_open_ones_finish() {
    let server = Server::start(ANY).await.expect("a server");
    let caller = Caller::start(&[server.addr], "").await;
    let mut streams = Vec::new();
    for _ in 0..10 {
        streams.push(caller.stream().await);
    }
    // The next call is above the last stream of the GOAWAY: it is repeated, and nobody sees that.
    server.script_next("goaway-below");
    caller.call_well().await;
    assert_eq!(caller.attempts("refused").await, 1);
    for _ in 0..20 {
        caller.call_well().await;
    }
    assert_eq!((server.accepted(), server.open_connections()), (2, 2));
    for mut stream in streams {
        echoed(&mut stream).await;
        ends_well(stream).await;
    }
    until("the old connection is closed", async || server.open_connections() == 1).await;
    caller.call_well().await;
    assert_eq!(server.accepted(), 2);
}

#[tokio::test]
async fn a_server_that_stops_gracefully_under_load_loses_no_call() {
    let mut servers = Vec::new();
    for name in ["a", "b"] {
        let options = ServerOptions { name: name.into(), ..ServerOptions::default() };
        servers.push(Server::start_with(ANY, options).await.expect("a server"));
    }
    let addresses = [servers[0].addr, servers[1].addr];
    let caller = Caller::start(&addresses, "balancing: {policy: round_robin}").await;
    let stop = tokio::sync::watch::Sender::new(false);
    let mut load = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let (client, stopped) = (caller.client.clone(), stop.subscribe());
        load.spawn(async move {
            let mut calls = 0;
            while !*stopped.borrow() {
                let outcome = kit::unary(&client).await;
                assert!(outcome.is_ok(), "{outcome:?}");
                calls += 1;
            }
            calls
        });
    }
    for _ in 0..5 {
        for server in &mut servers {
            let before = server.calls().len();
            until("it takes part", async || server.calls().len() > before).await;
            server.stop().await;
            server.restart().await.expect("its port is free");
        }
    }
    stop.send_replace(true);
    let calls: Vec<i32> = load.join_all().await;
    let seen: usize = servers.iter().map(|server| server.calls().len()).sum();
    assert_eq!(seen, calls.iter().sum::<i32>() as usize, "no call was lost, none came twice");
    println!("{seen} calls over ten stops; {} attempts refused", caller.attempts("refused").await);
}
