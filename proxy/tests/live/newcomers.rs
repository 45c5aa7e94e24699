//! Slow start of endpoints that a changed mesh file brings, and what is kept of those that stay.

use bench::client::Client;
use bench::server::Server;

use crate::kit::{ECHO, Live, UNARY, at, call, echo, mesh};

/// `echo` on these servers, with more lines of policy.
fn site(servers: &[&Server], policies: &str) -> String {
    let endpoints: Vec<String> = servers.iter().map(|server| at(server)).collect();
    let lines = format!(
        "    balancing: {{policy: round_robin, slow_start: {{window: 1h, min_weight: 10%}}}}\n{policies}"
    );
    mesh(&endpoints).replace("  - {name: caller", &format!("{lines}  - {{name: caller"))
}

async fn seen(client: &Client, server: &Server, calls: usize) -> usize {
    server.clear();
    for _ in 0..calls {
        call(client).await;
    }
    server.calls().len()
}

#[tokio::test]
async fn a_newcomer_starts_slowly_beside_others_and_not_where_all_are_new() {
    let servers = [echo("one").await, echo("two").await, echo("three").await];
    let [one, two, three] = servers.each_ref();
    let live = Live::caller(&site(&[one, two], ""), "").await;
    let client = live.client().await;
    // Nobody was there before those of the first file.
    assert_eq!(seen(&client, two, 200).await, 100);
    live.replace("mesh.yaml", &site(&[one, two, three], ""));
    live.in_force("mesh", 2).await;
    // A tenth beside two whole ones.
    let share = seen(&client, three, 210).await;
    assert!((8..=12).contains(&share), "{share}");
    let others = [echo("four").await, echo("five").await];
    let [four, five] = others.each_ref();
    live.replace("mesh.yaml", &site(&[four, five], ""));
    live.in_force("mesh", 3).await;
    assert_eq!(seen(&client, five, 200).await, 100);
}

#[tokio::test]
async fn an_ejection_outlives_a_change_of_the_file_and_ends_with_its_rule() {
    let servers = [echo("one").await, echo("two").await, echo("three").await];
    let [one, two, three] = servers.each_ref();
    let rule = "    outliers: {consecutive_errors: 2, interval: 1h}\n";
    let live = Live::caller(&site(&[one, two], rule), "").await;
    let client = live.client().await;
    let ejected = async || live.metric("outrigger_ejected_endpoints", &[]).await;
    one.script_always(Some("trailers-only:14"));
    for _ in 0..4 {
        client.unary(ECHO, UNARY, b"ping").await.expect("a call");
    }
    assert_eq!(ejected().await, 1.0);
    live.replace("mesh.yaml", &site(&[one, two, three], rule));
    live.in_force("mesh", 2).await;
    assert_eq!(ejected().await, 1.0);
    one.script_always(None);
    assert_eq!(seen(&client, one, 100).await, 0);
    live.replace("mesh.yaml", &site(&[one, two], ""));
    live.in_force("mesh", 3).await;
    assert_eq!(seen(&client, one, 100).await, 50);
    assert_eq!(live.metric("outrigger_ejections_total", &[("service", ECHO)]).await, 1.0, "it stays counted");
}
