//! What a control plane takes away.

use bench::wait::until;

use crate::kit::{ECHO, Site, UNAVAILABLE, app, caller, mesh};
use crate::plane::{plane, resources};

/// Long enough for what is looked at meanwhile, on a machine that stands still for a while; and the end of it is waited for.
const GRACE: &str = "10s";

#[tokio::test]
async fn endpoints_that_go_all_at_once_stay_for_the_grace_time_and_are_told_and_counted() {
    let app = app("one").await;
    let ads = plane(&mesh(&[app.addr])).await;
    let site = Site::ready(&caller(ads.addr, &format!("empty_grace: {GRACE}"))).await;
    ads.set(resources(&mesh(&[])));
    until("they are held back", async || site.metric("outrigger_held_back_clusters", &[]).await == 1.0).await;
    assert!(site.call(ECHO).await.is_ok());
    assert_eq!(site.metric("outrigger_held_back_total", &[]).await, 1.0);
    assert_eq!(site.control().await["held_back"][0]["name"], ECHO);
    site.says("echo.shop has no endpoint any more").await;
    until("they are let go", async || site.call(ECHO).await.grpc_status == UNAVAILABLE).await;
    assert_eq!(site.metric("outrigger_held_back_clusters", &[]).await, 0.0);
    site.says(&format!("echo.shop has had no endpoint for {GRACE}")).await;
    ads.set(resources(&mesh(&[app.addr])));
    until("there are some again", async || site.call(ECHO).await.is_ok()).await;
}

#[tokio::test]
async fn endpoints_that_return_in_time_take_the_place_of_those_held_back() {
    let (one, two) = (app("one").await, app("two").await);
    let ads = plane(&mesh(&[one.addr])).await;
    let site = Site::ready(&caller(ads.addr, "empty_grace: 1h")).await;
    ads.set(resources(&mesh(&[])));
    until("they are held back", async || site.metric("outrigger_held_back_clusters", &[]).await == 1.0).await;
    ads.set(resources(&mesh(&[two.addr])));
    until("calls land on two", async || site.call(ECHO).await.headers["x-server"] == "two").await;
    assert_eq!(site.metric("outrigger_held_back_clusters", &[]).await, 0.0);
}

#[tokio::test]
async fn a_control_plane_that_knows_no_service_any_more_is_believed_after_the_grace_time_only() {
    let app = app("one").await;
    let believed = async |protocol: &str| {
        let ads = plane(&mesh(&[app.addr])).await;
        let more = format!("cache: cache, empty_grace: {GRACE}, protocol: {protocol}");
        let site = Site::ready(&caller(ads.addr, &more)).await;
        assert!(site.call(ECHO).await.is_ok());
        ads.set([]);
        site.says("has no service at all").await;
        assert!(site.call(ECHO).await.is_ok(), "{protocol}");
        assert_eq!(site.control().await["held_back"][0]["name"], "*");
        until("it is believed", async || !site.call(ECHO).await.is_ok()).await;
        ads.set(resources(&mesh(&[app.addr])));
        until("they are back", async || site.call(ECHO).await.is_ok()).await;
    };
    tokio::join!(believed("delta"), believed("sotw"));
}

#[tokio::test]
async fn a_first_mesh_without_any_service_is_no_mesh_for_who_serves_one() {
    let app = app("one").await;
    let ads = plane("version: 1\nservices: []\n").await;
    let yaml = crate::kit::callee(app.addr, ads.addr, "empty_grace: 1h");
    let site = Site::start(&yaml, tempfile::tempdir().expect("a folder")).await;
    site.says("has no service at all").await;
    assert!(site.readiness().await.1.contains("no config yet"));
    ads.set(resources(&mesh(&[app.addr])));
    site.is_ready().await;
}

#[tokio::test]
async fn a_service_that_is_taken_away_goes_at_once() {
    let app = app("one").await;
    let ads = plane(&mesh(&[app.addr])).await;
    let site = Site::ready(&caller(ads.addr, "empty_grace: 1h")).await;
    assert!(site.call(ECHO).await.is_ok());
    ads.set(resources("version: 1\nservices: [{name: caller, namespace: shop}]\n"));
    until("it is gone", async || site.call(ECHO).await.message.contains("no service of the mesh answers"))
        .await;
    assert_eq!(site.metric("outrigger_held_back_total", &[]).await, 0.0);
}

#[tokio::test]
async fn no_call_fails_while_a_control_plane_dies_and_comes_back() {
    let app = app("one").await;
    let ads = plane(&mesh(&[app.addr])).await;
    let site = Site::ready(&caller(ads.addr, "")).await;
    let client = site.client().await;
    for round in 0..200 {
        if round % 50 == 10 {
            ads.hang_up();
        }
        let outcome = client.unary(ECHO, crate::kit::UNARY, b"ping").await.expect("a call");
        assert!(outcome.is_ok(), "{round}: {outcome:?}");
    }
    until("it is connected again", async || {
        ads.connections() > 1 && site.control().await["connection"]["state"] == "connected"
    })
    .await;
    assert!(site.call(ECHO).await.is_ok());
}
