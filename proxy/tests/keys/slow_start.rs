//! Endpoints that come back, and what is done when too few are fit.

use serde_json::{Value, json};

use crate::kit::{Case, Running, Site, until};
use crate::level::Level;
use crate::outliers::{Three, eject, ejected};

levels! {
    [service]
    "balancing.slow_start.window" => an_endpoint_that_is_back_starts_slowly_for_so_long,
    "balancing.slow_start.aggression" => the_ramp_is_as_steep_as_that,
    "balancing.slow_start.min_weight" => it_begins_with_so_much,
    "balancing.panic_threshold" => below_the_threshold_all_are_used,
}

/// A mesh in which one that fails once is out until the next interval, with `balancing` at this level.
fn site(three: &Three, level: Level, interval: &str, balancing: Value) -> Site {
    let mut site = three.plain(level);
    *site.at(&level.place("", "balancing")) = balancing;
    *site.at("mesh services 0 outliers") =
        json!({"consecutive_errors": 1, "interval": interval, "base_ejection_time": "1ms"});
    site
}

/// Of 210 calls, how many go to the last one after it was ejected and has come back.
async fn share(three: &Three, site: &Site) -> usize {
    three.servers[2].script_always(Some("status:14"));
    let running: Running = site.start().await;
    eject(&running, 1.0).await;
    three.servers[2].script_always(None);
    until("the end of an ejection", async || ejected(&running).await == 0.0).await;
    three.seen(&running, 210).await
}

/// How many it is before and after the change; the whole of its weight would be 70.
async fn shares(case: &Case, level: Level, slow_start: Value, key: &str, to: Value) -> (usize, usize) {
    let three = Three::start().await;
    let base = site(&three, level, "100ms", json!({"policy": "round_robin", "slow_start": slow_start}));
    let changed = case.change(&base, &level.place("", &format!("balancing slow_start {key}")), to);
    (share(&three, &base).await, share(&three, &changed).await)
}

async fn an_endpoint_that_is_back_starts_slowly_for_so_long(case: &Case, level: Level) {
    let (slow, at_once) = shares(case, level, json!({"window": "1h"}), "window", "1ms".into()).await;
    assert!((8..=12).contains(&slow), "{slow}: a tenth of its weight is 10");
    assert_eq!(at_once, 70);
}

async fn the_ramp_is_as_steep_as_that(case: &Case, level: Level) {
    let rule = json!({"window": "1h", "min_weight": "1%"});
    // A second of the hour, by a root of 100, is 0.92.
    let (straight, steep) = shares(case, level, rule, "aggression", 100.into()).await;
    assert!(straight <= 3, "{straight}");
    assert!((60..=70).contains(&steep), "{steep}");
}

async fn it_begins_with_so_much(case: &Case, level: Level) {
    let rule = json!({"window": "1h", "min_weight": "10%"});
    let (tenth, half) = shares(case, level, rule, "min_weight", "50%".into()).await;
    assert!((8..=12).contains(&tenth), "{tenth}");
    assert!((40..=44).contains(&half), "{half}");
}

async fn below_the_threshold_all_are_used(case: &Case, level: Level) {
    let three = Three::start().await;
    let base = site(&three, level, "1h", json!({"policy": "round_robin", "panic_threshold": "50%"}));
    let changed = case.change(&base, &level.place("", "balancing panic_threshold"), "70%");
    let seen = async |site: &Site| {
        three.servers[2].script_always(Some("status:14"));
        let running = site.start().await;
        eject(&running, 1.0).await;
        three.seen(&running, 30).await
    };
    assert_eq!(seen(&base).await, 0);
    assert_eq!(seen(&changed).await, 10);
}
