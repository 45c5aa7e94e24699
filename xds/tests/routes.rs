//! Listeners and routes: what is read is what was written; and what Envoy and gRPC need of them.

mod draw;

use std::collections::BTreeMap;

use config::model::{Backend, Mesh, Route, Service, Unmatched};
use config::parse_mesh;
use fastrand::Rng;
use outrigger_xds::audience::{Audience, Certificates, Client};
use outrigger_xds::decode::parts::{ListenerPart, RoutesPart, ServicePart};
use outrigger_xds::{Kind, Own, Part, Resource, decode, encode, names};

const OURS: Audience = Audience { client: Client::Outrigger, certificates: Some(Certificates::Own) };

fn own() -> Own {
    Own { trust_domain: "own.local".into(), namespace: "own".into() }
}

/// Three services; the first is drawn.
fn drawn(rng: &mut Rng) -> Mesh {
    let yaml = "version: 1\nservices:\n  - {name: a, namespace: shop, hosts: [a.internal, 1.2.3]}\n  - {name: b, namespace: \
                shop}\n  - {name: c}\n";
    let mut mesh = parse_mesh(config::Source { name: "mesh.yaml", text: yaml }).unwrap();
    let service = &mut mesh.services[0];
    service.ports = (0..rng.usize(..3)).map(|_| rng.u16(1..)).collect();
    service.registration = rng.bool();
    service.methods = draw::methods(rng);
    service.policy = draw::policy(rng);
    service.unmatched = if rng.bool() { Unmatched::Forward } else { Unmatched::Refuse };
    service.authorization = draw::authorization(rng);
    service.routes = draw::routes(rng, &service.hosts.clone(), 3);
    mesh
}

fn read(resource: &Resource) -> Part {
    decode::decode(resource.kind, &resource.name, &resource.bytes, &own())
        .unwrap_or_else(|refusal| panic!("{} {}: {refusal}", resource.kind.type_url(), resource.name))
}

fn find<'a>(resources: &'a [Resource], kind: Kind, name: &str) -> &'a Resource {
    resources.iter().find(|resource| resource.kind == kind && resource.name == name).expect("a resource")
}

fn listener(resources: &[Resource], name: &str) -> ServicePart {
    match read(find(resources, Kind::Listener, name)) {
        Part::Listener(ListenerPart::Service(part)) => part,
        part => panic!("{part:?}"),
    }
}

fn routes(resources: &[Resource], name: &str) -> RoutesPart {
    match read(find(resources, Kind::Routes, name)) {
        Part::Routes(part) => part,
        part => panic!("{part:?}"),
    }
}

/// What listener, routes and inbound listener of a service say, in the fields of the model.
fn put_together(resources: &[Resource], mesh: &Mesh, name: &str) -> Service {
    let part = listener(resources, name);
    let routes = routes(resources, name);
    let host = routes.of(&part).expect("a virtual host");
    let authorization = match read(find(resources, Kind::Listener, &names::inbound(name))) {
        Part::Listener(ListenerPart::Inbound(part)) => part.authorization,
        part => panic!("{part:?}"),
    };
    let backend = |cluster: &str, weight: u32| {
        let (service, labels) = names::parse_cluster(cluster).expect("labels");
        let (name, namespace) = names::parse_service(service, "");
        Backend { service: mesh.service(name, namespace).expect("a service"), labels, weight }
    };
    let route = |part: &outrigger_xds::decode::parts::RoutePart| Route {
        matches: part.matches.clone(),
        backends: part.backends.iter().map(|to| backend(&to.cluster, to.weight)).collect(),
        policy: part.policy.clone(),
    };
    let said = part.said.expect("our own data");
    assert_eq!(said.trust_domain, mesh.trust_domain);
    Service {
        name: part.service,
        namespace: part.namespace,
        ports: said.ports,
        registration: said.registration,
        hosts: said.hosts,
        methods: host.methods.clone(),
        policy: host.policy.clone(),
        routes: host.routes.iter().map(route).collect(),
        unmatched: host.unmatched,
        authorization,
        ..mesh.services[0].clone()
    }
}

#[test]
fn what_is_read_is_what_was_written() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = Rng::with_seed(seed);
    for _ in 0..1_000 {
        let mesh = drawn(&mut rng);
        let resources = encode::service(&mesh, 0, &OURS);
        // Regular expressions have no equality of their own.
        assert_eq!(
            format!("{:#?}", put_together(&resources, &mesh, "a.shop")),
            format!("{:#?}", mesh.services[0])
        );
    }
}

#[test]
fn the_same_mesh_is_the_same_bytes() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let outbound = "127.0.0.1:15001".parse().unwrap();
    for client in [Client::Outrigger, Client::Grpc, Client::Envoy { outbound }] {
        let audience = Audience { client, certificates: None };
        let mut rng = Rng::with_seed(seed);
        for _ in 0..200 {
            let mesh = drawn(&mut rng);
            let first = encode::mesh(&mesh, &audience);
            assert_eq!(first, encode::mesh(&mesh, &audience));
            let names: BTreeMap<_, _> =
                first.iter().map(|resource| ((resource.kind, &resource.name), &resource.version)).collect();
            assert_eq!(names.len(), first.len(), "each name once");
        }
    }
}
