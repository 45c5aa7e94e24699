//! Reads `ClusterLoadAssignment`: where a cluster is.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use config::check;
use config::model::{Endpoint, EndpointTls, Target};

use crate::decode::at::{At, understood};
use crate::marks::{LABELS, OURS, TLS, TLS_MESH, TLS_NONE};
use crate::pb::core::socket_address::{PortSpecifier, Protocol};
use crate::pb::core::{HealthStatus, Metadata, SocketAddress, address};
use crate::pb::endpoint::cluster_load_assignment::Policy;
use crate::pb::endpoint::lb_endpoint::HostIdentifier;
use crate::pb::endpoint::{self, ClusterLoadAssignment, LbEndpoint, LocalityLbEndpoints};
use crate::pb::protobuf::value::Kind;
use crate::refusal::Refusal;
use crate::wire;

/// The largest weight of an endpoint, as in `mesh.yaml`.
const WEIGHT_MAX: u32 = 1_000_000;

/// Where a cluster is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EndpointsPart {
    /// In the order of the resource, no target twice. `tls` is `None` where the resource does not say how an endpoint is
    /// spoken to: then its cluster may.
    pub endpoints: Vec<Endpoint>,
}

/// Reads the assignment `name`.
pub(crate) fn decode(name: &str, bytes: &[u8]) -> Result<EndpointsPart, Refusal> {
    let assignment: ClusterLoadAssignment = wire::read(bytes, &At::ROOT)?;
    if assignment.cluster_name != name {
        let why = format!("`{}` stands in the resource `{name}`", assignment.cluster_name);
        return Err(At::ROOT.field("cluster_name").refuse(why));
    }
    read(&assignment, &At::ROOT)
}

/// Reads an assignment; `at` is where it stands: the root for a resource of its own, else the field of its cluster.
pub(crate) fn read(assignment: &ClusterLoadAssignment, at: &At<'_>) -> Result<EndpointsPart, Refusal> {
    understood! { assignment => ClusterLoadAssignment, at;
        take { endpoints, policy }
        ignore { cluster_name }
        refuse "give endpoints where they are used" { named_endpoints }
    }
    if let Some(policy) = policy {
        self::policy(policy, &at.field("policy"))?;
    }
    check_weights(endpoints, at)?;
    let mut seen = HashSet::new();
    let mut read = Vec::new();
    for (i, locality) in endpoints.iter().enumerate() {
        self::locality(locality, &at.item("endpoints", i), &mut seen, &mut read)?;
    }
    Ok(EndpointsPart { endpoints: read })
}

/// The model weighs endpoints, not localities. Localities that weigh the same do no harm.
fn check_weights(localities: &[LocalityLbEndpoints], at: &At<'_>) -> Result<(), Refusal> {
    let weight =
        |locality: &LocalityLbEndpoints| locality.load_balancing_weight.map_or(1, |weight| weight.value);
    let mut others = localities.iter().enumerate().skip(1);
    let Some(first) = localities.first().map(weight) else { return Ok(()) };
    let Some((i, other)) = others.find(|(_, locality)| weight(locality) != first) else { return Ok(()) };
    let other = weight(other);
    Err(at.item("endpoints", i).field("load_balancing_weight").refuse(format!(
        "localities of different weights ({first} and {other}) are not supported; weigh their endpoints"
    )))
}

fn policy(policy: &Policy, at: &At<'_>) -> Result<(), Refusal> {
    // How far endpoints of the first priority may fail before the next one is used, and what counts then: there is one.
    understood! { policy => Policy, at;
        take {}
        ignore { overprovisioning_factor, weighted_priority_health }
        refuse "no calls are dropped by share; abort them by a fault of the route" { drop_overloads }
        refuse "endpoints hold until they are changed" { endpoint_stale_after }
    }
    Ok(())
}

fn locality(
    locality: &LocalityLbEndpoints,
    at: &At<'_>,
    seen: &mut HashSet<Target>,
    endpoints: &mut Vec<Endpoint>,
) -> Result<(), Refusal> {
    // Where a locality is and how far away says nothing as long as zones are not looked at; metadata is for filters.
    understood! { locality => LocalityLbEndpoints, at;
        take { lb_endpoints }
        ignore { locality, metadata, proximity, load_balancing_weight }
        refuse "one priority is supported: 0; weigh endpoints, or leave these out" { priority }
        refuse "give the endpoints in `lb_endpoints`" { lb_config }
    }
    for (i, lb_endpoint) in lb_endpoints.iter().enumerate() {
        let at = at.item("lb_endpoints", i);
        let endpoint = self::lb_endpoint(lb_endpoint, &at)?;
        if !seen.insert(endpoint.target.clone()) {
            let why = format!("the endpoint `{}` stands here twice; weigh it instead", endpoint.target);
            return Err(at.field("endpoint").field("address").refuse(why));
        }
        endpoints.push(endpoint);
    }
    Ok(())
}

fn lb_endpoint(lb_endpoint: &LbEndpoint, at: &At<'_>) -> Result<Endpoint, Refusal> {
    understood! { lb_endpoint => LbEndpoint, at;
        take { health_status, metadata, load_balancing_weight, host_identifier }
        ignore {}
    }
    let endpoint = match host_identifier {
        Some(HostIdentifier::Endpoint(endpoint)) => endpoint,
        Some(HostIdentifier::EndpointName(_)) => {
            return Err(at
                .field("endpoint_name")
                .refuse("give the endpoint where it is used, as `endpoint`"));
        }
        None => return Err(at.field("endpoint").refuse("there is none; an endpoint has an address")),
    };
    let target = self::endpoint(endpoint, &at.field("endpoint"))?;
    let (labels, tls) = match metadata {
        Some(metadata) => self::metadata(metadata, &at.field("metadata"))?,
        None => (BTreeMap::new(), None),
    };
    let weight = load_balancing_weight.map_or(1, |weight| weight.value);
    if weight == 0 || weight > WEIGHT_MAX {
        let why = format!("{weight} is out of range; write 1 to {WEIGHT_MAX}");
        return Err(at.field("load_balancing_weight").refuse(why));
    }
    let weight = match HealthStatus::try_from(*health_status) {
        // The degraded are used like the others: nothing here holds them back.
        Ok(HealthStatus::Unknown | HealthStatus::Healthy | HealthStatus::Degraded) => weight,
        Ok(HealthStatus::Unhealthy | HealthStatus::Draining | HealthStatus::Timeout) => 0,
        Err(_) => return Err(at.field("health_status").refuse(format!("{health_status} is no status"))),
    };
    Ok(Endpoint { target, tls, weight, labels })
}

fn endpoint(endpoint: &endpoint::Endpoint, at: &At<'_>) -> Result<Target, Refusal> {
    // A host name beside the address is for checks by HTTP, the other name for statistics.
    understood! { endpoint => endpoint::Endpoint, at;
        take { address, health_check_config }
        ignore { hostname, observability_name }
        refuse "an endpoint has one address" { additional_addresses }
    }
    if let Some(check) = health_check_config {
        let at = at.field("health_check_config");
        understood! { check => endpoint::endpoint::HealthCheckConfig, &at;
            take {}
            ignore { hostname }
            refuse "checks go to the endpoint's own address" { port_value, address }
            refuse "all endpoints of a cluster are checked" { disable_active_health_check }
        }
    }
    let at = at.field("address");
    match address.as_ref().and_then(|address| address.address.as_ref()) {
        Some(address::Address::SocketAddress(socket)) => target(socket, &at.field("socket_address")),
        Some(address::Address::Pipe(_)) => Err(at.field("pipe").refuse("give an address of IP, or a name")),
        Some(address::Address::EnvoyInternalAddress(_)) => {
            Err(at.field("envoy_internal_address").refuse("there is no such listener; give an address of IP"))
        }
        None => Err(at.refuse("there is none; an endpoint has an address")),
    }
}

/// What is dialled: an address, or a name.
fn target(socket: &SocketAddress, at: &At<'_>) -> Result<Target, Refusal> {
    understood! { socket => SocketAddress, at;
        take { protocol, address, port_specifier }
        ignore { ipv4_compat }
        refuse "names are resolved by the sidecar's own `dns`" { resolver_name }
        refuse "the sidecar dials from its own network namespace" { network_namespace_filepath }
    }
    if *protocol != i32::from(Protocol::Tcp) {
        return Err(at.field("protocol").refuse("gRPC goes over TCP"));
    }
    let port = match port_specifier {
        Some(PortSpecifier::PortValue(port)) => u16::try_from(*port).ok().filter(|port| *port != 0),
        Some(PortSpecifier::NamedPort(_)) => {
            return Err(at.field("named_port").refuse("give the port as a number"));
        }
        None => None,
    };
    let Some(port) = port else {
        return Err(at.field("port_value").refuse("give a port from 1 to 65535"));
    };
    let at = at.field("address");
    if let Some(ip) = ip(address, port) {
        return match ip.ip().is_unspecified() {
            true => Err(at.refuse(format!("`{address}` cannot be dialled; give a real address"))),
            false => Ok(Target::Address(ip)),
        };
    }
    let host = address.to_ascii_lowercase();
    match check::dns_target(&format!("{host}:{port}")) {
        Ok(()) => Ok(Target::Name { host, port }),
        Err(_) => Err(at.refuse(format!("{address:?} is neither an address nor the name of a host"))),
    }
}

/// An address with or without the scope of a link: `10.0.0.7`, `fe80::1%3`.
fn ip(address: &str, port: u16) -> Option<SocketAddr> {
    if let Ok(ip) = address.parse::<IpAddr>() {
        return Some(SocketAddr::new(ip, port));
    }
    format!("[{address}]:{port}").parse::<SocketAddrV6>().ok().map(SocketAddr::V6)
}

/// The labels, and how the endpoint is spoken to if it says so itself. Other metadata is for filters that are not here.
fn metadata(
    metadata: &Metadata,
    at: &At<'_>,
) -> Result<(BTreeMap<String, String>, Option<EndpointTls>), Refusal> {
    understood! { metadata => Metadata, at;
        take { filter_metadata }
        ignore { typed_filter_metadata }
    }
    let mut labels = BTreeMap::new();
    for (key, value) in filter_metadata.get(LABELS).iter().flat_map(|found| &found.fields) {
        // Envoy takes other kinds too; a backend asks for texts only, so that no other kind could ever be asked for.
        if let Some(Kind::StringValue(text)) = &value.kind {
            labels.insert(key.clone(), text.clone());
        }
    }
    let tls = filter_metadata.get(OURS).and_then(|ours| ours.fields.get(TLS)?.kind.as_ref());
    let tls = match tls {
        None => None,
        Some(Kind::StringValue(word)) if word == TLS_MESH => Some(EndpointTls::Mesh),
        Some(Kind::StringValue(word)) if word == TLS_NONE => Some(EndpointTls::None),
        Some(_) => {
            let at = at.entry("filter_metadata", OURS);
            return Err(at.field(TLS).refuse(format!("write `{TLS_MESH}` or `{TLS_NONE}`")));
        }
    };
    Ok((labels, tls))
}
