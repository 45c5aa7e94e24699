//! `/routes`: what a sidecar goes by, whole.

use config::words;
use serde_json::{Map, Value, json};

use crate::tables::routes::Route;
use crate::tables::{ServiceTable, Tables};

/// The routes of every service, in their order, with what follows where none matches.
pub(crate) fn routes(tables: &Tables) -> Value {
    let services: Vec<Value> = tables.services.iter().map(|service| show(tables, service)).collect();
    json!({"services": services})
}

fn show(tables: &Tables, service: &ServiceTable) -> Value {
    let routes: Vec<Value> = service
        .routes
        .iter()
        .enumerate()
        .map(|(index, (matches, route))| {
            let mut told = lead(tables, route);
            told.insert("index".to_owned(), index.into());
            told.insert("match".to_owned(), words::matches(matches));
            Value::Object(told)
        })
        .collect();
    let mut methods: Vec<&str> = service.methods.keys().map(|path| &**path).collect();
    methods.sort_unstable();
    json!({
        "service": &*service.name,
        "ports": service.ports,
        "routes": routes,
        // Null: such calls end UNIMPLEMENTED.
        "unmatched": service.unrouted.as_ref().map(|route| lead(tables, route)),
        "methods": methods,
    })
}

/// Where a route leads and what it says; blocks that say nothing are left out.
fn lead(tables: &Tables, route: &Route) -> Map<String, Value> {
    let mut told = Map::new();
    let backends = route.backends().map(|(index, weight)| {
        let cluster = &tables.clusters[index];
        json!({"service": &*cluster.service, "labels": cluster.labels, "weight": weight})
    });
    told.insert("backends".to_owned(), backends.collect());
    let faults = route.faults.as_ref().map(|faults| words::faults(faults.injection()));
    for (key, block) in [
        ("deadline", words::deadline(&route.deadline)),
        ("stream", words::stream(&route.stream)),
        ("headers", words::headers(&route.headers.model())),
        ("faults", faults.unwrap_or_default()),
    ] {
        if block.as_object().is_some_and(|block| !block.is_empty()) {
            told.insert(key.to_owned(), block);
        }
    }
    if let Some((key, block)) = words::repeats(&route.repeats) {
        told.insert(key.to_owned(), block);
    }
    told
}
