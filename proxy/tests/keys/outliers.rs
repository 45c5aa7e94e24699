//! Endpoints that fail more than they should.

use bench::server::Server;
use serde_json::{Value, json};

use crate::kit::{Case, ECHO, Running, Site, UNARY, echo, stays_away, until};
use crate::level::Level;

levels! {
    [service]
    "outliers.error_codes[]" => the_codes_that_count_are_those_of_the_list,
    "outliers.consecutive_errors" => so_many_errors_in_a_row_eject,
    "outliers.interval" => ejections_end_at_an_interval,
    "outliers.base_ejection_time" => an_ejection_lasts_so_long,
    "outliers.max_ejection_time" => no_ejection_lasts_longer,
    "outliers.max_ejection_percent" => no_more_than_a_share_is_ejected,
    "outliers.success_rate.stdev_factor" => far_below_the_others_is_by_so_many_deviations,
    "outliers.success_rate.enforcement_percentage" => outliers_by_success_are_ejected_in_part,
    "outliers.success_rate.minimum_hosts" => success_is_compared_among_so_many,
    "outliers.success_rate.request_volume" => success_is_of_so_many_calls,
    "outliers.failure_percentage.threshold" => failing_is_from_a_threshold_on,
    "outliers.failure_percentage.enforcement_percentage" => outliers_by_failures_are_ejected_in_part,
    "outliers.failure_percentage.minimum_hosts" => failures_are_looked_at_among_so_many,
    "outliers.failure_percentage.request_volume" => failures_are_of_so_many_calls,
}

/// Three servers that take turns, of which the last one may misbehave.
pub(crate) struct Three {
    pub(crate) servers: [Server; 3],
}

impl Three {
    pub(crate) async fn start() -> Self {
        Self { servers: [echo("one").await, echo("two").await, echo("three").await] }
    }

    /// A mesh of them at this level, with `outliers` there.
    fn site(&self, level: Level, outliers: Value) -> Site {
        let mut site = self.plain(level);
        *site.at("mesh services 0 balancing") = json!({"policy": "round_robin", "panic_threshold": "0%"});
        *site.at(&level.place("", "outliers")) = outliers;
        site
    }

    pub(crate) fn plain(&self, level: Level) -> Site {
        let mut site = level.base(&self.servers[0]);
        for (i, server) in self.servers.iter().enumerate().skip(1) {
            *site.at(&format!("mesh services 0 endpoints {i}")) = server.addr.to_string().into();
        }
        site
    }

    /// The calls that the last one sees of so many.
    pub(crate) async fn seen(&self, running: &Running, calls: usize) -> usize {
        self.servers[2].clear();
        call(running, calls).await;
        self.servers[2].calls().len()
    }
}

/// Makes calls, whatever comes of them; returns how many went well.
async fn call(running: &Running, calls: usize) -> usize {
    let client = running.client().await;
    let mut well = 0;
    for _ in 0..calls {
        well += usize::from(client.unary(ECHO, UNARY, b"ping").await.expect("a call").is_ok());
    }
    well
}

/// How many are ejected now.
pub(crate) async fn ejected(running: &Running) -> f64 {
    running.counter("outrigger_ejected_endpoints", &[]).await
}

/// Calls until so many are ejected.
pub(crate) async fn eject(running: &Running, count: f64) {
    until("an ejection", async || {
        call(running, 3).await;
        ejected(running).await == count
    })
    .await;
}

/// What `/clusters` says of the endpoints that are called.
async fn endpoints(running: &Running) -> Vec<Value> {
    let page = running.get("/clusters").await.expect("an answer").body;
    let page: Value = serde_json::from_str(&page).expect("JSON");
    let cluster = page["clusters"].as_array().expect("a list").iter().find(|at| at["service"] == ECHO);
    cluster.expect("the cluster")["endpoints"].as_array().expect("a list").clone()
}

async fn the_codes_that_count_are_those_of_the_list(case: &Case, level: Level) {
    let three = Three::start().await;
    three.servers[2].script_always(Some("trailers-only:5"));
    let base = three.site(level, json!({"error_codes": ["UNAVAILABLE"], "interval": "1h"}));
    let changed = case.change(&base, &level.place("", "outliers error_codes 0"), "NOT_FOUND");
    assert_eq!(three.seen(&base.start().await, 30).await, 10);
    assert_eq!(three.seen(&changed.start().await, 30).await, 5);
}

async fn so_many_errors_in_a_row_eject(case: &Case, level: Level) {
    let three = Three::start().await;
    three.servers[2].script_always(Some("status:14"));
    let base = three.site(level, json!({"consecutive_errors": 3, "interval": "1h"}));
    let changed = case.change(&base, &level.place("", "outliers consecutive_errors"), 6);
    assert_eq!(three.seen(&base.start().await, 30).await, 3);
    assert_eq!(three.seen(&changed.start().await, 30).await, 6);
}

/// Ejects the last one and lets it be well again.
async fn ejected_and_well(three: &Three, site: &Site) -> Running {
    three.servers[2].script_always(Some("status:14"));
    let running = site.start().await;
    eject(&running, 1.0).await;
    three.servers[2].script_always(None);
    running
}

/// Waits until the last one is back.
async fn comes_back(running: &Running) {
    until("the end of an ejection", async || ejected(running).await == 0.0).await;
}

async fn stays_out(running: &Running) {
    assert!(stays_away(comes_back(running)).await, "it is back");
}

async fn ejections_end_at_an_interval(case: &Case, level: Level) {
    let three = Three::start().await;
    let rule = json!({"consecutive_errors": 1, "interval": "1h", "base_ejection_time": "1ms"});
    let base = three.site(level, rule);
    let changed = case.change(&base, &level.place("", "outliers interval"), "100ms");
    stays_out(&ejected_and_well(&three, &base).await).await;
    let running = ejected_and_well(&three, &changed).await;
    comes_back(&running).await;
    assert_eq!(three.seen(&running, 30).await, 10);
}

async fn an_ejection_lasts_so_long(case: &Case, level: Level) {
    let three = Three::start().await;
    let rule = json!({"consecutive_errors": 1, "interval": "100ms", "base_ejection_time": "1h"});
    let base = three.site(level, rule);
    let changed = case.change(&base, &level.place("", "outliers base_ejection_time"), "1ms");
    stays_out(&ejected_and_well(&three, &base).await).await;
    let running = ejected_and_well(&three, &changed).await;
    comes_back(&running).await;
    assert_eq!(three.seen(&running, 30).await, 10);
}

/// The second ejection lasts twice as long, unless that is too long.
async fn no_ejection_lasts_longer(case: &Case, level: Level) {
    let three = Three::start().await;
    let rule = json!({
        "consecutive_errors": 1, "interval": "2s", "base_ejection_time": "2s", "max_ejection_time": "1h",
    });
    let base = three.site(level, rule);
    let changed = case.change(&base, &level.place("", "outliers max_ejection_time"), "1s");
    let second = async |site: &Site| {
        let running = ejected_and_well(&three, site).await;
        comes_back(&running).await;
        three.servers[2].script_always(Some("status:14"));
        eject(&running, 1.0).await;
        let left = &endpoints(&running).await[2]["outlier"]["seconds_left"];
        left.as_f64().expect("a number")
    };
    let (twice, once) = (second(&base).await, second(&changed).await);
    assert!(twice > 2.0 && once <= 2.0, "{twice} s and {once} s");
}

async fn no_more_than_a_share_is_ejected(case: &Case, level: Level) {
    let three = Three::start().await;
    three.servers[1..].iter().for_each(|server| server.script_always(Some("status:14")));
    let base = three.site(level, json!({"interval": "1h", "max_ejection_percent": "34%"}));
    let changed = case.change(&base, &level.place("", "outliers max_ejection_percent"), "67%");
    let well = async |site: &Site| {
        let running = site.start().await;
        call(&running, 60).await;
        call(&running, 30).await
    };
    assert_eq!(well(&base).await, 15, "every other call");
    assert_eq!(well(&changed).await, 30);
}

/// Whether rates eject the last one, of whose calls every other one fails: by some interval in which
/// each has had enough calls.
async fn rates_eject(three: &Three, site: &Site) -> bool {
    const ENOUGH: u64 = 10;
    const INTERVALS: usize = 3;
    let running = site.start().await;
    let mut before = Vec::new();
    let mut looked_at = 0;
    until("intervals with enough calls", async || {
        for _ in 0..30 {
            three.servers[2].script_next("status:14");
            three.servers[2].script_next("delay:0ms");
        }
        call(&running, 60).await;
        let now: Vec<Value> =
            endpoints(&running).await.iter().map(|at| at["outlier"]["last_interval"].clone()).collect();
        let calls = |at: &Value| {
            at["successes"].as_u64().expect("a number") + at["failures"].as_u64().expect("a number")
        };
        if now != before && now.iter().all(|at| calls(at) >= ENOUGH) {
            looked_at += 1;
        }
        before = now;
        looked_at >= INTERVALS || ejected(&running).await > 0.0
    })
    .await;
    ejected(&running).await > 0.0
}

/// By the changed rule, and not by that of the base.
async fn ejects_when_changed(case: &Case, level: Level, key: &str, from: Value, to: Value) {
    let three = Three::start().await;
    let rule = json!({"consecutive_errors": 0, "interval": "400ms", "base_ejection_time": "1h"});
    let mut base = three.site(level, rule);
    let kind = key.split(' ').next().expect("a word");
    // Half of the calls are 1.4 deviations below the mean of three.
    *base.at(&level.place("", &format!("outliers {kind}"))) = match kind {
        "success_rate" => json!({"stdev_factor": 1, "minimum_hosts": 3, "request_volume": 10}),
        _ => json!({"threshold": "30%", "minimum_hosts": 3, "request_volume": 10}),
    };
    let place = level.place("", &format!("outliers {key}"));
    *base.at(&place) = from;
    let changed = case.change(&base, &place, to);
    assert!(!rates_eject(&three, &base).await, "by the base");
    assert!(rates_eject(&three, &changed).await, "by the change");
}

async fn far_below_the_others_is_by_so_many_deviations(case: &Case, level: Level) {
    ejects_when_changed(case, level, "success_rate stdev_factor", 3.into(), 1.into()).await;
}

async fn outliers_by_success_are_ejected_in_part(case: &Case, level: Level) {
    ejects_when_changed(case, level, "success_rate enforcement_percentage", "0%".into(), "100%".into()).await;
}

async fn success_is_compared_among_so_many(case: &Case, level: Level) {
    ejects_when_changed(case, level, "success_rate minimum_hosts", 4.into(), 3.into()).await;
}

async fn success_is_of_so_many_calls(case: &Case, level: Level) {
    ejects_when_changed(case, level, "success_rate request_volume", 1_000_000.into(), 10.into()).await;
}

async fn failing_is_from_a_threshold_on(case: &Case, level: Level) {
    ejects_when_changed(case, level, "failure_percentage threshold", "90%".into(), "30%".into()).await;
}

async fn outliers_by_failures_are_ejected_in_part(case: &Case, level: Level) {
    let key = "failure_percentage enforcement_percentage";
    ejects_when_changed(case, level, key, "0%".into(), "100%".into()).await;
}

async fn failures_are_looked_at_among_so_many(case: &Case, level: Level) {
    ejects_when_changed(case, level, "failure_percentage minimum_hosts", 4.into(), 3.into()).await;
}

async fn failures_are_of_so_many_calls(case: &Case, level: Level) {
    ejects_when_changed(case, level, "failure_percentage request_volume", 1_000_000.into(), 10.into()).await;
}
