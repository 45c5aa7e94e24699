//! A control plane that is gone: killed, rolled back, standing still.

use bench::wait::until;

use crate::mesh::{Plant, address, landed};
use crate::trio::Trio;

#[tokio::test]
async fn nobody_notices_that_the_control_plane_is_killed_nor_that_it_comes_back_with_an_older_mesh() {
    let plant = Plant::new().await;
    let mut control = plant.control("mesh: mesh").await;
    let (ads, address) = (control.bound.ads, address(&control));
    let mut trio = Trio::start(&plant, &address).await;
    let (older, newer) = (trio.mesh(&["one"]), trio.mesh(&["two"]));
    plant.write(&older);
    trio.under_calls("one").await;
    plant.write(&newer);
    trio.move_to("two").await;
    let host = plant.host.to_string();
    until("that is on disk", async || plant.cached().contains(&host)).await;

    control.kill();
    control.wait().await.expect("it ends");
    trio.lose_it("connect", "Connection refused").await;
    trio.stay_on("two").await;
    assert_eq!(trio.control().await["synced"], true, "it was, and what it said stays");
    plant.copy_cache("late");
    let late = plant.another_caller("late", &address, "cache: cache").await.expect("a sidecar");
    assert_eq!(landed(&late).await, "two", "one that starts meanwhile serves from disk");

    let loaded = ("outrigger_config_loaded_total", [("source", "mesh")]);
    let before = trio.value(loaded.0, &loaded.1).await;
    plant.write(&older);
    let _control = plant.control_at(ads, "mesh: mesh").await;
    trio.move_to("one").await;
    assert!(trio.value(loaded.0, &loaded.1).await > before, "a mesh that is taken is counted");
    trio.are_connected().await;
    until("the other one goes by it too", async || landed(&late).await == "one").await;
    trio.nobody_noticed("killed and rolled back", 1).await;
}

#[tokio::test]
async fn nobody_notices_that_the_control_plane_stands_still_and_it_is_known_within_a_minute() {
    let plant = Plant::new().await;
    let control = plant.control("mesh: mesh").await;
    let mut trio = Trio::start(&plant, &address(&control)).await;
    plant.write(&trio.mesh(&["one"]));
    trio.under_calls("one").await;
    control.stop();
    plant.write(&trio.mesh(&["two"]));
    trio.stay_on("one").await;
    trio.lose_it("silent", "a PING was left unanswered").await;
    trio.stay_on("one").await;
    control.go_on();
    trio.move_to("two").await;
    trio.are_connected().await;
    trio.nobody_noticed("standing still", 1).await;
}
