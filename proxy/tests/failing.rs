//! All backends fail, in every way: what reaches the applications stays within 1.2 times of what is offered.

mod pair;

use std::time::Instant;

use bench::client::Client;
use bench::closed::ClosedPort;
use bench::process::Sidecar;
use bench::server::Server;
use bench::wait::{PATIENCE, within};
use tokio::task::JoinSet;

use crate::pair::{ANY, ECHO, Site, UNARY};

const CONNECTIONS: u64 = 30;
const CALLS_EACH: u64 = 100;
const OFFERED: u64 = CONNECTIONS * CALLS_EACH;
const BACKENDS: usize = 3;
/// `max_attempts` of both rules: so often a call goes round all endpoints that nothing can be handed to.
const ATTEMPTS: u64 = 5;

/// How the backends fail.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Unavailable,
    RefusedStream,
    /// Nobody listens anywhere.
    RefusedConnections,
    /// Nobody listens on one port, and the two others say UNAVAILABLE.
    OneOfEach,
}

const WAYS: [Way; 4] = [Way::Unavailable, Way::RefusedStream, Way::RefusedConnections, Way::OneOfEach];

impl Way {
    /// How many backends there are that do not listen, and what the others do.
    fn backends(self) -> (usize, &'static str) {
        match self {
            Self::Unavailable => (0, "trailers-only:14"),
            Self::RefusedStream => (0, "refused"),
            Self::RefusedConnections => (BACKENDS, ""),
            Self::OneOfEach => (1, "trailers-only:14"),
        }
    }
}

#[tokio::test]
async fn retries_of_a_service_that_fails_cost_it_a_fifth_more_and_no_more() {
    for way in WAYS {
        let rule = format!("retries: {{max_attempts: {ATTEMPTS}, initial_backoff: 1ms, max_backoff: 2ms}}");
        let storm = storm(way, &rule).await;
        if way != Way::RefusedConnections {
            // Else nothing was there to be held back.
            assert!(storm.repeats >= OFFERED / 10 && storm.withheld > 0, "{way:?}: {storm:?}");
        }
    }
}

#[tokio::test]
async fn hedges_of_a_service_that_fails_cost_it_a_fifth_more_and_no_more() {
    for way in WAYS {
        let rule = format!("hedging: {{max_attempts: {ATTEMPTS}, hedging_delay: 0s}}");
        let storm = storm(way, &rule).await;
        if way != Way::RefusedConnections {
            assert!(storm.repeats >= OFFERED / 10 && storm.withheld > 0, "{way:?}: {storm:?}");
        }
    }
}

/// What came of it.
#[derive(Debug)]
struct Storm {
    /// Attempts that came to a backend after the first one of their call.
    repeats: u64,
    /// Repeats that the budget did not grant.
    withheld: u64,
}

async fn storm(way: Way, rule: &str) -> Storm {
    let site = Site::new();
    let (closed, script) = way.backends();
    let closed: Vec<_> = (0..closed).map(|_| ClosedPort::take().expect("a port")).collect();
    let mut servers = Vec::new();
    for _ in closed.len()..BACKENDS {
        let server = Server::start(ANY).await.expect("a server");
        server.script_always(Some(script));
        servers.push(server);
    }
    let addresses = servers.iter().map(|server| server.addr).chain(closed.iter().map(|port| port.addr));
    let listed: Vec<String> =
        addresses.map(|address| format!("{{address: \"{address}\", tls: none}}")).collect();
    let mesh = format!(
        "version: 1\nservices:\n  - {{name: shopper, namespace: shop}}\n  - name: echo\n    namespace: shop\n    \
         endpoints: [{}]\n    retry_budget: {{min_per_second: 0}}\n    {rule}\n",
        listed.join(", ")
    );
    let caller = site.caller(&mesh, "workers: 2").await;
    let began = Instant::now();
    within(4 * PATIENCE, "all calls", offer(&caller)).await;
    let took = began.elapsed();

    let reached: u64 = servers.iter().map(|server| server.calls().len() as u64).sum();
    let metrics = caller.metrics().await.expect("a scrape");
    let attempts = |outcome: &str| {
        metrics.value("outrigger_attempts_total", &[("service", ECHO), ("outcome", outcome)]) as u64
    };
    let withheld = metrics.value("outrigger_refused_total", &[("limit", "retry_budget")]) as u64;
    let never_sent = attempts("never_sent");
    println!(
        "{way:?}, {}: {OFFERED} calls in {took:.1?}, {reached} attempts reached the applications ({:.3} times), \
         {withheld} repeats withheld, {never_sent} connections refused",
        rule.split(':').next().unwrap_or_default(),
        reached as f64 / OFFERED as f64
    );
    assert!(reached * 10 <= OFFERED * 12, "{way:?}: {reached} attempts of {OFFERED} calls");
    let all = metrics.value("outrigger_attempts_total", &[("service", ECHO)]) as u64;
    assert_eq!(all - never_sent, reached, "{way:?}: each attempt is counted");
    if way == Way::RefusedConnections {
        assert_eq!(reached, 0);
        assert!(never_sent <= OFFERED * ATTEMPTS * BACKENDS as u64, "a call is tried so often: {never_sent}");
    } else {
        assert!(reached >= OFFERED, "{way:?}: each call came to a backend");
    }
    Storm { repeats: reached.saturating_sub(OFFERED), withheld }
}

/// All calls, each of which ends UNAVAILABLE.
async fn offer(caller: &Sidecar) {
    let mut calling = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let client = Client::connect(caller.outbound(), None).await.expect("a connection");
        calling.spawn(async move {
            for _ in 0..CALLS_EACH {
                let outcome = client.unary(ECHO, UNARY, b"x").await.expect("a call");
                assert_eq!(outcome.grpc_status, Some(14), "{outcome:?}");
            }
        });
    }
    while let Some(called) = calling.join_next().await {
        called.expect("every call ends UNAVAILABLE");
    }
}
