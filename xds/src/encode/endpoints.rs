//! Where a service is, as `ClusterLoadAssignment`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use config::model::{Endpoint, EndpointTls, Service, Target};

use crate::audience::{Audience, Client};
use crate::encode::reach::{Labels, Way, reached};
use crate::encode::sorted::{Assignment, LbEndpoint, LocalityEndpoints, Metadata, Texts};
use crate::kind::Kind;
use crate::marks::{LABELS, OURS, TLS, TLS_MESH, TLS_NONE};
use crate::names;
use crate::pb::core::socket_address::PortSpecifier;
use crate::pb::core::{Address, HealthStatus, Locality, SocketAddress, address};
use crate::pb::endpoint::lb_endpoint::HostIdentifier;
use crate::pb::endpoint::{self, ClusterLoadAssignment, LocalityLbEndpoints};
use crate::resource::Resource;
use crate::wire;

/// Where the clusters of a service are, as far as they do not say it themselves. Our sidecars pick the endpoints of some labels
/// by themselves.
pub(crate) fn assignments(
    service: &Service,
    asked: &BTreeSet<&Labels>,
    audience: &Audience,
) -> Vec<Resource> {
    let sent = |labels: &&Labels| {
        let own = audience.client == Client::Outrigger && !labels.is_empty();
        !own && Way::of(service, labels, audience) == Way::Eds
    };
    let full = service.full_name();
    let resource = |labels: &Labels| {
        let name = names::cluster(&full, labels);
        let message = assignment(&name, service, labels, audience);
        Resource::of(Kind::Endpoints, name, &message)
    };
    asked.iter().copied().filter(sent).map(resource).collect()
}

/// The assignment `name` of those endpoints of a service that carry all of `labels`, as far as the audience can reach them.
pub(crate) fn assignment(name: &str, service: &Service, labels: &Labels, audience: &Audience) -> Assignment {
    let reached = reached(service, labels, audience).filter(|endpoint| can_be_assigned(endpoint, audience));
    let lb_endpoints: Vec<LbEndpoint> = reached.map(|endpoint| lb_endpoint(endpoint, audience)).collect();
    Assignment { cluster_name: name.to_owned(), endpoints: localities(lb_endpoints) }
}

/// An assignment that stands in a cluster, names and all, for clients that resolve names by themselves. Labels say nothing to
/// them, and are left out.
pub(crate) fn generated<'a>(
    name: &str,
    endpoints: impl Iterator<Item = &'a Endpoint>,
) -> ClusterLoadAssignment {
    let lb_endpoints = endpoints.map(|endpoint| endpoint::LbEndpoint {
        health_status: status(endpoint).into(),
        load_balancing_weight: weight(endpoint).map(wire::number),
        host_identifier: Some(HostIdentifier::Endpoint(dialled(endpoint))),
        metadata: None,
    });
    let locality = LocalityLbEndpoints {
        locality: Some(Locality::default()),
        lb_endpoints: lb_endpoints.collect(),
        load_balancing_weight: Some(wire::number(1)),
        ..LocalityLbEndpoints::default()
    };
    ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        endpoints: vec![locality],
        ..ClusterLoadAssignment::default()
    }
}

/// gRPC and Envoy take addresses only over EDS; our sidecar resolves names as well.
fn can_be_assigned(endpoint: &Endpoint, audience: &Audience) -> bool {
    audience.client == Client::Outrigger || matches!(endpoint.target, Target::Address(_))
}

/// One locality with a weight: gRPC passes over a locality without one.
fn localities(lb_endpoints: Vec<LbEndpoint>) -> Vec<LocalityEndpoints> {
    if lb_endpoints.is_empty() {
        return Vec::new();
    }
    let locality = Some(Locality::default());
    vec![LocalityEndpoints { locality, lb_endpoints, load_balancing_weight: Some(wire::number(1)) }]
}

fn lb_endpoint(endpoint: &Endpoint, audience: &Audience) -> LbEndpoint {
    LbEndpoint {
        endpoint: Some(dialled(endpoint)),
        health_status: status(endpoint).into(),
        metadata: metadata(endpoint, audience),
        load_balancing_weight: weight(endpoint).map(wire::number),
    }
}

/// A weight of 0 cannot be said; a draining endpoint gets no calls either.
fn status(endpoint: &Endpoint) -> HealthStatus {
    if endpoint.weight == 0 { HealthStatus::Draining } else { HealthStatus::Unknown }
}

/// A weight of 1 goes without saying.
fn weight(endpoint: &Endpoint) -> Option<u32> {
    Some(endpoint.weight).filter(|weight| *weight > 1)
}

fn dialled(endpoint: &Endpoint) -> endpoint::Endpoint {
    endpoint::Endpoint { address: Some(address(&endpoint.target)), ..endpoint::Endpoint::default() }
}

fn metadata(endpoint: &Endpoint, audience: &Audience) -> Option<Metadata> {
    let mut filter_metadata = BTreeMap::new();
    if !endpoint.labels.is_empty() {
        let labels: Texts = endpoint.labels.clone().into_iter().collect();
        filter_metadata.insert(LABELS.to_owned(), labels);
    }
    if let (Client::Outrigger, Some(tls)) = (&audience.client, endpoint.tls) {
        let word = match tls {
            EndpointTls::Mesh => TLS_MESH,
            EndpointTls::None => TLS_NONE,
        };
        let ours = [(TLS.to_owned(), word.to_owned())].into_iter().collect();
        filter_metadata.insert(OURS.to_owned(), ours);
    }
    (!filter_metadata.is_empty()).then_some(Metadata { filter_metadata })
}

fn address(target: &Target) -> Address {
    let (address, port) = match target {
        Target::Address(SocketAddr::V4(v4)) => (v4.ip().to_string(), v4.port()),
        // With its scope, which the address alone does not show: `fe80::1%3`.
        Target::Address(SocketAddr::V6(v6)) if v6.scope_id() != 0 => {
            (format!("{}%{}", v6.ip(), v6.scope_id()), v6.port())
        }
        Target::Address(SocketAddr::V6(v6)) => (v6.ip().to_string(), v6.port()),
        Target::Name { host, port } => (host.clone(), *port),
    };
    let port_specifier = Some(PortSpecifier::PortValue(port.into()));
    let socket = SocketAddress { address, port_specifier, ..SocketAddress::default() };
    Address { address: Some(address::Address::SocketAddress(socket)) }
}

#[cfg(test)]
mod tests {
    use config::model::Endpoint;
    use prost::Message;

    use super::*;

    fn endpoint(target: &str, tls: Option<EndpointTls>, weight: u32) -> Endpoint {
        let target = match target.parse() {
            Ok(address) => Target::Address(address),
            Err(_) => {
                let (host, port) = target.rsplit_once(':').unwrap();
                Target::Name { host: host.to_owned(), port: port.parse().unwrap() }
            }
        };
        let labels = [("version", "v2"), ("a", ""), ("zone", "z")];
        let labels = labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        Endpoint { target, tls, weight, labels }
    }

    #[test]
    fn the_messages_written_by_hand_are_those_of_envoy() {
        let ours = Audience { client: Client::Outrigger, certificates: None };
        let lb = lb_endpoint(&endpoint("[fe80::1%3]:80", Some(EndpointTls::None), 7), &ours);
        let written = Assignment { cluster_name: "a.b".to_owned(), endpoints: localities(vec![lb]) };
        let read = ClusterLoadAssignment::decode(&*written.encode_to_vec()).unwrap();
        assert_eq!(read.encoded_len(), written.encoded_len(), "nothing is lost");
        let locality = &read.endpoints[0];
        assert_eq!(locality.load_balancing_weight.unwrap().value, 1);
        let lb = &locality.lb_endpoints[0];
        assert_eq!((lb.load_balancing_weight.unwrap().value, lb.health_status), (7, 0));
        let metadata = &lb.metadata.as_ref().unwrap().filter_metadata;
        assert_eq!(metadata[LABELS].fields.len(), 3);
        assert_eq!(metadata[OURS].fields.len(), 1);
    }

    #[test]
    fn a_weight_of_0_drains_and_one_of_1_goes_without_saying() {
        let ours = Audience { client: Client::Outrigger, certificates: None };
        let said = |weight| {
            let lb = lb_endpoint(&endpoint("10.0.0.1:80", None, weight), &ours);
            (lb.health_status, lb.load_balancing_weight.map(|weight| weight.value))
        };
        assert_eq!(said(0), (HealthStatus::Draining.into(), None));
        assert_eq!(said(1), (HealthStatus::Unknown.into(), None));
        assert_eq!(said(2), (HealthStatus::Unknown.into(), Some(2)));
    }
}
