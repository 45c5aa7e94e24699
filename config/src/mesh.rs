//! Builds [`Mesh`] from the keys of one mesh file or several: first what each service is, then how they relate.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::authorization::{self, Others};
use crate::fault::{Sink, Sinks, Wrong};
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

/// One file of a mesh, walked along its keys.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part<'a> {
    /// As faults of other files call it.
    pub(crate) file: &'a str,
    pub(crate) fields: &'a Fields,
}

/// A service, and which of the parts it stands in.
struct Entry<'a> {
    part: usize,
    block: &'a Fields,
}

/// Builds one mesh of several files; what it returns is whole only if all faults stayed empty. `complete`: every file that there
/// is, is here. Of two files that claim the same, the earlier one has it.
///
/// A backend that no file has becomes a service without endpoints, and a dangling fault.
pub(crate) fn build(parts: &[Part<'_>], complete: bool, sinks: &mut [Sinks]) -> Mesh {
    let trust_domain = trust_domain(parts, sinks);
    let (entries, all_here) = entries(parts, sinks);
    let defaults: Vec<Defaults> = parts
        .iter()
        .zip(sinks.iter_mut())
        .map(|(part, sinks)| Defaults::build(part.fields.fields("defaults"), &mut sinks.faults))
        .collect();
    let mut services: Vec<Service> = entries
        .iter()
        .map(|entry| {
            service::build(entry.block, &trust_domain, &defaults[entry.part], &mut sinks[entry.part].faults)
        })
        .collect();

    // A name with a fault is told once, not again at everything that refers to it.
    let all_named = complete && all_here && entries.iter().all(|entry| is_named(entry.block));
    check_names(parts, &entries, &services, sinks);
    claim_hosts(parts, &entries, &mut services, sinks);
    for entry in &entries {
        check_identities(entry.block, &trust_domain, &mut sinks[entry.part].faults);
    }
    let mut known = routes::Known::new(&services, all_named);
    let routes: Vec<_> = entries
        .iter()
        .zip(&services)
        .enumerate()
        .map(|(own, (entry, service))| {
            routes::build(entry.block, own, service, &services, &mut known, &mut sinks[entry.part])
        })
        .collect();
    let rules: Vec<_> = entries
        .iter()
        .zip(&services)
        .map(|(entry, service)| {
            let defaults = parts[entry.part].fields.fields("defaults");
            let others = Others { services: &services, known: &known, trust_domain: &trust_domain };
            authorization::build(entry.block, defaults, service, &others, &mut sinks[entry.part])
        })
        .collect();
    for ((service, routes), rules) in services.iter_mut().zip(routes).zip(rules) {
        service.routes = routes;
        service.authorization = rules;
    }
    let hosts: HashSet<String> = services.iter().flat_map(|service| service.hosts.iter().cloned()).collect();
    services.extend(known.into_missing().map(|(name, namespace)| {
        let mut missing = service::missing(&name, &namespace, &trust_domain);
        missing.hosts =
            derived_hosts(&name, &namespace).into_iter().filter(|host| !hosts.contains(host)).collect();
        missing
    }));
    Mesh { trust_domain, services }
}

/// That of the first file; the others must say the same.
fn trust_domain(parts: &[Part<'_>], sinks: &mut [Sinks]) -> String {
    let said = |part: &Part<'_>| part.fields.text("trust_domain").unwrap_or(TRUST_DOMAIN).to_owned();
    let readable =
        |part: &&Part<'_>| part.fields.given("trust_domain") == part.fields.item("trust_domain").is_some();
    let Some(first) = parts.iter().find(readable) else { return TRUST_DOMAIN.to_owned() };
    let domain = said(first);
    for (part, sinks) in parts.iter().zip(sinks).filter(|(part, _)| readable(part)) {
        let other = said(part);
        if other != domain {
            let item = part.fields.item("trust_domain");
            let place = item.map_or(part.fields.place, |item| item.place);
            let wrong =
                Wrong::new(format!("the trust domain is `{other}` here and `{domain}` in {}", first.file));
            let hint = "all files of a mesh are of one trust domain; write the same in all";
            sinks.faults.add(place, "trust_domain", wrong.hint(hint));
        }
    }
    domain
}

/// The services of all files, and whether all of them could be read.
fn entries<'a>(parts: &[Part<'a>], sinks: &mut [Sinks]) -> (Vec<Entry<'a>>, bool) {
    let (mut entries, mut all_here, mut regexes) = (Vec::new(), true, 0);
    let others = if parts.len() > 1 { ", those of the other files among them" } else { "" };
    for (at, (part, sinks)) in parts.iter().zip(sinks).enumerate() {
        let list = part.fields.list("services");
        let blocks: Vec<&Fields> = list.iter().flatten().filter_map(Item::fields).collect();
        let count = entries.len() + list.len();
        regexes +=
            blocks.iter().map(|block| routes::regexes(block) + authorization::regexes(block)).sum::<usize>();
        let wrong = if count > SERVICES_MAX {
            let wrong = Wrong::new(format!("there are {count} services{others}"));
            wrong.hint(format!("at most {SERVICES_MAX} are possible"))
        } else if regexes > REGEXES_MAX {
            let wrong = Wrong::new(format!("there are {regexes} regular expressions{others}"));
            wrong.hint(format!("at most {REGEXES_MAX} are possible; `exact` and `prefix` cost nothing"))
        } else {
            all_here &= blocks.len() == list.len() && part.fields.item("services").is_some();
            entries.extend(blocks.into_iter().map(|block| Entry { part: at, block }));
            continue;
        };
        sinks.faults.add(part.fields.place, "services", wrong);
        all_here = false;
    }
    (entries, all_here)
}

fn is_named(block: &Fields) -> bool {
    block.text("name").is_some() && (block.text("namespace").is_some() || !block.given("namespace"))
}

/// Where an entry stands, as a fault of `reader`'s file says it.
fn whereabouts(parts: &[Part<'_>], entry: &Entry<'_>, reader: &Entry<'_>) -> String {
    match entry.part == reader.part {
        true => format!("`{}`", entry.block.path),
        false => format!("`{}` of {}", entry.block.path, parts[entry.part].file),
    }
}

fn check_names(parts: &[Part<'_>], entries: &[Entry<'_>], services: &[Service], sinks: &mut [Sinks]) {
    let mut first: HashMap<String, usize> = HashMap::new();
    for (i, (entry, service)) in entries.iter().zip(services).enumerate() {
        let Some(name) = entry.block.item("name").filter(|_| is_named(entry.block)) else { continue };
        if let Some(earlier) = first.get(&service.full_name()) {
            let earlier = &entries[*earlier];
            let here =
                if earlier.part == entry.part { "stands here twice" } else { "is in another file already" };
            let wrong = Wrong::new(format!(
                "the service `{}` of namespace `{}` {here}",
                service.name, service.namespace
            ));
            let hint = format!("the first is {}; merge the two", whereabouts(parts, earlier, entry));
            sinks[entry.part].faults.add(name.place, &name.path, wrong.hint(hint));
            continue;
        }
        first.insert(service.full_name(), i);
    }
}

/// The names under which Kubernetes knows every service.
fn derived_hosts(name: &str, namespace: &str) -> Vec<String> {
    vec![
        format!("{name}.{namespace}"),
        format!("{name}.{namespace}.svc"),
        format!("{name}.{namespace}.{CLUSTER_SUFFIX}"),
    ]
}

/// Gives every service its host names, file by file, the derived ones first, each to one service only.
fn claim_hosts(parts: &[Part<'_>], entries: &[Entry<'_>], services: &mut [Service], sinks: &mut [Sinks]) {
    let mut namespaces: HashMap<String, BTreeSet<String>> = HashMap::new();
    for service in services.iter() {
        namespaces.entry(service.name.clone()).or_default().insert(service.namespace.clone());
    }
    let mut owner: BTreeMap<String, usize> = BTreeMap::new();
    for (part, sinks) in sinks.iter_mut().enumerate() {
        let own = || entries.iter().enumerate().filter(move |(_, entry)| entry.part == part);
        for (i, entry) in own().filter(|(_, entry)| is_named(entry.block)) {
            let (name, namespace) = (&services[i].name, &services[i].namespace);
            let mut derived = derived_hosts(name, namespace);
            if namespaces[name].len() == 1 {
                derived.insert(0, name.clone());
            }
            for host in &derived {
                let holder = *owner.entry(host.clone()).or_insert(i);
                let elsewhere = entries[holder].part != part;
                if elsewhere && services[holder].full_name() != services[i].full_name() {
                    let Some(item) = entry.block.item("name") else { continue };
                    let wrong = taken(host, &services[holder]);
                    let there = whereabouts(parts, &entries[holder], entry);
                    let hint = format!("see `hosts` of {there}; a host leads to one service");
                    sinks.faults.add(item.place, &item.path, wrong.hint(hint));
                }
            }
            services[i].hosts = derived;
        }
        for (i, entry) in own() {
            for item in entry.block.list("hosts").iter().flatten() {
                let Some(host) = item.text() else { continue };
                let holder = *owner.entry(host.to_owned()).or_insert(i);
                if holder != i {
                    let wrong = taken(host, &services[holder]);
                    let there = whereabouts(parts, &entries[holder], entry);
                    let hint = format!("see {there}; a host leads to one service");
                    sinks.faults.add(item.place, &item.path, wrong.hint(hint));
                } else if !services[i].hosts.iter().any(|known| known == host) {
                    services[i].hosts.push(host.to_owned());
                }
            }
        }
    }
}

fn taken(host: &str, holder: &Service) -> Wrong {
    Wrong::new(format!("the host `{host}` belongs to the service `{}` already", holder.full_name()))
}

/// An id of another trust domain can never be proven: sidecars hold the roots of one domain only.
fn check_identities(block: &Fields, trust_domain: &str, sink: &mut Sink) {
    let allowed = block
        .fields("inbound")
        .map(|inbound| inbound.list("authorization"))
        .unwrap_or_default()
        .iter()
        .flatten()
        .filter_map(|rule| authorization::covered(rule.fields()?))
        .flat_map(|(_, covered)| covered.list("from"));
    for item in block.list("identities").iter().chain(allowed).flatten() {
        let whole = |text: &str| SpiffeId::parse(text.strip_suffix("/*").unwrap_or(text)).ok();
        let Some(id) = item.text().and_then(whole) else { continue };
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
