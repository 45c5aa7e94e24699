//! Where a route leads: backends, their endpoints, and what holds for the choice among them.

use std::collections::BTreeMap;

use config::model::Service;
use config::words;
use serde_json::{Value, json};

use crate::balance::standing::EJECTED;
use crate::clock::Nanos;
use crate::explain::question::Known;
use crate::tables::routes::Route;
use crate::tables::{Cluster, Tables};

/// The backends among which a call's is drawn.
pub(crate) fn backends(tables: &Tables, route: &Route, known: Known<'_>) -> Value {
    let all: u64 = route.backends().map(|(_, weight)| u64::from(weight)).sum();
    let told = route.backends().map(|(index, weight)| {
        let cluster = &tables.clusters[index];
        let mut told = json!({
            "service": &*cluster.service,
            "labels": cluster.labels,
            "weight": weight,
            "share": f64::from(weight) / all.max(1) as f64,
        });
        let service = match known {
            Known::Live(_) => None,
            Known::Mesh { mesh, places, .. } => {
                places.get(&*cluster.service).and_then(|at| mesh.services.get(*at))
            }
        };
        told["policies"] = service.map_or_else(|| in_force(tables, cluster), written);
        told["endpoints"] = match (known, service) {
            (Known::Live(now), _) => members(tables, cluster, now),
            (_, service) => lines(service, &cluster.labels),
        };
        if let Known::Live(now) = known {
            told["panic"] = cluster.look(now, |view| view.is_some_and(|view| view.panic)).into();
            told["unresolved"] = cluster.unresolved.as_deref().into();
        }
        told
    });
    told.collect()
}

/// What holds for all calls to a backend's service, whichever route they take.
fn in_force(tables: &Tables, cluster: &Cluster) -> Value {
    let dial = cluster.dials.first().map(|dial| &tables.endpoints[*dial]);
    json!({
        "balancing": {"policy": cluster.policy.to_string()},
        "retry_budget": words::retry_budget(&cluster.retry_budget),
        "retry_throttling": cluster.throttle.as_ref().map(|throttle| words::retry_throttling(throttle.rule())),
        "outliers": cluster.detector.as_ref().map(|detector| words::outliers(&detector.rule)),
        // These two stand with each endpoint, and all of a service have the same.
        "health": dial.and_then(|dial| dial.health.as_deref()).map(words::health),
        "upstream": dial.map(|dial| words::upstream(&dial.upstream)),
    })
}

/// The same, by the mesh.
fn written(service: &Service) -> Value {
    json!({
        "balancing": words::balancing(&service.balancing),
        "retry_budget": words::retry_budget(&service.retry_budget),
        "retry_throttling": service.retry_throttling.as_ref().map(words::retry_throttling),
        "outliers": service.outliers.as_ref().map(words::outliers),
        "health": service.health.as_ref().map(words::health),
        "upstream": words::upstream(&service.upstream),
    })
}

/// The endpoints of a running sidecar, and how they fare.
fn members(tables: &Tables, cluster: &Cluster, now: Nanos) -> Value {
    let told = cluster.members.iter().enumerate().map(|(member, endpoint)| {
        let mut against = Vec::new();
        let mut say = |speaks: bool, word: &'static str| against.extend(speaks.then_some(word));
        say(cluster.weights[member] == 0, "weight 0");
        say(endpoint.cooling.is_cooling(now), "cooling");
        say(!endpoint.is_healthy(), "unhealthy");
        say(cluster.detector.is_some() && endpoint.standing.has(EJECTED), "ejected");
        let part = cluster.part(endpoint, now);
        say(part < 1.0, "starting slowly");
        json!({
            "address": endpoint.name,
            "host": tables.endpoints[cluster.dials[member]].host.as_deref(),
            "tls": if endpoint.mesh { "mesh" } else { "none" },
            "weight": cluster.weights[member],
            "used": cluster.weights[member] > 0 && cluster.is_in_use(member, now),
            "against": against,
            "in_flight": endpoint.in_flight(),
            "latency_ms": endpoint.latency.load(now, 0.0) / 1e6,
        })
    });
    told.collect()
}

/// The endpoints that the mesh names.
fn lines(service: Option<&Service>, labels: &BTreeMap<String, String>) -> Value {
    let endpoints = service.into_iter().flat_map(|service| &service.endpoints);
    endpoints.filter(|endpoint| endpoint.carries(labels)).map(words::endpoint).collect()
}
