//! A scripted control plane that serves what a mesh file says.

use bench::ads::{Ads, Resource};
use xds::{Audience, Client, Kind};

/// The resources of a mesh, for sidecars without certificates.
pub(crate) fn resources(mesh: &str) -> Vec<Resource> {
    let source = config::Source { name: "mesh.yaml", text: mesh };
    let mesh = config::parse_mesh(source).unwrap_or_else(|faults| panic!("{faults}\n{mesh}"));
    let audience = Audience { client: Client::Outrigger, certificates: None };
    let of_mesh = xds::encode::mesh(&mesh, &audience);
    let hosts = |name: &str| {
        let service = mesh.services.iter().find(|service| service.full_name() == name);
        service.map(|service| service.hosts.clone()).unwrap_or_default()
    };
    let listeners = of_mesh.iter().filter(|one| one.kind == Kind::Listener);
    let aliases = listeners.flat_map(|one| {
        let other = hosts(&one.name).into_iter().filter(|host| *host != one.name);
        other.map(|host| xds::encode::alias(one, &host)).collect::<Vec<_>>()
    });
    let aliases: Vec<xds::Resource> = aliases.collect();
    let wire = |one: xds::Resource| Resource {
        type_url: one.kind.type_url().to_owned(),
        name: one.name,
        version: one.version,
        value: one.bytes.to_vec(),
    };
    of_mesh.into_iter().chain(aliases).map(wire).collect()
}

/// A control plane that serves a mesh.
pub(crate) async fn plane(mesh: &str) -> Ads {
    let ads = Ads::start().await.expect("a control plane");
    ads.set(resources(mesh));
    ads
}
