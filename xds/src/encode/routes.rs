//! RouteConfigurations.
//!
//! For our sidecars a service is one virtual host. After its routes stands one that says what holds for the service (role
//! `service`) and one for each method of which something is known (role `method`): they are written like routes, so that
//! Envoy's words are used for them too, but they are none.
//!
//! For Envoy and gRPC, hosts that routes ask for have virtual hosts of their own, and methods are spelled out (`plain`).

use std::collections::BTreeMap;

use config::model::{Backend, CallKind, Match, Mesh, Method, Policy, Service, Unmatched};

use crate::audience::{Audience, Client};
use crate::encode::plain::{self, Plain};
use crate::encode::{matches, policy, re2};
use crate::kind::Kind;
use crate::names;
use crate::pb::route::route::Action;
use crate::pb::route::route_action::ClusterSpecifier;
use crate::pb::route::weighted_cluster::ClusterWeight;
use crate::pb::route::{Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, WeightedCluster};
use crate::private::Fields;
use crate::resource::Resource;
use crate::roles::{self, METHOD, REFUSE, ROLE, SERVICE};
use crate::wire::number;

/// The routes of one service.
pub(crate) fn service(mesh: &Mesh, index: usize, audience: &Audience) -> Resource {
    let name = mesh.services[index].full_name();
    let virtual_hosts = match audience.client {
        Client::Outrigger => vec![ours(mesh, index)],
        Client::Grpc | Client::Envoy { .. } => foreign(mesh, index, &audience.client),
    };
    let routes = RouteConfiguration { name: name.clone(), virtual_hosts, ..RouteConfiguration::default() };
    Resource::of(Kind::Routes, name, &routes)
}

/// The routes of all services, for Envoy's one listener.
pub(crate) fn outbound(mesh: &Mesh, audience: &Audience) -> Resource {
    let hosts = (0..mesh.services.len()).flat_map(|index| foreign(mesh, index, &audience.client));
    let routes = RouteConfiguration {
        name: names::OUTBOUND.to_owned(),
        virtual_hosts: hosts.collect(),
        ..RouteConfiguration::default()
    };
    Resource::of(Kind::Routes, names::OUTBOUND, &routes)
}

fn ours(mesh: &Mesh, index: usize) -> VirtualHost {
    let service = &mesh.services[index];
    let client = &Client::Outrigger;
    let mut routes = Vec::with_capacity(service.routes.len() + service.methods.len() + 1);
    for route in &service.routes {
        let mut private = Fields::default();
        let matches = matches::ours(&route.matches, &mut private);
        routes.push(self::route(mesh, matches, &route.backends, &route.policy, client, private));
    }
    routes.push(whole(mesh, index));
    routes.extend(service.methods.iter().map(|(name, method)| self::method(mesh, index, name, method)));
    VirtualHost {
        name: service.full_name(),
        domains: domains(service.hosts.iter(), &service.ports),
        routes,
        ..VirtualHost::default()
    }
}

/// What holds for a service.
fn whole(mesh: &Mesh, index: usize) -> Route {
    let service = &mesh.services[index];
    let mut private = Fields::default();
    private.text(ROLE, SERVICE);
    private.flag(REFUSE, service.unmatched == Unmatched::Refuse);
    let matches = matches::ours(&Match::default(), &mut private);
    route(mesh, matches, &[own(index)], &service.policy, &Client::Outrigger, private)
}

/// What is known of a method.
fn method(mesh: &Mesh, index: usize, name: &str, method: &Method) -> Route {
    let mut private = Fields::default();
    private.text(ROLE, METHOD);
    if let Some(kind) = method.kind {
        private.text(roles::TYPE, CallKind::as_str(kind));
    }
    private.flag(roles::NOT_IDEMPOTENT, !method.idempotent);
    private.texts(roles::BLOCKS, roles::blocks(method));
    let policy = Policy {
        deadline: method.deadline.unwrap_or_default(),
        stream: method.stream.unwrap_or_default(),
        headers: method.headers.clone().unwrap_or_default(),
        repeats: method.repeats.unwrap_or_default(),
        injection: method.injection.unwrap_or_default(),
    };
    let matches = RouteMatch {
        path_specifier: Some(crate::pb::route::route_match::PathSpecifier::Path(format!("/{name}"))),
        ..RouteMatch::default()
    };
    route(mesh, matches, &[own(index)], &policy, &Client::Outrigger, private)
}

fn own(index: usize) -> Backend {
    Backend { service: index, labels: BTreeMap::new(), weight: 1 }
}

fn foreign(mesh: &Mesh, index: usize, client: &Client) -> Vec<VirtualHost> {
    let service = &mesh.services[index];
    let (plain, _) = plain::routes(service, index);
    let alone = |host: &String| plain.iter().any(|route| route.matches.host.as_ref() == Some(host));
    let routes = |host: Option<&String>| -> Vec<Route> {
        let here =
            plain.iter().filter(|route| route.matches.host.is_none() || route.matches.host.as_ref() == host);
        here.flat_map(|route| foreign_routes(mesh, route, client)).collect()
    };
    let name = service.full_name();
    let mut hosts = vec![VirtualHost {
        name: name.clone(),
        domains: domains(service.hosts.iter().filter(|host| !alone(host)), &service.ports),
        routes: routes(None),
        ..VirtualHost::default()
    }];
    hosts.extend(service.hosts.iter().filter(|host| alone(host)).map(|host| VirtualHost {
        name: format!("{name}/{host}"),
        domains: domains([host], &service.ports),
        routes: routes(Some(host)),
        ..VirtualHost::default()
    }));
    hosts.retain(|host| !host.domains.is_empty());
    hosts
}

/// The routes that say it; none where it cannot be told, or takes no call.
fn foreign_routes(mesh: &Mesh, plain: &Plain, client: &Client) -> Vec<Route> {
    if !re2::plain(&plain.matches) {
        return Vec::new();
    }
    let routes = matches::foreign(&plain.matches, client).into_iter().map(|matches| {
        let mut route = route(mesh, matches, &plain.backends, &plain.policy, client, Fields::default());
        route.name.clone_from(&plain.name);
        route
    });
    routes.collect()
}

fn route(
    mesh: &Mesh,
    matches: RouteMatch,
    backends: &[Backend],
    policy: &Policy,
    client: &Client,
    mut private: Fields,
) -> Route {
    let mut action =
        RouteAction { cluster_specifier: Some(clusters(mesh, backends)), ..RouteAction::default() };
    let mut route = Route { r#match: Some(matches), ..Route::default() };
    policy::write(policy, client, &mut route, &mut action, &mut private);
    route.action = Some(Action::Route(action));
    if *client == Client::Outrigger {
        route.metadata = private.metadata(roles::ROUTE);
    }
    route
}

fn clusters(mesh: &Mesh, backends: &[Backend]) -> ClusterSpecifier {
    let name =
        |backend: &Backend| names::cluster(&mesh.services[backend.service].full_name(), &backend.labels);
    match backends {
        [only] if only.weight == 1 => ClusterSpecifier::Cluster(name(only)),
        _ => ClusterSpecifier::WeightedClusters(WeightedCluster {
            clusters: backends
                .iter()
                .map(|backend| ClusterWeight {
                    name: name(backend),
                    weight: Some(number(backend.weight)),
                    ..ClusterWeight::default()
                })
                .collect(),
            ..WeightedCluster::default()
        }),
    }
}

/// Every `:authority` that leads to these hosts, each once.
fn domains<'a>(hosts: impl IntoIterator<Item = &'a String>, ports: &[u16]) -> Vec<String> {
    let mut ports = ports.to_vec();
    ports.sort_unstable();
    ports.dedup();
    let mut domains = Vec::new();
    for host in hosts {
        domains.push(host.clone());
        match ports[..] {
            [] => domains.push(format!("{host}:*")),
            _ => domains.extend(ports.iter().map(|port| format!("{host}:{port}"))),
        }
    }
    domains
}

/// How many of a service's routes are left out for want of a regular expression that others read, by name.
pub(crate) fn left_out(service: &Service, index: usize) -> (Vec<String>, usize) {
    let (plain, too_many) = plain::routes(service, index);
    let unreadable = plain.into_iter().filter(|route| !re2::plain(&route.matches));
    (unreadable.map(|route| route.name).collect(), too_many)
}
