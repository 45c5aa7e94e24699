//! What a change costs, and what each audience is told of it.

use std::sync::Arc;

use config::model::{Endpoint, Mesh, Target};
use config::{Source, parse_mesh};
use outrigger_control::registrations::{Registered, Registrations};
use outrigger_control::set::Set;
use outrigger_control::world::World;
use xds::audience::Certificates;
use xds::{Audience, Client, Kind};

fn outrigger() -> Audience {
    Audience { client: Client::Outrigger, certificates: Some(Certificates::Own) }
}

fn grpc() -> Audience {
    Audience { client: Client::Grpc, certificates: None }
}

fn envoy(port: u16) -> Audience {
    Audience { client: Client::Envoy { outbound: ([127, 0, 0, 1], port).into() }, certificates: None }
}

fn mesh(text: &str) -> Mesh {
    parse_mesh(Source { name: "mesh.yaml", text }).unwrap_or_else(|faults| panic!("{faults}"))
}

/// A mesh of `s000`, `s001` and so on, each with two endpoints, each calling the one before it.
fn chain(services: usize) -> Mesh {
    let mut text = "version: 1\nservices:\n".to_owned();
    for at in 0..services {
        let before = at.saturating_sub(1);
        text += &format!(
            "  - name: s{at:03}\n    registration: true\n    endpoints: [\"10.0.{at}.1:1\", \"10.0.{at}.2:1\"]\n    \
             routes: [{{match: {{service: other.Service}}, backends: [{{service: s{before:03}}}]}}]\n"
        );
    }
    mesh(&text)
}

fn endpoint(address: &str) -> Endpoint {
    let mut mesh = mesh("version: 1\nservices: [{name: x, endpoints: [\"10.0.0.1:1\"]}]\n");
    let target = Target::Address(address.parse().expect("an address"));
    Endpoint { target, ..mesh.services.remove(0).endpoints.remove(0) }
}

/// The names that differ between a set and the one before, by kind.
fn changes(set: &Set) -> Vec<(Kind, String)> {
    let changes = set.changes().expect("a set before");
    Kind::ALL
        .into_iter()
        .flat_map(|kind| changes.names(kind).iter().map(move |name| (kind, name.clone())))
        .collect()
}

#[test]
fn an_endpoint_that_comes_costs_one_resource_and_not_the_mesh() {
    let first = World::first(chain(100));
    for audience in [outrigger(), grpc(), envoy(15_001)] {
        assert_eq!(first.set(&audience).encoded(), 100);
    }
    let mut next = Mesh::clone(&first.mesh);
    next.services[50].endpoints.push(endpoint("10.9.9.9:1"));
    let next = first.next(next);
    for audience in [outrigger(), grpc(), envoy(15_001)] {
        let (old, new) = (first.set(&audience), next.set(&audience));
        // Itself, the one that names it and the one that it names.
        assert_eq!(new.encoded(), 3, "{audience:?}");
        assert_eq!(changes(&new), [(Kind::Endpoints, "s050.default".to_owned())], "{audience:?}");
        for kind in [Kind::Cluster, Kind::Listener, Kind::Routes] {
            assert!(new.same(kind, &old), "{kind:?} of {audience:?}");
        }
        assert!(!new.same(Kind::Endpoints, &old));
        // What has not changed is the same bytes, not equal ones.
        let (a, b) = (old.get(Kind::Endpoints, "s049.default"), new.get(Kind::Endpoints, "s049.default"));
        assert_eq!(a.expect("it is there").bytes.as_ptr(), b.expect("it is there").bytes.as_ptr());
    }
}

#[test]
fn a_world_that_is_the_same_changes_nothing() {
    let first = World::first(chain(5));
    let old = first.set(&outrigger());
    let new = first.next(Mesh::clone(&first.mesh)).set(&outrigger());
    assert_eq!((new.encoded(), changes(&new).len()), (0, 0));
    assert_ne!(new.number(), old.number());
    assert_eq!(new.changes().map(|changes| changes.since), Some(old.number()));
}

#[test]
fn what_is_made_of_the_set_before_is_what_would_be_made_from_nothing() {
    let mut worlds = vec![World::first(chain(12))];
    let steps: [fn(&mut Mesh); 8] = [
        |mesh| mesh.services[3].endpoints.clear(),
        |mesh| mesh.services[4].routes[0].backends[0].labels = [("v".to_owned(), "2".to_owned())].into(),
        |mesh| mesh.services[3].endpoints.push(endpoint("10.7.7.7:1")),
        |mesh| mesh.services[4].routes.clear(),
        |mesh| mesh.services[7].name = "renamed".to_owned(),
        |mesh| drop(mesh.services.pop()),
        |mesh| mesh.services.swap(0, 5),
        |mesh| mesh.trust_domain = "example.org".to_owned(),
    ];
    let audiences = [outrigger(), grpc(), envoy(1)];
    for audience in &audiences {
        worlds[0].set(audience);
    }
    for (at, step) in steps.iter().enumerate() {
        let before = worlds.last().expect("a world");
        let mut mesh = Mesh::clone(&before.mesh);
        step(&mut mesh);
        let (next, fresh) = (before.next(mesh.clone()), World::first(mesh));
        for audience in &audiences {
            let (old, made, expected) = (before.set(audience), next.set(audience), fresh.set(audience));
            for kind in Kind::ALL {
                let all = |set: &Set| set.all(kind).cloned().collect::<Vec<_>>();
                assert_eq!(all(&made), all(&expected), "step {at}, {kind:?} of {audience:?}");
                // And the changes are exactly what differs.
                let mut names: Vec<String> =
                    all(&old).into_iter().chain(all(&made)).map(|resource| resource.name).collect();
                names.sort_unstable();
                names.dedup();
                names.retain(|name| old.get_own(kind, name) != made.get_own(kind, name));
                assert_eq!(
                    made.changes().expect("a set before").names(kind),
                    names,
                    "step {at}, {kind:?} of {audience:?}"
                );
            }
        }
        worlds.push(next);
    }
}

#[test]
fn a_listener_is_found_by_every_host_of_its_service_and_by_its_ports() {
    let world = World::first(mesh(
        "version: 1\nservices:\n  - {name: pay, namespace: shop, hosts: [pay.example], ports: [50051]}\n  - {name: any, namespace: shop}\n",
    ));
    let set = world.set(&grpc());
    for name in [
        "pay",
        "pay.shop",
        "pay.shop.svc:50051",
        "PAY.example",
        "pay.example:50051",
        "pay.shop.svc.cluster.local",
        "any:1",
        "any.shop:65535",
    ] {
        let found = set.get(Kind::Listener, name).unwrap_or_else(|| panic!("{name} is not found"));
        assert_eq!(found.name, name);
        assert_eq!(
            set.get(Kind::Listener, name).expect("once more").bytes.as_ptr(),
            found.bytes.as_ptr(),
            "kept"
        );
    }
    // Routes know no host with a trailing dot, so that a listener for one would lead nowhere.
    for name in
        ["pay.shop:50052", "nothing", "pay.shop:x", "", ":1", "pay.shop.svc:", "pay.shop.", "pay.shop.:50051"]
    {
        assert!(set.get(Kind::Listener, name).is_none(), "{name} is found");
    }
    assert!(set.get(Kind::Cluster, "pay").is_none(), "only listeners have other names");
}

#[test]
fn a_wildcard_leaves_out_what_concerns_one_sidecar_only() {
    let set = World::first(chain(3)).set(&outrigger());
    assert!(set.get(Kind::Listener, "inbound/s001.default").is_some());
    let names: Vec<&str> = set.wildcard(Kind::Listener).map(|resource| resource.name.as_str()).collect();
    assert_eq!(names, ["s000.default", "s001.default", "s002.default"]);
    assert_eq!(set.all(Kind::Listener).count(), 6);
}

#[test]
fn a_proxyless_server_gets_the_listener_of_its_service_and_address() {
    let set = World::first(chain(2)).set(&grpc());
    let name = "grpc/server?xds.resource.listening_address=127.0.0.1:50051";
    assert_eq!(set.grpc_server("s001", "default", name).expect("a listener").name, name);
    for (service, name) in
        [("nobody", name), ("s001", "grpc/server?xds.resource.listening_address=x"), ("s001", "s001")]
    {
        assert!(set.grpc_server(service, "default", name).is_none(), "{service} {name}");
    }
}

#[test]
fn audiences_that_nobody_asks_for_any_more_are_not_made_anew_and_there_are_never_too_many() {
    let mut world = World::first(chain(2));
    for port in 1..=200 {
        world.set(&envoy(port));
    }
    assert_eq!(world.audiences(), 64);
    world = world.next(Mesh::clone(&world.mesh));
    assert_eq!(world.audiences(), 64, "those who ask next need not wait");
    for _ in 0..70 {
        world.set(&envoy(200));
        world = world.next(Mesh::clone(&world.mesh));
    }
    assert_eq!(world.audiences(), 1);
}

#[test]
fn many_who_ask_at_once_get_one_set() {
    let world = Arc::new(World::first(chain(50)));
    let asking: Vec<_> = (0..8)
        .map(|_| {
            let world = world.clone();
            std::thread::spawn(move || world.set(&outrigger()).number())
        })
        .collect();
    let mut numbers: Vec<u64> = asking.into_iter().map(|thread| thread.join().expect("a set")).collect();
    numbers.dedup();
    assert_eq!(numbers.len(), 1);
}

fn registered(service: &str, address: &str) -> Registered {
    Registered { service: service.to_owned(), namespace: "default".to_owned(), endpoint: endpoint(address) }
}

fn merged(registrations: &Registrations, mut mesh: Mesh) -> Vec<String> {
    registrations.merge(&mut mesh);
    mesh.services[0].endpoints.iter().map(|endpoint| endpoint.target.to_string()).collect()
}

#[test]
fn what_sidecars_announce_comes_behind_the_file_and_sorted_whoever_came_first() {
    let registrations = Registrations::default();
    registrations.set("b", vec![registered("s000", "10.1.0.2:1")]);
    registrations.set("a", vec![registered("s000", "10.1.0.3:1"), registered("s000", "10.1.0.1:1")]);
    let all = ["10.0.0.1:1", "10.0.0.2:1", "10.1.0.1:1", "10.1.0.2:1", "10.1.0.3:1"];
    assert_eq!(merged(&registrations, chain(1)), all);
    assert_eq!(registrations.endpoints(), 3);
    registrations.gone("a");
    assert_eq!(merged(&registrations, chain(1)), ["10.0.0.1:1", "10.0.0.2:1", "10.1.0.2:1"]);
}

#[test]
fn only_services_that_want_it_get_endpoints_and_the_file_has_the_last_word_on_an_address() {
    let registrations = Registrations::default();
    let mut other = registered("s000", "10.0.0.1:1");
    other.endpoint.weight = 77;
    registrations.set("a", vec![other, registered("nobody", "10.1.0.1:1")]);
    let mut mesh = chain(1);
    registrations.merge(&mut mesh);
    assert_eq!(mesh.services[0].endpoints.len(), 2);
    assert!(mesh.services[0].endpoints.iter().all(|endpoint| endpoint.weight == 1));
    let mut mesh = chain(1);
    mesh.services[0].registration = false;
    registrations.set("a", vec![registered("s000", "10.1.0.1:1")]);
    registrations.merge(&mut mesh);
    assert_eq!(mesh.services[0].endpoints.len(), 2);
}

#[test]
fn of_two_sidecars_with_one_address_the_one_that_spoke_last_has_it() {
    let registrations = Registrations::default();
    let with = |weight: u32| {
        let mut registered = registered("s000", "10.1.0.1:1");
        registered.endpoint.weight = weight;
        vec![registered]
    };
    registrations.set("z", with(1));
    registrations.set("a", with(2));
    let weight = |registrations: &Registrations| {
        let mut mesh = chain(1);
        registrations.merge(&mut mesh);
        mesh.services[0].endpoints[2].weight
    };
    assert_eq!(weight(&registrations), 2);
    // The one of before has not heard yet that its address is another's.
    registrations.gone("z");
    assert_eq!(weight(&registrations), 2);
}

#[test]
fn who_announces_the_same_again_wakes_nobody() {
    let registrations = Registrations::default();
    let mut changes = registrations.changes();
    changes.mark_unchanged();
    registrations.set("a", vec![registered("s000", "10.1.0.1:1")]);
    assert!(changes.has_changed().expect("it is there"));
    changes.mark_unchanged();
    registrations.set("a", vec![registered("s000", "10.1.0.1:1")]);
    registrations.gone("b");
    assert!(!changes.has_changed().expect("it is there"));
}

#[test]
fn one_service_takes_so_many_announced_endpoints_and_another_when_one_has_gone() {
    const MAX: usize = 700;
    let registrations = Registrations::new(MAX);
    let many = |from: usize, n: usize| {
        let address = |at: usize| format!("10.{}.{}.1:1", at / 200, at % 200);
        (from..from + n).map(|at| registered("s000", &address(at))).collect::<Vec<_>>()
    };
    assert_eq!(registrations.set("a", many(0, MAX - 1)), []);
    assert_eq!(registrations.set("b", many(5_000, 3)), many(5_001, 2), "there is place for one");
    assert_eq!(registrations.set("b", many(5_000, 3)), many(5_001, 2), "and it is told each time");
    assert_eq!(
        registrations.set("c", vec![registered("s001", "10.9.9.9:1")]),
        [],
        "another service has its own"
    );
    assert_eq!(registrations.endpoints(), MAX + 1);
    registrations.gone("a");
    assert_eq!(registrations.set("b", many(5_000, 3)), []);
    assert_eq!(registrations.endpoints(), 4);
}
