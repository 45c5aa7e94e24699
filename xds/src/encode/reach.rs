//! Which endpoints an audience is told of, and in which way it finds them.

use std::collections::{BTreeMap, BTreeSet};

use config::model::{Endpoint, EndpointTls, Mesh, Service, Target};

use crate::audience::{Audience, Certificates, Client};
use crate::pb::cluster::cluster::DiscoveryType;

/// Labels that the endpoints of a backend carry; empty: all endpoints.
pub(crate) type Labels = BTreeMap<String, String>;

/// Where a client finds the endpoints of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// In a resource of their own.
    Eds,
    /// In the cluster itself, with names that the client resolves.
    Inline(DiscoveryType),
}

impl Way {
    /// How an audience finds those endpoints of a service that carry `labels`. Over EDS foreign clients take addresses only;
    /// Envoy resolves any number of names in a cluster, gRPC a single one.
    pub(crate) fn of(service: &Service, labels: &Labels, audience: &Audience) -> Self {
        let is_name = |endpoint: &Endpoint| matches!(endpoint.target, Target::Name { .. });
        let mut reached = reached(service, labels, audience);
        match audience.client {
            Client::Outrigger => Self::Eds,
            Client::Envoy { .. } if reached.any(is_name) => Self::Inline(DiscoveryType::StrictDns),
            Client::Envoy { .. } => Self::Eds,
            Client::Grpc => match (reached.next(), reached.next()) {
                (Some(only), None) if is_name(only) && only.weight > 0 => {
                    Self::Inline(DiscoveryType::LogicalDns)
                }
                _ => Self::Eds,
            },
        }
    }
}

/// The sets of labels that routes of the mesh ask a service for, the empty one first, which is always there.
pub(crate) fn asked_for(mesh: &Mesh, index: usize) -> BTreeSet<&Labels> {
    static NONE: Labels = Labels::new();
    let routes = mesh.services.iter().flat_map(|service| &service.routes);
    let backends = routes.flat_map(|route| &route.backends).filter(|backend| backend.service == index);
    backends.map(|backend| &backend.labels).chain([&NONE]).collect()
}

/// The endpoints with all of `labels` that the audience can speak with.
pub(crate) fn reached<'a>(
    service: &'a Service,
    labels: &'a Labels,
    audience: &'a Audience,
) -> impl Iterator<Item = &'a Endpoint> {
    service.endpoints.iter().filter(|endpoint| carries(endpoint, labels) && speaks(endpoint, audience))
}

/// Whether a client of the audience speaks the way that the endpoint asks for. Foreign clients have one way for the whole of
/// a cluster: mesh TLS if they have a certificate, else plain text.
pub(crate) fn speaks(endpoint: &Endpoint, audience: &Audience) -> bool {
    match (&audience.client, endpoint.tls) {
        (Client::Outrigger, _) | (_, None) => true,
        (_, Some(EndpointTls::Mesh)) => has_tls(audience),
        (_, Some(EndpointTls::None)) => !has_tls(audience),
    }
}

fn carries(endpoint: &Endpoint, labels: &Labels) -> bool {
    labels.iter().all(|(key, value)| endpoint.labels.get(key) == Some(value))
}

/// Whether a foreign client was told where its certificate is.
pub(crate) fn has_tls(audience: &Audience) -> bool {
    matches!(audience.certificates, Some(Certificates::Provider(_) | Certificates::Secrets { .. }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(tls: Option<EndpointTls>) -> Endpoint {
        let target = Target::Address("10.0.0.1:80".parse().unwrap());
        Endpoint { target, tls, weight: 1, labels: BTreeMap::new() }
    }

    #[test]
    fn a_foreign_client_is_told_of_endpoints_that_it_can_speak_with_only() {
        let with = |client: &Client, has: bool| Audience {
            client: client.clone(),
            certificates: has.then(|| Certificates::Provider("mesh".to_owned())),
        };
        let [mesh, none, either] = [Some(EndpointTls::Mesh), Some(EndpointTls::None), None].map(endpoint);
        for (client, has, told) in [
            (Client::Grpc, true, [true, false, true]),
            (Client::Grpc, false, [false, true, true]),
            (Client::Outrigger, true, [true; 3]),
            (Client::Outrigger, false, [true; 3]),
        ] {
            let audience = with(&client, has);
            assert_eq!([&mesh, &none, &either].map(|e| speaks(e, &audience)), told, "{client:?} {has}");
        }
    }
}
