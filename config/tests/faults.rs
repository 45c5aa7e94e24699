//! How faults are told: all at once, in order, with their places, across files too.

use outrigger_config::{Source, check, cross_check, cross_check_sent, parse_mesh, parse_sidecar};

const MESH: &str = "\
version: 1
services:
  - name: orders
    namespace: shop
    endpoints: [{address: 10.0.0.8:15006, tls: mesh}]
    inbound: {authorization: [{allow: {from: [spiffe://cluster.local/ns/shop/sa/users]}}]}
  - {name: users, namespace: shop}
";

const SIDECAR: &str = "\
service: orders
namespace: shop
identity: {cert: a, key: b, bundle: c}
inbound:
  - {listen: 127.0.0.1:0, app: 127.0.0.1:50051, mtls: strict}
outbound: {listen: 127.0.0.1:0}
mesh: {file: mesh.yaml}
";

/// The faults of the pair, one a line; empty if there are none.
fn crossed(sidecar: &str, mesh: &str) -> String {
    let sidecar = Source { name: "sidecar.yaml", text: sidecar };
    let mesh = Source { name: "mesh.yaml", text: mesh };
    let read_sidecar = parse_sidecar(sidecar).unwrap();
    let read_mesh = parse_mesh(mesh).unwrap();
    let direct = cross_check(&read_sidecar, sidecar, &read_mesh, mesh);
    assert_eq!(direct, check(&[sidecar, mesh]), "the two ways in agree");
    direct.map_or_else(|faults| faults.to_string(), |()| String::new())
}

#[test]
fn a_service_that_a_control_plane_does_not_have_is_no_fault_and_all_else_is() {
    let sidecar = SIDECAR.replace("service: orders", "service: other");
    let source = Source { name: "sidecar.yaml", text: &sidecar };
    let read = parse_sidecar(source).unwrap();
    let sent = |mesh: &str| {
        let mesh = parse_mesh(Source { name: "mesh.yaml", text: mesh }).unwrap();
        cross_check_sent(&read, source, &mesh, "the mesh").map_err(|faults| faults.to_string())
    };
    assert_eq!(sent(MESH), Ok(()));
    let faults = sent("version: 1\ntrust_domain: example.org\nservices: [{name: other, namespace: shop}]\n")
        .unwrap_err();
    assert!(faults.contains("in the mesh") && faults.contains("is not an identity of"), "{faults}");
    assert_eq!(faults.lines().count(), 2, "{faults}");
}

#[test]
fn ten_faults_of_one_file_are_told_at_once_and_in_order() {
    let text = include_str!("bad/ten.mesh.yaml");
    let faults = parse_mesh(Source { name: "ten.mesh.yaml", text }).unwrap_err();
    let places: Vec<(usize, usize, &str)> =
        faults.told().iter().map(|fault| (fault.line, fault.column, fault.path.as_str())).collect();
    assert_eq!(
        places,
        [
            (1, 10, "version"),
            (2, 15, "trust_domain"),
            (4, 3, "defaults.deadine"),
            (7, 17, "services[0].endpoints[0]"),
            (8, 25, "services[0].deadline.default"),
            (9, 5, "services[0].retires"),
            (11, 34, "services[0].routes[0].match.headers[0].name"),
            (11, 51, "services[0].routes[0].match.headers[0].exact"),
            (12, 30, "services[0].routes[0].backends[0].service"),
            (13, 16, "services[0].unmatched"),
        ]
    );
    assert_eq!(format!("{faults}\n"), include_str!("bad/ten.mesh.faults"));
}

#[test]
fn faults_come_in_the_order_of_the_files() {
    let sources = [
        Source { name: "b.yaml", text: "service: orders\noutbound: {}\nmesh: {}\n" },
        Source { name: "a.yaml", text: "version: 3\nservices: []\n" },
    ];
    let told = check(&sources).unwrap_err().to_string();
    let files: Vec<&str> = told.lines().map(|line| line.split(':').next().unwrap()).collect();
    assert_eq!(files, ["b.yaml", "a.yaml"]);
}

#[test]
fn a_sidecar_and_its_mesh_that_fit_have_no_fault() {
    assert_eq!(crossed(SIDECAR, MESH), "");
}

#[test]
fn a_service_that_the_mesh_does_not_have_names_its_neighbour() {
    assert_eq!(
        crossed(&SIDECAR.replace("service: orders", "service: order"), MESH),
        "sidecar.yaml:1:10: service: mesh.yaml has no service `order` in namespace `shop`; did you mean `orders`?"
    );
    let elsewhere = SIDECAR.replace("namespace: shop", "namespace: bank");
    assert_eq!(
        crossed(&elsewhere, MESH),
        "sidecar.yaml:1:10: service: mesh.yaml has no service `orders` in namespace `bank`; it has one in \
         namespace `shop`"
    );
    let entry = SIDECAR.replace("mtls: strict", "mtls: strict, service: carts");
    assert_eq!(
        crossed(&entry, MESH),
        "sidecar.yaml:5:72: inbound[0].service: mesh.yaml has no service `carts` in namespace `shop`; add it \
         there, or correct the name"
    );
}

#[test]
fn an_identity_that_callers_would_refuse_is_a_fault() {
    assert_eq!(
        crossed(&format!("{SIDECAR}account: payments\n"), MESH),
        "sidecar.yaml:5:5: inbound[0]: `spiffe://cluster.local/ns/shop/sa/payments` is not an identity of \
         `orders.shop`; callers would refuse it; correct `account`, or `identities` in mesh.yaml"
    );
}

#[test]
fn two_trust_domains_are_a_fault() {
    let told = crossed(&format!("{SIDECAR}trust_domain: example.org\n"), MESH);
    assert!(
        told.contains(
            "sidecar.yaml:8:15: trust_domain: the trust domain is `example.org` here and \
             `cluster.local` in mesh.yaml"
        ),
        "{told}"
    );
}

#[test]
fn mesh_tls_without_an_identity_is_a_fault() {
    let bare = "service: users\nnamespace: shop\noutbound: {listen: 127.0.0.1:0}\nmesh: {file: mesh.yaml}\n";
    assert_eq!(
        crossed(bare, MESH),
        "sidecar.yaml:3:11: identity: there is no identity, and the endpoint `10.0.0.8:15006` of `orders.shop` \
         in mesh.yaml says `tls: mesh`; add `identity: {cert, key, bundle}`"
    );
}

#[test]
fn rules_about_callers_before_a_listener_that_knows_none_are_a_fault() {
    assert_eq!(
        crossed(&SIDECAR.replace("mtls: strict", "mtls: off"), MESH),
        "sidecar.yaml:5:55: inbound[0].mtls: every rule of `orders.shop` that allows names callers, and `mtls: off` knows \
         none, so every call would be refused; write `mtls: strict`, or leave `from` out of a rule in mesh.yaml"
    );
}
