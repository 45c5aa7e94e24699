//! What differs, service by service.

use std::collections::BTreeMap;

use config::model::{Authorization, Mesh, Policy, Route, Service};
use config::words;
use serde_json::{Map, Value, json};

use crate::diff::change::{Change, changed};
use crate::flow::flow;

/// Every difference between two meshes, by service.
pub(crate) fn compare(old: &Mesh, new: &Mesh) -> Vec<Change> {
    let mut changes = Vec::new();
    changes.extend(changed("", "trust_domain", json!(old.trust_domain), json!(new.trust_domain)));
    let (before, after) = (by_name(old), by_name(new));
    let mut names: Vec<&String> = before.keys().chain(after.keys()).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        match (before.get(name), after.get(name)) {
            (Some(before), Some(after)) => Pair { name, old, new, before, after }.compare(&mut changes),
            (before, after) => changes.push(Change {
                service: name.clone(),
                what: "service".to_owned(),
                old: before.map(|service| sum(service)),
                new: after.map(|service| sum(service)),
            }),
        }
    }
    changes
}

pub(crate) fn by_name(mesh: &Mesh) -> BTreeMap<String, &Service> {
    mesh.services.iter().map(|service| (service.full_name(), service)).collect()
}

/// A service in one line.
fn sum(service: &Service) -> Value {
    json!({
        "endpoints": service.endpoints.len(),
        "routes": service.routes.len(),
        "hosts": service.hosts,
    })
}

/// A service that is in both.
struct Pair<'a> {
    name: &'a str,
    old: &'a Mesh,
    new: &'a Mesh,
    before: &'a Service,
    after: &'a Service,
}

impl Pair<'_> {
    fn compare(&self, changes: &mut Vec<Change>) {
        let Self { name, before, after, .. } = self;
        let mut told = |what: &str, of: &dyn Fn(&Service) -> Value| {
            changes.extend(changed(name, what, of(before), of(after)));
        };
        told("ports", &|it| json!(it.ports));
        told("identities", &|it| it.identities.iter().map(|id| Value::from(id.as_str())).collect());
        told("registration", &|it| it.registration.into());
        told("balancing", &|it| words::balancing(&it.balancing));
        told("upstream", &|it| words::upstream(&it.upstream));
        told("health", &|it| it.health.as_ref().map(words::health).into());
        told("outliers", &|it| it.outliers.as_ref().map(words::outliers).into());
        told("retry_budget", &|it| words::retry_budget(&it.retry_budget));
        told("retry_throttling", &|it| it.retry_throttling.as_ref().map(words::retry_throttling).into());
        for block in BLOCKS {
            told(block, &|it| one(&it.policy, block));
        }
        told("unmatched", &|it| words::unmatched(it.unmatched).into());
        told("authorization", &|it| {
            let rules = |it: &Authorization| it.rules.iter().map(words::rule).collect::<Vec<_>>();
            it.authorization.as_ref().map(rules).into()
        });
        told("authorization_default", &|it| {
            it.authorization.as_ref().map(|it| words::answer(it.default)).into()
        });
        self.listed(changes, "host", |it| it.hosts.iter().map(|host| (host.clone(), json!({}))).collect());
        self.listed(changes, "endpoint", |it| {
            it.endpoints
                .iter()
                .map(|endpoint| {
                    let mut told = words::endpoint(endpoint);
                    told.as_object_mut().map(|told| told.remove("address"));
                    (endpoint.target.to_string(), told)
                })
                .collect()
        });
        self.listed(changes, "method", |it| {
            it.methods.iter().map(|(path, method)| (path.clone(), words::method(method))).collect()
        });
        self.routes(changes);
    }

    /// Compares what a service has many of, each with a name.
    fn listed(
        &self,
        changes: &mut Vec<Change>,
        kind: &str,
        of: impl Fn(&Service) -> BTreeMap<String, Value>,
    ) {
        let (before, after) = (of(self.before), of(self.after));
        let gone = before.iter().filter(|(key, _)| !after.contains_key(*key));
        for (key, value) in gone {
            changes.push(self.change(format!("{kind} {key}"), Some(value.clone()), None));
        }
        for (key, value) in &after {
            match before.get(key) {
                None => changes.push(self.change(format!("{kind} {key}"), None, Some(value.clone()))),
                Some(old) if old != value => {
                    let whole = changed(self.name, &format!("{kind} {key}"), old.clone(), value.clone());
                    changes.extend(whole);
                }
                Some(_) => {}
            }
        }
    }

    fn change(&self, what: String, old: Option<Value>, new: Option<Value>) -> Change {
        Change { service: self.name.to_owned(), what, old, new }
    }

    /// Compares the routes; one is the same if it matches the same calls.
    fn routes(&self, changes: &mut Vec<Change>) {
        let (before, after) = (keyed(self.before), keyed(self.after));
        for (key, at, route) in &before {
            if !after.iter().any(|(other, ..)| other == key) {
                let what = format!("routes[{at}] ({})", words::matches_in_words(&route.matches));
                changes.push(self.change(what, Some(self.leads(self.old, self.before, route)), None));
            }
        }
        for (key, at, route) in &after {
            let what = format!("routes[{at}] ({})", words::matches_in_words(&route.matches));
            let new = self.leads(self.new, self.after, route);
            match before.iter().find(|(other, ..)| other == key) {
                None => changes.push(self.change(what, None, Some(new))),
                Some((_, _, earlier)) => {
                    let old = self.leads(self.old, self.before, earlier);
                    changes.extend(changed(self.name, &what, old, new));
                }
            }
        }
        let order = |of: &[(String, usize, &Route)], other: &[(String, usize, &Route)]| -> Vec<String> {
            of.iter()
                .filter(|(key, ..)| other.iter().any(|(same, ..)| same == key))
                .map(|(_, _, route)| words::matches_in_words(&route.matches))
                .collect()
        };
        let (old, new) = (order(&before, &after), order(&after, &before));
        changes.extend(changed(self.name, "order of the routes", json!(old), json!(new)));
    }

    /// Where a route leads, and the blocks that it does not share with its service.
    fn leads(&self, mesh: &Mesh, service: &Service, route: &Route) -> Value {
        let backends: Vec<Value> =
            route.backends.iter().map(|backend| words::backend(backend, mesh)).collect();
        let mut told = Map::new();
        told.insert("backends".to_owned(), backends.into());
        for block in BLOCKS {
            let own = one(&route.policy, block);
            if own != one(&service.policy, block) {
                // A block that turns off what the service says.
                let own = if own.is_null() { json!({}) } else { own };
                told.insert(block.to_owned(), own);
            }
        }
        Value::Object(told)
    }
}

const BLOCKS: [&str; 6] = ["deadline", "stream", "headers", "retries", "hedging", "faults"];

/// One block of a level; `null`: it says nothing.
fn one(policy: &Policy, block: &str) -> Value {
    words::policy(policy).remove(block).unwrap_or_default()
}

/// The routes of a service by what they match, and their places.
fn keyed(service: &Service) -> Vec<(String, usize, &Route)> {
    let routes = service.routes.iter().enumerate();
    routes.map(|(at, route)| (flow(&words::matches(&route.matches)), at, route)).collect()
}
