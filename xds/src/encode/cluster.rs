//! How the endpoints of a service are called, as `Cluster`.

use std::collections::BTreeSet;

use config::model::Service;

use crate::audience::{Audience, Client};
use crate::encode::balancing;
use crate::encode::endpoints;
use crate::encode::reach::{Labels, Way, by_tls, reached};
use crate::encode::transport;
use crate::encode::upkeep;
use crate::kind::Kind;
use crate::marks::{CLUSTER, SUBSET};
use crate::names;
use crate::pb::cluster::Cluster;
use crate::pb::cluster::cluster::{ClusterDiscoveryType, DiscoveryType, DnsLookupFamily, EdsClusterConfig};
use crate::pb::core::config_source::ConfigSourceSpecifier;
use crate::pb::core::{AggregatedConfigSource, ApiVersion, ConfigSource};
use crate::private::Fields;
use crate::resource::Resource;
use crate::wire;

/// The clusters of a service: all of its endpoints, and one for each set of labels that a route of the mesh asks for.
pub(crate) fn clusters(service: &Service, asked: &BTreeSet<&Labels>, audience: &Audience) -> Vec<Resource> {
    let resource = |labels: &Labels| {
        let cluster = cluster(service, labels, audience);
        Resource::of(Kind::Cluster, cluster.name.clone(), &cluster)
    };
    asked.iter().copied().map(resource).collect()
}

/// The cluster of those endpoints of a service that carry all of `labels`.
pub(crate) fn cluster(service: &Service, labels: &Labels, audience: &Audience) -> Cluster {
    let full = service.full_name();
    let name = names::cluster(&full, labels);
    if audience.client == Client::Outrigger && !labels.is_empty() {
        return subset(&full, name);
    }
    let way = Way::of(service, labels, audience);
    let tls = audience.client == Client::Outrigger || by_tls(service, labels, audience);
    let mut cluster = Cluster {
        connect_timeout: Some(wire::duration(service.upstream.connect_timeout)),
        load_balancing_policy: Some(balancing::list(&service.balancing)),
        common_lb_config: Some(balancing::common(&service.balancing)),
        health_checks: service.health.iter().map(|health| upkeep::health_check(health, audience)).collect(),
        outlier_detection: service.outliers.as_ref().map(upkeep::outlier_detection),
        circuit_breakers: Some(upkeep::circuit_breakers(service.retry_budget, audience)),
        typed_extension_protocol_options: upkeep::http_options(&service.upstream, tls, audience),
        transport_socket: transport::socket(&service.identities, audience).filter(|_| tls),
        // Else Envoy keeps endpoints that are gone for as long as they pass their checks.
        ignore_health_on_host_removal: matches!(audience.client, Client::Envoy { .. }),
        ..Cluster::default()
    };
    match way {
        Way::Eds => find_by_eds(&mut cluster, &name),
        Way::Inline(how) => {
            cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(how.into()));
            // Names are resolved by the client, which has no use for labels then.
            cluster.load_assignment = Some(endpoints::generated(&name, reached(service, labels, audience)));
            // All addresses that a name has, and not the IPv4 ones only where there are no others.
            cluster.dns_lookup_family = DnsLookupFamily::All.into();
        }
    }
    if audience.client == Client::Outrigger {
        cluster.metadata = private(service).metadata(CLUSTER);
    }
    cluster.name = name;
    cluster
}

/// To our sidecar, which picks the endpoints of a subset out of those of the service: they are sent once. The labels stand in
/// its name.
fn subset(service: &str, name: String) -> Cluster {
    let mut private = Fields::default();
    private.text("service", service);
    let mut cluster = Cluster { metadata: private.metadata(SUBSET), ..Cluster::default() };
    find_by_eds(&mut cluster, service);
    cluster.name = name;
    cluster
}

fn find_by_eds(cluster: &mut Cluster, service_name: &str) {
    cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into()));
    cluster.eds_cluster_config =
        Some(EdsClusterConfig { eds_config: Some(ads()), service_name: service_name.to_owned() });
}

/// "Ask for it on this very stream."
fn ads() -> ConfigSource {
    ConfigSource {
        resource_api_version: ApiVersion::V3.into(),
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..ConfigSource::default()
    }
}

/// What Envoy has no words for. It is there for every cluster of ours, and by it a cluster is known as ours.
fn private(service: &Service) -> Fields {
    let mut fields = Fields::default();
    let upstream = &service.upstream;
    fields.number("connections", u32::try_from(upstream.connections).unwrap_or(u32::MAX));
    fields.duration("user_timeout", upstream.user_timeout);
    if let Some(throttling) = service.retry_throttling {
        let mut said = Fields::default();
        said.number("max_tokens", throttling.max_tokens);
        said.number("token_ratio", throttling.token_ratio);
        fields.fields("retry_throttling", said);
    }
    if let Some(outliers) = &service.outliers {
        fields.fields("outliers", upkeep::private(outliers));
    }
    fields
}
