//! What Envoy and gRPC need of listeners and routes; each fact was seen with Envoy 1.40 or grpcio 1.85.

use config::model::Mesh;
use config::parse_mesh;
use envoy_types::pb::envoy::config::listener::v3::{Listener, filter};
use envoy_types::pb::envoy::config::rbac::v3 as rbac;
use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::{Route, RouteAction, RouteConfiguration, VirtualHost};
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::HttpFault;
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::Rbac;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::DownstreamTlsContext;
use envoy_types::pb::google::protobuf::{Any, Duration};
use outrigger_xds::audience::{Audience, Certificates, Client};
use outrigger_xds::{Kind, Resource, encode};
use prost::{Message, Name};

const MESH: &str = r#"
version: 1
services:
  - name: orders
    namespace: shop
    hosts: [orders.internal, special.internal]
    ports: [50051, 50052]
    endpoints: [{address: "10.0.0.7:15006", labels: {v: "2"}}]
    deadline: {default: 1s, max: 2s}
    retries: {max_attempts: 3, retryable_status_codes: [UNAVAILABLE, ABORTED], replay_limit: 4KiB}
    methods:
      shop.Orders/Charge: {idempotent: false}
      shop.Orders/Watch: {deadline: {}, stream: {idle: 1m}}
    routes:
      - match: {host: special.internal}
        backends: [{service: orders, labels: {v: "2"}}]
      - match: {headers: [{name: x-canary, exact: "1", invert: true}]}
        hedging: {hedging_delay: 0s}
        backends: [{service: orders, weight: 3}, {service: other, weight: 0}]
      - match: {method: {regex: "(?P<n>a)"}}
      - match: {service: shop.Orders}
        retries: {max_attempts: 1}
        faults: {seed: 7, abort: {code: ABORTED, percentage: "50%"}}
    inbound:
      authorization:
        - allow: {from: [spiffe://cluster.local/ns/shop/sa/a, "*"], methods: [shop.Orders/Charge, shop.Orders/*]}
        - allow: {}
  - {name: other, namespace: shop, unmatched: refuse}
"#;

fn mesh() -> Mesh {
    parse_mesh(config::Source { name: "mesh.yaml", text: MESH }).unwrap()
}

fn grpc() -> Audience {
    Audience { client: Client::Grpc, certificates: Some(Certificates::Provider("mesh".into())) }
}

fn envoy() -> Audience {
    Audience { client: Client::Envoy { outbound: "127.0.0.1:15001".parse().unwrap() }, certificates: None }
}

fn find<M: Message + Default>(resources: &[Resource], kind: Kind, name: &str) -> M {
    let found = resources.iter().find(|resource| resource.kind == kind && resource.name == name);
    M::decode(&found.expect("a resource").bytes[..]).unwrap()
}

fn unpack<M: Message + Default + Name>(any: &Any) -> M {
    assert_eq!(any.type_url, M::type_url());
    M::decode(&any.value[..]).unwrap()
}

fn hosts(audience: &Audience) -> Vec<VirtualHost> {
    let resources = encode::mesh(&mesh(), audience);
    let name = if audience.client == Client::Grpc { "orders.shop" } else { "outbound" };
    find::<RouteConfiguration>(&resources, Kind::Routes, name).virtual_hosts
}

fn action(route: &Route) -> &RouteAction {
    match &route.action {
        Some(Action::Route(action)) => action,
        other => panic!("{other:?}"),
    }
}

fn named<'a>(host: &'a VirtualHost, name: &str) -> Vec<&'a Route> {
    host.routes.iter().filter(|route| route.name == name).collect()
}

fn manager_of(listener: &Listener) -> hcm::HttpConnectionManager {
    match &listener.filter_chains[0].filters[0].config_type {
        Some(filter::ConfigType::TypedConfig(any)) => unpack(any),
        other => panic!("{other:?}"),
    }
}

fn config(filter: &hcm::HttpFilter) -> &Any {
    match &filter.config_type {
        Some(hcm::http_filter::ConfigType::TypedConfig(any)) => any,
        other => panic!("{other:?}"),
    }
}

#[test]
fn nothing_cuts_a_stream_that_the_mesh_does_not_cut() {
    let zero = Some(Duration { seconds: 0, nanos: 0 });
    for audience in [grpc(), envoy()] {
        let hosts = hosts(&audience);
        for route in hosts.iter().flat_map(|host| &host.routes) {
            let limits = action(route).max_stream_duration.expect("both limits");
            assert_eq!(action(route).timeout, zero, "Envoy's own is 15 s");
            assert!(limits.grpc_timeout_header_max.is_some(), "else the callers' own deadlines do not count");
        }
        let watch = named(&hosts[0], "unmatched for shop.Orders/Watch");
        let limits = action(watch[0]).max_stream_duration.unwrap();
        assert_eq!((limits.max_stream_duration, limits.grpc_timeout_header_max), (zero, zero));
        assert_eq!(action(watch[0]).idle_timeout, Some(Duration { seconds: 60, nanos: 0 }));
    }
    let listener: Listener = find(&encode::mesh(&mesh(), &envoy()), Kind::Listener, "outbound");
    assert_eq!(manager_of(&listener).stream_idle_timeout, zero, "Envoy's own is 5 min");
}

#[test]
fn the_router_is_the_last_filter_and_faults_have_theirs() {
    let resources = encode::mesh(&mesh(), &grpc());
    let listener: Listener = find(&resources, Kind::Listener, "orders.shop");
    let manager: hcm::HttpConnectionManager = unpack(&listener.api_listener.unwrap().api_listener.unwrap());
    let [fault, router] = &manager.http_filters[..] else { panic!("{:?}", manager.http_filters) };
    unpack::<HttpFault>(config(fault));
    unpack::<Router>(config(router));
    assert_eq!(fault.name, "envoy.filters.http.fault");
    assert!(!fault.is_optional && !router.is_optional);
    let grpc = hosts(&self::grpc());
    let routes = named(&grpc[0], "routes[3]");
    let fault: HttpFault = unpack(&routes[0].typed_per_filter_config["envoy.filters.http.fault"]);
    assert_eq!(fault.abort.unwrap().percentage.unwrap().numerator, 500_000, "parts per million");
}

#[test]
fn a_host_of_its_own_has_a_virtual_host_of_its_own() {
    let hosts = hosts(&envoy());
    let names: Vec<&str> = hosts.iter().map(|host| host.name.as_str()).collect();
    assert_eq!(names, ["orders.shop", "orders.shop/special.internal", "other.shop"], "each once");
    assert!(named(&hosts[0], "routes[0]").is_empty());
    assert_eq!(named(&hosts[1], "routes[0]").len(), 1);
    assert_eq!(hosts[1].domains, ["special.internal", "special.internal:50051", "special.internal:50052"]);
    assert!(hosts[0].domains.contains(&"orders:50051".to_owned()));
    assert!(!hosts[0].domains.iter().any(|domain| domain.starts_with("special")));
    assert!(hosts[2].domains.contains(&"other:*".to_owned()), "any port");
    let mut domains: Vec<&String> = hosts.iter().flat_map(|host| &host.domains).collect();
    let all = domains.len();
    domains.sort_unstable();
    domains.dedup();
    assert_eq!(domains.len(), all, "Envoy refuses a domain that stands there twice");
    assert!(hosts[2].routes.is_empty(), "what no route takes ends");
}

#[test]
fn what_holds_for_a_method_is_spelled_out_before_its_route() {
    let hosts = hosts(&grpc());
    let at = |name: &str| hosts[0].routes.iter().position(|route| route.name == name).expect(name);
    assert_eq!(at("unmatched for shop.Orders/Charge") + 2, at("unmatched"), "Watch stands between them");
    let charge = &hosts[0].routes[at("unmatched for shop.Orders/Charge")];
    assert!(action(charge).retry_policy.is_none(), "it must not be processed twice");
    let path = charge.r#match.as_ref().and_then(|matches| matches.path_specifier.clone());
    assert_eq!(path, Some(PathSpecifier::Path("/shop.Orders/Charge".into())));
    assert!(action(&hosts[0].routes[at("unmatched")]).retry_policy.is_some());
}

#[test]
fn a_call_without_the_header_matches_what_is_turned_around() {
    // gRPC needs a route for calls without it; Envoy can be told in one.
    let grpc = hosts(&grpc());
    let routes = named(&grpc[0], "routes[1]");
    let matchers: Vec<_> = routes.iter().map(|route| &route.r#match.as_ref().unwrap().headers[0]).collect();
    assert_eq!(matchers.len(), 2);
    assert!(matches!(matchers[0].header_match_specifier, Some(HeaderMatchSpecifier::StringMatch(_))));
    assert_eq!(matchers[1].header_match_specifier, Some(HeaderMatchSpecifier::PresentMatch(true)));
    assert!(matchers.iter().all(|matcher| matcher.invert_match && !matcher.treat_missing_header_as_empty));
    let envoy = hosts(&envoy());
    let routes = named(&envoy[0], "routes[1]");
    assert_eq!(routes.len(), 1);
    assert!(routes[0].r#match.as_ref().unwrap().headers[0].treat_missing_header_as_empty);
}

#[test]
fn retries_are_those_that_each_of_them_takes() {
    let (grpc, envoy) = (hosts(&grpc()), hosts(&envoy()));
    // gRPC refuses a policy without a retry, and goes to another endpoint by itself where nothing was processed.
    assert!(action(named(&grpc[0], "routes[3]")[0]).retry_policy.is_none());
    let unprocessed = action(named(&envoy[0], "routes[3]")[0]).retry_policy.clone().expect("a policy");
    assert_eq!(unprocessed.retry_on, "connect-failure,refused-stream,reset-before-request");
    let policy = action(named(&envoy[0], "unmatched")[0]).retry_policy.clone().unwrap();
    assert_eq!(
        policy.retry_on,
        "unavailable,retriable-headers,connect-failure,refused-stream,reset-before-request"
    );
    assert_eq!(policy.num_retries.unwrap().value, 2);
    assert_eq!(policy.retriable_headers[0].name, "grpc-status");
    assert_eq!(named(&envoy[0], "unmatched")[0].request_body_buffer_limit.unwrap().value, 4_096);
    let hedged = action(named(&envoy[0], "routes[1]")[0]);
    assert!(hedged.hedge_policy.as_ref().unwrap().hedge_on_per_try_timeout);
    assert_eq!(hedged.retry_policy.as_ref().unwrap().per_try_timeout.unwrap().nanos, 1_000_000);
}

#[test]
fn what_cannot_be_told_is_left_out_and_noted() {
    let mesh = mesh();
    for audience in [grpc(), envoy()] {
        assert!(named(&hosts(&audience)[0], "routes[2]").is_empty(), "RE2 would refuse all routes with it");
        let notes = encode::notes(&mesh, 0, &audience).join("\n");
        assert!(notes.contains("left out (routes[2])"), "{notes}");
        assert!(notes.contains("`seed`"), "{notes}");
    }
    let notes = encode::notes(&mesh, 1, &grpc()).join("\n");
    assert!(notes.contains("UNAVAILABLE, not UNIMPLEMENTED"), "{notes}");
    let ours = Audience { client: Client::Outrigger, certificates: None };
    assert!(encode::notes(&mesh, 0, &ours).is_empty());
}

#[test]
fn envoy_gets_one_listener_and_grpc_one_for_each_service() {
    let listeners = |audience: &Audience| -> Vec<String> {
        let resources = encode::mesh(&mesh(), audience);
        let listeners = resources.iter().filter(|resource| resource.kind == Kind::Listener);
        listeners.map(|resource| resource.name.clone()).collect()
    };
    assert_eq!(listeners(&envoy()), ["outbound"]);
    assert_eq!(listeners(&grpc()), ["orders.shop", "other.shop"]);
    let ours = Audience { client: Client::Outrigger, certificates: None };
    assert_eq!(listeners(&ours), ["orders.shop", "inbound/orders.shop", "other.shop", "inbound/other.shop"]);
}

#[test]
fn an_alias_is_the_same_listener_under_another_name() {
    let resources = encode::mesh(&mesh(), &grpc());
    let listener = resources.iter().find(|resource| resource.kind == Kind::Listener).unwrap();
    let alias = encode::alias(listener, "orders:50051");
    let mut expected = Listener::decode(&listener.bytes[..]).unwrap();
    expected.name = "orders:50051".into();
    assert_eq!(Listener::decode(&alias.bytes[..]).unwrap(), expected);
    assert_eq!((&*alias.name, alias.bytes.len()), ("orders:50051", expected.encoded_len()));
    assert_ne!(alias.version, listener.version);
}

#[test]
fn a_proxyless_server_asks_for_certificates_and_says_who_may_call() {
    let name = "grpc/server?xds.resource.listening_address=10.0.0.7:50051";
    let address = "10.0.0.7:50051".parse().unwrap();
    let resource = encode::grpc_server(&mesh(), 0, name, address, &grpc());
    let listener = Listener::decode(&resource.bytes[..]).unwrap();
    assert_eq!((&*resource.name, &*listener.name), (name, name));
    use envoy_types::pb::envoy::config::core::v3::{address::Address, socket_address, transport_socket};
    let Some(Address::SocketAddress(socket)) = listener.address.as_ref().unwrap().address.as_ref() else {
        panic!("{:?}", listener.address)
    };
    assert_eq!(socket.address, "10.0.0.7");
    assert_eq!(socket.port_specifier, Some(socket_address::PortSpecifier::PortValue(50_051)));

    let socket = listener.filter_chains[0].transport_socket.as_ref().unwrap();
    let Some(transport_socket::ConfigType::TypedConfig(tls)) = &socket.config_type else {
        panic!("{socket:?}")
    };
    let tls: DownstreamTlsContext = unpack(tls);
    assert!(tls.require_client_certificate.unwrap().value);
    let common = tls.common_tls_context.unwrap();
    assert_eq!(common.tls_certificate_provider_instance.unwrap().instance_name, "mesh");
    assert!(common.tls_params.is_none(), "gRPC refuses them");

    let manager = manager_of(&listener);
    let [first, last] = &manager.http_filters[..] else { panic!("{:?}", manager.http_filters) };
    unpack::<Router>(config(last));
    let rules = unpack::<Rbac>(config(first)).rules.unwrap();
    assert_eq!(rules.action, i32::from(rbac::rbac::Action::Allow));
    let mut names: Vec<_> = rules.policies.keys().collect();
    names.sort_unstable();
    assert_eq!(names, ["rule-000000", "rule-000001"]);
    let everybody = &rules.policies["rule-000001"];
    assert_eq!(everybody.permissions[0].rule, Some(rbac::permission::Rule::Any(true)));
    assert_eq!(everybody.principals[0].identifier, Some(rbac::principal::Identifier::Any(true)));

    let plain = Audience { client: Client::Grpc, certificates: None };
    let listener =
        Listener::decode(&encode::grpc_server(&mesh(), 1, name, address, &plain).bytes[..]).unwrap();
    assert!(listener.filter_chains[0].transport_socket.is_none());
    assert_eq!(manager_of(&listener).http_filters.len(), 1, "no rules, no filter");
}
