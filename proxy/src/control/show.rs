//! What `/config` and `/clusters` show.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::context::Shared;

/// The configuration in force, as it was read.
pub(crate) struct Shown {
    pub(crate) sidecar: File,
    pub(crate) mesh: File,
}

/// A file as it was read.
pub(crate) struct File {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
    pub(crate) read: SystemTime,
}

impl Shown {
    pub(crate) fn config(&self) -> Value {
        json!({"sidecar": self.sidecar.show(), "mesh": self.mesh.show()})
    }

    /// Every cluster and how its endpoints fare, over all workers.
    pub(crate) fn clusters(&self, shared: &Shared) -> Value {
        let tables = shared.tables.load();
        let now = shared.clock.nanos(tokio::time::Instant::now());
        let clusters: Vec<Value> = tables
            .clusters
            .iter()
            .map(|cluster| {
                let endpoints: Vec<Value> = cluster
                    .members
                    .iter()
                    .enumerate()
                    .map(|(member, endpoint)| {
                        json!({
                            "address": endpoint.name,
                            "tls": if endpoint.mesh { "mesh" } else { "none" },
                            "weight": cluster.weights[member],
                            "in_flight": endpoint.in_flight(),
                            "latency_ms": endpoint.latency.load(now, 0.0) / 1e6,
                            "cooling": endpoint.cooling.is_cooling(now),
                        })
                    })
                    .collect();
                json!({
                    "service": &*tables.services[cluster.service].name,
                    "purpose": cluster.purpose,
                    "policy": cluster.policy.to_string(),
                    "calls": cluster.calls(),
                    "endpoints": endpoints,
                })
            })
            .collect();
        json!({"clusters": clusters})
    }
}

impl File {
    fn show(&self) -> Value {
        let read = self.read.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        json!({"file": self.path, "read_at_unix_seconds": read, "text": self.text})
    }
}
