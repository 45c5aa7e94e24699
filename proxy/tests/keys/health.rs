//! Active checks of endpoints, as `/clusters` shows what they found.

use bench::server::Server;
use serde_json::Value;

use crate::kit::{Case, Running, Site, echo, stays_away, until};
use crate::level::Level;

levels! {
    [service]
    "health.check" => what_is_asked,
    "health.service" => the_service_that_is_asked_for,
    "health.interval" => it_is_asked_so_often,
    "health.timeout" => an_answer_may_take_so_long,
    "health.unhealthy_threshold" => so_many_failures_in_a_row_make_it_unhealthy,
    "health.healthy_threshold" => so_many_successes_in_a_row_make_it_healthy,
}

const SERVING: Option<u8> = Some(1);
const NOT_SERVING: Option<u8> = Some(2);

async fn what_is_asked(case: &Case, level: Level) {
    let server = echo("echo").await;
    server.serve_health(NOT_SERVING);
    let base = often(level, &server);
    let changed = case.change(&base, &level.place("", "health check"), "tcp");
    shows(&base.start().await, "unhealthy").await;
    shows(&changed.start().await, "healthy").await;
}

async fn the_service_that_is_asked_for(case: &Case, level: Level) {
    let server = echo("echo").await;
    server.serve_health(SERVING);
    let mut base = often(level, &server);
    let place = level.place("", "health service");
    *base.at(&place) = "shop.Echo".into();
    let changed = case.change(&base, &place, "shop.LongerEcho");
    // A message of one string: two bytes more than the string has.
    for (site, bytes) in [(&base, 11), (&changed, 17)] {
        server.clear();
        let _sidecar = site.start().await;
        // One that the sidecar before was about to make may come first.
        let asked = async || server.health_checks().iter().any(|check| check.bytes == bytes);
        until(format!("a check of {bytes} bytes"), asked).await;
    }
}

async fn it_is_asked_so_often(case: &Case, level: Level) {
    let server = echo("echo").await;
    let mut base = often(level, &server);
    let place = level.place("", "health interval");
    *base.at(&place) = "20h".into();
    let changed = case.change(&base, &place, "20ms");
    let asked = async || until("checks", async || server.health_checks().len() >= 3).await;
    let before = base.start().await;
    assert!(stays_away(asked()).await);
    drop(before);
    let _after = changed.start().await;
    asked().await;
}

async fn an_answer_may_take_so_long(case: &Case, level: Level) {
    let server = echo("echo").await;
    server.answer_health(Some(&[0x08, 1]), "hang");
    let base = often(level, &server);
    let changed = case.change(&base, &level.place("", "health timeout"), "50ms");
    let before = base.start().await;
    until("it is asked", async || !server.health_checks().is_empty()).await;
    assert!(stays_away(shows(&before, "unhealthy")).await);
    shows(&changed.start().await, "unhealthy").await;
}

async fn so_many_failures_in_a_row_make_it_unhealthy(case: &Case, level: Level) {
    let server = echo("echo").await;
    let mut base = often(level, &server);
    let place = level.place("", "health unhealthy_threshold");
    *base.at(&place) = 1_000_000.into();
    let changed = case.change(&base, &place, 2);
    turns(&server, [&base, &changed], [SERVING, NOT_SERVING]).await;
}

async fn so_many_successes_in_a_row_make_it_healthy(case: &Case, level: Level) {
    let server = echo("echo").await;
    let mut base = often(level, &server);
    let place = level.place("", "health healthy_threshold");
    *base.at(&place) = 1_000_000.into();
    let changed = case.change(&base, &place, 2);
    turns(&server, [&base, &changed], [NOT_SERVING, SERVING]).await;
}

/// The first sidecar keeps to what it found first, the second one follows the server.
async fn turns(server: &Server, sites: [&Site; 2], says: [Option<u8>; 2]) {
    let words = says.map(|says| if says == SERVING { "healthy" } else { "unhealthy" });
    let mut sidecars = Vec::new();
    server.serve_health(says[0]);
    for site in sites {
        let sidecar = site.start().await;
        shows(&sidecar, words[0]).await;
        sidecars.push(sidecar);
    }
    server.serve_health(says[1]);
    shows(&sidecars[1], words[1]).await;
    assert!(stays_away(shows(&sidecars[0], words[1])).await);
}

/// A mesh whose one endpoint is checked fast, and with a lot of time.
fn often(level: Level, server: &Server) -> Site {
    let mut base = level.base(server);
    for (key, value) in [("check", "grpc"), ("interval", "20ms"), ("timeout", "1h")] {
        *base.at(&level.place("", &format!("health {key}"))) = value.into();
    }
    base
}

/// Waits until `/clusters` shows the endpoint of `echo` in a state.
async fn shows(sidecar: &Running, state: &str) {
    until(format!("it is {state}"), async || {
        let page = sidecar.get("/clusters").await.expect("a page");
        let page: Value = serde_json::from_str(&page.body).expect("JSON");
        page["clusters"][0]["endpoints"][0]["health"]["state"] == state
    })
    .await;
}
