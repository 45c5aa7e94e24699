//! Outliers among three real servers: what their calls end with decides who is left alone, and for how long.

#[path = "pool/kit.rs"]
mod kit;

use std::time::{Duration, Instant};

use bench::closed::ClosedPort;
use bench::server::{Server, ServerOptions};
use bench::wait::until;
use serde_json::Value;

use crate::kit::{ANY, Caller};

/// Long intervals, so that nothing comes back within a test.
const FOR_LONG: &str =
    "outliers: {consecutive_errors: 5, interval: 1h, base_ejection_time: 1h, max_ejection_percent: 34%}";

async fn three() -> [Server; 3] {
    let start = async |name: &str| {
        let options = ServerOptions { name: name.into(), ..ServerOptions::default() };
        Server::start_with(ANY, options).await.expect("a server")
    };
    [start("a").await, start("b").await, start("c").await]
}

async fn caller(servers: &[Server; 3], policies: &str) -> Caller {
    let policies = format!("balancing: {{policy: round_robin}}\n{policies}");
    Caller::start(&servers.each_ref().map(|server| server.addr), &policies).await
}

/// What `/clusters` says of the endpoints of `far`.
async fn shown(caller: &Caller) -> Value {
    let page = caller.sidecar.get("/clusters").await.expect("an answer").body;
    let mut page: Value = serde_json::from_str(&page).expect("JSON");
    let clusters = page["clusters"].as_array_mut().expect("a list");
    let far = clusters.iter().position(|cluster| cluster["service"] == "far.default");
    clusters.swap_remove(far.expect("the cluster of far"))
}

async fn ejections(caller: &Caller, reason: &str) -> f64 {
    let labels = [("service", "far.default"), ("reason", reason)];
    caller.metrics().await.value("outrigger_ejections_total", &labels)
}

async fn ejected(caller: &Caller) -> f64 {
    caller.metrics().await.value("outrigger_ejected_endpoints", &[("service", "far.default")])
}

/// Makes calls until an endpoint has been ejected by errors in a row.
async fn eject_one(caller: &Caller) {
    until("an ejection", async || {
        caller.call().await;
        ejections(caller, "consecutive_errors").await == 1.0
    })
    .await;
}

#[tokio::test]
async fn errors_in_trailers_eject_an_endpoint_calls_go_elsewhere_and_it_comes_back() {
    let servers = three().await;
    servers[1].script_always(Some("status:14"));
    let rule = "outliers: {consecutive_errors: 5, interval: 200ms, base_ejection_time: 3s, max_ejection_percent: 34%}";
    let caller = caller(&servers, rule).await;
    // It is not ejected before that.
    let (at, mut failed) = (Instant::now(), 0);
    for _ in 0..15 {
        let outcome = caller.call().await;
        // The head and a message had come before the status did.
        assert!(outcome.is_ok() || outcome.messages == 1, "{outcome:?}");
        failed += usize::from(!outcome.is_ok());
    }
    assert_eq!(failed, 5, "in turn, each third call goes there until it is out");
    assert_eq!((ejections(&caller, "consecutive_errors").await, ejected(&caller).await), (1.0, 1.0));
    let cluster = shown(&caller).await;
    let endpoint = &cluster["endpoints"][1];
    assert_eq!(
        (&endpoint["fit"], &endpoint["outlier"]["ejected"]),
        (&false.into(), &true.into()),
        "{cluster:#}"
    );
    assert_eq!(
        (&endpoint["outlier"]["ejections"], &cluster["panic"]),
        (&1.into(), &false.into()),
        "{cluster:#}"
    );
    let left = endpoint["outlier"]["seconds_left"].as_f64().expect("a number");
    assert!((0.0..=3.0).contains(&left), "{left}");
    for _ in 0..30 {
        caller.call_well().await;
    }
    assert_eq!(servers[1].calls().len(), 5);
    servers[1].script_always(None);
    until("it to come back", async || ejected(&caller).await == 0.0).await;
    assert!(at.elapsed() >= Duration::from_secs(3), "{:?}", at.elapsed());
    for _ in 0..30 {
        caller.call_well().await;
    }
    assert_eq!(servers[1].calls().len(), 15);
    assert_eq!(ejections(&caller, "consecutive_errors").await, 1.0);
}

#[tokio::test]
async fn every_way_to_fail_counts_and_what_is_the_callers_fault_does_not() {
    for (script, counts) in [
        ("trailers-only:14", true),
        ("status-no-message:13", true),
        ("reset:INTERNAL_ERROR", true),
        ("reset-after:1:INTERNAL_ERROR", true),
        ("disconnect", true),
        ("disconnect-after:1", true),
        ("trailers-only:5", false),
        ("status:3", false),
    ] {
        let servers = three().await;
        servers[2].script_always(Some(script));
        let caller = caller(&servers, FOR_LONG).await;
        for _ in 0..45 {
            caller.call().await;
        }
        let seen = servers[2].calls().len();
        // One more may go there because connections that break make others of the turn go around.
        let right = if counts { (5..=6).contains(&seen) } else { seen == 15 };
        assert!(right, "{script}: {seen} calls");
    }
}

#[tokio::test]
async fn a_deadline_that_ends_while_the_endpoint_is_silent_counts() {
    let servers = three().await;
    servers[0].script_always(Some("hang"));
    let caller = caller(&servers, &format!("deadline: {{default: 600ms}}\n{FOR_LONG}")).await;
    eject_one(&caller).await;
    assert_eq!(servers[0].calls().len(), 5);
}

#[tokio::test]
async fn an_attempt_that_takes_too_long_counts_and_a_retry_saves_the_call() {
    let servers = three().await;
    servers[0].script_always(Some("hang"));
    let retries = "retries: {max_attempts: 2, initial_backoff: 1ms, per_attempt_timeout: 600ms, retryable_status_codes: \
         [UNAVAILABLE, DEADLINE_EXCEEDED]}";
    let caller = caller(&servers, &format!("{retries}\n{FOR_LONG}")).await;
    for _ in 0..30 {
        caller.call_well().await;
    }
    assert_eq!(servers[0].calls().len(), 5);
    assert_eq!(ejections(&caller, "consecutive_errors").await, 1.0);
}

#[tokio::test]
async fn a_retry_goes_back_to_a_fit_endpoint_rather_than_to_one_that_is_left_alone() {
    let servers = three().await;
    let retries = "retries: {max_attempts: 4, initial_backoff: 1ms}";
    let caller = caller(&servers, &format!("{retries}\n{FOR_LONG}")).await;
    servers[1].script_always(Some("trailers-only:14"));
    eject_one(&caller).await;
    servers[1].script_always(None);
    servers[1].clear();
    // Both of the others fail once, so that the call comes back to one of them.
    servers[0].script_next("trailers-only:14");
    servers[2].script_next("trailers-only:14");
    caller.call_well().await;
    assert!(servers[1].calls().is_empty());
}

#[tokio::test]
async fn a_retry_goes_to_one_that_is_left_alone_where_the_only_other_one_has_just_failed() {
    let servers = three().await;
    let two = [servers[0].addr, servers[1].addr];
    let policies = "balancing: {policy: round_robin}\nretries: {max_attempts: 3, initial_backoff: 1ms}";
    let caller = Caller::start(&two, &format!("{policies}\n{FOR_LONG}")).await;
    servers[1].script_always(Some("trailers-only:14"));
    eject_one(&caller).await;
    // It has recovered, long before anybody looks; the other one fails now, and cannot be ejected as well.
    servers[1].script_always(None);
    servers[0].script_always(Some("trailers-only:14"));
    for _ in 0..10 {
        caller.call_well().await;
    }
}

#[tokio::test]
async fn an_endpoint_that_refuses_connections_is_ejected_and_no_call_fails() {
    let (nobody, servers) = (ClosedPort::take().expect("a port"), three().await);
    let addresses = [nobody.addr, servers[1].addr, servers[2].addr];
    let caller = Caller::start(&addresses, &format!("balancing: {{policy: round_robin}}\n{FOR_LONG}")).await;
    until("an ejection", async || {
        caller.call_well().await;
        ejections(&caller, "consecutive_errors").await == 1.0
    })
    .await;
    let tried = caller.attempts("never_sent").await;
    for _ in 0..30 {
        caller.call_well().await;
    }
    assert_eq!(caller.attempts("never_sent").await, tried);
}

#[tokio::test]
async fn rates_eject_an_endpoint_that_fails_now_and_then() {
    for (rule, reason) in [
        ("success_rate: {stdev_factor: 1, minimum_hosts: 3, request_volume: 10}", "success_rate"),
        ("failure_percentage: {threshold: 40%, minimum_hosts: 3, request_volume: 10}", "failure_percentage"),
    ] {
        let servers = three().await;
        let rule =
            format!("outliers: {{consecutive_errors: 0, interval: 500ms, base_ejection_time: 1h, {rule}}}");
        let caller = caller(&servers, &rule).await;
        let mut calls = 0;
        until("an ejection", async || {
            for _ in 0..10 {
                // Each other call of this one fails, and no two in a row.
                if servers[0].calls().len() % 2 == 0 {
                    servers[0].script_always(Some("status:14"));
                } else {
                    servers[0].script_always(None);
                }
                caller.call().await;
                calls += 1;
            }
            ejections(&caller, reason).await == 1.0
        })
        .await;
        println!("{reason}: after {calls} calls");
        let endpoint = &shown(&caller).await["endpoints"][0];
        assert_eq!(endpoint["outlier"]["ejected"], true, "{endpoint:#}");
        let seen = servers[0].calls().len();
        for _ in 0..20 {
            caller.call_well().await;
        }
        assert_eq!(servers[0].calls().len(), seen);
    }
}

#[tokio::test]
async fn where_too_few_are_fit_all_are_used() {
    let servers = three().await;
    let rule =
        "outliers: {consecutive_errors: 2, interval: 1h, base_ejection_time: 1h, max_ejection_percent: 100%}";
    let caller = caller(&servers, rule).await;
    servers.iter().for_each(|server| server.script_always(Some("trailers-only:14")));
    until("all of them out", async || {
        caller.call().await;
        ejected(&caller).await == 3.0
    })
    .await;
    assert_eq!(shown(&caller).await["panic"], true);
    let panics =
        async || caller.metrics().await.value("outrigger_panic_picks_total", &[("service", "far.default")]);
    let before = panics().await;
    servers.iter().for_each(|server| server.script_always(None));
    servers.iter().for_each(Server::clear);
    for _ in 0..30 {
        caller.call_well().await;
    }
    assert_eq!(servers.each_ref().map(|server| server.calls().len()), [10; 3]);
    assert_eq!(panics().await, before + 30.0);
}
