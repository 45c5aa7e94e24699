//! Builds [`Mesh`] from the keys of `mesh.yaml`: first what each service is, then how they relate.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::fault::{Sink, Wrong};
use crate::model::{Mesh, Service};
use crate::policy::Defaults;
use crate::routes;
use crate::service;
use crate::spiffe::SpiffeId;
use crate::walk::{Fields, Item};

const TRUST_DOMAIN: &str = "cluster.local";

/// The suffix under which Kubernetes knows every service.
const CLUSTER_SUFFIX: &str = "svc.cluster.local";

/// Regular expressions of one mesh; each may take much memory once compiled.
const REGEXES_MAX: usize = 1_000;

/// Services of one mesh.
const SERVICES_MAX: usize = 10_000;

/// Builds the mesh; what it returns is whole only if the sink stayed empty.
pub(crate) fn build(fields: &Fields, sink: &mut Sink) -> Mesh {
    let trust_domain = fields.text("trust_domain").unwrap_or(TRUST_DOMAIN).to_owned();
    let defaults = Defaults::build(fields.fields("defaults"), sink);
    let list = fields.list("services");
    if list.len() > SERVICES_MAX {
        let wrong = Wrong::new(format!("there are {} services", list.len()));
        sink.add(fields.place, "services", wrong.hint(format!("at most {SERVICES_MAX} are possible")));
        return Mesh { trust_domain, services: Vec::new() };
    }
    let blocks: Vec<&Fields> = list.iter().flatten().filter_map(Item::fields).collect();
    let regexes = blocks.iter().map(|block| routes::regexes(block)).sum::<usize>();
    if regexes > REGEXES_MAX {
        let wrong = Wrong::new(format!("there are {regexes} regular expressions"));
        let hint = format!("at most {REGEXES_MAX} are possible; `exact` and `prefix` cost nothing");
        sink.add(fields.place, "services", wrong.hint(hint));
        return Mesh { trust_domain, services: Vec::new() };
    }
    let mut services: Vec<Service> =
        blocks.iter().map(|block| service::build(block, &trust_domain, &defaults, sink)).collect();

    // A name with a fault is told once, not again at everything that refers to it.
    let all_named = list.len() == blocks.len() && blocks.iter().all(|block| is_named(block));
    check_names(&blocks, &services, sink);
    claim_hosts(&blocks, &mut services, sink);
    check_identities(&blocks, &trust_domain, sink);
    let known = routes::Known::new(&services, all_named);
    let routes: Vec<_> = blocks
        .iter()
        .zip(&services)
        .enumerate()
        .map(|(own, (block, service))| routes::build(block, own, service, &services, &known, sink))
        .collect();
    for (service, routes) in services.iter_mut().zip(routes) {
        service.routes = routes;
    }
    Mesh { trust_domain, services }
}

fn is_named(block: &Fields) -> bool {
    block.text("name").is_some() && (block.text("namespace").is_some() || !block.given("namespace"))
}

fn check_names(blocks: &[&Fields], services: &[Service], sink: &mut Sink) {
    let mut first: HashMap<String, usize> = HashMap::new();
    for (i, (block, service)) in blocks.iter().zip(services).enumerate() {
        let Some(name) = block.item("name").filter(|_| is_named(block)) else { continue };
        if let Some(earlier) = first.get(&service.full_name()) {
            let path = &blocks[*earlier].path;
            let wrong = Wrong::new(format!(
                "the service `{}` of namespace `{}` stands here twice",
                service.name, service.namespace
            ));
            sink.add(name.place, &name.path, wrong.hint(format!("the first is `{path}`; merge the two")));
            continue;
        }
        first.insert(service.full_name(), i);
    }
}

/// Gives every service its host names, the derived ones first, each to one service only.
fn claim_hosts(blocks: &[&Fields], services: &mut [Service], sink: &mut Sink) {
    let mut namespaces: HashMap<String, BTreeSet<String>> = HashMap::new();
    for service in services.iter() {
        namespaces.entry(service.name.clone()).or_default().insert(service.namespace.clone());
    }
    let mut owner: BTreeMap<String, usize> = BTreeMap::new();
    for (i, (block, service)) in blocks.iter().zip(services.iter_mut()).enumerate() {
        if !is_named(block) {
            continue;
        }
        let (name, namespace) = (&service.name, &service.namespace);
        let mut derived = vec![
            format!("{name}.{namespace}"),
            format!("{name}.{namespace}.svc"),
            format!("{name}.{namespace}.{CLUSTER_SUFFIX}"),
        ];
        if namespaces[name].len() == 1 {
            derived.insert(0, name.clone());
        }
        for host in &derived {
            owner.entry(host.clone()).or_insert(i);
        }
        service.hosts = derived;
    }
    for (i, block) in blocks.iter().enumerate() {
        for item in block.list("hosts").iter().flatten() {
            let Some(host) = item.text() else { continue };
            let holder = *owner.entry(host.to_owned()).or_insert(i);
            if holder != i {
                let wrong = Wrong::new(format!(
                    "the host `{host}` belongs to the service `{}` already",
                    services[holder].full_name()
                ));
                let hint = format!("see `{}`; a host leads to one service", blocks[holder].path);
                sink.add(item.place, &item.path, wrong.hint(hint));
            } else if !services[i].hosts.iter().any(|known| known == host) {
                services[i].hosts.push(host.to_owned());
            }
        }
    }
}

/// An id of another trust domain can never be proven: sidecars hold the roots of one domain only.
fn check_identities(blocks: &[&Fields], trust_domain: &str, sink: &mut Sink) {
    for block in blocks {
        let allowed = block
            .fields("inbound")
            .map(|inbound| inbound.list("authorization"))
            .unwrap_or_default()
            .iter()
            .flatten()
            .filter_map(|rule| rule.fields()?.fields("allow"))
            .flat_map(|allow| allow.list("from"));
        for item in block.list("identities").iter().chain(allowed).flatten() {
            let Some(id) = item.text().and_then(|text| SpiffeId::parse(text).ok()) else { continue };
            if id.trust_domain() != trust_domain {
                let wrong = Wrong::new(format!(
                    "the id is of trust domain `{}`, the mesh of `{trust_domain}`",
                    id.trust_domain()
                ));
                let hint = "nobody could prove it; write an id of the mesh's own trust domain";
                sink.add(item.place, &item.path, wrong.hint(hint));
            }
        }
    }
}
