//! From the model to resources.
//!
//! What is encoded depends on the audience. Our sidecars get all that the model says. Envoy and gRPC get what they
//! understand, with policies of methods spelled out as routes; [`notes`] says what they cannot be told.

mod balancing;
mod cluster;
mod endpoints;
mod listener;
mod losses;
pub(crate) mod matches;
mod notes;
mod plain;
mod policy;
mod rbac;
mod re2;
mod reach;
mod routes;
mod sorted;
mod transport;
mod upkeep;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use config::model::Mesh;

use crate::audience::{Audience, Client};
use crate::encode::reach::Labels;
use crate::resource::Resource;

/// All resources of the service `mesh.services[index]`: its clusters, where they are, its listener and its routes; for our
/// sidecars also what its own sidecar asks of callers. Envoy gets listener and routes for all services at once ([`outbound`]).
pub fn service(mesh: &Mesh, index: usize, audience: &Audience) -> Vec<Resource> {
    of(mesh, index, &reach::asked_for(mesh, index), audience)
}

/// [`service`] for many services of a mesh: what routes ask of them is gathered once.
pub fn services<'m>(mesh: &'m Mesh, audience: &'m Audience) -> impl Fn(usize) -> Vec<Resource> + 'm {
    let asked = reach::asked_of_all(mesh);
    move |index| of(mesh, index, &asked[index], audience)
}

/// `asked`: the sets of labels that routes ask the service for.
fn of(mesh: &Mesh, index: usize, asked: &BTreeSet<&Labels>, audience: &Audience) -> Vec<Resource> {
    let mut resources = cluster::clusters(&mesh.services[index], asked, audience);
    resources.extend(endpoints::assignments(&mesh.services[index], asked, audience));
    match audience.client {
        Client::Envoy { .. } => {}
        Client::Grpc => {
            resources.push(listener::service(mesh, index, audience));
            resources.push(routes::service(mesh, index, audience));
        }
        Client::Outrigger => {
            resources.push(listener::service(mesh, index, audience));
            resources.push(routes::service(mesh, index, audience));
            resources.push(listener::inbound(mesh, index));
        }
    }
    resources
}

/// All resources of all services, and [`outbound`].
pub fn mesh(mesh: &Mesh, audience: &Audience) -> Vec<Resource> {
    let service = services(mesh, audience);
    (0..mesh.services.len()).flat_map(service).chain(outbound(mesh, audience)).collect()
}

/// The listener through which Envoy takes the calls of its app, and the routes of all services; nothing for others.
pub fn outbound(mesh: &Mesh, audience: &Audience) -> Vec<Resource> {
    match audience.client {
        Client::Envoy { outbound } => {
            vec![listener::outbound(outbound), routes::outbound(mesh, audience)]
        }
        Client::Outrigger | Client::Grpc => Vec::new(),
    }
}

/// The API listener of a service under another name: the host, or host and port, that somebody asks for.
pub fn alias(listener: &Resource, name: &str) -> Resource {
    listener::alias(listener, name)
}

/// The listener of a proxyless server of the service `mesh.services[index]`: who may call what, and, where the audience has
/// a certificate provider, mTLS. Its name is the one that the server asks for; `address` is where it listens.
pub fn grpc_server(
    mesh: &Mesh,
    index: usize,
    resource_name: &str,
    address: SocketAddr,
    audience: &Audience,
) -> Resource {
    listener::grpc_server(mesh, index, resource_name, address, audience)
}

/// What of the service this audience cannot be told, in plain words; nothing for our sidecars.
pub fn notes(mesh: &Mesh, index: usize, audience: &Audience) -> Vec<String> {
    notes_of(mesh, index, &reach::asked_for(mesh, index), audience)
}

/// [`notes`] for many services of a mesh: what routes ask of them is gathered once.
pub fn notes_of_services<'m>(mesh: &'m Mesh, audience: &'m Audience) -> impl Fn(usize) -> Vec<String> + 'm {
    let asked = reach::asked_of_all(mesh);
    move |index| notes_of(mesh, index, &asked[index], audience)
}

fn notes_of(mesh: &Mesh, index: usize, asked: &BTreeSet<&Labels>, audience: &Audience) -> Vec<String> {
    if audience.client == Client::Outrigger {
        return Vec::new();
    }
    let service = &mesh.services[index];
    let mut notes = notes::of(service, index, &audience.client);
    notes.extend(losses::of(service, asked.iter().copied(), audience));
    notes
}
