//! What foreign clients need, as seen with grpcio and Envoy.

use config::model::Mesh;
use config::{Source, parse_mesh};
use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
use envoy_types::pb::envoy::config::core::v3::api_config_source::ApiType;
use envoy_types::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use envoy_types::pb::envoy::config::core::v3::transport_socket::ConfigType;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::common_tls_context::ValidationContextType;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{CommonTlsContext, UpstreamTlsContext};
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use outrigger_xds::audience::Certificates;
use outrigger_xds::{Audience, Client, Kind, encode};
use prost::Message;

const MESH: &str = r#"
version: 1
services:
  - name: plain
    endpoints:
      - {address: "10.0.0.1:80", weight: 0}
      - {address: "10.0.0.2:80", labels: {version: v2}}
      - {address: "10.0.0.3:80", tls: mesh}
      - {address: "10.0.0.4:80", tls: none}
    balancing: {policy: peak_ewma, slow_start: {window: 10s}, panic_threshold: 0%}
    retry_throttling: {max_tokens: 10, token_ratio: 0.5}
    outliers: {failure_percentage: {threshold: 0.4%}, base_ejection_time: 60s, max_ejection_time: 30s}
    health: {check: grpc, interval: 3s}
    routes: [{backends: [{service: plain, labels: {version: v2}}]}]
  - name: named
    endpoints: [{dns: "named.example:80"}]
  - name: mixed
    endpoints: [{dns: "mixed.example:80"}, "10.0.0.5:80"]
  - name: pinged
    upstream: {keepalive: {interval: 20s}}
    inbound: {authorization: [{allow: {from: ["*"]}}]}
"#;

fn mesh() -> Mesh {
    parse_mesh(Source { name: "mesh.yaml", text: MESH }).expect("a mesh")
}

fn grpc(certificates: Option<Certificates>) -> Audience {
    Audience { client: Client::Grpc, certificates }
}

fn envoy(certificates: Option<Certificates>) -> Audience {
    let outbound = "127.0.0.1:15001".parse().expect("an address");
    Audience { client: Client::Envoy { outbound }, certificates }
}

fn provider() -> Option<Certificates> {
    Some(Certificates::Provider("mesh".to_owned()))
}

fn secrets(identity: &str, roots: &str) -> Option<Certificates> {
    Some(Certificates::Secrets { identity: identity.to_owned(), roots: roots.to_owned(), sds: None })
}

fn ours() -> Audience {
    Audience { client: Client::Outrigger, certificates: Some(Certificates::Own) }
}

fn find<M: Message + Default>(kind: Kind, name: &str, audience: &Audience) -> Option<M> {
    let resources = encode::mesh(&mesh(), audience);
    let found = resources.into_iter().find(|resource| resource.kind == kind && resource.name == name)?;
    Some(M::decode(found.bytes).expect("a message"))
}

fn cluster(name: &str, audience: &Audience) -> Cluster {
    find(Kind::Cluster, name, audience).expect("a cluster")
}

fn endpoints(name: &str, audience: &Audience) -> Option<Vec<String>> {
    let assignment: ClusterLoadAssignment = find(Kind::Endpoints, name, audience)?;
    Some(addresses(&assignment))
}

fn addresses(assignment: &ClusterLoadAssignment) -> Vec<String> {
    use envoy_types::pb::envoy::config::core::v3::address::Address;
    use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
    let endpoints = assignment.endpoints.iter().flat_map(|locality| &locality.lb_endpoints);
    let address = |endpoint: &envoy_types::pb::envoy::config::endpoint::v3::LbEndpoint| {
        let Some(HostIdentifier::Endpoint(endpoint)) = &endpoint.host_identifier else {
            panic!("an endpoint")
        };
        match endpoint.address.as_ref().and_then(|address| address.address.as_ref()) {
            Some(Address::SocketAddress(socket)) => socket.address.clone(),
            other => panic!("{other:?}"),
        }
    };
    endpoints.map(address).collect()
}

fn policies(cluster: &Cluster) -> Vec<String> {
    let list = cluster.load_balancing_policy.as_ref().expect("a list");
    let types = list.policies.iter().map(|policy| {
        let config =
            policy.typed_extension_config.as_ref().and_then(|extension| extension.typed_config.as_ref());
        config.expect("a policy").type_url.rsplit('.').next().expect("a name").to_owned()
    });
    types.collect()
}

fn tls(cluster: &Cluster) -> Option<CommonTlsContext> {
    let Some(ConfigType::TypedConfig(config)) = &cluster.transport_socket.as_ref()?.config_type else {
        panic!("a config")
    };
    assert!(config.type_url.ends_with(".UpstreamTlsContext"));
    UpstreamTlsContext::decode(&config.value[..]).expect("a context").common_tls_context
}

#[test]
fn every_list_of_policies_ends_with_one_that_grpc_knows() {
    for audience in [ours(), grpc(None), envoy(None)] {
        assert_eq!(
            policies(&cluster("plain.default", &audience)),
            ["TypedStruct", "LeastRequest", "WrrLocality"]
        );
        assert_eq!(policies(&cluster("named.default", &audience)), ["LeastRequest", "WrrLocality"]);
    }
}

#[test]
fn grpc_is_told_the_names_of_servers_where_it_reads_them_and_no_parameters_of_tls() {
    let context = tls(&cluster("plain.default", &grpc(provider()))).expect("TLS");
    assert_eq!(context.tls_params, None);
    assert_eq!(context.tls_certificate_provider_instance.expect("an instance").instance_name, "mesh");
    let Some(ValidationContextType::ValidationContext(validation)) = context.validation_context_type else {
        panic!("a validation context")
    };
    assert_eq!(validation.ca_certificate_provider_instance.expect("an instance").instance_name, "mesh");
    let names: Vec<_> =
        validation.match_subject_alt_names.into_iter().map(|name| name.match_pattern).collect();
    let id = "spiffe://cluster.local/ns/default/sa/plain".to_owned();
    assert_eq!(names, [Some(MatchPattern::Exact(id))]);
    assert_eq!(tls(&cluster("plain.default", &grpc(None))), None);
}

#[test]
fn envoy_is_let_up_to_tls_1_3_and_has_its_secrets_by_name_or_in_files() {
    let context = tls(&cluster("plain.default", &envoy(secrets("identity", "roots")))).expect("TLS");
    assert_eq!(context.tls_params.expect("parameters").tls_maximum_protocol_version, 4);
    let [secret] = &context.tls_certificate_sds_secret_configs[..] else { panic!("a secret") };
    // Without a place to ask for it, it is one of the bootstrap.
    assert_eq!((secret.name.as_str(), &secret.sds_config), ("identity", &None));
    let Some(ValidationContextType::CombinedValidationContext(combined)) = context.validation_context_type
    else {
        panic!("a combined context")
    };
    assert_eq!(combined.validation_context_sds_secret_config.expect("a secret").name, "roots");
    assert_eq!(combined.default_validation_context.expect("names").match_typed_subject_alt_names.len(), 1);

    let files = secrets("/tls/tls.crt,/tls/tls.key", "/tls/ca.crt");
    let context = tls(&cluster("plain.default", &envoy(files))).expect("TLS");
    let said = format!("{context:?}");
    for file in ["\"/tls/tls.crt\"", "\"/tls/tls.key\"", "\"/tls/ca.crt\""] {
        assert!(said.contains(file), "{file}");
    }
    assert!(context.tls_certificate_sds_secret_configs.is_empty());
}

#[test]
fn envoy_asks_the_cluster_that_it_names_for_its_secrets_and_waits_for_them() {
    let named = Certificates::Secrets {
        identity: "default".to_owned(),
        roots: "ROOTCA".to_owned(),
        sds: Some("agent".to_owned()),
    };
    let context = tls(&cluster("plain.default", &envoy(Some(named)))).expect("TLS");
    let Some(ValidationContextType::CombinedValidationContext(combined)) = context.validation_context_type
    else {
        panic!("a combined context")
    };
    let identity = context.tls_certificate_sds_secret_configs.first();
    let both = [identity, combined.validation_context_sds_secret_config.as_ref()];
    for (secret, name) in both.into_iter().zip(["default", "ROOTCA"]) {
        let secret = secret.expect("a secret");
        assert_eq!(secret.name, name);
        let source = secret.sds_config.as_ref().expect("a place to ask for it");
        // Never over ADS, for keys do not go there; and zero is "for as long as it takes".
        let Some(ConfigSourceSpecifier::ApiConfigSource(api)) = &source.config_source_specifier else {
            panic!("{source:?}")
        };
        assert_eq!(api.api_type(), ApiType::Grpc);
        assert!(format!("{:?}", api.grpc_services).contains("cluster_name: \"agent\""), "{api:?}");
        assert_eq!(source.initial_fetch_timeout.map(|limit| (limit.seconds, limit.nanos)), Some((0, 0)));
    }
}

#[test]
fn foreign_clients_are_not_held_to_1024_requests() {
    for audience in [grpc(None), envoy(None)] {
        let breakers = cluster("plain.default", &audience).circuit_breakers.expect("breakers");
        let limits = &breakers.thresholds[0];
        for limit in [&limits.max_connections, &limits.max_pending_requests, &limits.max_requests] {
            assert_eq!(limit.map(|limit| limit.value), Some(u32::MAX));
        }
    }
}

#[test]
fn envoy_sends_pings_only_with_tls_and_where_the_file_asks_for_them() {
    let pings = |name: &str, audience: &Audience| {
        let cluster = cluster(name, audience);
        let options = cluster.typed_extension_protocol_options.values().next().expect("options");
        let options = envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions::decode(
            &options.value[..],
        );
        format!("{options:?}").contains("connection_keepalive: Some")
    };
    let (with, without) = (envoy(secrets("identity", "roots")), envoy(None));
    assert!(pings("pinged.default", &ours()) && pings("pinged.default", &with));
    assert!(!pings("pinged.default", &without) && !pings("pinged.default", &grpc(None)));
    // A plain gRPC server ends connections on which they come unasked.
    assert!(pings("plain.default", &ours()) && !pings("plain.default", &with));
}

#[test]
fn numbers_of_outliers_are_such_that_envoy_takes_them() {
    let outliers = cluster("plain.default", &grpc(None)).outlier_detection.expect("outliers");
    assert_eq!(outliers.failure_percentage_threshold.map(|threshold| threshold.value), Some(1));
    // Envoy refuses a maximum below the base.
    assert_eq!(outliers.max_ejection_time.map(|time| time.seconds), Some(60));
    // Left out it would be on.
    assert_eq!(outliers.enforcing_success_rate.map(|share| share.value), Some(0));
}

#[test]
fn each_client_finds_names_in_its_own_way() {
    let how = |name: &str, audience: &Audience| {
        let cluster = cluster(name, audience);
        let Some(ClusterDiscoveryType::Type(how)) = cluster.cluster_discovery_type else { panic!("a type") };
        let inline = cluster.load_assignment.as_ref().map(addresses);
        (DiscoveryType::try_from(how).expect("a type"), inline, endpoints(name, audience))
    };
    let texts = |all: &[&str]| Some(all.iter().map(|&text| text.to_owned()).collect::<Vec<_>>());

    let named = texts(&["named.example"]);
    assert_eq!(how("named.default", &ours()), (DiscoveryType::Eds, None, named.clone()));
    assert_eq!(how("named.default", &envoy(None)), (DiscoveryType::StrictDns, named.clone(), None));
    assert_eq!(how("named.default", &grpc(None)), (DiscoveryType::LogicalDns, named, None));

    let mixed = texts(&["mixed.example", "10.0.0.5"]);
    assert_eq!(how("mixed.default", &ours()), (DiscoveryType::Eds, None, mixed.clone()));
    assert_eq!(how("mixed.default", &envoy(None)), (DiscoveryType::StrictDns, mixed, None));
    assert_eq!(how("mixed.default", &grpc(None)), (DiscoveryType::Eds, None, texts(&["10.0.0.5"])));
}

#[test]
fn foreign_clients_are_told_of_endpoints_that_they_can_speak_with_and_of_subsets() {
    let texts = |all: &[&str]| Some(all.iter().map(|&text| text.to_owned()).collect::<Vec<_>>());
    let [one, two, mesh, none] = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"];
    assert_eq!(endpoints("plain.default", &ours()), texts(&[one, two, mesh, none]));
    assert_eq!(endpoints("plain.default", &grpc(None)), texts(&[one, two, none]));
    assert_eq!(endpoints("plain.default", &grpc(provider())), texts(&[one, two, mesh]));
    assert_eq!(endpoints("plain.default", &envoy(secrets("a", "b"))), texts(&[one, two, mesh]));

    assert_eq!(endpoints("plain.default;version=v2", &grpc(None)), texts(&[two]));
    assert_eq!(endpoints("plain.default;version=v2", &ours()), None, "ours picks them by itself");
    assert_eq!(policies(&cluster("plain.default;version=v2", &grpc(None))).len(), 3);
}

#[test]
fn endpoints_without_calls_drain_and_their_locality_has_a_weight() {
    let assignment: ClusterLoadAssignment =
        find(Kind::Endpoints, "plain.default", &grpc(None)).expect("endpoints");
    let [locality] = &assignment.endpoints[..] else { panic!("one locality") };
    assert_eq!(locality.load_balancing_weight.map(|weight| weight.value), Some(1));
    assert!(locality.locality.is_some());
    assert_eq!(locality.lb_endpoints[0].health_status, 3);
    assert_eq!(locality.lb_endpoints[1].health_status, 0);
}

#[test]
fn what_a_client_cannot_be_told_is_noted() {
    let notes = |index: usize, audience: &Audience| encode::notes(&mesh(), index, audience);
    assert_eq!(notes(0, &ours()), [""; 0]);
    let said = |audience: &Audience, words: &[&str]| {
        let notes = notes(0, audience);
        for word in words {
            assert!(notes.iter().any(|note| note.contains(word)), "{word} in {notes:?}");
        }
    };
    said(
        &grpc(None),
        &["peak_ewma", "slow_start", "health:", "consecutive_errors", "retry_throttling", "10.0.0.3:80"],
    );
    said(&grpc(provider()), &["10.0.0.4:80"]);
    said(&envoy(None), &["peak_ewma", "retry_throttling", "10.0.0.3:80"]);
    let rules =
        |audience: &Audience| notes(3, audience).iter().any(|note| note.starts_with("authorization:"));
    assert!(rules(&envoy(None)) && !rules(&grpc(None)) && !rules(&ours()), "an Envoy asks nobody who calls");
    let named = notes(2, &grpc(None));
    assert!(named.iter().any(|note| note.contains("mixed.example:80")), "{named:?}");
    assert!(!notes(1, &grpc(None)).iter().any(|note| note.contains("named.example")));
}
