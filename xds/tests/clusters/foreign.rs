//! What is made of the clusters of other control planes.

use std::time::Duration;

use config::health::Check;
use config::model::{BalancingPolicy, EndpointTls, Service};
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, DiscoveryType, EdsClusterConfig,
};
use envoy_types::pb::envoy::config::cluster::v3::load_balancing_policy::Policy;
use envoy_types::pb::envoy::config::cluster::v3::{Cluster, LoadBalancingPolicy, OutlierDetection};
use envoy_types::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use envoy_types::pb::envoy::config::core::v3::health_check::{GrpcHealthCheck, HealthChecker};
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::transport_socket::ConfigType;
use envoy_types::pb::envoy::config::core::v3::{
    Address, ConfigSource, HealthCheck, HealthStatus, SocketAddress, TransportSocket, TypedExtensionConfig,
    address,
};
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints,
};
use envoy_types::pb::envoy::extensions::load_balancing_policies::maglev::v3::Maglev;
use envoy_types::pb::envoy::extensions::load_balancing_policies::random::v3::Random;
use envoy_types::pb::envoy::extensions::load_balancing_policies::wrr_locality::v3::WrrLocality;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::common_tls_context::ValidationContextType;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, UpstreamTlsContext,
};
use envoy_types::pb::envoy::r#type::matcher::v3::StringMatcher;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::google::protobuf::{self, UInt32Value};
use envoy_types::util::pack_any;
use outrigger_xds::assemble::{Assembly, Parts, assemble};
use outrigger_xds::{Kind, Own, Part, Refusal, decode};
use prost::Message;

pub(crate) fn own() -> Own {
    Own { trust_domain: "cluster.local".to_owned(), namespace: "shop".to_owned() }
}

/// A cluster as simple as others write them.
pub(crate) fn eds(name: &str) -> Cluster {
    let ads = ConfigSource {
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(Default::default())),
        ..ConfigSource::default()
    };
    Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        eds_cluster_config: Some(EdsClusterConfig { eds_config: Some(ads), ..EdsClusterConfig::default() }),
        ..Cluster::default()
    }
}

pub(crate) fn endpoint(address: &str, port: u32) -> LbEndpoint {
    let socket = SocketAddress {
        address: address.to_owned(),
        port_specifier: Some(PortSpecifier::PortValue(port)),
        ..SocketAddress::default()
    };
    let address = Some(Address { address: Some(address::Address::SocketAddress(socket)) });
    LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(Endpoint { address, ..Endpoint::default() })),
        ..LbEndpoint::default()
    }
}

pub(crate) fn assignment(name: &str, lb_endpoints: Vec<LbEndpoint>) -> ClusterLoadAssignment {
    let endpoints = vec![LocalityLbEndpoints { lb_endpoints, ..LocalityLbEndpoints::default() }];
    ClusterLoadAssignment { cluster_name: name.to_owned(), endpoints, ..ClusterLoadAssignment::default() }
}

pub(crate) fn tls(ids: &[&str]) -> TransportSocket {
    let exact = |id: &&str| StringMatcher {
        match_pattern: Some(MatchPattern::Exact((*id).to_owned())),
        ..StringMatcher::default()
    };
    let validation = CertificateValidationContext {
        match_subject_alt_names: ids.iter().map(exact).collect(),
        ..CertificateValidationContext::default()
    };
    let common = CommonTlsContext {
        alpn_protocols: vec!["istio".to_owned(), "h2".to_owned()],
        validation_context_type: Some(ValidationContextType::ValidationContext(validation)),
        ..CommonTlsContext::default()
    };
    let context = UpstreamTlsContext {
        common_tls_context: Some(common),
        sni: "outbound_.80_._.orders".to_owned(),
        ..UpstreamTlsContext::default()
    };
    TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(ConfigType::TypedConfig(pack_any(context))),
    }
}

pub(crate) fn read_cluster(cluster: &Cluster) -> Result<Part, Refusal> {
    decode::decode(Kind::Cluster, &cluster.name, &cluster.encode_to_vec(), &own())
}

pub(crate) fn read_endpoints(assignment: &ClusterLoadAssignment) -> Result<Part, Refusal> {
    decode::decode(Kind::Endpoints, &assignment.cluster_name, &assignment.encode_to_vec(), &own())
}

fn assembled(clusters: &[Cluster], assignments: &[ClusterLoadAssignment]) -> Assembly {
    let mut parts = Parts::new();
    for cluster in clusters {
        let part = read_cluster(cluster).unwrap_or_else(|refusal| panic!("{refusal}"));
        parts.insert((Kind::Cluster, cluster.name.clone()), part);
    }
    for assignment in assignments {
        let part = read_endpoints(assignment).unwrap_or_else(|refusal| panic!("{refusal}"));
        parts.insert((Kind::Endpoints, assignment.cluster_name.clone()), part);
    }
    assemble(&parts, &own())
}

fn only(cluster: Cluster) -> Service {
    let mut cluster = cluster;
    cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::Static.into()));
    cluster.load_assignment = Some(assignment(&cluster.name, vec![endpoint("10.0.0.1", 80)]));
    let assembly = assembled(&[cluster], &[]);
    let [service] = &assembly.mesh.services[..] else { panic!("{assembly:?}") };
    service.clone()
}

#[test]
fn a_cluster_waits_for_its_endpoints_under_the_name_that_it_gives_them() {
    let mut cluster = eds("orders.shop");
    cluster.eds_cluster_config.as_mut().expect("EDS").service_name = "somewhere".to_owned();
    let assembly = assembled(&[cluster.clone()], &[]);
    assert_eq!(assembly.missing, [(Kind::Endpoints, "somewhere".to_owned())]);
    assert!(assembly.mesh.services.is_empty());

    let endpoints = assignment("somewhere", vec![endpoint("10.0.0.1", 80), endpoint("orders.example", 81)]);
    let assembly = assembled(&[cluster], &[endpoints]);
    assert_eq!(assembly.missing, []);
    let [service] = &assembly.mesh.services[..] else { panic!("{assembly:?}") };
    let targets: Vec<String> = service.endpoints.iter().map(|endpoint| endpoint.target.to_string()).collect();
    assert_eq!(targets, ["10.0.0.1:80", "orders.example:81"]);
    assert!(
        service.endpoints.iter().all(|endpoint| endpoint.tls == Some(EndpointTls::None)),
        "no TLS is plain text"
    );
}

#[test]
fn a_name_without_a_dot_is_a_service_of_our_own_namespace() {
    let service = only(eds("orders"));
    assert_eq!((service.name.as_str(), service.namespace.as_str()), ("orders", "shop"));
    assert_eq!(service.identities[0].as_str(), "spiffe://cluster.local/ns/shop/sa/orders");
    assert!(service.hosts.is_empty(), "nobody asks for it by name");

    let two = assembled(
        &[eds("orders"), eds("orders.shop")],
        &[assignment("orders", Vec::new()), assignment("orders.shop", Vec::new())],
    );
    assert_eq!((two.mesh.services.len(), two.conflicts.len()), (1, 1), "{two:?}");
}

#[test]
fn tls_with_names_is_mesh_tls() {
    let id = "spiffe://cluster.local/ns/shop/sa/orders-v2";
    let service = only(Cluster { transport_socket: Some(tls(&[id])), ..eds("orders") });
    assert_eq!(service.endpoints[0].tls, Some(EndpointTls::Mesh));
    assert_eq!(service.identities.iter().map(|id| id.as_str()).collect::<Vec<_>>(), [id]);
}

#[test]
fn endpoints_that_are_not_well_get_no_calls() {
    let with = |status: HealthStatus, weight: u32| LbEndpoint {
        health_status: status.into(),
        load_balancing_weight: Some(UInt32Value { value: weight }),
        ..endpoint("10.0.0.1", 80 + weight)
    };
    let all = vec![
        with(HealthStatus::Healthy, 2),
        with(HealthStatus::Degraded, 3),
        with(HealthStatus::Unhealthy, 4),
        with(HealthStatus::Draining, 5),
        with(HealthStatus::Timeout, 6),
        endpoint("10.0.0.2", 80),
    ];
    let mut assignment = assignment("orders", all);
    assignment.endpoints.push(LocalityLbEndpoints {
        lb_endpoints: vec![endpoint("10.0.0.3", 80)],
        load_balancing_weight: Some(UInt32Value { value: 1 }),
        ..LocalityLbEndpoints::default()
    });
    let Ok(Part::Endpoints(part)) = read_endpoints(&assignment) else { panic!("endpoints") };
    let weights: Vec<u32> = part.endpoints.iter().map(|endpoint| endpoint.weight).collect();
    assert_eq!(weights, [2, 3, 0, 0, 0, 1, 1]);
}

#[test]
fn the_first_policy_that_is_known_counts() {
    let policy = |config: protobuf::Any| Policy {
        typed_extension_config: Some(TypedExtensionConfig {
            name: "any".to_owned(),
            typed_config: Some(config),
        }),
    };
    let of = |policies: Vec<Policy>| {
        let list = Some(LoadBalancingPolicy { policies });
        only(Cluster { load_balancing_policy: list, ..eds("orders") }).balancing.policy
    };
    let random = || policy(pack_any(Random::default()));
    let within =
        WrrLocality { endpoint_picking_policy: Some(LoadBalancingPolicy { policies: vec![random()] }) };
    assert_eq!(of(vec![policy(pack_any(Maglev::default())), random()]), BalancingPolicy::Random);
    assert_eq!(of(vec![policy(pack_any(within))]), BalancingPolicy::Random);
    // Without a list, the older field counts.
    assert_eq!(only(eds("orders")).balancing.policy, BalancingPolicy::RoundRobin);
}

#[test]
fn checks_and_outliers_are_read_with_envoys_defaults() {
    let seconds = |seconds| Some(protobuf::Duration { seconds, nanos: 0 });
    let check = HealthCheck {
        timeout: seconds(1),
        interval: seconds(3),
        unhealthy_threshold: Some(UInt32Value { value: 2 }),
        healthy_threshold: Some(UInt32Value { value: 1 }),
        health_checker: Some(HealthChecker::GrpcHealthCheck(GrpcHealthCheck {
            service_name: "shop.Orders".to_owned(),
            ..GrpcHealthCheck::default()
        })),
        ..HealthCheck::default()
    };
    let service = only(Cluster {
        health_checks: vec![check],
        outlier_detection: Some(OutlierDetection::default()),
        ..eds("orders")
    });
    let health = service.health.expect("a check");
    assert_eq!(health.check, Check::Grpc { service: "shop.Orders".to_owned() });
    assert_eq!((health.interval, health.unhealthy_threshold), (Duration::from_secs(3), 2));
    let outliers = service.outliers.expect("outliers");
    assert_eq!((outliers.consecutive_errors, outliers.max_ejected_ppm), (5, 100_000));
    let rate = outliers.success_rate.expect("on by default");
    assert_eq!((rate.stdev_factor, rate.minimum_hosts, rate.enforcement_ppm), (1.9, 5, 1_000_000));
    assert_eq!(outliers.failure_percentage, None, "off by default");
}

#[test]
fn gateway_failures_alone_are_a_set_of_statuses() {
    let number = |value| Some(UInt32Value { value });
    let detection = OutlierDetection {
        enforcing_consecutive_5xx: number(0),
        enforcing_success_rate: number(0),
        enforcing_consecutive_gateway_failure: number(100),
        consecutive_gateway_failure: number(7),
        ..OutlierDetection::default()
    };
    let outliers =
        only(Cluster { outlier_detection: Some(detection), ..eds("orders") }).outliers.expect("outliers");
    assert_eq!(outliers.codes.names().collect::<Vec<_>>(), ["DEADLINE_EXCEEDED", "UNAVAILABLE"]);
    assert_eq!(outliers.consecutive_errors, 7);
}
