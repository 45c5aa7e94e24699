//! Reads `Cluster`: how some endpoints are called.
//!
//! What only limits memory, says how names are resolved, or is for statistics is passed over: the sidecar has settings of its
//! own for it. All else that is not understood is refused (`docs/decisions/0036-the-model-on-the-wire.md` has the list).
#![allow(
    deprecated,
    reason = "other control planes write what Envoy has deprecated, and it is to be refused or read"
)]

use std::collections::BTreeMap;

use config::health::{Health, Outliers};
use config::model::{Balancing, EndpointTls, Upstream};
use config::repeats::{RetryBudget, RetryThrottling};
use config::spiffe::SpiffeId;

use crate::decode::at::{At, understood};
use crate::decode::balancing;
use crate::decode::endpoints::{self, EndpointsPart};
use crate::decode::transport;
use crate::decode::upkeep;
use crate::kind::Kind;
use crate::marks::{CLUSTER, SUBSET};
use crate::names;
use crate::own::Own;
use crate::pb::cluster::Cluster;
use crate::pb::cluster::cluster::{ClusterDiscoveryType, DiscoveryType};
use crate::pb::core::config_source::ConfigSourceSpecifier;
use crate::private::Reader;
use crate::refusal::Refusal;
use crate::wire;

/// A cluster, as far as it goes by itself.
#[derive(Clone, Debug, PartialEq)]
pub enum ClusterPart {
    /// A service, or what another control plane calls a cluster.
    Whole(Box<Whole>),
    /// Those endpoints of a service that carry some labels.
    Subset {
        /// The name of the service's cluster.
        service: String,
        /// Not empty.
        labels: BTreeMap<String, String>,
    },
}

/// Everything about a service that a cluster says.
#[derive(Clone, Debug, PartialEq)]
pub struct Whole {
    /// Where it is.
    pub location: Location,
    /// Empty: nothing was said, and the default is meant.
    pub identities: Vec<SpiffeId>,
    /// How endpoints are spoken to that do not say so by themselves.
    pub tls: Option<EndpointTls>,
    /// How an endpoint is chosen.
    pub balancing: Balancing,
    /// How connections are kept.
    pub upstream: Upstream,
    /// Whether and how endpoints are asked how they are.
    pub health: Option<Health>,
    /// When endpoints are left alone.
    pub outliers: Option<Outliers>,
    /// What repeats may come to.
    pub retry_budget: RetryBudget,
    /// When they pause.
    pub retry_throttling: Option<RetryThrottling>,
}

/// Where a cluster is.
#[derive(Clone, Debug, PartialEq)]
pub enum Location {
    /// In the `ClusterLoadAssignment` of this name.
    Eds(String),
    /// In the cluster itself.
    Inline(EndpointsPart),
}

impl ClusterPart {
    /// The resources that it names.
    pub fn needs(&self) -> Vec<(Kind, String)> {
        match self {
            Self::Subset { service, .. } => vec![(Kind::Cluster, service.clone())],
            Self::Whole(whole) => match &whole.location {
                Location::Eds(name) => vec![(Kind::Endpoints, name.clone())],
                Location::Inline(_) => Vec::new(),
            },
        }
    }
}

/// Reads the cluster `name`.
pub(crate) fn decode(name: &str, bytes: &[u8], own: &Own) -> Result<ClusterPart, Refusal> {
    let cluster: Cluster = wire::read(bytes, &At::ROOT)?;
    if cluster.name != name {
        return Err(At::ROOT
            .field("name")
            .refuse(format!("`{}` stands in the resource `{name}`", cluster.name)));
    }
    read(&cluster, own)
}

fn read(cluster: &Cluster, own: &Own) -> Result<ClusterPart, Refusal> {
    let at = At::ROOT;
    let metadata = at.field("metadata");
    let metadata = metadata.field("outrigger");
    if let Some(private) = Reader::of_metadata(cluster.metadata.as_ref(), SUBSET, metadata)? {
        return subset(&cluster.name, private, &metadata);
    }
    understood! { cluster => Cluster, &at;
        take {
            name, cluster_discovery_type, eds_cluster_config, load_assignment, connect_timeout, lb_policy, lb_config,
            load_balancing_policy, common_lb_config, health_checks, outlier_detection, circuit_breakers,
            typed_extension_protocol_options, common_http_protocol_options, max_requests_per_connection,
            http2_protocol_options, transport_socket, upstream_http_protocol_options,
        }
        // Names of statistics and of what is measured; how much memory a connection has; how names are resolved; when a
        // cluster is ready; sockets. The sidecar has settings of its own for them. `metadata` was read.
        ignore {
            metadata, alt_stat_name, stats_matcher, lrs_server, lrs_report_endpoint_metrics, track_timeout_budgets,
            track_cluster_stats, per_connection_buffer_limit_bytes, per_connection_buffer_high_watermark_timeout,
            dns_refresh_rate, dns_jitter, dns_failure_refresh_rate, respect_dns_ttl, dns_lookup_family, dns_resolvers,
            use_tcp_for_dns_lookups, dns_resolution_config, typed_dns_resolver_config, wait_for_warm_on_init,
            cleanup_interval, upstream_connection_options, preconnect_policy, protocol_selection,
            ignore_health_on_host_removal,
        }
        refuse "endpoints of a cluster are spoken to in one way; say it in `transport_socket`" {
            transport_socket_matches, transport_socket_matcher,
        }
        refuse "backends ask for labels; name a cluster of those endpoints" { lb_subset_config }
        refuse "calls are HTTP/2" { http_protocol_options }
        refuse "the sidecar dials from its own address" { upstream_bind_config }
        refuse "calls that go on may end on an endpoint that is unhealthy" { close_connections_on_host_health_failure }
        refuse "connections are shared by all callers" { connection_pool_per_downstream_connection }
        refuse "there are no filters on this way" { filters, upstream_config }
        refuse "calls do not wait in a queue" { queuing_policies }
    }
    upkeep::deny_sni_checks(
        upstream_http_protocol_options.as_ref(),
        &at.field("upstream_http_protocol_options"),
    )?;
    let location =
        location(cluster_discovery_type, eds_cluster_config.as_ref(), load_assignment.as_ref(), name)?;
    let mut upstream = upkeep::upstream(typed_extension_protocol_options, &at)?;
    if let Some(options) = common_http_protocol_options {
        upkeep::common(options, &mut upstream, &at.field("common_http_protocol_options"))?;
    }
    if let Some(options) = http2_protocol_options {
        upkeep::http2(options, &mut upstream, &at.field("http2_protocol_options"))?;
    }
    if let Some(most) = max_requests_per_connection {
        upstream.max_calls = upkeep::max_calls(most.value);
    }
    if let Some(timeout) = connect_timeout {
        upstream.connect_timeout = upkeep::some_time(timeout, &at.field("connect_timeout"))?;
    }
    let security = transport::read(transport_socket.as_ref(), &at.field("transport_socket"))?;
    let mut whole = Whole {
        location,
        identities: security.identities,
        tls: Some(security.tls),
        balancing: balancing::read(load_balancing_policy.as_ref(), *lb_policy, lb_config.as_ref(), &at)?,
        upstream,
        health: upkeep::health(health_checks, &at)?,
        outliers: outlier_detection
            .as_ref()
            .map(|detection| upkeep::outliers(detection, &at.field("outlier_detection")))
            .transpose()?,
        retry_budget: upkeep::retry_budget(circuit_breakers.as_ref(), &at.field("circuit_breakers"))?,
        retry_throttling: None,
    };
    if let Some(common) = common_lb_config {
        balancing::common(common, &mut whole.balancing, &at.field("common_lb_config"))?;
    }
    match Reader::of_metadata(cluster.metadata.as_ref(), CLUSTER, metadata)? {
        Some(private) => self::private(private, &mut whole, &metadata)?,
        None => check_provable(&whole, own, &at.field("transport_socket"))?,
    }
    Ok(ClusterPart::Whole(Box::new(whole)))
}

/// The endpoints of a service that carry the labels of the name.
fn subset(name: &str, mut private: Reader<'_>, at: &At<'_>) -> Result<ClusterPart, Refusal> {
    let service = private.text("service")?.unwrap_or_default();
    private.finish()?;
    match names::parse_cluster(name) {
        Some((named, labels)) if named == service && !labels.is_empty() => {
            Ok(ClusterPart::Subset { service, labels })
        }
        _ => Err(at.field("service").refuse(format!("`{name}` does not name labels of `{service}`"))),
    }
}

/// What Envoy has no words for. A cluster that has it is one of ours: its endpoints say themselves how they are spoken to.
fn private(mut said: Reader<'_>, whole: &mut Whole, at: &At<'_>) -> Result<(), Refusal> {
    whole.tls = None;
    if let Some(connections) = said.integer("connections", upkeep::CONNECTIONS_MAX)? {
        whole.upstream.connections = upkeep::connections(connections, &at.field("connections"))?;
    }
    if let Some(timeout) = said.duration("user_timeout")? {
        whole.upstream.user_timeout = upkeep::in_range(timeout, &at.field("user_timeout"))?;
    }
    let throttling = at.field("retry_throttling");
    whole.retry_throttling =
        said.within("retry_throttling", |said| upkeep::retry_throttling(said, &throttling))?;
    let exact = at.field("outliers");
    said.within("outliers", |said| match &mut whole.outliers {
        Some(outliers) => upkeep::exact(said, outliers, &exact),
        None => Err(exact.refuse("it stands beside an `outlier_detection`, and there is none")),
    })?;
    said.finish()
}

/// Sidecars hold the roots of one trust domain.
fn check_provable(whole: &Whole, own: &Own, at: &At<'_>) -> Result<(), Refusal> {
    match whole.identities.iter().find(|id| id.trust_domain() != own.trust_domain) {
        None => Ok(()),
        Some(id) => Err(at.refuse(format!(
            "`{id}` is of another trust domain than `{}`, so that nobody could prove it to this sidecar",
            own.trust_domain
        ))),
    }
}

fn location(
    how: &Option<ClusterDiscoveryType>,
    eds: Option<&crate::pb::cluster::cluster::EdsClusterConfig>,
    inline: Option<&crate::pb::endpoint::ClusterLoadAssignment>,
    name: &str,
) -> Result<Location, Refusal> {
    let at = At::ROOT;
    let how = match how {
        // STATIC is what the proto has for nothing said.
        None => DiscoveryType::Static,
        Some(ClusterDiscoveryType::Type(number)) => DiscoveryType::try_from(*number)
            .map_err(|_| at.field("type").refuse(format!("{number} is no type of discovery")))?,
        Some(ClusterDiscoveryType::ClusterType(custom)) => {
            let why = format!("`{}` is not known; write EDS, STATIC, STRICT_DNS or LOGICAL_DNS", custom.name);
            return Err(at.field("cluster_type").refuse(why));
        }
    };
    match how {
        DiscoveryType::Eds => {
            let at = at.field("eds_cluster_config");
            let Some(eds) = eds else {
                return Err(at.refuse("there is none, and the cluster is of type EDS"));
            };
            let source = eds.eds_config.as_ref().and_then(|source| source.config_source_specifier.as_ref());
            match source {
                Some(ConfigSourceSpecifier::Ads(_) | ConfigSourceSpecifier::Self_(_)) => {}
                _ => return Err(at.field("eds_config").refuse("endpoints come over ADS; write `ads: {}`")),
            }
            let named = if eds.service_name.is_empty() { name } else { &eds.service_name };
            Ok(Location::Eds(named.to_owned()))
        }
        DiscoveryType::Static | DiscoveryType::StrictDns | DiscoveryType::LogicalDns => {
            let at = at.field("load_assignment");
            match inline {
                Some(inline) => Ok(Location::Inline(endpoints::read(inline, &at)?)),
                None => Err(at.refuse("there is none, and the cluster is not of type EDS")),
            }
        }
        DiscoveryType::OriginalDst => {
            Err(at.field("type").refuse("ORIGINAL_DST is not supported; write EDS and name the endpoints"))
        }
    }
}
