//! Endpoints that sidecars announce.

use std::time::Duration;

use bench::wait::until;
use config::spiffe::SpiffeId;
use outrigger_control::ads::limits::Settings;
use xds::Kind;

use crate::plane::{Client, Plane, SETTINGS, node, services};

const S0: &str = "spiffe://mesh.test/ns/shop/sa/s0";
/// Long enough to come back in, short enough to wait for.
const GRACE: Duration = Duration::from_millis(500);

async fn sidecar(plane: &Plane, identity: Option<&str>, id: &str, endpoints: &[(&str, &str)]) -> Client {
    *plane.identity.lock().unwrap() = identity.map(|id| SpiffeId::parse(id).unwrap());
    let mut client = Client::over(plane.channel().await, node(id, endpoints)).await;
    client.ask(Kind::Routes, &[]).await;
    client
}

#[tokio::test]
async fn an_endpoint_comes_with_its_sidecar_and_goes_when_that_stays_away() {
    let plane = Plane::start(&services(2, 1), Settings { registration_grace: GRACE, ..SETTINGS }).await;
    let mut caller = plane.client("caller").await;
    caller.ask(Kind::Endpoints, &["s0.shop"]).await;
    caller.until_ports("s0.shop", &[1]).await;
    let first = sidecar(&plane, Some(S0), "s0~1", &[("s0", "10.0.0.9:7")]).await;
    caller.until_ports("s0.shop", &[1, 7]).await;
    // It comes back on another stream within the grace time, and the end of the first changes nothing.
    let mut second = sidecar(&plane, Some(S0), "s0~1", &[("s0", "10.0.0.9:7")]).await;
    drop(first);
    until("the first to be gone", async || plane.hub.registry().streams() == 2).await;
    second.announce(node("s0~1", &[("s0", "10.0.0.9:8")])).await;
    caller.until_ports("s0.shop", &[1, 8]).await;
    drop(second);
    caller.until_ports("s0.shop", &[1]).await;
}

#[tokio::test]
async fn an_endpoint_that_is_withdrawn_goes_at_once() {
    let plane = Plane::start(&services(1, 1), SETTINGS).await;
    let mut caller = plane.client("caller").await;
    caller.ask(Kind::Endpoints, &["s0.shop"]).await;
    let mut one = sidecar(&plane, Some(S0), "s0~1", &[("s0", "10.0.0.9:7")]).await;
    caller.until_ports("s0.shop", &[1, 7]).await;
    one.announce(node("s0~1", &[])).await;
    caller.until_ports("s0.shop", &[1]).await;
}

#[tokio::test]
async fn who_withdraws_on_a_new_stream_is_gone_though_the_old_one_is_still_there() {
    let plane = Plane::start(&services(1, 1), SETTINGS).await;
    let mut caller = plane.client("caller").await;
    caller.ask(Kind::Endpoints, &["s0.shop"]).await;
    let _half_open = sidecar(&plane, Some(S0), "s0~1", &[("s0", "10.0.0.9:7")]).await;
    caller.until_ports("s0.shop", &[1, 7]).await;
    let _leaving = sidecar(&plane, Some(S0), "s0~1", &[]).await;
    caller.until_ports("s0.shop", &[1]).await;
    // What another announces makes a new world, with which every stream says again what it announces.
    let _other = sidecar(&plane, Some(S0), "s0~2", &[("s0", "10.0.0.9:8")]).await;
    caller.until_ports("s0.shop", &[1, 8]).await;
    let _one_more = sidecar(&plane, Some(S0), "s0~3", &[("s0", "10.0.0.9:9")]).await;
    caller.until_ports("s0.shop", &[1, 8, 9]).await;
}

#[tokio::test]
async fn nobody_announces_for_a_service_that_it_is_not() {
    let yaml = services(1, 1) + "- {name: t, namespace: shop, endpoints: [\"10.0.0.1:2\"]}\n";
    let plane = Plane::start(&yaml, SETTINGS).await;
    let said = |why: &'static str| {
        let plane = &plane;
        async move {
            let shown = async || plane.hub.registry().page()[0]["notes"].to_string().contains(why);
            until(format!("a note: {why}"), shown).await;
        }
    };
    let other = Some("spiffe://mesh.test/ns/shop/sa/other");
    let stranger = sidecar(&plane, other, "x", &[("s0", "10.0.0.9:7")]).await;
    said("sa/other is none of the service's `identities`").await;
    drop(stranger);
    until("it to be gone", async || plane.hub.registry().streams() == 0).await;
    let plain = sidecar(&plane, None, "x", &[("s0", "10.0.0.9:7")]).await;
    said("proves no identity").await;
    drop(plain);
    until("it to be gone", async || plane.hub.registry().streams() == 0).await;
    let t = Some("spiffe://mesh.test/ns/shop/sa/t");
    let _unwanted = sidecar(&plane, t, "x", &[("t", "10.0.0.9:7"), ("nobody", "10.0.0.9:7")]).await;
    said("does not say `registration: true`").await;
    said("the mesh has no such service").await;
    assert_eq!(plane.hub.counters().registrations_refused.load(std::sync::atomic::Ordering::Relaxed), 4);
}
