//! The mesh of the control plane's figures: a file for each service, as people keep them.

use std::io;
use std::path::Path;

/// The service whose route is edited.
const EDITED: usize = 7;

/// Writes services `s0`, `s1`... of namespace `bench`, with so many endpoints each.
pub(crate) fn write(folder: &Path, services: usize, endpoints: usize) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    (0..services).try_for_each(|at| {
        let text = service(at, services, endpoints, 1);
        std::fs::write(folder.join(format!("s{at}.yaml")), text)
    })
}

/// The file of the service that is edited, and its text after so many edits.
pub(crate) fn edited(services: usize, endpoints: usize, edits: usize) -> (String, String) {
    (format!("s{EDITED}.yaml"), service(EDITED, services, endpoints, 1 + edits))
}

/// The full name of a service, as resources have it.
pub(crate) fn name(service: usize) -> String {
    format!("s{service}.bench")
}

/// One file: two routes, one of which splits between this service and the next.
fn service(at: usize, services: usize, endpoints: usize, edition: usize) -> String {
    let next = (at + 1) % services;
    let weight = 1 + edition % 99;
    let rest = 100 - weight;
    // Of the first one an endpoint comes and goes.
    let registration = at == 0;
    let endpoints: Vec<String> =
        (1..=endpoints).map(|host| format!("\"10.{}.{}.{host}:15006\"", at / 256, at % 256)).collect();
    let endpoints = endpoints.join(", ");
    format!(
        "version: 1\n\
         trust_domain: bench\n\
         services:\n\
         - name: s{at}\n\
        \x20 namespace: bench\n\
        \x20 registration: {registration}\n\
        \x20 ports: [50051]\n\
        \x20 endpoints: [{endpoints}]\n\
        \x20 routes:\n\
        \x20 - match: {{method: bench.Echo/Unary}}\n\
        \x20   backends: [{{service: s{next}, weight: {weight}}}, {{service: s{at}, weight: {rest}}}]\n\
        \x20   deadline: {{default: 1s}}\n\
        \x20   retries: {{}}\n\
        \x20 - match: {{service: bench.Echo}}\n\
        \x20   deadline: {{default: 5s}}\n"
    )
}
