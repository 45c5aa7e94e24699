//! Builds one [`Service`], apart from its hosts, routes and rules, which need all the others.

use std::collections::{BTreeMap, HashSet};

use crate::fault::{Sink, Wrong};
use crate::health;
use crate::injection;
use crate::model::{CallKind, Endpoint, EndpointTls, Method, Service, Target, Unmatched};
use crate::policy::{self, Defaults};
use crate::repeats;
use crate::spiffe::SpiffeId;
use crate::walk::{Fields, Item};

const NAMESPACE: &str = "default";
const WEIGHT: u32 = 1;

/// What the weights of a service's endpoints, or of a route's backends, may come to: Envoy and gRPC add them up in 32 bits, and
/// those that sidecars announce come to them.
pub(crate) const WEIGHTS_MAX: u64 = 4_000_000_000;

/// Builds what a service is by itself.
pub(crate) fn build(block: &Fields, trust_domain: &str, defaults: &Defaults, sink: &mut Sink) -> Service {
    let name = block.text("name").unwrap_or_default().to_owned();
    let namespace = block.text("namespace").unwrap_or(NAMESPACE).to_owned();
    let port = |item: &Item| item.integer().and_then(|n| u16::try_from(n).ok());
    Service {
        ports: block.list("ports").iter().flatten().filter_map(port).collect(),
        hosts: Vec::new(),
        identities: identities(block, trust_domain, &namespace, &name, sink),
        endpoints: endpoints(block, sink),
        registration: block.flag("registration").unwrap_or(false),
        methods: methods(block, sink),
        balancing: policy::balancing(block).unwrap_or(defaults.balancing),
        upstream: policy::upstream(block).unwrap_or(defaults.upstream),
        health: health::health(block, sink).or_else(|| defaults.health.clone()),
        outliers: health::outliers(block).or(defaults.outliers),
        retry_budget: repeats::retry_budget(block).unwrap_or(defaults.retry_budget),
        retry_throttling: repeats::retry_throttling(block).or(defaults.retry_throttling),
        policy: policy::policy(block, &defaults.policy, sink),
        routes: Vec::new(),
        unmatched: match block.text("unmatched") {
            Some("refuse") => Unmatched::Refuse,
            _ => Unmatched::Forward,
        },
        authorization: None,
        name,
        namespace,
    }
}

/// A service that is named and that nobody has: without endpoints, so that calls to it end UNAVAILABLE. It has no hosts yet.
pub(crate) fn missing(name: &str, namespace: &str, trust_domain: &str) -> Service {
    let defaults = Defaults::default();
    Service {
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        ports: Vec::new(),
        hosts: Vec::new(),
        identities: vec![SpiffeId::of_account(trust_domain, namespace, name)],
        endpoints: Vec::new(),
        registration: false,
        methods: BTreeMap::new(),
        balancing: defaults.balancing,
        upstream: defaults.upstream,
        health: defaults.health,
        outliers: defaults.outliers,
        retry_budget: defaults.retry_budget,
        retry_throttling: defaults.retry_throttling,
        policy: defaults.policy,
        routes: Vec::new(),
        unmatched: Unmatched::Forward,
        authorization: None,
    }
}

/// Labels as a mapping of texts.
pub(crate) fn labels(block: &Fields) -> BTreeMap<String, String> {
    let entries = block.map("labels").iter();
    entries.filter_map(|(key, item)| Some((key.clone(), item.text()?.to_owned()))).collect()
}

/// The weight, 1 unless given.
pub(crate) fn weight(block: &Fields) -> u32 {
    block.integer("weight").and_then(|n| u32::try_from(n).ok()).unwrap_or(WEIGHT)
}

fn identities(
    block: &Fields,
    trust_domain: &str,
    namespace: &str,
    name: &str,
    sink: &mut Sink,
) -> Vec<SpiffeId> {
    let default = || vec![SpiffeId::of_account(trust_domain, namespace, name)];
    let Some(item) = block.item("identities") else { return default() };
    let list = block.list("identities");
    if list.is_empty() {
        let wrong = Wrong::new("there is no identity, so no endpoint could ever prove itself");
        sink.add(item.place, &item.path, wrong.hint("leave the key out for the default, or list an id"));
    }
    list.iter().flatten().filter_map(|item| SpiffeId::parse(item.text()?).ok()).collect()
}

fn endpoints(block: &Fields, sink: &mut Sink) -> Vec<Endpoint> {
    let mut seen = HashSet::new();
    let mut endpoints = Vec::new();
    for item in block.list("endpoints").iter().flatten() {
        let endpoint = match (item.address(), item.fields()) {
            (Some(address), _) => {
                let target = Target::Address(address);
                Endpoint { target, tls: None, weight: WEIGHT, labels: BTreeMap::new() }
            }
            (None, Some(long)) => {
                let Some(target) = target(long, sink) else { continue };
                let tls = match long.text("tls") {
                    Some("mesh") => Some(EndpointTls::Mesh),
                    Some(_) => Some(EndpointTls::None),
                    None => None,
                };
                Endpoint { target, tls, weight: weight(long), labels: labels(long) }
            }
            (None, None) => continue,
        };
        if !seen.insert(endpoint.target.clone()) {
            let wrong = Wrong::new(format!("the endpoint `{}` stands here twice", endpoint.target));
            sink.add(
                item.place,
                &item.path,
                wrong.hint("give it once, with a larger `weight` for more calls"),
            );
        }
        endpoints.push(endpoint);
    }
    check_weights(block, "endpoints", endpoints.iter().map(|endpoint| endpoint.weight), sink);
    endpoints
}

/// Refuses weights that nobody can add up.
pub(crate) fn check_weights(block: &Fields, key: &str, weights: impl Iterator<Item = u32>, sink: &mut Sink) {
    let sum: u64 = weights.map(u64::from).sum();
    if sum > WEIGHTS_MAX
        && let Some(item) = block.item(key)
    {
        let wrong = Wrong::new(format!("the weights come to {sum}"));
        let hint = format!("divide all of them; {WEIGHTS_MAX} is the most that they may come to");
        sink.add(item.place, &item.path, wrong.hint(hint));
    }
}

/// The one of `address` and `dns` that is given.
fn target(block: &Fields, sink: &mut Sink) -> Option<Target> {
    if block.given("address") == block.given("dns") {
        let wrong = match block.given("dns") {
            true => Wrong::new("there are both `address` and `dns`"),
            false => Wrong::new("there is neither `address` nor `dns`"),
        };
        sink.add(block.place, &block.path, wrong.hint("write one of them: where the endpoint is"));
        return None;
    }
    let name = || {
        let (host, port) = block.text("dns")?.rsplit_once(':')?;
        Some(Target::Name { host: host.to_owned(), port: port.parse().ok()? })
    };
    block.address("address").map(Target::Address).or_else(name)
}

fn methods(block: &Fields, sink: &mut Sink) -> BTreeMap<String, Method> {
    let mut methods = BTreeMap::new();
    for (path, item) in block.map("methods") {
        let Some(block) = item.fields() else { continue };
        let kind = match block.text("type") {
            Some("unary") => Some(CallKind::Unary),
            Some("client_stream") => Some(CallKind::ClientStream),
            Some("server_stream") => Some(CallKind::ServerStream),
            Some("bidi_stream") => Some(CallKind::BidiStream),
            _ => None,
        };
        let method = Method {
            kind,
            idempotent: block.flag("idempotent").unwrap_or(true),
            deadline: policy::deadline(block, sink),
            stream: policy::stream(block),
            headers: policy::headers(block, sink),
            repeats: repeats::repeats(block, sink),
            injection: injection::injection(block, sink),
        };
        methods.insert(path.clone(), method);
    }
    methods
}
