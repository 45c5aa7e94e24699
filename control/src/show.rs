//! What `/mesh` and `/resources` show.

use std::sync::PoisonError;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use xds::Resource;

use crate::journal::{state, unix};
use crate::metrics::Exporter;

/// The files, and what they make together.
pub(crate) fn mesh(from: &Exporter) -> Value {
    let world = from.worlds.borrow().clone();
    let held = from.journal.held();
    let files: Vec<Value> = held
        .files
        .iter()
        .map(|(path, record)| {
            json!({
                "path": path,
                "state": state(record.taken),
                "digest": record.digest,
                "in_force_since": record.since.map(unix),
                "faults": record.faults.as_ref().map_or(&[][..], |(faults, _)| faults),
                "faults_since": record.faults.as_ref().map(|(_, since)| unix(*since)),
                "warnings": record.warnings,
            })
        })
        .collect();
    let identity = from.identity.as_ref().map(|identity| {
        json!({
            "in_force_since": unix(*identity.since.lock().unwrap_or_else(PoisonError::into_inner)),
            "expires": unix(identity.credentials().expires),
            "fault": *identity.fault.lock().unwrap_or_else(PoisonError::into_inner),
        })
    });
    json!({
        "path": from.journal.path,
        "lost": held.lost.as_ref().map(|(why, since)| json!({"why": why, "since": unix(*since)})),
        "files": files,
        "version": world.version,
        "trust_domain": world.mesh.trust_domain,
        "services": world.mesh.services.iter().map(config::model::Service::full_name).collect::<Vec<_>>(),
        "endpoints": world.mesh.services.iter().map(|service| service.endpoints.len()).sum::<usize>(),
        "identity": identity,
        "registered_endpoints": from.registrations.endpoints(),
    })
}

/// Resources as they are sent.
pub(crate) fn resources<'a>(all: impl IntoIterator<Item = &'a Resource>) -> Value {
    let one = |resource: &Resource| {
        json!({
            "type": resource.kind.type_url(),
            "name": resource.name,
            "version": resource.version,
            "base64": STANDARD.encode(&resource.bytes),
        })
    };
    all.into_iter().map(one).collect()
}
