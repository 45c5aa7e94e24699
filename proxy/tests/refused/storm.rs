//! The retry budget: when all endpoints refuse, repeats stay within a fifth of the calls and a floor.

use std::time::Instant;

use bench::client::Client;
use bench::server::Server;
use bench::wait::soon;
use tokio::task::JoinSet;

use crate::pair::{ANY, ECHO, Site, UNARY, metric};

const BACKENDS: usize = 3;
const CALLERS: u64 = 10;
const CALLS_EACH: u64 = 300;
/// Repeats of each ten seconds that need no calls to be granted.
const FLOOR: u64 = 100;
/// Repeats of a hundred calls.
const PERCENT: u64 = 20;
const WINDOW_S: u64 = 10;

#[tokio::test]
async fn when_all_refuse_the_budget_keeps_repeats_to_a_fifth_and_a_floor() {
    let site = Site::new();
    let mut backends = Vec::new();
    for _ in 0..BACKENDS {
        let backend = Server::start(ANY).await.expect("a backend");
        backend.script_always(Some("refused"));
        backends.push(backend);
    }
    let listed: Vec<String> =
        backends.iter().map(|backend| format!("{{address: \"{}\", tls: none}}", backend.addr)).collect();
    let mesh = format!(
        "version: 1\nservices:\n  - {{name: shopper, namespace: shop}}\n  \
         - {{name: echo, namespace: shop, endpoints: [{}], upstream: {{connect_timeout: 20s}}}}\n",
        listed.join(", ")
    );
    let caller = site.caller(&mesh, "").await;
    let began = Instant::now();
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let client = Client::connect(caller.outbound(), None).await.expect("a connection");
        callers.spawn(async move {
            for _ in 0..CALLS_EACH {
                let outcome = soon("a call", client.unary(ECHO, UNARY, b"x")).await.expect("a call");
                assert_eq!(outcome.grpc_status, Some(14), "{outcome:?}");
            }
        });
    }
    while let Some(done) = callers.join_next().await {
        done.expect("every call ends UNAVAILABLE");
    }
    let windows = began.elapsed().as_secs() / WINDOW_S + 1;

    let calls = CALLERS * CALLS_EACH;
    let reached: u64 = backends.iter().map(|backend| backend.calls().len() as u64).sum();
    let attempts = metric(&caller, "outrigger_attempts_total", &[("outcome", "refused")]).await;
    let withheld = metric(&caller, "outrigger_refused_total", &[("limit", "retry_budget")]).await;
    let repeats = reached - calls;
    println!("{calls} calls, {reached} reached the backends, {withheld} repeats withheld, {windows} windows");
    assert_eq!(attempts, reached, "each attempt is counted");
    assert_eq!(metric(&caller, "outrigger_attempts_total", &[]).await, reached);
    assert_eq!(repeats + withheld, calls, "each call was repeated, or the budget was in the way");
    assert!(repeats <= calls * PERCENT / 100 + FLOOR * windows, "{repeats} repeats of {calls} calls");
    assert!(repeats >= FLOOR, "the floor is granted: {repeats}");
}
