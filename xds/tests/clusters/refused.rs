//! What cannot be honoured is refused, with its place.

use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, CustomClusterType, LbPolicy,
};
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    DiscoveryType, LbSubsetConfig, TransportSocketMatch,
};
use envoy_types::pb::envoy::config::cluster::v3::{
    CircuitBreakers, Cluster, LoadBalancingPolicy, OutlierDetection,
};
use envoy_types::pb::envoy::config::core::v3::health_check::{
    HealthChecker, HttpHealthCheck, TcpHealthCheck,
};
use envoy_types::pb::envoy::config::core::v3::{Address, address};
use envoy_types::pb::envoy::config::core::v3::{
    BindConfig, HealthCheck, HealthStatus, Http1ProtocolOptions, Pipe,
};
use envoy_types::pb::envoy::config::endpoint::v3::cluster_load_assignment::{self, policy::DropOverload};
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints,
};
use envoy_types::pb::envoy::r#type::v3::Percent;
use envoy_types::pb::google::protobuf::{Any, Duration, UInt32Value};
use prost::Message;

use crate::foreign::{assignment, eds, endpoint, read_cluster, read_endpoints, tls};

/// A place, and a change of something sound that is refused there.
type Case<T> = (&'static str, fn(&mut T));

fn number(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

fn seconds(seconds: i64) -> Option<Duration> {
    Some(Duration { seconds, nanos: 0 })
}

fn check() -> HealthCheck {
    HealthCheck {
        timeout: seconds(1),
        interval: seconds(1),
        unhealthy_threshold: number(1),
        healthy_threshold: number(1),
        health_checker: Some(HealthChecker::TcpHealthCheck(TcpHealthCheck::default())),
        ..HealthCheck::default()
    }
}

fn outliers(change: fn(&mut OutlierDetection)) -> Option<OutlierDetection> {
    let mut detection = OutlierDetection::default();
    change(&mut detection);
    Some(detection)
}

fn limits(change: fn(&mut Thresholds)) -> Option<CircuitBreakers> {
    let mut limits = Thresholds::default();
    change(&mut limits);
    Some(CircuitBreakers { thresholds: vec![limits], ..CircuitBreakers::default() })
}

#[test]
fn what_a_cluster_says_and_we_cannot_do_is_refused_by_its_place() {
    let table: [Case<Cluster>; 31] = [
        ("type", |c| {
            c.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::OriginalDst.into()))
        }),
        ("cluster_type", |c| {
            c.cluster_discovery_type = Some(ClusterDiscoveryType::ClusterType(CustomClusterType::default()));
        }),
        ("load_assignment", |c| c.cluster_discovery_type = None),
        ("eds_cluster_config", |c| c.eds_cluster_config = None),
        ("eds_cluster_config.eds_config", |c| c.eds_cluster_config.as_mut().unwrap().eds_config = None),
        ("connect_timeout", |c| c.connect_timeout = seconds(0)),
        ("connect_timeout", |c| c.connect_timeout = seconds(-1)),
        ("connect_timeout", |c| c.connect_timeout = seconds(i64::MAX)),
        ("lb_policy", |c| c.lb_policy = LbPolicy::RingHash.into()),
        ("load_balancing_policy", |c| c.load_balancing_policy = Some(LoadBalancingPolicy::default())),
        ("lb_subset_config", |c| {
            c.lb_subset_config = Some(LbSubsetConfig { list_as_any: true, ..LbSubsetConfig::default() });
        }),
        ("common_lb_config.healthy_panic_threshold", |c| {
            let common = c.common_lb_config.get_or_insert_default();
            common.healthy_panic_threshold = Some(Percent { value: f64::NAN });
        }),
        ("common_lb_config.close_connections_on_host_set_change", |c| {
            c.common_lb_config.get_or_insert_default().close_connections_on_host_set_change = true;
        }),
        ("transport_socket_matches", |c| c.transport_socket_matches = vec![TransportSocketMatch::default()]),
        ("transport_socket.typed_config.common_tls_context", |c| c.transport_socket = Some(tls(&[]))),
        (
            "transport_socket.typed_config.common_tls_context.validation_context.match_subject_alt_names[0].exact",
            |c| c.transport_socket = Some(tls(&["orders.example"])),
        ),
        ("transport_socket", |c| c.transport_socket = Some(tls(&["spiffe://other.example/a"]))),
        ("http_protocol_options", |c| c.http_protocol_options = Some(Http1ProtocolOptions::default())),
        ("upstream_bind_config", |c| c.upstream_bind_config = Some(BindConfig::default())),
        ("typed_extension_protocol_options[\"mine\"]", |c| {
            c.typed_extension_protocol_options.insert("mine".to_owned(), Any::default());
        }),
        ("health_checks[1]", |c| c.health_checks = vec![check(), check()]),
        ("health_checks[0].interval", |c| c.health_checks = vec![HealthCheck { interval: None, ..check() }]),
        ("health_checks[0].timeout", |c| {
            c.health_checks = vec![HealthCheck { timeout: seconds(0), ..check() }]
        }),
        ("health_checks[0].alt_port", |c| {
            c.health_checks = vec![HealthCheck { alt_port: number(1), ..check() }]
        }),
        ("health_checks[0].http_health_check", |c| {
            let http = Some(HealthChecker::HttpHealthCheck(HttpHealthCheck::default()));
            c.health_checks = vec![HealthCheck { health_checker: http, ..check() }];
        }),
        ("outlier_detection.max_ejection_percent", |c| {
            c.outlier_detection = outliers(|detection| detection.max_ejection_percent = number(101));
        }),
        ("outlier_detection.enforcing_consecutive_5xx", |c| {
            c.outlier_detection = outliers(|detection| detection.enforcing_consecutive_5xx = number(50));
        }),
        ("outlier_detection.enforcing_consecutive_gateway_failure", |c| {
            c.outlier_detection =
                outliers(|detection| detection.enforcing_consecutive_gateway_failure = number(100));
        }),
        ("outlier_detection.split_external_local_origin_errors", |c| {
            c.outlier_detection = outliers(|detection| detection.split_external_local_origin_errors = true);
        }),
        ("circuit_breakers.thresholds[0].max_requests", |c| {
            c.circuit_breakers = limits(|limits| limits.max_requests = number(1_000));
        }),
        ("circuit_breakers.thresholds[0].max_retries", |c| {
            c.circuit_breakers = limits(|limits| limits.max_retries = number(3));
        }),
    ];
    assert!(read_cluster(&eds("orders")).is_ok());
    for (path, change) in table {
        let mut cluster = eds("orders");
        change(&mut cluster);
        let refusal = read_cluster(&cluster).expect_err(path);
        assert_eq!(refusal.path, path, "{refusal}");
        assert!(!refusal.why.is_empty(), "{path}");
    }
}

#[test]
fn what_endpoints_say_and_we_cannot_do_is_refused_by_its_place() {
    let table: [Case<ClusterLoadAssignment>; 17] = [
        ("endpoints[0].lb_endpoints[3].endpoint.address.socket_address.port_value", |c| {
            set(c, endpoint("10.0.0.9", 0))
        }),
        ("endpoints[0].lb_endpoints[3].endpoint.address.socket_address.port_value", |c| {
            set(c, endpoint("10.0.0.9", 65_536));
        }),
        ("endpoints[0].lb_endpoints[3].endpoint.address.socket_address.address", |c| {
            set(c, endpoint("0.0.0.0", 80))
        }),
        ("endpoints[0].lb_endpoints[3].endpoint.address.socket_address.address", |c| {
            set(c, endpoint("a b", 80))
        }),
        ("endpoints[0].lb_endpoints[3].endpoint.address.socket_address.address", |c| {
            set(c, endpoint("", 80))
        }),
        ("endpoints[0].lb_endpoints[3].endpoint.address", |c| set(c, endpoint("10.0.0.1", 80))),
        ("endpoints[0].lb_endpoints[3].endpoint.address", |c| {
            let identifier = Some(HostIdentifier::Endpoint(Endpoint::default()));
            set(c, LbEndpoint { host_identifier: identifier, ..LbEndpoint::default() });
        }),
        ("endpoints[0].lb_endpoints[3].endpoint.address.pipe", |c| {
            let address = Some(Address { address: Some(address::Address::Pipe(Pipe::default())) });
            let identifier = HostIdentifier::Endpoint(Endpoint { address, ..Endpoint::default() });
            set(c, LbEndpoint { host_identifier: Some(identifier), ..LbEndpoint::default() });
        }),
        ("endpoints[0].lb_endpoints[3].endpoint", |c| set(c, LbEndpoint::default())),
        ("endpoints[0].lb_endpoints[3].endpoint_name", |c| {
            let identifier = Some(HostIdentifier::EndpointName("x".to_owned()));
            set(c, LbEndpoint { host_identifier: identifier, ..LbEndpoint::default() });
        }),
        ("endpoints[0].lb_endpoints[3].load_balancing_weight", |c| {
            set(c, LbEndpoint { load_balancing_weight: number(0), ..endpoint("10.0.0.9", 80) });
        }),
        ("endpoints[0].lb_endpoints[3].load_balancing_weight", |c| {
            set(c, LbEndpoint { load_balancing_weight: number(1_000_001), ..endpoint("10.0.0.9", 80) });
        }),
        ("endpoints[0].lb_endpoints[3].health_status", |c| {
            let status = i32::from(HealthStatus::Degraded) + 1;
            set(c, LbEndpoint { health_status: status, ..endpoint("10.0.0.9", 80) });
        }),
        ("endpoints[0].priority", |c| c.endpoints[0].priority = 1),
        ("endpoints[1].load_balancing_weight", |c| {
            let load_balancing_weight = number(3);
            c.endpoints.push(LocalityLbEndpoints { load_balancing_weight, ..LocalityLbEndpoints::default() });
        }),
        ("named_endpoints", |c| {
            c.named_endpoints.insert("x".to_owned(), Endpoint::default());
        }),
        ("policy.drop_overloads", |c| {
            let drop_overloads = vec![DropOverload { category: "x".to_owned(), drop_percentage: None }];
            let policy = cluster_load_assignment::Policy { drop_overloads, ..Default::default() };
            c.policy = Some(policy);
        }),
    ];
    for (path, change) in table {
        let three = ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(|address| endpoint(address, 80));
        let mut assignment = assignment("orders", three.to_vec());
        assert!(read_endpoints(&assignment).is_ok());
        change(&mut assignment);
        let refusal = read_endpoints(&assignment).expect_err(path);
        assert_eq!(refusal.path, path, "{refusal}");
        assert!(!refusal.why.is_empty(), "{path}");
    }
}

fn set(assignment: &mut ClusterLoadAssignment, endpoint: LbEndpoint) {
    assignment.endpoints[0].lb_endpoints.push(endpoint);
}

#[test]
fn fields_that_this_version_does_not_know_are_refused() {
    let mut bytes = eds("orders").encode_to_vec();
    // Field 1999, a text.
    bytes.extend([0xfa, 0x7c, 1, b'x']);
    let own = crate::foreign::own();
    let refusal = outrigger_xds::decode::decode(outrigger_xds::Kind::Cluster, "orders", &bytes, &own)
        .expect_err("unknown");
    assert!(refusal.why.contains("1999"), "{refusal}");
}

#[test]
fn garbage_is_refused_and_never_panics() {
    let own = crate::foreign::own();
    let mut rng = fastrand::Rng::with_seed(1);
    let mut good = eds("orders");
    good.transport_socket = Some(tls(&["spiffe://cluster.local/a"]));
    good.load_assignment = Some(assignment("orders", vec![endpoint("10.0.0.1", 80)]));
    good.health_checks = vec![check()];
    let good = good.encode_to_vec();
    for _ in 0..20_000 {
        let mut bytes = good.clone();
        for _ in 0..rng.usize(1..4) {
            let place = rng.usize(0..bytes.len());
            bytes[place] = rng.u8(..);
        }
        bytes.truncate(rng.usize(0..=bytes.len()));
        for kind in [outrigger_xds::Kind::Cluster, outrigger_xds::Kind::Endpoints] {
            // Any answer will do.
            let _ = outrigger_xds::decode::decode(kind, "orders", &bytes, &own);
        }
    }
}
