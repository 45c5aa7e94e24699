//! Endpoints that sidecars announce.

use std::time::Duration;

use bench::wait::{soon, until};
use config::spiffe::SpiffeId;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DiscoveryRequest, DiscoveryResponse,
};
use outrigger_control::ads::limits::Settings;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use xds::Kind;

use crate::plane::{Client, Plane, SETTINGS, names, node, ports_of, services};

const S0: &str = "spiffe://mesh.test/ns/shop/sa/s0";
/// Long enough to come back in, short enough to wait for.
const GRACE: Duration = Duration::from_millis(500);
/// Longer than all that goes before its end takes, on a slow machine too.
const LONG_GRACE: Duration = Duration::from_secs(6);

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

/// A service of which everything comes from sidecars, and one beside it.
fn announced_only() -> String {
    services(1, 1).replace("endpoints: [\"10.0.0.1:1\"]", "endpoints: []")
}

impl Client {
    /// Asks for the endpoints of `s0` as one that has them in this version.
    async fn come_back(&mut self, version: &str) {
        self.send(DeltaDiscoveryRequest {
            type_url: Kind::Endpoints.type_url().to_owned(),
            resource_names_subscribe: vec!["s0.shop".to_owned()],
            initial_resource_versions: [("s0.shop".to_owned(), version.to_owned())].into(),
            ..DeltaDiscoveryRequest::default()
        })
        .await;
    }
}

#[tokio::test]
async fn after_a_restart_nobody_loses_endpoints_that_have_not_come_back_yet_and_new_clients_need_not_wait() {
    let first = Plane::start(&services(1, 1), SETTINGS).await;
    let mut caller = first.client("caller").await;
    caller.ask(Kind::Endpoints, &["s0.shop"]).await;
    let _one = sidecar(&first, Some(S0), "s0~1", &[("s0", "10.0.0.9:7")]).await;
    let _two = sidecar(&first, Some(S0), "s0~2", &[("s0", "10.0.0.9:8")]).await;
    let version = loop {
        let told = caller.take().await;
        if ports_of(&told, "s0.shop").is_some_and(|ports| ports == [1, 7, 8]) {
            break told.resources[0].version.clone();
        }
    };
    drop(first);

    let began = Instant::now();
    let second = Plane::start(&services(1, 1), Settings { registration_grace: LONG_GRACE, ..SETTINGS }).await;
    let mut caller = second.client("caller").await;
    caller.come_back(&version).await;
    caller.take().await;
    let _one = sidecar(&second, Some(S0), "s0~1", &[("s0", "10.0.0.9:7")]).await;
    let mut new = second.client("new").await;
    new.ask(Kind::Endpoints, &["s0.shop"]).await;
    new.until_ports("s0.shop", &[1, 7]).await;
    assert!(began.elapsed() < LONG_GRACE, "this machine is too slow for this test: {:?}", began.elapsed());
    let notes = second.hub.registry().page()[0]["notes"].to_string();
    assert!(notes.contains("again: 1, such as those of s0.shop"), "{notes}");
    let told = caller.take().await;
    assert!(
        began.elapsed() >= LONG_GRACE,
        "told {:?} after {:?}",
        ports_of(&told, "s0.shop"),
        began.elapsed()
    );
    assert_eq!(ports_of(&told, "s0.shop"), Some(vec![1, 7]), "the other one has not come back");
    // From then on it is as ever.
    let _two = sidecar(&second, Some(S0), "s0~2", &[("s0", "10.0.0.9:8")]).await;
    caller.until_ports("s0.shop", &[1, 7, 8]).await;
}

#[tokio::test]
async fn who_comes_back_when_all_sidecars_have_is_told_nothing() {
    let mut versions = Vec::new();
    // Two replicas, or one and its next life: the sidecar announces to each.
    for _ in 0..2 {
        let plane = Plane::start(&services(1, 1), SETTINGS).await;
        let _one = sidecar(&plane, Some(S0), "s0~1", &[("s0", "10.0.0.9:7")]).await;
        let mut caller = plane.client("caller").await;
        caller.ask(Kind::Endpoints, &["s0.shop"]).await;
        let told = loop {
            let told = caller.take().await;
            if ports_of(&told, "s0.shop").is_some_and(|ports| ports == [1, 7]) {
                break told;
            }
        };
        versions.push(told.resources[0].version.clone());
    }
    assert_eq!(versions[0], versions[1], "what a client has of one replica it need not be sent by the other");
}

#[tokio::test]
async fn programs_are_told_an_empty_list_only_when_sidecars_have_had_their_time() {
    let began = Instant::now();
    let plane =
        Plane::start(&announced_only(), Settings { registration_grace: LONG_GRACE, ..SETTINGS }).await;
    let mut early = plane.program("early").await;
    early.ask(Kind::Endpoints, &["s0.shop"]).await;
    assert_eq!(names(&early.take().await), [""; 0]);
    let told = early.take().await;
    assert!(began.elapsed() >= LONG_GRACE, "{told:?} after {:?}", began.elapsed());
    assert_eq!(ports_of(&told, "s0.shop"), Some(vec![]));
}

#[tokio::test]
async fn a_sidecar_that_has_nothing_is_told_an_empty_list_at_once_since_it_may_be_the_one_that_is_waited_for()
{
    let began = Instant::now();
    let plane = Plane::start(&announced_only(), SETTINGS).await;
    let mut own = plane.client("own").await;
    own.ask(Kind::Endpoints, &["s0.shop"]).await;
    own.until_ports("s0.shop", &[]).await;
    assert!(began.elapsed() < SETTINGS.registration_grace, "after {:?}", began.elapsed());
}

#[tokio::test]
async fn the_first_endpoint_that_is_announced_ends_the_wait_of_those_who_have_none() {
    let plane = Plane::start(&announced_only(), SETTINGS).await;
    let mut early = plane.program("early").await;
    early.ask(Kind::Endpoints, &["s0.shop"]).await;
    assert_eq!(names(&early.take().await), [""; 0]);
    let _one = sidecar(&plane, Some(S0), "s0~1", &[("s0", "10.0.0.9:7")]).await;
    early.until_ports("s0.shop", &[7]).await;
    let _two = sidecar(&plane, Some(S0), "s0~2", &[("s0", "10.0.0.9:8")]).await;
    early.until_ports("s0.shop", &[7, 8]).await;
}

#[tokio::test]
async fn a_grpc_client_that_says_it_has_a_version_keeps_what_it_has_after_a_restart() {
    let began = Instant::now();
    let plane = Plane::start(&services(1, 1), Settings { registration_grace: LONG_GRACE, ..SETTINGS }).await;
    let ask = async |version: &str| -> (mpsc::Sender<DiscoveryRequest>, Streaming<DiscoveryResponse>) {
        let (requests, stream) = mpsc::channel(16);
        let mut ads = AggregatedDiscoveryServiceClient::new(plane.channel().await);
        let answer = ads.stream_aggregated_resources(ReceiverStream::new(stream));
        let responses = soon("a stream", answer).await.unwrap().into_inner();
        let request = DiscoveryRequest {
            type_url: Kind::Endpoints.type_url().to_owned(),
            resource_names: vec!["s0.shop".to_owned()],
            version_info: version.to_owned(),
            ..DiscoveryRequest::default()
        };
        requests.send(request).await.unwrap();
        (requests, responses)
    };
    let (_back, mut comes_back) = ask("12").await;
    let (_new, mut new) = ask("").await;
    assert_eq!(soon("endpoints", new.message()).await.unwrap().unwrap().resources.len(), 1);
    assert!(began.elapsed() < LONG_GRACE, "this machine is too slow for this test: {:?}", began.elapsed());
    assert_eq!(soon("endpoints", comes_back.message()).await.unwrap().unwrap().resources.len(), 1);
    assert!(began.elapsed() >= LONG_GRACE, "{:?}", began.elapsed());
}

#[tokio::test]
async fn an_address_that_only_its_own_host_can_dial_is_for_that_host() {
    let plane = Plane::start(&services(1, 1), SETTINGS).await;
    *plane.from.lock().unwrap() = Some("192.0.2.7:1".parse().unwrap());
    let _elsewhere =
        sidecar(&plane, Some(S0), "s0~1", &[("s0", "127.0.0.1:7"), ("s0", "[::ffff:127.0.0.1]:8")]).await;
    let shown = async || plane.hub.registry().page()[0]["notes"].to_string();
    until("both notes", async || shown().await.matches("an address of loopback").count() == 2).await;
    *plane.from.lock().unwrap() = None;
    let mut caller = plane.client("caller").await;
    caller.ask(Kind::Endpoints, &["s0.shop"]).await;
    let _here = sidecar(&plane, Some(S0), "s0~2", &[("s0", "127.0.0.1:9")]).await;
    caller.until_ports("s0.shop", &[1, 9]).await;
}
