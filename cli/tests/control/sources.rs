//! What is wrong where the control plane has its mesh from.

use bench::wait::until;

use crate::mesh::{Plant, address};
use crate::trio::Trio;

#[tokio::test]
async fn nobody_notices_that_the_mesh_files_are_gone_or_bad_or_say_that_there_is_no_endpoint() {
    let plant = Plant::new().await;
    let control = plant.control("mesh: mesh").await;
    let mut trio = Trio::start(&plant, &address(&control)).await;
    plant.write(&trio.mesh(&["one"]));
    trio.under_calls("one").await;
    let metric = async |name: &str| control.metrics().await.expect("a scrape").value(name, &[]);
    let mesh = async || control.get("/mesh").await.expect("a page").body;

    plant.empty();
    until("the folder is lost", async || metric("outrigger_control_mesh_lost").await == 1.0).await;
    until("it says so", async || control.stderr().contains("what was in force stays so")).await;
    trio.stay_on("one").await;
    plant.write(&trio.mesh(&["two"]));
    trio.move_to("two").await;

    let before = metric("outrigger_control_mesh_rejected_total").await;
    plant.write("version: 1\nservices: [{name: echo, namespace: shop, endpoints: [nonsense]}]\n");
    until("the file is turned down", async || metric("outrigger_control_mesh_rejected_total").await > before)
        .await;
    let page = mesh().await;
    assert!(page.contains("as_before") && page.contains("nonsense"), "{page}");
    trio.stay_on("two").await;

    plant.write(&trio.mesh(&[]));
    until("they are held back", async || trio.value("outrigger_held_back_clusters", &[]).await == 1.0).await;
    trio.stay_on("two").await;
    assert_eq!(trio.control().await["held_back"][0]["name"], "echo.shop");
    assert_eq!(trio.value("outrigger_held_back_total", &[]).await, 1.0);
    plant.write(&trio.mesh(&["one"]));
    trio.move_to("one").await;
    assert_eq!(trio.value("outrigger_held_back_clusters", &[]).await, 0.0);
    trio.nobody_noticed("files gone, bad, empty", 0).await;
}
