//! Several files as one mesh: what each of them may claim, and what stays in force where one is not good.

use outrigger_config::meshes::{Candidate, Settled, Taken};
use outrigger_config::model::Mesh;
use outrigger_config::{MeshFile, Source, parse_meshes, settle_meshes};

const USERS: &str = "version: 1\nservices: [{name: users, endpoints: [10.0.0.1:1]}]\n";
const ORDERS: &str = "version: 1\nservices:\n  - name: orders\n    endpoints: [10.0.0.2:1]\n    routes: [{backends: [{service: users}]}]\n";

fn file(name: &str, text: &str) -> MeshFile {
    MeshFile::read(Source { name, text })
}

/// Settles files of which nothing was in force before.
fn settle(files: &[MeshFile]) -> Settled {
    settle_meshes(&files.iter().map(|now| Candidate { now, before: None }).collect::<Vec<_>>())
}

/// Settles files, each as it is now and as it was in force; the same value where nothing has changed.
fn settle_after(files: &[(&MeshFile, Option<&MeshFile>)]) -> Settled {
    settle_meshes(&files.iter().map(|(now, before)| Candidate { now, before: *before }).collect::<Vec<_>>())
}

fn names(mesh: &Mesh) -> Vec<String> {
    mesh.services.iter().map(outrigger_config::model::Service::full_name).collect()
}

fn faults(settled: &Settled, at: usize) -> String {
    settled.files[at].faults.as_ref().map(ToString::to_string).unwrap_or_default()
}

fn taken(settled: &Settled) -> Vec<Taken> {
    settled.files.iter().map(|outcome| outcome.taken).collect()
}

/// The first backend of the first route of a service, by name.
fn backend(mesh: &Mesh, service: &str) -> String {
    let service = mesh.services.iter().find(|known| known.name == service).expect("the service");
    mesh.services[service.routes[0].backends[0].service].full_name()
}

#[test]
fn backends_name_services_of_other_files_whatever_the_order() {
    let (users, orders) = (Source { name: "u", text: USERS }, Source { name: "o", text: ORDERS });
    for sources in [[users, orders], [orders, users]] {
        let meshes = parse_meshes(&sources);
        assert!(meshes.files.iter().all(Result::is_ok), "{:?}", meshes.files);
        let mesh = meshes.mesh.expect("a mesh");
        assert_eq!(names(&mesh), ["orders.default", "users.default"], "sorted by full name");
        assert_eq!(backend(&mesh, "orders"), "users.default");
    }
}

#[test]
fn one_file_gives_the_mesh_that_it_gives_alone() {
    let text = "version: 1\nservices: [{name: b, routes: [{backends: [{service: a}]}]}, {name: a}]\n";
    let joined = parse_meshes(&[Source { name: "m", text }]).mesh.expect("a mesh");
    let alone = outrigger_config::parse_mesh(Source { name: "m", text }).expect("a mesh");
    assert_eq!(
        joined.services[1],
        alone
            .services
            .into_iter()
            .find(|service| service.name == "b")
            .map(|mut service| {
                service.routes[0].backends[0].service = 0;
                service
            })
            .expect("b")
    );
}

#[test]
fn defaults_hold_for_their_own_file() {
    let strict = "version: 1\ndefaults: {deadline: {default: 7s}}\nservices: [{name: a}]\n";
    let settled = settle(&[file("a", strict), file("u", USERS)]);
    let deadline =
        |at: usize| settled.mesh.services[at].policy.deadline.default.map(|default| default.as_secs());
    assert_eq!((deadline(0), deadline(1)), (Some(7), None));
}

#[test]
fn a_service_that_an_earlier_file_has_is_a_fault_of_the_later_one_that_names_the_other() {
    let settled = settle(&[file("a.yaml", USERS), file("b.yaml", USERS)]);
    assert_eq!(taken(&settled), [Taken::Now, Taken::Nothing]);
    assert_eq!(
        faults(&settled, 1),
        "b.yaml:2:19: services[0].name: the service `users` of namespace `default` is in another file already; \
         the first is `services[0]` of a.yaml; merge the two"
    );
}

#[test]
fn a_host_that_an_earlier_file_has_is_a_fault_of_the_later_one() {
    let a = file("a.yaml", "version: 1\nservices: [{name: a, hosts: [pay.example, b.default]}]\n");
    let by_name = file("b.yaml", "version: 1\nservices: [{name: c, hosts: [pay.example]}]\n");
    let settled = settle(&[a, by_name]);
    assert_eq!(taken(&settled), [Taken::Now, Taken::Nothing]);
    assert!(faults(&settled, 1).contains("`pay.example` belongs to the service `a.default` already"));
    assert!(faults(&settled, 1).contains("`services[0]` of a.yaml"), "{}", faults(&settled, 1));
    // And one that a service has by its name.
    let a = file("a.yaml", "version: 1\nservices: [{name: a, hosts: [b.default]}]\n");
    let settled = settle(&[a, file("b.yaml", "version: 1\nservices: [{name: b}]\n")]);
    assert_eq!(taken(&settled), [Taken::Now, Taken::Nothing]);
    assert!(faults(&settled, 1).starts_with("b.yaml:2:19: services[0].name: the host `b.default`"));
}

#[test]
fn what_was_in_force_keeps_its_names_though_its_file_comes_later() {
    let (old, new) = (file("a.yaml", "version: 1\nservices: []\n"), file("a.yaml", USERS));
    let b = file("b.yaml", USERS);
    let settled = settle_after(&[(&new, Some(&old)), (&b, Some(&b))]);
    assert_eq!(taken(&settled), [Taken::Before, Taken::Now]);
    assert!(faults(&settled, 0).contains("`services[0]` of b.yaml"), "{}", faults(&settled, 0));
    assert_eq!(names(&settled.mesh), ["users.default"]);
}

#[test]
fn a_service_that_moves_from_one_file_to_another_at_once_is_no_fault() {
    let none = file("a.yaml", "version: 1\nservices: []\n");
    let (had, has) = (file("a.yaml", USERS), file("b.yaml", USERS));
    let without = file("b.yaml", "version: 1\nservices: []\n");
    let settled = settle_after(&[(&none, Some(&had)), (&has, Some(&without))]);
    assert_eq!(taken(&settled), [Taken::Now, Taken::Now]);
    assert_eq!(names(&settled.mesh), ["users.default"]);
}

#[test]
fn a_bad_file_stays_as_it_was_and_the_good_ones_go_on() {
    let (good, bad) = (file("u.yaml", USERS), file("u.yaml", "version: 1\nservices: [{nam: users}]\n"));
    let (old, new) = (file("o.yaml", ORDERS), file("o.yaml", &ORDERS.replace("10.0.0.2", "10.0.0.9")));
    let settled = settle_after(&[(&bad, Some(&good)), (&new, Some(&old))]);
    assert_eq!(taken(&settled), [Taken::Before, Taken::Now]);
    assert!(faults(&settled, 0).contains("unknown key `nam`"));
    assert_eq!(names(&settled.mesh), ["orders.default", "users.default"]);
    assert_eq!(settled.mesh.services[0].endpoints[0].target.to_string(), "10.0.0.9:1");
    assert!(settled.files[1].warnings.is_empty());
}

#[test]
fn what_only_a_bad_file_could_have_is_a_service_without_endpoints_and_a_warning_that_names_it() {
    let settled = settle(&[file("u.yaml", "version: 1\nservices: [{nam: users}]\n"), file("o.yaml", ORDERS)]);
    assert_eq!(taken(&settled), [Taken::Nothing, Taken::Now]);
    assert_eq!(names(&settled.mesh), ["orders.default", "users.default"]);
    assert!(settled.mesh.services[1].endpoints.is_empty());
    assert_eq!(
        settled.mesh.services[1].hosts,
        ["users.default", "users.default.svc", "users.default.svc.cluster.local"]
    );
    assert_eq!(backend(&settled.mesh, "orders"), "users.default");
    let warning = settled.files[1].warnings[0].to_string();
    assert!(
        warning.starts_with(
            "o.yaml:5:36: services[0].routes[0].backends[0].service: there is no service `users.default`; \
             it has no endpoints while u.yaml cannot be used"
        ),
        "{warning}"
    );
}

#[test]
fn a_backend_that_no_file_has_is_a_fault_of_the_file_that_brings_it_anew() {
    let users = file("u.yaml", USERS);
    let (old, new) =
        (file("o.yaml", ORDERS), file("o.yaml", &ORDERS.replace("{service: users}", "{service: usres}")));
    let settled = settle_after(&[(&users, Some(&users)), (&new, Some(&old))]);
    assert_eq!(taken(&settled), [Taken::Now, Taken::Before]);
    assert!(
        faults(&settled, 1).contains("there is no service `usres.default`; did you mean `users.default`?")
    );
    assert_eq!(backend(&settled.mesh, "orders"), "users.default");
}

#[test]
fn a_service_that_is_taken_away_does_not_take_those_along_that_name_it() {
    let orders = file("o.yaml", ORDERS);
    // Its file is gone.
    let settled = settle_after(&[(&orders, Some(&orders))]);
    assert_eq!(taken(&settled), [Taken::Now]);
    assert_eq!(names(&settled.mesh), ["orders.default", "users.default"]);
    assert!(settled.mesh.services[1].endpoints.is_empty());
    assert!(settled.files[0].warnings[0].to_string().contains("it has no endpoints"));
    // Its file says so no more.
    let (old, new) = (file("u.yaml", USERS), file("u.yaml", "version: 1\nservices: []\n"));
    let settled = settle_after(&[(&new, Some(&old)), (&orders, Some(&orders))]);
    assert_eq!(taken(&settled), [Taken::Now, Taken::Now]);
    // And as after a restart, when nobody knows what was before.
    let settled = settle(&[file("o.yaml", ORDERS)]);
    assert_eq!((taken(&settled), names(&settled.mesh).len()), (vec![Taken::Now], 2));
}

#[test]
fn a_file_that_named_a_missing_service_all_along_can_be_edited() {
    let text = "version: 1\nservices:\n  - {name: a, routes: [{backends: [{service: gone}]}]}\n";
    let more = format!("{text}  - {{name: b}}\n");
    let (old, new) = (file("a.yaml", text), file("a.yaml", &more));
    let settled = settle_after(&[(&new, Some(&old))]);
    assert_eq!(taken(&settled), [Taken::Now]);
    assert!(settled.files[0].warnings[0].to_string().contains("there is no service `gone.default`"));
    // Another one that it brings anew is a fault, and only that one.
    let worse =
        file("a.yaml", &more.replace("{name: b}", "{name: b, routes: [{backends: [{service: lost}]}]}"));
    let settled = settle_after(&[(&worse, Some(&old))]);
    assert_eq!(taken(&settled), [Taken::Before]);
    assert!(
        faults(&settled, 0).contains("`lost.default`") && !faults(&settled, 0).contains("`gone.default`")
    );
}

#[test]
fn trust_domains_agree() {
    let other = "version: 1\ntrust_domain: example.org\nservices: [{name: a}]\n";
    let settled = settle(&[file("u.yaml", USERS), file("x.yaml", other)]);
    assert_eq!(taken(&settled), [Taken::Now, Taken::Nothing]);
    assert_eq!(
        faults(&settled, 1),
        "x.yaml:2:15: trust_domain: the trust domain is `example.org` here and `cluster.local` in u.yaml; \
         all files of a mesh are of one trust domain; write the same in all"
    );
}

#[test]
fn a_short_name_belongs_to_a_service_only_while_no_other_file_has_it_in_another_namespace() {
    let other = file("x.yaml", "version: 1\nservices: [{name: users, namespace: shop}]\n");
    let settled = settle(&[file("u.yaml", USERS)]);
    assert!(settled.mesh.services[0].hosts.contains(&"users".to_owned()));
    let settled = settle(&[file("u.yaml", USERS), other]);
    assert!(settled.mesh.services.iter().all(|service| !service.hosts.contains(&"users".to_owned())));
}

#[test]
fn labels_that_no_endpoint_carries_are_no_fault_where_sidecars_announce_endpoints() {
    let text = "version: 1\nservices:\n  - name: a\n    registration: true\n    routes: [{backends: [{service: a, labels: {v: \"2\"}}]}]\n";
    assert!(parse_meshes(&[Source { name: "a", text }]).files[0].is_ok());
    let text = text.replace("registration: true", "registration: false");
    assert!(parse_meshes(&[Source { name: "a", text: &text }]).files[0].is_err());
}

#[test]
fn limits_hold_for_all_files_together() {
    let many = |from: usize| {
        let services: Vec<String> = (from..from + 6_000).map(|at| format!("{{name: s{at}}}")).collect();
        format!("version: 1\nservices: [{}]\n", services.join(", "))
    };
    let settled = settle(&[file("a.yaml", &many(0)), file("b.yaml", &many(6_000))]);
    assert_eq!(taken(&settled), [Taken::Now, Taken::Nothing]);
    assert!(faults(&settled, 1).contains("there are 12000 services, those of the other files among them"));
    assert_eq!(settled.mesh.services.len(), 6_000);
}

#[test]
fn a_file_that_cannot_be_read_is_as_bad_as_any() {
    let gone = MeshFile::unreadable("u.yaml", "Permission denied");
    let (users, orders) = (file("u.yaml", USERS), file("o.yaml", ORDERS));
    let settled = settle_after(&[(&gone, Some(&users)), (&orders, Some(&orders))]);
    assert_eq!(taken(&settled), [Taken::Before, Taken::Now]);
    assert_eq!(faults(&settled, 0), "u.yaml:1:1: .: it cannot be read: Permission denied");
    assert_eq!(settled.mesh.services[1].endpoints.len(), 1);
}
