//! The files in `good/` are taken, and those in `bad/` get exactly the faults written beside them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use outrigger_config::mesh_source::{ControlPlanes, Protocol};
use outrigger_config::model::{BalancingPolicy, Deadline, Mesh, MethodMatch, Mtls, Sidecar, Workers};
use outrigger_config::{Source, check, parse_mesh, parse_sidecar};

/// Set it to write the faults of `bad/` anew; then read every line of the difference.
const REWRITE: &str = "OUTRIGGER_REWRITE_FAULTS";

fn files(folder: &str, end: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(folder);
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|found| found == end))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

fn name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

fn good(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/good").join(name)).unwrap()
}

fn mesh(name: &str) -> Mesh {
    parse_mesh(Source { name, text: &good(name) }).unwrap()
}

fn sidecar(name: &str) -> Sidecar {
    parse_sidecar(Source { name, text: &good(name) }).unwrap()
}

#[test]
fn good_files_have_no_fault_also_across_files() {
    let texts: Vec<(PathBuf, String)> = files("good", "yaml")
        .into_iter()
        .map(|path| (path.clone(), fs::read_to_string(path).unwrap()))
        .collect();
    let sources: Vec<Source<'_>> =
        texts.iter().map(|(path, text)| Source { name: name(path), text }).collect();
    if let Err(faults) = check(&sources) {
        panic!("{faults}");
    }
}

#[test]
fn bad_files_have_exactly_the_faults_beside_them() {
    for path in files("bad", "yaml") {
        let text = fs::read_to_string(&path).unwrap();
        let found = match check(&[Source { name: name(&path), text: &text }]) {
            Ok(()) => panic!("{} has no fault", name(&path)),
            Err(faults) => format!("{faults}\n"),
        };
        let beside = path.with_extension("faults");
        if std::env::var_os(REWRITE).is_some() {
            fs::write(&beside, &found).unwrap();
        }
        let expected = fs::read_to_string(&beside).unwrap_or_default();
        assert_eq!(found, expected, "\nfound in {}:\n{found}", name(&path));
    }
}

#[test]
fn every_file_of_faults_has_its_yaml() {
    for path in files("bad", "faults") {
        assert!(path.with_extension("yaml").exists(), "{}", name(&path));
    }
}

#[test]
fn a_sidecar_that_says_little_gets_the_documented_defaults() {
    let sidecar = sidecar("smallest.sidecar.yaml");
    assert_eq!(sidecar.account, "users");
    assert_eq!(sidecar.spiffe_id().as_str(), "spiffe://cluster.local/ns/bank/sa/users");
    assert_eq!(sidecar.workers, Workers::Auto);
    let outbound = sidecar.outbound.unwrap();
    assert_eq!((outbound.listen, outbound.listen_ipv6), ("127.0.0.1:15001".parse().unwrap(), None));
    assert_eq!(outbound.unknown, outrigger_config::model::Unknown::Passthrough);
    assert_eq!(sidecar.admin.listen, "127.0.0.1:15000".parse().unwrap());
    assert_eq!(sidecar.probes, "0.0.0.0:15020".parse().unwrap());
    assert_eq!(sidecar.drain.lag, Duration::from_secs(5));
    assert_eq!(sidecar.drain.deadline, Duration::from_secs(30));
    assert_eq!(sidecar.limits, Default::default());
    assert!(sidecar.inbound.is_empty());
}

#[test]
fn a_control_plane_is_read_with_all_that_belongs_to_it_and_with_the_documented_defaults() {
    let mut read = sidecar("control.sidecar.yaml");
    read.resolve_paths(Path::new("/etc"));
    assert_eq!((read.zone.as_deref(), read.labels["version"].as_str()), (Some("a"), "v1"));
    let control = read.mesh.control().unwrap();
    let addresses: Vec<String> = control.addresses.iter().map(|address| address.to_string()).collect();
    assert_eq!(addresses, ["https://outrigger-control:15012", "http://127.0.0.1:1"]);
    assert_eq!(control.bundle.as_deref(), Some(Path::new("/etc/roots.crt")));
    assert_eq!(control.cache.as_deref(), Some(Path::new("/etc/cache")));
    assert_eq!((control.cache_max_age, control.empty_grace), (Duration::from_secs(3_600), Duration::ZERO));
    assert_eq!(control.protocol, Protocol::Sotw);
    assert_eq!(control.register, Some(([10, 0, 0, 8], 15_006).into()));
    let text = "service: orders\noutbound: {}\nmesh: {control: [\"http://[::1]\"]}\n";
    let read = parse_sidecar(Source { name: "sidecar.yaml", text }).unwrap();
    let control = read.mesh.control().unwrap();
    let defaults = ControlPlanes { addresses: control.addresses.clone(), ..ControlPlanes::default() };
    assert_eq!(*control, defaults);
    assert_eq!(control.cache_max_age, Duration::from_secs(72 * 3_600));
    assert_eq!((control.empty_grace, control.protocol), (Duration::from_secs(30), Protocol::Delta));
}

#[test]
fn an_inbound_entry_is_permissive_and_of_the_own_service_unless_it_says_otherwise() {
    let inbound = sidecar("server.sidecar.yaml").inbound;
    let facts: Vec<(Mtls, &str)> = inbound.iter().map(|entry| (entry.mtls, entry.service.as_str())).collect();
    assert_eq!(facts, [(Mtls::Strict, "payments"), (Mtls::Permissive, "payments"), (Mtls::Off, "orders")]);
}

#[test]
fn a_bare_name_is_a_host_only_where_it_means_one_service() {
    let mesh = mesh("shop.mesh.yaml");
    let hosts = |name, namespace| mesh.services[mesh.service(name, namespace).unwrap()].hosts.clone();
    assert_eq!(
        hosts("payments", "shop"),
        [
            "payments",
            "payments.shop",
            "payments.shop.svc",
            "payments.shop.svc.cluster.local",
            "payments.internal"
        ]
    );
    assert_eq!(hosts("users", "bank"), ["users.bank", "users.bank.svc", "users.bank.svc.cluster.local"]);
}

#[test]
fn a_block_replaces_the_whole_block_above_it() {
    let mesh = mesh("shop.mesh.yaml");
    let payments = &mesh.services[0];
    let above = Deadline {
        default: Some(Duration::from_secs(5)),
        max: Some(Duration::from_secs(60)),
        ..Deadline::default()
    };
    assert_eq!(payments.policy.deadline, above);
    let own = Deadline { max: Some(Duration::from_secs(2)), ..Deadline::default() };
    assert_eq!(payments.routes[0].policy.deadline, own);
    assert_eq!(payments.routes[1].policy.deadline, above);
    assert_eq!(payments.balancing.policy, BalancingPolicy::LeastRequest);
    assert_eq!(mesh.services[1].balancing.policy, BalancingPolicy::RoundRobin);
}

#[test]
fn a_route_without_backends_has_its_own_service_and_names_reach_over_namespaces() {
    let mesh = mesh("shop.mesh.yaml");
    let payments = &mesh.services[0];
    assert_eq!(payments.routes[1].backends.len(), 1);
    assert_eq!(payments.routes[1].backends[0].service, 0);
    assert_eq!(payments.routes[0].backends[0].labels["version"], "v2");
    let users = &mesh.services[mesh.service("users", "bank").unwrap()];
    assert_eq!(users.routes[0].backends[0].service, mesh.service("orders", "shop").unwrap());
    assert_eq!(payments.identities[0].as_str(), "spiffe://cluster.local/ns/shop/sa/payments");
}

#[test]
fn a_regex_must_match_all_of_it() {
    let mesh = mesh("every_key.mesh.yaml");
    let Some(MethodMatch::Regex(regex)) = &mesh.services[2].routes[3].matches.method else { panic!() };
    assert!(regex.is_match("shop.CartService/Fill"));
    assert!(!regex.is_match("my.shop.CartService/Fill"));
}

/// Examples of a mesh in the documentation, by their first line; a part of a file is told from its whole by `version`.
#[test]
fn every_mesh_in_the_documentation_is_taken() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let pages = fs::read_dir(docs).unwrap().map(|entry| entry.unwrap().path());
    let mut taken = 0;
    for page in pages.filter(|path| path.extension().is_some_and(|end| end == "md")) {
        let text = fs::read_to_string(&page).unwrap();
        for block in text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()) {
            let whole = match block {
                _ if block.starts_with("version:") => block.to_owned(),
                _ if block.starts_with("services:") => format!("version: 1\n{block}"),
                _ => continue,
            };
            if let Err(faults) = parse_mesh(Source { name: name(&page), text: &whole }) {
                panic!("an example of {}:\n{faults}\n{block}", page.display());
            }
            taken += 1;
        }
    }
    assert!(taken >= 4, "{taken}");
}
