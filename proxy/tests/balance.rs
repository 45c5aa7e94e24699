//! Calls of one client connection are spread over three real servers, call by call, as the policy says.

#[path = "pool/kit.rs"]
mod kit;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bench::server::{Server, ServerOptions};
use bench::wait::{PATIENCE, within};
use tokio::task::JoinSet;

use crate::kit::{ANY, Caller, unary};

#[tokio::test]
async fn round_robin_is_exact_and_per_call_although_the_client_has_one_connection() {
    let servers = three().await;
    let caller = caller(&servers, "round_robin", [1, 1, 1]).await;
    for turns in 1..=100 {
        for _ in 0..3 {
            caller.call_well().await;
        }
        assert_eq!(counts(&servers), [turns; 3]);
    }
    many(&caller, 600, 20).await;
    assert_eq!(counts(&servers), [300; 3], "calls that overlap take turns as well");
    assert_eq!(servers.each_ref().map(Server::accepted), [1; 3], "one connection to each is enough");
}

#[tokio::test]
async fn every_policy_spreads_calls_evenly_over_equal_endpoints() {
    for policy in ["random", "least_request"] {
        let servers = three().await;
        let caller = caller(&servers, policy, [1, 1, 1]).await;
        many(&caller, 3_000, 1).await;
        let counts = counts(&servers);
        println!("{policy}: {counts:?}");
        // By chance, 26 is the standard deviation: ten of them do not happen.
        assert!(counts.iter().all(|count| count.abs_diff(1_000) < 260), "{policy}: {counts:?}");
    }
}

#[tokio::test]
async fn weights_hold_whatever_the_policy_and_a_weight_of_zero_takes_an_endpoint_out() {
    for policy in ["round_robin", "random", "least_request", "peak_ewma"] {
        // One at a time, it is latency alone that `peak_ewma` goes by.
        for in_flight in if policy == "peak_ewma" { &[30][..] } else { &[1, 30] } {
            let in_flight = *in_flight;
            let servers = three().await;
            if in_flight > 1 {
                // So that calls are in flight, and the policies that look at them have something to see.
                servers.iter().for_each(|server| server.script_always(Some("delay:20ms")));
            }
            let caller = caller(&servers, policy, [0, 1, 3]).await;
            many(&caller, 1_200, in_flight).await;
            let [none, quarter, rest] = counts(&servers);
            println!("{policy} with weights 0, 1 and 3, {in_flight} in flight: {none}, {quarter}, {rest}");
            assert_eq!((none, quarter + rest), (0, 1_200), "{policy}");
            if policy == "round_robin" {
                assert!(quarter.abs_diff(300) <= 2, "{quarter}");
            }
            // By chance, 15 is the standard deviation; even shares would be 600.
            assert!((150..450).contains(&quarter), "{policy}, {in_flight} in flight: {quarter} of 1200");
        }
    }
}

#[tokio::test]
async fn policies_that_look_at_load_avoid_a_slow_endpoint_under_load_and_others_do_not() {
    for (policy, avoids) in [("least_request", true), ("peak_ewma", true), ("random", false)] {
        let servers = three().await;
        servers[2].script_always(Some("delay:500ms"));
        let caller = caller(&servers, policy, [1, 1, 1]).await;
        many(&caller, 1_500, 30).await;
        let counts = counts(&servers);
        println!("{policy}, the last one slow, 30 in flight: {counts:?}");
        // An even share is 500.
        let share = if avoids { 0..200 } else { 350..650 };
        assert!(share.contains(&counts[2]), "{policy}: {counts:?}");
    }
}

#[tokio::test]
async fn peak_ewma_avoids_an_endpoint_that_is_slow_even_when_nothing_is_in_flight() {
    let servers = three().await;
    // Far longer than the others take on a busy machine: what was slow once is remembered for long.
    servers[2].script_always(Some("delay:250ms"));
    let caller = caller(&servers, "peak_ewma", [1, 1, 1]).await;
    many(&caller, 300, 1).await;
    let counts = counts(&servers);
    println!("peak_ewma, the last one slow, one at a time: {counts:?}");
    // Both draws of two must meet it, which one in 27 does; an even share is 100.
    assert!(counts[2] < 50, "{counts:?}");
}

async fn three() -> [Server; 3] {
    let start = async |name: &str| {
        let options = ServerOptions { name: name.into(), ..ServerOptions::default() };
        Server::start_with(ANY, options).await.expect("a server")
    };
    [start("a").await, start("b").await, start("c").await]
}

async fn caller(servers: &[Server; 3], policy: &str, weights: [u32; 3]) -> Caller {
    let endpoints: Vec<String> = std::iter::zip(servers, weights)
        .map(|(server, weight)| format!("{{address: \"{}\", weight: {weight}}}", server.addr))
        .collect();
    Caller::with(&format!("[{}]", endpoints.join(", ")), &format!("balancing: {{policy: {policy}}}")).await
}

/// Calls each server has seen.
fn counts(servers: &[Server; 3]) -> [usize; 3] {
    servers.each_ref().map(|server| server.calls().len())
}

/// Makes `calls`, so many of them `in_flight` at a time, all over one connection; all must go well.
async fn many(caller: &Caller, calls: usize, in_flight: usize) {
    let left = Arc::new(AtomicUsize::new(calls));
    let mut callers = JoinSet::new();
    for _ in 0..in_flight {
        let (client, left) = (caller.client.clone(), left.clone());
        callers.spawn(async move {
            let take = |left: usize| left.checked_sub(1);
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
                let outcome = unary(&client).await;
                assert!(outcome.is_ok(), "{outcome:?}");
            }
        });
    }
    within(4 * PATIENCE, "all calls", callers.join_all()).await;
}
