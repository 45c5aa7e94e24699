//! Builds the routes of a service: what a call must look like, and where it then goes.

use std::collections::HashMap;

use crate::fault::{FAULTS_TOLD_MAX, Sink, Sinks, Wrong};
use crate::model::{Backend, HeaderMatch, HeaderValueMatch, Match, MethodMatch, Route, Service};
use crate::policy;
use crate::service::{check_weights, labels, weight};
use crate::spell;
use crate::walk::{Fields, Item};

/// Every service by name and namespace.
#[derive(Debug)]
pub(crate) struct Known {
    index: HashMap<String, usize>,
    /// Whether no name had a fault; else an unknown service may be the one with the fault.
    all_named: bool,
    /// Named by backends and not there, in the order in which they come after the services.
    missing: Vec<(String, String)>,
    services: usize,
}

impl Known {
    pub(crate) fn new(services: &[Service], all_named: bool) -> Self {
        let mut index = HashMap::new();
        for (i, service) in services.iter().enumerate() {
            index.entry(service.full_name()).or_insert(i);
        }
        Self { index, all_named, missing: Vec::new(), services: services.len() }
    }

    /// The name and namespace of each service that backends name and no file has; their indices follow those of the services.
    pub(crate) fn into_missing(self) -> impl Iterator<Item = (String, String)> {
        self.missing.into_iter()
    }

    /// The index of a service, if it is there.
    pub(crate) fn find(&self, full: &str) -> Option<usize> {
        self.index.get(full).copied()
    }

    /// Tells of a service that is named and that nobody has, unless it may be one whose name has a fault.
    pub(crate) fn tell_missing(&self, full: &str, item: &Item, dangling: &mut Sink) {
        if !self.all_named {
            return;
        }
        let wrong = Wrong::new(format!("there is no service `{full}`"));
        // Looking through all names costs; past what is told nobody reads the hint.
        let told = dangling.count() < FAULTS_TOLD_MAX;
        let hinted = if told { wrong.hint(service_hint(full, self)) } else { wrong };
        dangling.add(item.place, &item.path, hinted);
    }

    /// The index that a service will have which is not there.
    fn miss(&mut self, name: &str, namespace: &str) -> usize {
        let full = (name.to_owned(), namespace.to_owned());
        let at = self.missing.iter().position(|known| *known == full).unwrap_or_else(|| {
            self.missing.push(full);
            self.missing.len() - 1
        });
        self.services + at
    }
}

/// Builds the routes of the service `services[own]`.
pub(crate) fn build(
    block: &Fields,
    own: usize,
    service: &Service,
    services: &[Service],
    known: &mut Known,
    sinks: &mut Sinks,
) -> Vec<Route> {
    let Sinks { faults: sink, dangling } = sinks;
    // What a match says, to the path of the first route that says it.
    let mut earlier: HashMap<String, String> = HashMap::new();
    let mut routes = Vec::new();
    for item in block.list("routes").iter().flatten() {
        let Some(fields) = item.fields() else { continue };
        let faults = sink.count();
        let matches = match_of(fields.fields("match"), service, sink);
        // With a fault in it, what the match says is not what was meant.
        let whole = fields.fields("match").map_or(!fields.given("match"), |block| block.whole);
        let sound = whole && sink.count() == faults;
        if sound {
            check_reachable(item, &matches, &mut earlier, sink);
        }
        let backends = backends(fields, own, service, services, known, (sink, dangling));
        let policy = policy::policy(fields, &service.policy, sink);
        routes.push(Route { matches, backends, policy });
    }
    routes
}

/// How many regular expressions the routes of a service have.
pub(crate) fn regexes(block: &Fields) -> usize {
    let routes = block.list("routes").iter().flatten().filter_map(Item::fields);
    let matches = routes.filter_map(|route| route.fields("match"));
    let of_match = |block: &Fields| {
        let method = block.fields("method").is_some_and(|method| method.given("regex"));
        usize::from(method) + header_regexes(block)
    };
    matches.map(of_match).sum()
}

/// How many regular expressions the `headers` of a block have.
pub(crate) fn header_regexes(block: &Fields) -> usize {
    let headers = block.list("headers").iter().flatten().filter_map(Item::fields);
    headers.filter(|header| header.given("regex")).count()
}

fn check_reachable(item: &Item, matches: &Match, earlier: &mut HashMap<String, String>, sink: &mut Sink) {
    let all = format!("{:?}", Match::default());
    let says = format!("{matches:?}");
    if let Some(first) = earlier.get(&all) {
        let wrong = Wrong::new(format!("no call comes here: `{first}` takes every call"));
        sink.add(item.place, &item.path, wrong.hint("put the route without a match last"));
    } else if let Some(first) = earlier.get(&says) {
        let wrong = Wrong::new(format!("no call comes here: `{first}` matches the same calls"));
        sink.add(item.place, &item.path, wrong.hint("remove one of the two; the first match wins"));
    }
    earlier.entry(says).or_insert_with(|| item.path.clone());
}

fn match_of(fields: Option<&Fields>, service: &Service, sink: &mut Sink) -> Match {
    let Some(fields) = fields else { return Match::default() };
    let matches = Match {
        host: fields.text("host").map(str::to_owned),
        service: fields.text("service").map(str::to_owned),
        method: method_match(fields, sink),
        headers: fields
            .list("headers")
            .iter()
            .flatten()
            .filter_map(|item| header_match(item.fields()?, sink))
            .collect(),
    };
    if let Some(item) = fields.item("host")
        && let Some(host) = &matches.host
        && !service.hosts.is_empty()
        && !service.hosts.contains(host)
    {
        let wrong = Wrong::new(format!("`{host}` is not a host of this service"));
        sink.add(item.place, &item.path, wrong.hint(host_hint(host, service)));
    }
    if let Some(item) = fields.item("method")
        && let (Some(grpc_service), Some(MethodMatch::Exact(method))) = (&matches.service, &matches.method)
        && method.split('/').next() != Some(grpc_service)
    {
        let wrong = Wrong::new(format!("`{method}` is not a method of `{grpc_service}`, so no call matches"));
        sink.add(item.place, &item.path, wrong.hint("leave `service` out; the method names it"));
    }
    matches
}

fn host_hint(host: &str, service: &Service) -> String {
    match spell::nearest(host, service.hosts.iter().map(String::as_str)) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => {
            let hosts = spell::list(service.hosts.iter().map(String::as_str));
            format!("add it to `hosts`, or write one of {hosts}")
        }
    }
}

fn method_match(fields: &Fields, sink: &mut Sink) -> Option<MethodMatch> {
    let item = fields.item("method")?;
    let Some(long) = item.fields() else {
        return item.text().map(|text| MethodMatch::Exact(text.to_owned()));
    };
    one_of(long, &["exact", "prefix", "regex"], sink)?;
    if let Some(text) = long.text("exact") {
        return Some(MethodMatch::Exact(text.to_owned()));
    }
    if let Some(text) = long.text("prefix") {
        return Some(MethodMatch::Prefix(text.to_owned()));
    }
    policy::regex(long.item("regex")?, sink).map(MethodMatch::Regex)
}

/// One entry of `headers`.
pub(crate) fn header_match(fields: &Fields, sink: &mut Sink) -> Option<HeaderMatch> {
    one_of(fields, &["exact", "prefix", "regex", "present"], sink)?;
    let value = if let Some(text) = fields.text("exact") {
        HeaderValueMatch::Exact(text.to_owned())
    } else if let Some(text) = fields.text("prefix") {
        HeaderValueMatch::Prefix(text.to_owned())
    } else if let Some(present) = fields.flag("present") {
        HeaderValueMatch::Present(present)
    } else {
        HeaderValueMatch::Regex(policy::regex(fields.item("regex")?, sink)?)
    };
    let name = fields.text("name")?.to_owned();
    Some(HeaderMatch { name, value, invert: fields.flag("invert").unwrap_or(false) })
}

/// Exactly one of some keys must be there.
pub(crate) fn one_of(fields: &Fields, names: &[&str], sink: &mut Sink) -> Option<()> {
    let given: Vec<&str> = names.iter().copied().filter(|name| fields.given(name)).collect();
    match given.len() {
        1 => return Some(()),
        0 => {
            let wrong = Wrong::new(format!("none of {} is there", spell::list(names.iter().copied())));
            sink.add(fields.place, &fields.path, wrong.hint("write one of them"));
        }
        _ => {
            let wrong = Wrong::new(format!("{} stand together", spell::list(given)));
            sink.add(fields.place, &fields.path, wrong.hint("write one of them"));
        }
    }
    None
}

fn backends(
    fields: &Fields,
    own: usize,
    service: &Service,
    services: &[Service],
    known: &mut Known,
    (sink, dangling): (&mut Sink, &mut Sink),
) -> Vec<Backend> {
    let Some(item) = fields.item("backends") else {
        return vec![Backend { service: own, labels: Default::default(), weight: 1 }];
    };
    let list = fields.list("backends");
    if list.is_empty() {
        let wrong = Wrong::new("there is no backend");
        sink.add(item.place, &item.path, wrong.hint("leave the key out for the service's own endpoints"));
        return Vec::new();
    }
    let faults = sink.count();
    let entries = list.iter().flatten().filter_map(Item::fields);
    let backends: Vec<Backend> =
        entries.filter_map(|entry| backend(entry, service, services, known, dangling)).collect();
    let whole = fields.whole && sink.count() == faults && backends.len() == list.len();
    if whole && backends.iter().all(|backend| backend.weight == 0) {
        let wrong = Wrong::new("every backend has weight 0, so no call could go anywhere");
        sink.add(item.place, &item.path, wrong.hint("give one of them a weight above 0"));
    }
    check_weights(fields, "backends", backends.iter().map(|backend| backend.weight), sink);
    backends
}

fn backend(
    entry: &Fields,
    service: &Service,
    services: &[Service],
    known: &mut Known,
    dangling: &mut Sink,
) -> Option<Backend> {
    let item = entry.item("service")?;
    let target = item.text()?;
    let (name, namespace) = target.split_once('.').unwrap_or((target, &service.namespace));
    let full = format!("{name}.{namespace}");
    let Some(&index) = known.index.get(&full) else {
        known.tell_missing(&full, item, dangling);
        let index = known.miss(name, namespace);
        return Some(Backend { service: index, labels: labels(entry), weight: weight(entry) });
    };
    let labels = labels(entry);
    // Sidecars may bring labels that no file knows.
    let checked = !labels.is_empty() && !services[index].registration;
    if checked && !services[index].endpoints.iter().any(|endpoint| endpoint.carries(&labels)) {
        let (place, path) = entry.item("labels").map_or((entry.place, &entry.path), |i| (i.place, &i.path));
        let wrong = Wrong::new(format!("no endpoint of `{full}` carries these labels"));
        dangling.add(place, path, wrong.hint("add them to an endpoint's `labels`, or correct them here"));
    }
    Some(Backend { service: index, labels, weight: weight(entry) })
}

fn service_hint(full: &str, known: &Known) -> String {
    let names = || known.index.keys().map(String::as_str);
    if let Some(meant) = spell::nearest(full, names()) {
        return format!("did you mean `{meant}`?");
    }
    // The right name in another namespace is the commonest slip.
    let name = full.split('.').next().unwrap_or_default();
    let mut elsewhere: Vec<&str> = names().filter(|other| other.split('.').next() == Some(name)).collect();
    elsewhere.sort_unstable();
    match elsewhere.first() {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => "add it to `services`, or correct the name".to_owned(),
    }
}
