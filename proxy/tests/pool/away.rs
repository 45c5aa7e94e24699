//! Endpoints that are not there, fall silent, and come back.

use std::time::{Duration, Instant};

use bench::call::CallSpec;
use bench::client::Client;
use bench::server::{Server, ServerOptions};
use bench::wait::{soon, until};

use crate::kit::{ANY, Caller, echoed};
use crate::pair::{self, Site};
use crate::peers::Dead;

/// The shortest first back-off of an endpoint that cannot be reached; each is twice the one before.
const FIRST_BACK_OFF: Duration = Duration::from_millis(25);

#[tokio::test]
async fn a_connection_that_is_not_there_in_time_ends_the_call_unavailable_and_says_why() {
    const LIMIT: Duration = Duration::from_millis(300);
    for dead in Dead::all() {
        let caller = Caller::start(&[dead.addr], "upstream: {connect_timeout: 300ms}").await;
        let began = Instant::now();
        let outcome = caller.call().await;
        assert_eq!((outcome.grpc_status, outcome.clean_end), (Some(14), true), "{}: {outcome:?}", dead.what);
        let told = match dead.what {
            "refuses" => "connect: Connection refused",
            _ => "not connected within 300ms",
        };
        assert!(outcome.message.contains(told), "{}: {}", dead.what, outcome.message);
        assert!(outcome.message.contains(&format!("endpoint {}", dead.addr)), "{}", outcome.message);
        assert!(dead.what == "refuses" || began.elapsed() >= LIMIT, "{}: {:?}", dead.what, began.elapsed());
        // TCP's own retries would take minutes.
        assert!(began.elapsed() < 50 * LIMIT, "{}: {:?}", dead.what, began.elapsed());
    }
}

#[tokio::test]
async fn calls_go_past_a_dead_endpoint_and_attempts_to_reach_it_become_rare() {
    for dead in Dead::all() {
        let (server, caller, began) = beside(&dead).await;
        let mut calls = 1;
        while began.elapsed() < Duration::from_secs(2) {
            caller.call_well().await;
            calls += 1;
        }
        let failures = caller.metrics().await.value("outrigger_connect_failures_total", &[]);
        // The first, and one more each time that a back-off twice as long is over.
        let doublings = (began.elapsed().as_secs_f64() / FIRST_BACK_OFF.as_secs_f64() + 1.0).log2();
        println!("an endpoint that {}: {failures} attempts to connect during {calls} calls", dead.what);
        assert!((2.0..=1.0 + doublings).contains(&failures), "{}: {failures}, {doublings}", dead.what);
        assert_eq!(server.calls().len(), calls);
        // Where nobody answers, only the first call has to wait for that: later attempts are nobody's.
        let found_out = if dead.what == "refuses" { failures as usize } else { 1 };
        assert_eq!(caller.attempts("never_sent").await, found_out, "{}", dead.what);
    }
}

/// A good endpoint, the caller of it and of a dead one, which has made a call, and when that began. A call fails only
/// where the good one could not be connected to in the little time that there is for both; then all begins anew.
async fn beside(dead: &Dead) -> (Server, Caller, Instant) {
    for _ in 0..5 {
        let server = Server::start(ANY).await.expect("a server");
        let policies = "balancing: {policy: round_robin}\nupstream: {connect_timeout: 200ms}";
        let caller = Caller::start(&[dead.addr, server.addr], policies).await;
        let began = Instant::now();
        let outcome = caller.call().await;
        if outcome.is_ok() {
            return (server, caller, began);
        }
        println!("beside an endpoint that {}: {outcome:?}", dead.what);
    }
    panic!("no first call goes well beside an endpoint that {}", dead.what);
}

#[tokio::test]
async fn an_endpoint_that_comes_back_is_used_again() {
    let mut servers = Vec::new();
    for name in ["stays", "goes"] {
        let options = ServerOptions { name: name.into(), ..ServerOptions::default() };
        servers.push(Server::start_with(ANY, options).await.expect("a server"));
    }
    let addresses = [servers[0].addr, servers[1].addr];
    let caller = Caller::start(&addresses, "balancing: {policy: round_robin}").await;
    for round in 0..3 {
        until("both take calls", async || {
            let before: Vec<usize> = servers.iter().map(|server| server.calls().len()).collect();
            caller.call_well().await;
            caller.call_well().await;
            servers.iter().zip(before).all(|(server, before)| server.calls().len() == before + 1)
        })
        .await;
        servers[1].kill().await;
        // Until the sidecar knows, a call may be lost with its connection.
        until("the connection is gone", async || caller.connections().await == 1).await;
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(100 * (round + 1)) {
            caller.call_well().await;
        }
        servers[1].restart().await.expect("its port is free");
    }
    until("it takes calls again", async || {
        let before = servers[1].calls().len();
        caller.call_well().await;
        servers[1].calls().len() > before
    })
    .await;
}

#[tokio::test]
async fn a_peer_that_leaves_a_ping_unanswered_loses_its_connection_and_its_calls_end_unavailable() {
    let app = Server::start(ANY).await.expect("an app");
    let site = Site::new();
    let (frozen, awake) = (site.callee(app.addr, "").await, site.callee(app.addr, "").await);
    let policies = "    balancing: {policy: round_robin}\n    \
        upstream: {connect_timeout: 3s, keepalive: {interval: 200ms, timeout: 6s}}";
    let mesh = pair::mesh(&[frozen.inbound(), awake.inbound()], policies);
    let caller = site.caller(&mesh, "workers: 1").await;
    let client = Client::connect(caller.outbound(), None).await.expect("a connection");
    let mut streams = Vec::new();
    for _ in 0..4 {
        let mut stream = client.call(CallSpec::new(pair::ECHO, pair::BIDI)).await.expect("a call");
        echoed(&mut stream).await;
        streams.push(stream);
    }
    // Well over an interval: whoever answers keeps its calls.
    tokio::time::sleep(Duration::from_secs(1)).await;
    for stream in &mut streams {
        echoed(stream).await;
    }

    signal(frozen.pid(), libc::SIGSTOP);
    until("every thread of it stands still", async || is_stopped(frozen.pid())).await;
    let began = Instant::now();
    let (mut lost, mut kept) = (0, 0);
    for mut stream in streams {
        // Those that are lost may be so already.
        let _ = stream.send(b"hello").await;
        if soon("an answer or the end", stream.recv()).await.is_some() {
            kept += 1;
            continue;
        }
        lost += 1;
        let outcome = soon("the end", stream.finish()).await;
        assert_eq!((outcome.grpc_status, outcome.clean_end), (Some(14), true), "{outcome:?}");
        assert!(outcome.message.contains(&format!("endpoint {}", frozen.inbound())), "{}", outcome.message);
        assert!(outcome.message.contains("did not answer a PING within 6s"), "{}", outcome.message);
    }
    assert_eq!((lost, kept), (2, 2));
    // TCP_USER_TIMEOUT would have taken twenty seconds.
    assert!(began.elapsed() < Duration::from_secs(18), "{:?}", began.elapsed());
    println!("its calls had ended {:?} after it froze", began.elapsed());
    for _ in 0..20 {
        let outcome = client.unary(pair::ECHO, pair::UNARY, b"hello").await.expect("a call");
        assert!(outcome.is_ok(), "{outcome:?}");
    }
    signal(frozen.pid(), libc::SIGCONT);
}

/// Whether all threads of a process are stopped (state `T` of proc_pid_stat(5)).
fn is_stopped(pid: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("a process");
    threads.flatten().all(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('T'))
    })
}

fn signal(pid: u32, number: i32) {
    // SAFETY: kill takes no pointers, and the id is that of a child that we have not waited for.
    unsafe { libc::kill(pid.cast_signed(), number) };
}
