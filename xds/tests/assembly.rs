//! What is left out of a mesh, and what is told.

use config::model::{Answer, Authorization, Mesh};
use config::{Source, parse_mesh};
use outrigger_xds::assemble::{Assembly, Parts, assemble};
use outrigger_xds::audience::Certificates;
use outrigger_xds::{Audience, Client, Kind, Own, decode, encode};

const MESH: &str = r#"
version: 1
services:
  - name: orders
    hosts: [orders.example]
    endpoints: ["10.0.0.1:80", {address: "10.0.0.2:80", labels: {version: v2}}]
    routes:
      - match: {service: shop.Orders}
        backends: [{service: orders, labels: {version: v2}}, {service: payments}]
    inbound: {authorization: []}
  - {name: payments, endpoints: ["10.0.0.3:80"]}
"#;

fn mesh(text: &str) -> Mesh {
    parse_mesh(Source { name: "mesh.yaml", text }).expect("a mesh")
}

fn own() -> Own {
    Own { trust_domain: "cluster.local".to_owned(), namespace: "default".to_owned() }
}

fn parts(mesh: &Mesh) -> Parts {
    let ours = Audience { client: Client::Outrigger, certificates: Some(Certificates::Own) };
    let resources = encode::mesh(mesh, &ours);
    let read = |resource: outrigger_xds::Resource| {
        let part = decode::decode(resource.kind, &resource.name, &resource.bytes, &own()).expect("ours");
        ((resource.kind, resource.name), part)
    };
    resources.into_iter().map(read).collect()
}

fn without(missing: &[(Kind, &str)]) -> Assembly {
    let mut parts = parts(&mesh(MESH));
    for (kind, name) in missing {
        assert!(parts.remove(&(*kind, (*name).to_owned())).is_some(), "{kind:?} {name}");
    }
    assemble(&parts, &own())
}

/// The services that somebody can ask for.
fn named(assembly: &Assembly) -> Vec<String> {
    let named = assembly.mesh.services.iter().filter(|service| !service.hosts.is_empty());
    named.map(config::model::Service::full_name).collect()
}

#[test]
fn a_service_whose_parts_are_not_all_here_is_left_out_and_what_is_missing_is_told() {
    let (orders, payments) = ("orders.default", "payments.default");
    assert_eq!(named(&without(&[])), [orders, payments]);
    type Case<'a> = (&'a [(Kind, &'a str)], &'a [&'a str]);
    let table: [Case<'_>; 7] = [
        (&[(Kind::Routes, orders)], &[payments]),
        (&[(Kind::Cluster, orders)], &[payments]),
        (&[(Kind::Endpoints, orders)], &[payments]),
        (&[(Kind::Cluster, "orders.default;version=v2")], &[payments]),
        // Routes lead there.
        (&[(Kind::Cluster, payments)], &[]),
        (&[(Kind::Endpoints, payments)], &[]),
        (&[(Kind::Routes, payments)], &[orders]),
    ];
    for (missing, left) in table {
        let assembly = without(missing);
        assert_eq!(named(&assembly), left, "without {missing:?}");
        let told: Vec<(Kind, &str)> =
            assembly.missing.iter().map(|(kind, name)| (*kind, name.as_str())).collect();
        assert_eq!(told, missing);
        assert_eq!(assembly.left_out.len() + left.len(), 2, "without {missing:?}");
        assert!(assembly.conflicts.is_empty());
    }
}

#[test]
fn routes_lead_to_a_service_that_nobody_can_ask_for_by_name() {
    let assembly = without(&[(Kind::Listener, "payments.default"), (Kind::Routes, "payments.default")]);
    assert_eq!(named(&assembly), ["orders.default"]);
    let route = &assembly.mesh.services[0].routes[0];
    let target = &assembly.mesh.services[route.backends[1].service];
    assert_eq!((target.full_name().as_str(), target.endpoints.len()), ("payments.default", 1));
    assert!(assembly.missing.is_empty() && assembly.left_out.is_empty());
}

#[test]
fn only_who_asked_for_it_knows_what_is_asked_of_callers() {
    let authorization = |assembly: &Assembly| assembly.mesh.services[0].authorization.clone();
    assert_eq!(authorization(&without(&[])), Some(nobody()));
    assert_eq!(authorization(&without(&[(Kind::Listener, "inbound/orders.default")])), None);
}

#[test]
fn of_two_that_ask_different_things_of_callers_rules_win_over_none_and_both_are_told() {
    let (open, shut) = (
        "{version: 1, services: [{name: a}]}",
        "{version: 1, services: [{name: a, inbound: {authorization: []}}]}",
    );
    let name = (Kind::Listener, "inbound/a.default".to_owned());
    for (short, full) in [(open, shut), (shut, open)] {
        let mut both = parts(&mesh(full));
        both.insert(
            (Kind::Listener, "inbound/a".to_owned()),
            parts(&mesh(short)).remove(&name).expect("rules"),
        );
        let assembly = assemble(&both, &own());
        assert_eq!(assembly.mesh.services[0].authorization, Some(nobody()));
        assert!(
            assembly.conflicts[0].contains("`inbound/a` and `inbound/a.default`"),
            "{:?}",
            assembly.conflicts
        );
    }
}

#[test]
fn a_listener_under_another_host_is_the_same_service() {
    let mesh = mesh(MESH);
    let mut parts = parts(&mesh);
    let ours = Audience { client: Client::Outrigger, certificates: Some(Certificates::Own) };
    let listener = encode::mesh(&mesh, &ours)
        .into_iter()
        .find(|resource| (resource.kind, resource.name.as_str()) == (Kind::Listener, "orders.default"))
        .expect("a listener");
    let alias = encode::alias(&listener, "orders.example");
    let part = decode::decode(alias.kind, &alias.name, &alias.bytes, &own()).expect("an alias");
    parts.insert((alias.kind, alias.name), part);
    assert_eq!(assemble(&parts, &own()), without(&[]));
    // And by itself, as it comes on demand.
    parts.remove(&(Kind::Listener, "orders.default".to_owned()));
    assert_eq!(assemble(&parts, &own()), without(&[]));
}

#[test]
fn a_host_leads_to_one_service_and_the_other_is_told() {
    let one = mesh("{version: 1, services: [{name: a, hosts: [x.example], endpoints: ['10.0.0.1:80']}]}");
    let other = mesh("{version: 1, services: [{name: b, hosts: [x.example], endpoints: ['10.0.0.2:80']}]}");
    let mut both = parts(&one);
    both.extend(parts(&other));
    let assembly = assemble(&both, &own());
    let owners: Vec<String> = assembly
        .mesh
        .services
        .iter()
        .filter(|service| service.hosts.iter().any(|host| host == "x.example"))
        .map(config::model::Service::full_name)
        .collect();
    assert_eq!(owners, ["a.default"]);
    assert_eq!(assembly.conflicts.len(), 1, "{:?}", assembly.conflicts);
    assert!(assembly.conflicts[0].contains("x.example") && assembly.conflicts[0].contains("b.default"));
}

#[test]
fn another_trust_domain_is_told() {
    let one = mesh("{version: 1, trust_domain: one.example, services: [{name: a}]}");
    let other = mesh("{version: 1, trust_domain: other.example, services: [{name: b}]}");
    let mut both = parts(&one);
    both.extend(parts(&other));
    let assembly = assemble(&both, &own());
    assert_eq!(assembly.mesh.trust_domain, "one.example");
    assert_eq!(assembly.conflicts.len(), 1, "{:?}", assembly.conflicts);
    assert_eq!(assemble(&Parts::new(), &own()).mesh.trust_domain, "cluster.local");
}

/// What an empty list of rules comes to.
fn nobody() -> Authorization {
    Authorization { rules: Vec::new(), default: Answer::Deny }
}
