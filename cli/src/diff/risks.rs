//! What in a change calls for a second look.

use std::collections::BTreeSet;

use config::model::{EndpointTls, Mesh, Service, Unmatched};
use config::repeats::Repeats;
use config::words;
use serde_json::{Value, json};

use crate::diff::access;
use crate::diff::cover;
use crate::diff::services::by_name;
use crate::flow::flow;

/// How many callers one warning names.
const CALLERS_TOLD: usize = 5;

/// Something risky about a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Warning {
    /// `NAME.NAMESPACE`.
    pub(crate) service: String,
    /// What happens, and what follows from it.
    pub(crate) text: String,
}

impl Warning {
    pub(crate) fn json(&self) -> Value {
        json!({"service": self.service, "warning": self.text})
    }
}

/// Everything risky in which the new mesh differs from the old one.
pub(crate) fn find(old: &Mesh, new: &Mesh) -> Vec<Warning> {
    let (before, after) = (by_name(old), by_name(new));
    let mut warnings = Vec::new();
    for (name, service) in &before {
        let mut texts = Vec::new();
        match after.get(name) {
            None => {
                texts.push("is gone: calls to it end UNAVAILABLE, or go on outside of the mesh".to_owned())
            }
            Some(now) => {
                endpoints(service, now, &mut texts);
                hosts(service, now, &mut texts);
                routes(service, now, &mut texts);
                authorization(service, now, &mut texts);
                repeats(service, now, &mut texts);
            }
        }
        warnings.extend(texts.into_iter().map(|text| Warning { service: name.clone(), text }));
    }
    for (name, service) in after.iter().filter(|(name, _)| !before.contains_key(*name)) {
        if service.endpoints.is_empty() && !service.registration {
            let text = "is new and has no endpoint: calls to it end UNAVAILABLE".to_owned();
            warnings.push(Warning { service: name.clone(), text });
        }
    }
    warnings.extend(starved(new).into_iter().filter(|warning| !starved(old).contains(warning)));
    warnings
}

/// Endpoints that take calls at all.
fn used(service: &Service) -> usize {
    service.endpoints.iter().filter(|endpoint| endpoint.weight > 0).count()
}

fn endpoints(old: &Service, new: &Service, texts: &mut Vec<String>) {
    match (used(old), used(new)) {
        // Sidecars bring some that no file knows.
        _ if new.registration => {}
        (1.., 0) => texts.push("loses all of its endpoints: calls to it end UNAVAILABLE".to_owned()),
        (before @ 2.., now) if now * 2 < before => {
            texts.push(format!("loses most of its endpoints: {now} of {before} are left"));
        }
        _ => {}
    }
    for endpoint in &new.endpoints {
        let before = old.endpoints.iter().find(|other| other.target == endpoint.target);
        let was_plain = before.is_some_and(|before| before.tls == Some(EndpointTls::None));
        if endpoint.tls == Some(EndpointTls::None) && !was_plain {
            texts.push(format!("endpoint {} is spoken to in plain text", endpoint.target));
        }
    }
    if old.identities != new.identities && !old.identities.iter().any(|id| new.identities.contains(id)) {
        texts.push("its endpoints must prove another identity: those that run now are refused".to_owned());
    }
}

fn hosts(old: &Service, new: &Service, texts: &mut Vec<String>) {
    for host in old.hosts.iter().filter(|host| !new.hosts.contains(host)) {
        texts.push(format!("does not answer to {host} any more"));
    }
    let lost: Vec<u16> = match new.ports.is_empty() {
        true => Vec::new(),
        false => old.ports.iter().copied().filter(|port| !new.ports.contains(port)).collect(),
    };
    if old.ports.is_empty() && !new.ports.is_empty() {
        texts.push(format!(
            "answers to the ports {:?} only: calls that name another end UNAVAILABLE",
            new.ports
        ));
    } else if !lost.is_empty() {
        texts.push(format!("does not answer to the ports {lost:?} any more"));
    }
}

fn routes(old: &Service, new: &Service, texts: &mut Vec<String>) {
    let key = |service: &Service, at: usize| flow(&words::matches(&service.routes[at].matches));
    let before: BTreeSet<(String, String)> =
        cover::hidden(old).into_iter().map(|(later, earlier)| (key(old, later), key(old, earlier))).collect();
    for (later, earlier) in cover::hidden(new) {
        if !before.contains(&(key(new, later), key(new, earlier))) {
            let matches = words::matches_in_words(&new.routes[later].matches);
            texts
                .push(format!("routes[{later}] ({matches}) takes no call: routes[{earlier}] takes them all"));
        }
    }
    if old.unmatched == Unmatched::Forward && new.unmatched == Unmatched::Refuse {
        texts.push("refuses calls that match no route: they end UNIMPLEMENTED".to_owned());
    }
    let injects = |service: &Service| -> BTreeSet<String> {
        let levels = service.routes.iter().map(|route| (key_of(route), route.policy.injection));
        let methods =
            service.methods.iter().filter_map(|(path, method)| Some((path.clone(), method.injection?)));
        let own = [("all of its calls".to_owned(), service.policy.injection)];
        let all = levels.chain(methods).chain(own);
        all.filter(|(_, injection)| flow(&words::faults(injection)) != "{}").map(|(what, _)| what).collect()
    };
    for what in injects(new).difference(&injects(old)) {
        texts.push(format!("faults are injected on purpose: {what}"));
    }
}

fn key_of(route: &config::model::Route) -> String {
    words::matches_in_words(&route.matches)
}

fn authorization(old: &Service, new: &Service, texts: &mut Vec<String>) {
    let access::Shift { wider, narrower } = access::shift(old, new);
    for (what, list) in [("lets in more", wider), ("keeps out", narrower)] {
        if list.is_empty() {
            continue;
        }
        let more = list.len().saturating_sub(CALLERS_TOLD);
        let told: Vec<&str> = list.iter().take(CALLERS_TOLD).map(String::as_str).collect();
        let more = if more > 0 { format!("; and {more} more") } else { String::new() };
        texts.push(format!("{what}: {}{more}", told.join("; ")));
    }
}

/// Methods that must not be processed twice, and policies that would.
fn repeats(old: &Service, new: &Service, texts: &mut Vec<String>) {
    let may_repeat = |service: &Service, path: &str| {
        let method = service.methods.get(path).and_then(|method| method.repeats);
        let any = |rule: &Repeats| *rule != Repeats::Unprocessed;
        match method {
            Some(rule) => any(&rule),
            None => {
                any(&service.policy.repeats) || service.routes.iter().any(|route| any(&route.policy.repeats))
            }
        }
    };
    let is_safe = |service: &Service, path: &str| service.methods.get(path).is_none_or(|it| it.idempotent);
    for path in old.methods.keys().chain(new.methods.keys()).collect::<BTreeSet<_>>() {
        let (was, is) = (is_safe(old, path), is_safe(new, path));
        if !was && is && may_repeat(new, path) {
            texts.push(format!(
                "{path} was not idempotent, and now counts as such: retries may have it processed twice"
            ));
        }
        let told_before = !was && may_repeat(old, path);
        if !is && may_repeat(new, path) && !told_before {
            texts.push(format!(
                "{path} is not idempotent: the retries that now hold for it repeat only what was not processed"
            ));
        }
    }
}

/// Backends with a weight that have no endpoint to take calls.
fn starved(mesh: &Mesh) -> Vec<Warning> {
    let mut warnings = Vec::new();
    for service in &mesh.services {
        for (at, route) in service.routes.iter().enumerate() {
            for backend in route.backends.iter().filter(|backend| backend.weight > 0) {
                let target = &mesh.services[backend.service];
                let takes = target
                    .endpoints
                    .iter()
                    .any(|endpoint| endpoint.weight > 0 && endpoint.carries(&backend.labels));
                // A service without any is told as such.
                if !takes && used(target) > 0 && !target.registration {
                    let whom = flow(&words::backend(backend, mesh));
                    let text = format!("routes[{at}] sends calls to {whom}, where no endpoint takes any");
                    warnings.push(Warning { service: service.full_name(), text });
                }
            }
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use config::{Source, parse_mesh};

    use super::*;

    fn told(old: &str, new: &str) -> Vec<String> {
        let mesh = |service: &str| {
            let text = format!("version: 1\nservices:\n  - {{name: a, namespace: shop, {service}}}\n");
            parse_mesh(Source { name: "mesh", text: &text })
                .unwrap_or_else(|faults| panic!("{faults}\n{text}"))
        };
        find(&mesh(old), &mesh(new)).into_iter().map(|warning| warning.text).collect()
    }

    #[test]
    fn each_risk_is_told_and_its_way_back_is_not() {
        let one = "endpoints: ['10.0.0.1:1']";
        for (old, new, text) in [
            (one, "endpoints: []", "loses all of its endpoints"),
            (one, "endpoints: [{address: '10.0.0.1:1', weight: 0}]", "loses all of its endpoints"),
            ("endpoints: ['10.0.0.1:1', '10.0.0.2:1', '10.0.0.3:1']", one, "1 of 3 are left"),
            (one, "endpoints: [{address: '10.0.0.1:1', tls: none}]", "10.0.0.1:1 is spoken to in plain text"),
            ("ports: [1, 2]", "ports: [1]", "the ports [2] any more"),
            ("ports: []", "ports: [1]", "the ports [1] only"),
            ("hosts: [a.internal]", "hosts: []", "does not answer to a.internal any more"),
            (
                "routes: [{match: {method: a.B/C}}, {match: {service: a.B}}]",
                "routes: [{match: {service: a.B}}, {match: {method: a.B/C}}]",
                "routes[1] (method a.B/C) takes no call: routes[0]",
            ),
            ("unmatched: forward", "unmatched: refuse", "end UNIMPLEMENTED"),
            ("routes: []", "faults: {abort: {percentage: 1%}}", "faults are injected on purpose: all"),
            (
                "inbound: {authorization: []}",
                "inbound: {authorization: [{allow: {from: ['*']}}]}",
                "lets in more",
            ),
            (
                "retries: {}, methods: {a.B/C: {idempotent: false}}",
                "retries: {}, methods: {a.B/C: {}}",
                "may have it processed twice",
            ),
            (
                "methods: {a.B/C: {idempotent: false}}",
                "retries: {}, methods: {a.B/C: {idempotent: false}}",
                "a.B/C is not idempotent",
            ),
            (
                "endpoints: ['10.0.0.1:1', {address: '10.0.0.2:1', labels: {v: v2}}], routes: [{backends: [{service: a, labels: {v: v2}}]}]",
                "endpoints: ['10.0.0.1:1', {address: '10.0.0.2:1', weight: 0, labels: {v: v2}}], routes: [{backends: [{service: a, labels: {v: v2}}]}]",
                "where no endpoint takes any",
            ),
        ] {
            let warnings = told(old, new);
            assert!(warnings.iter().any(|warning| warning.contains(text)), "{old} -> {new}: {warnings:?}");
            let back = told(new, old);
            assert!(!back.iter().any(|warning| warning.contains(text)), "{new} -> {old}: {back:?}");
            assert_eq!(told(new, new), Vec::<String>::new(), "what was so before is no news");
        }
    }

    #[test]
    fn other_identities_are_told() {
        let identities = |account| format!("identities: ['spiffe://cluster.local/ns/shop/sa/{account}']");
        assert!(told(&identities("a"), &identities("b"))[0].contains("must prove another identity"));
    }
}
