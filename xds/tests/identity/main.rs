//! A mesh goes over the wire and comes back as it was.

mod random;

use std::collections::BTreeMap;

use config::model::{Mesh, Policy, Service, Unmatched};
use outrigger_xds::assemble::{Parts, assemble};
use outrigger_xds::audience::Certificates;
use outrigger_xds::{Audience, Client, Kind, Own, Resource, decode, encode};

const MESHES: u64 = 2_000;

fn ours() -> Audience {
    Audience { client: Client::Outrigger, certificates: Some(Certificates::Own) }
}

/// Another trust domain and namespace than any mesh has, so that nothing comes back by luck.
fn own() -> Own {
    Own { trust_domain: "own.example".to_owned(), namespace: "own".to_owned() }
}

fn parts(resources: &[Resource]) -> Parts {
    let read = |resource: &Resource| {
        let part = decode::decode(resource.kind, &resource.name, &resource.bytes, &own());
        let part = part.unwrap_or_else(|refusal| panic!("{:?} {}: {refusal}", resource.kind, resource.name));
        ((resource.kind, resource.name.clone()), part)
    };
    resources.iter().map(read).collect()
}

/// The services in the order of their full names, which is the one that a mesh has when it comes off the wire.
fn sorted(mesh: &Mesh) -> Mesh {
    let mut order: Vec<usize> = (0..mesh.services.len()).collect();
    order.sort_by_key(|index| mesh.services[*index].full_name());
    let mut services: Vec<_> = order.iter().map(|index| mesh.services[*index].clone()).collect();
    for backend in
        services.iter_mut().flat_map(|service| &mut service.routes).flat_map(|route| &mut route.backends)
    {
        backend.service = order.iter().position(|index| *index == backend.service).expect("a service");
    }
    Mesh { trust_domain: mesh.trust_domain.clone(), services }
}

#[test]
fn a_mesh_comes_back_as_it_was() {
    for seed in 0..MESHES {
        let (mesh, text) = random::mesh(seed);
        let assembly = assemble(&parts(&encode::mesh(&mesh, &ours())), &own());
        assert_eq!(assembly.missing, [], "seed {seed}");
        assert_eq!(assembly.conflicts, [""; 0], "seed {seed}");
        assert_eq!(assembly.left_out, [""; 0], "seed {seed}");
        let (read, expected) = (assembly.mesh, sorted(&mesh));
        assert_eq!(read.trust_domain, expected.trust_domain, "seed {seed}");
        for (read, expected) in read.services.iter().zip(&expected.services) {
            assert_eq!(read, expected, "seed {seed}: {text}");
        }
        assert_eq!(read, expected, "seed {seed}");
    }
}

#[test]
fn clusters_alone_are_services_that_nobody_can_name() {
    for seed in 0..MESHES / 4 {
        let (mesh, text) = random::mesh(seed);
        let mut resources = encode::mesh(&mesh, &ours());
        resources.retain(|resource| matches!(resource.kind, Kind::Cluster | Kind::Endpoints));
        let assembly = assemble(&parts(&resources), &own());
        assert_eq!(
            (assembly.missing, assembly.conflicts, assembly.left_out),
            Default::default(),
            "seed {seed}"
        );
        for (read, of) in assembly.mesh.services.iter().zip(&sorted(&mesh).services) {
            let expected = Service {
                name: of.name.clone(),
                namespace: of.namespace.clone(),
                identities: of.identities.clone(),
                endpoints: of.endpoints.clone(),
                balancing: of.balancing,
                upstream: of.upstream,
                health: of.health.clone(),
                outliers: of.outliers,
                retry_budget: of.retry_budget,
                retry_throttling: of.retry_throttling,
                ports: Vec::new(),
                hosts: Vec::new(),
                registration: false,
                methods: BTreeMap::new(),
                policy: Policy::default(),
                routes: Vec::new(),
                unmatched: Unmatched::Forward,
                authorization: None,
            };
            assert_eq!(*read, expected, "seed {seed}: {text}");
        }
        assert_eq!(assembly.mesh.services.len(), mesh.services.len(), "seed {seed}");
    }
}

#[test]
fn the_same_mesh_is_the_same_bytes_for_every_audience() {
    let secrets =
        Certificates::Secrets { identity: "identity".to_owned(), roots: "roots".to_owned(), sds: None };
    let outbound = "127.0.0.1:15001".parse().expect("an address");
    let audiences = [
        ours(),
        Audience { client: Client::Grpc, certificates: None },
        Audience { client: Client::Grpc, certificates: Some(Certificates::Provider("mesh".to_owned())) },
        Audience { client: Client::Envoy { outbound }, certificates: Some(secrets) },
    ];
    for seed in 0..MESHES / 10 {
        let (mesh, _) = random::mesh(seed);
        for audience in &audiences {
            let first = encode::mesh(&mesh, audience);
            let mut names = BTreeMap::new();
            for resource in &first {
                let twice = names.insert((resource.kind, &resource.name), &resource.version);
                assert_eq!(twice, None, "seed {seed}: {:?} {}", resource.kind, resource.name);
            }
            // Tables of hashes have another order each time.
            for _ in 0..3 {
                assert!(encode::mesh(&mesh, audience) == first, "seed {seed} for {audience:?}");
            }
        }
    }
}

#[test]
fn a_change_of_one_endpoint_changes_one_resource_and_one_more_for_each_subset_of_foreign_clients() {
    let foreign = Audience { client: Client::Grpc, certificates: None };
    let mut changes = 0;
    for seed in 0..MESHES / 4 {
        let (mesh, _) = random::mesh(seed);
        let Some((index, place)) = flappable(&mesh) else { continue };
        let mut changed = mesh.clone();
        let endpoint = &mut changed.services[index].endpoints[place];
        endpoint.weight = if endpoint.weight == 7 { 8 } else { 7 };
        let full = mesh.services[index].full_name();
        let differ = differences(&encode::mesh(&mesh, &ours()), &encode::mesh(&changed, &ours()));
        assert_eq!(differ, [(Kind::Endpoints, full.clone())], "seed {seed}");

        let subsets = encode::mesh(&mesh, &foreign).into_iter().filter(|resource| {
            let part = decode::decode(resource.kind, &resource.name, &resource.bytes, &own());
            let target = &mesh.services[index].endpoints[place].target;
            matches!(part, Ok(outrigger_xds::Part::Endpoints(part)) if part.endpoints.iter().any(|e| e.target == *target)
                && resource.name.split(';').next() == Some(full.as_str()))
        });
        let mut expected: Vec<(Kind, String)> =
            subsets.map(|resource| (resource.kind, resource.name)).collect();
        expected.sort();
        let differ = differences(&encode::mesh(&mesh, &foreign), &encode::mesh(&changed, &foreign));
        assert_eq!(differ, expected, "seed {seed}");
        changes += usize::from(expected.len() > 1);
    }
    assert!(changes > 10, "subsets came up {changes} times");
}

/// An endpoint by address in plain text, which every client is told of over EDS.
fn flappable(mesh: &Mesh) -> Option<(usize, usize)> {
    mesh.services.iter().enumerate().find_map(|(index, service)| {
        let by_address = |endpoint: &config::model::Endpoint| {
            matches!(endpoint.target, config::model::Target::Address(_)) && endpoint.tls.is_none()
        };
        service.endpoints.iter().position(by_address).map(|place| (index, place))
    })
}

fn differences(one: &[Resource], other: &[Resource]) -> Vec<(Kind, String)> {
    assert_eq!(one.len(), other.len());
    let mut differ: Vec<(Kind, String)> = one
        .iter()
        .zip(other)
        .filter(|(one, other)| one != other)
        .map(|(one, _)| (one.kind, one.name.clone()))
        .collect();
    differ.sort();
    differ
}
