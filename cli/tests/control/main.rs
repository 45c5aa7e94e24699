//! The control plane and sidecars as processes, mTLS between all of them; and what they do when one of these fails or goes mad,
//! a scripted one in its place where ours would not do such a thing.

mod certificates;
mod gone;
#[path = "../parts/loopback.rs"]
mod loopback;
mod memory;
mod mesh;
#[path = "../../../proxy/tests/control/plane.rs"]
mod plane;
mod rules;
mod scripted;
mod sources;
mod trio;

use std::time::Duration;

use bench::wait::until;

use crate::mesh::{Plant, landed};

/// Services of a mesh that is shown on demand only.
const MANY: usize = 300;

#[tokio::test]
async fn a_call_goes_from_sidecar_to_sidecar_by_what_the_control_plane_says_and_a_route_changes_live() {
    let plant = Plant::new().await;
    let control = plant.control("mesh: mesh").await;
    let (one, two) = (plant.callee("one", &control, "").await, plant.callee("two", &control, "").await);
    plant.mesh(&[one.inbound()], "");
    let caller = plant.caller(&control, "").await;
    until("calls land on one", async || landed(&caller).await == "one").await;
    plant.mesh(&[two.inbound()], "");
    until("calls land on two", async || landed(&caller).await == "two").await;
}

#[tokio::test]
async fn of_a_large_mesh_a_sidecar_holds_what_its_app_calls() {
    let plant = Plant::new().await;
    let control = plant.control("mesh: mesh").await;
    let callee = plant.callee("one", &control, "").await;
    let many: String = (0..MANY).map(|i| format!("  - {{name: s{i}, namespace: shop}}\n")).collect();
    plant.mesh(&[callee.inbound()], &many);
    let caller = plant.caller(&control, "").await;
    until("calls land on one", async || landed(&caller).await == "one").await;
    let clusters = caller.get("/clusters").await.expect("a page").body;
    assert!(clusters.contains("echo.shop") && !clusters.contains("s7.shop"), "{clusters}");
}

#[tokio::test]
async fn no_call_fails_while_the_control_plane_is_killed_and_a_sidecar_starts_without_it_from_disk() {
    let plant = Plant::new().await;
    let control = plant.control("mesh: mesh").await;
    let callee = plant.callee("one", &control, "").await;
    plant.mesh(&[callee.inbound()], "");
    let mut caller = plant.caller(&control, "cache: cache").await;
    until("calls land on one", async || landed(&caller).await == "one").await;
    let written = "outrigger_mesh_cache_writes_total";
    until("the cache is written", async || {
        caller.metrics().await.expect("a scrape").value(written, &[]) > 0.0
    })
    .await;
    // What was there before the mesh had an endpoint is on disk too.
    until("it holds the endpoint", async || plant.cached().contains("127.0.0.1")).await;
    control.kill();
    for _ in 0..50 {
        assert_eq!(landed(&caller).await, "one");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    caller.kill();
    caller.wait().await.expect("it ends");
    let caller = plant.caller(&control, "cache: cache").await;
    assert_eq!(landed(&caller).await, "one");
}

#[tokio::test]
async fn a_sidecar_registers_its_app_and_withdraws_it_when_it_drains() {
    let plant = Plant::new().await;
    let control = plant.control("mesh: mesh").await;
    plant.mesh(&[], "");
    let free = std::net::TcpListener::bind((plant.host, 0)).and_then(|free| free.local_addr());
    let port = free.expect("a port");
    let mut callee =
        plant.callee_at("one", port, &control, &format!("register: {{address: \"{port}\"}}")).await;
    let caller = plant.caller(&control, "empty_grace: 0s").await;
    until("calls land on one", async || landed(&caller).await == "one").await;
    callee.term();
    callee.wait().await.expect("it ends");
    until("it is withdrawn", async || landed(&caller).await.is_empty()).await;
}
