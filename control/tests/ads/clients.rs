//! Clients as they should be, and one that does not read.

use bench::wait::{soon, until};
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest,
};
use envoy_types::pb::envoy::service::status::v3::client_status_discovery_service_client::ClientStatusDiscoveryServiceClient;
use envoy_types::pb::envoy::service::status::v3::{ClientStatusRequest, ConfigStatus};
use envoy_types::pb::google::protobuf::value::Kind as Value;
use envoy_types::pb::google::protobuf::{self, Struct};
use outrigger_control::ads::counters::Limit;
use serde_json::Value as Json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use xds::Kind;

use crate::plane::{Client, Plane, SETTINGS, names, node, ports_of, services};

const SERVICES: usize = 60;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_fifty_clients_one_that_never_reads_holds_nobody_up_and_gets_the_newest_state_when_it_does() {
    let plane = Plane::start(&services(SERVICES, 1), SETTINGS).await;
    let narrow = plane.endpoint().initial_stream_window_size(1_024);
    let narrow = soon("a connection", narrow.connect()).await.unwrap();
    let mut lazy = Client::over(narrow, node("lazy", &[])).await;
    lazy.ask(Kind::Cluster, &["*"]).await;
    lazy.ask(Kind::Endpoints, &["s7.shop"]).await;
    let mut others = JoinSet::new();
    for n in 0..49 {
        let mut client = plane.client(&format!("c{n}")).await;
        client.ask(Kind::Cluster, &["*"]).await;
        client.ask(Kind::Endpoints, &["s7.shop", "s8.shop"]).await;
        client.until_ports("s7.shop", &[1]).await;
        others.spawn(async move {
            client.until_ports("s7.shop", &[20]).await;
        });
    }
    for port in 2..=20 {
        let before = plane.hub.counters().responses(Kind::Endpoints).0;
        plane.edit(&services(SERVICES, port));
        until("a push", async || plane.hub.counters().responses(Kind::Endpoints).0 > before).await;
    }
    while let Some(done) = soon("the others", others.join_next()).await {
        done.unwrap();
    }
    let (mut clusters, mut endpoints) = (0, Vec::new());
    while clusters < SERVICES || endpoints.is_empty() {
        let response = lazy.take().await;
        if response.type_url == Kind::Cluster.type_url() {
            clusters += response.resources.len();
        }
        endpoints.extend(ports_of(&response, "s7.shop"));
    }
    assert_eq!(endpoints, [[20]], "not what was in force when it did not read");
}

#[tokio::test]
async fn a_refusal_shows_on_the_page_and_in_csds_until_it_is_over() {
    let plane = Plane::start(&services(2, 1), SETTINGS).await;
    let mut client = plane.client("s0.shop~host~1").await;
    client.ask(Kind::Endpoints, &["s0.shop", "s1.shop"]).await;
    let response = client.hear().await;
    client.answer(&response, Some("s1.shop: endpoints[0]: no")).await;
    let of_type = |page: &Json| page[0]["types"][0].clone();
    until("the refusal", async || of_type(&plane.hub.registry().page())["nack"].is_object()).await;
    let page = plane.hub.registry().page();
    assert_eq!(page[0]["id"], "s0.shop~host~1");
    assert_eq!((&page[0]["kind"], &page[0]["protocol"]), (&"outrigger".into(), &"delta".into()));
    let shown = of_type(&page);
    assert_eq!(shown["nack"]["reason"], "s1.shop: endpoints[0]: no");
    assert_eq!(shown["nack"]["version"], shown["sent_version"]);
    assert_eq!((&shown["acked_version"], &shown["subscribed"]), (&Json::Null, &2.into()));

    let mut status = ClientStatusDiscoveryServiceClient::new(plane.channel().await);
    let answer = status.fetch_client_status(ClientStatusRequest::default()).await.unwrap().into_inner();
    assert_eq!(answer.config.len(), 1);
    let of = |name: &str| {
        let all = &answer.config[0].generic_xds_configs;
        all.iter().find(|config| config.name == name).unwrap().clone()
    };
    assert_eq!(of("s0.shop").config_status(), ConfigStatus::Synced);
    assert_eq!(of("s1.shop").config_status(), ConfigStatus::Error);
    assert_eq!(of("s1.shop").error_state.unwrap().details, "s1.shop: endpoints[0]: no");
    assert!(of("s0.shop").xds_config.is_some(), "of one proxy, with what it holds");

    plane.edit(&services(2, 2));
    assert_eq!(names(&client.take().await), ["s0.shop", "s1.shop"]);
    until("the refusal to be over", async || of_type(&plane.hub.registry().page())["nack"].is_null()).await;
    assert_eq!(plane.hub.counters().answers(Kind::Endpoints), (1, 1));
    drop(client);
    until("the proxy to be gone", async || plane.hub.registry().page() == Json::Array(Vec::new())).await;
}

#[tokio::test]
async fn csds_is_answered_no_faster_than_its_pace() {
    let plane = Plane::start(&services(1, 1), SETTINGS).await;
    let status = ClientStatusDiscoveryServiceClient::new(plane.channel().await);
    let begun = std::time::Instant::now();
    // Of one connection, on whatever streams.
    let mut asking = JoinSet::new();
    for _ in 0..13 {
        let mut status = status.clone();
        asking.spawn(async move { status.fetch_client_status(ClientStatusRequest::default()).await.is_ok() });
    }
    assert_eq!(soon("all answers", asking.join_all()).await, [true; 13]);
    // Ten at once, the others half a second after each other.
    assert!(begun.elapsed().as_millis() >= 1_000, "{:?}", begun.elapsed());
    // Where this machine stood still, the thirteen had their time; who goes on asking meets it all the same.
    let mut status = status;
    until("a pause", async || {
        let is_paused = plane.hub.counters().refused(Limit::RequestRate) >= 1;
        if !is_paused {
            status.fetch_client_status(ClientStatusRequest::default()).await.unwrap();
        }
        is_paused
    })
    .await;
}

#[tokio::test]
async fn who_comes_back_is_told_only_what_has_changed_meanwhile() {
    let plane = Plane::start(&services(3, 1), SETTINGS).await;
    let mut client = plane.client("a").await;
    client.ask(Kind::Cluster, &["*"]).await;
    let first = client.take().await;
    assert_eq!(names(&first), ["s0.shop", "s1.shop", "s2.shop"]);
    drop(client);
    let mut again = plane.client("a").await;
    again
        .send(DeltaDiscoveryRequest {
            type_url: Kind::Cluster.type_url().to_owned(),
            initial_resource_versions: first
                .resources
                .iter()
                .map(|resource| (resource.name.clone(), resource.version.clone()))
                .collect(),
            ..DeltaDiscoveryRequest::default()
        })
        .await;
    let empty = again.take().await;
    assert!(empty.resources.is_empty() && empty.removed_resources.is_empty());
    plane.edit(&services(2, 1));
    assert_eq!(again.take().await.removed_resources, ["s2.shop"]);
}

#[tokio::test]
async fn a_grpc_client_asks_by_any_host_of_a_service_and_hears_who_does_not_exist() {
    let plane = Plane::start(&services(2, 1), SETTINGS).await;
    let (requests, stream) = mpsc::channel(16);
    let mut ads = AggregatedDiscoveryServiceClient::new(plane.channel().await);
    let answer = ads.stream_aggregated_resources(ReceiverStream::new(stream));
    let mut responses = soon("a stream", answer).await.unwrap().into_inner();
    let ask = |kind: Kind, names: &[&str], nonce: &str| DiscoveryRequest {
        type_url: kind.type_url().to_owned(),
        resource_names: names.iter().map(ToString::to_string).collect(),
        response_nonce: nonce.to_owned(),
        ..DiscoveryRequest::default()
    };
    requests.send(ask(Kind::Listener, &["s0.shop.svc:50051", "nobody.shop"], "")).await.unwrap();
    let listeners = soon("listeners", responses.message()).await.unwrap().unwrap();
    assert_eq!(listeners.resources.len(), 1);
    requests
        .send(ask(Kind::Listener, &["s0.shop.svc:50051", "nobody.shop"], &listeners.nonce))
        .await
        .unwrap();
    requests.send(ask(Kind::Routes, &["s0.shop"], "")).await.unwrap();
    let routes = soon("routes", responses.message()).await.unwrap().unwrap();
    assert_eq!((routes.type_url.as_str(), routes.resources.len()), (Kind::Routes.type_url(), 1));
    let page = plane.hub.registry().page();
    assert_eq!((&page[0]["kind"], &page[0]["protocol"]), (&"grpc".into(), &"sotw".into()));
}

#[tokio::test]
async fn a_proxyless_server_is_told_when_nothing_but_who_may_call_it_changes() {
    let guarded = |caller: &str| {
        format!(
            "{}  inbound: {{authorization: [{{allow: {{from: [spiffe://mesh.test/ns/shop/sa/{caller}]}}}}]}}\n",
            "version: 1\ntrust_domain: mesh.test\nservices:\n- name: s0\n  namespace: shop\n"
        )
    };
    let plane = Plane::start(&guarded("one"), SETTINGS).await;
    let text = |text: &str| protobuf::Value { kind: Some(Value::StringValue(text.to_owned())) };
    let ours = [("service", "s0"), ("namespace", "shop"), ("certificate_provider", "mesh")];
    let fields = ours.map(|(key, value)| (key.to_owned(), text(value))).into();
    let ours = protobuf::Value { kind: Some(Value::StructValue(Struct { fields })) };
    let server = Node {
        user_agent_name: "gRPC C-core".to_owned(),
        metadata: Some(Struct { fields: [("outrigger".to_owned(), ours)].into() }),
        ..Node::default()
    };
    let mut server = Client::over(plane.channel().await, server).await;
    let name = "grpc/server?xds.resource.listening_address=0.0.0.0:50051";
    server.ask(Kind::Listener, &[name]).await;
    let one = server.take().await;
    assert_eq!(names(&one), [name]);
    plane.edit(&guarded("two"));
    let two = server.take().await;
    assert_eq!(names(&two), [name]);
    let told = |response: &DeltaDiscoveryResponse, caller: &str| {
        let bytes = &response.resources[0].resource.as_ref().unwrap().value;
        String::from_utf8_lossy(bytes).contains(&format!("/sa/{caller}"))
    };
    assert!(told(&one, "one") && told(&two, "two") && !told(&two, "one"));
}

#[tokio::test]
async fn what_a_proxy_is_to_hold_can_be_asked_for_by_its_id() {
    let plane = Plane::start(&services(3, 1), SETTINGS).await;
    let mut client = plane.client("me").await;
    client.ask(Kind::Cluster, &["*"]).await;
    client.take().await;
    client.ask(Kind::Endpoints, &["s1.shop"]).await;
    client.take().await;
    let all = plane.hub.registry().resources("me").unwrap();
    let of = |kind| all.iter().filter(|resource| resource.kind == kind).count();
    assert_eq!((of(Kind::Cluster), of(Kind::Endpoints), of(Kind::Listener)), (3, 1, 0));
    assert!(plane.hub.registry().resources("you").is_none());
}

#[tokio::test]
async fn a_control_plane_that_goes_sends_its_clients_elsewhere() {
    let plane = Plane::start(&services(1, 1), SETTINGS).await;
    let mut client = plane.client("a").await;
    client.ask(Kind::Cluster, &["*"]).await;
    client.take().await;
    plane.hub.leave();
    assert_eq!(client.end().await.code(), Code::Unavailable);
}
