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

/// [`asked_for`] of every service, in one go over the routes.
pub(crate) fn asked_of_all(mesh: &Mesh) -> Vec<BTreeSet<&Labels>> {
    static NONE: Labels = Labels::new();
    let mut all = vec![BTreeSet::from([&NONE]); mesh.services.len()];
    let routes = mesh.services.iter().flat_map(|service| &service.routes);
    for backend in routes.flat_map(|route| &route.backends) {
        if let Some(asked) = all.get_mut(backend.service) {
            asked.insert(&backend.labels);
        }
    }
    all
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
    let tls = by_tls(service, labels, audience);
    service
        .endpoints
        .iter()
        .filter(move |endpoint| carries(endpoint, labels) && speaks(endpoint, audience, tls))
}

/// Whether a foreign client calls those endpoints of a service that carry `labels` by mesh TLS. It has one way for the whole
/// of a cluster: plain text without a certificate, and where every endpoint asks for it; else mesh TLS.
pub(crate) fn by_tls(service: &Service, labels: &Labels, audience: &Audience) -> bool {
    let mut those = service.endpoints.iter().filter(|endpoint| carries(endpoint, labels)).peekable();
    let plain = those.peek().is_some() && those.all(|endpoint| endpoint.tls == Some(EndpointTls::None));
    has_tls(audience) && !plain
}

/// Whether a client of the audience speaks the way that the endpoint asks for, in a cluster that is called by TLS or not.
pub(crate) fn speaks(endpoint: &Endpoint, audience: &Audience, tls: bool) -> bool {
    match (&audience.client, endpoint.tls) {
        (Client::Outrigger, _) | (_, None) => true,
        (_, Some(EndpointTls::Mesh)) => tls,
        (_, Some(EndpointTls::None)) => !tls,
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

    fn service() -> Service {
        let yaml = "version: 1\nservices: [{name: payments}]\n";
        let mesh = config::parse_mesh(config::Source { name: "mesh.yaml", text: yaml }).unwrap();
        mesh.services[0].clone()
    }

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
        let (mixed, plain) = ([&mesh, &none, &either], [&none, &none]);
        let told = |endpoints: &[&Endpoint], audience: &Audience| {
            let mut service = service();
            service.endpoints = endpoints.iter().map(|endpoint| (*endpoint).clone()).collect();
            let tls: Vec<_> =
                reached(&service, &Labels::new(), audience).map(|endpoint| endpoint.tls).collect();
            (by_tls(&service, &Labels::new(), audience), tls)
        };
        let some = Some(EndpointTls::Mesh);
        let text = Some(EndpointTls::None);
        assert_eq!(told(&mixed, &with(&Client::Grpc, true)), (true, vec![some, None]));
        assert_eq!(told(&mixed, &with(&Client::Grpc, false)), (false, vec![text, None]));
        assert_eq!(
            told(&plain, &with(&Client::Grpc, true)),
            (false, vec![text, text]),
            "all ask for plain text"
        );
        assert_eq!(
            told(&[&either], &with(&Client::Grpc, true)),
            (true, vec![None]),
            "nobody asks for plain text"
        );
        assert_eq!(told(&[], &with(&Client::Grpc, true)), (true, vec![]), "nobody is there");
        for has in [true, false] {
            assert_eq!(told(&mixed, &with(&Client::Outrigger, has)).1, [some, text, None]);
        }
    }
}
