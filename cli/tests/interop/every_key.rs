//! A mesh file with every key there is: gRPC and Envoy take what comes of it, whatever they make of it.

use std::path::Path;

use bench::wait::until;

use crate::Case;
use crate::callers::{ACKED, Caller};
use crate::parts::{Part, Parts};
use crate::plane::{Plane, Trust};

const FILE: &str = "mesh.yaml";
const ENVOYS: usize = 2;
/// The file's balancing policy, and the others.
const BALANCING: &str = "\"policy\": \"random\"";
const OTHERS: [&str; 3] = ["round_robin", "least_request", "peak_ewma"];

pub(crate) fn cases() -> Vec<Case> {
    let case = |(way, trust)| {
        let name = format!("grpc_and_envoy_refuse_nothing_that_a_mesh_file_can_say_{way}");
        Case::new(name, &[Part::Python, Part::Xds, Part::Envoy], move |parts| every_key(parts, trust))
    };
    [("in_plain_text", Trust::PlainText), ("by_mtls", Trust::Certificates)].into_iter().map(case).collect()
}

async fn every_key(parts: Parts, trust: Trust) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/tests/good/every_key.mesh.yaml");
    let text = std::fs::read_to_string(file).expect("the file").replace("example.org", "cluster.local");
    assert!(text.contains(BALANCING), "the file has changed");
    let plane = Plane::start(trust, &[(FILE, &text)]).await;
    let services = plane.services().await;
    let mut grpc: Vec<Caller> = services
        .iter()
        .map(|service| Caller::grpc(&parts, &plane, "orders", &format!("xds:///{service}")))
        .collect();
    let _envoys: [Caller; ENVOYS] = [
        Caller::envoy(&parts, &plane, "orders.shop", "DELTA_GRPC").await,
        Caller::envoy(&parts, &plane, "orders.shop", "GRPC").await,
    ];
    for caller in &mut grpc {
        // It asks for nothing before it calls.
        caller.begin().await;
        let name = caller.name.clone();
        until(format!("{name} has taken all"), async || {
            let held = caller.held().await;
            for resource in &held {
                assert!(resource.error.is_empty(), "{name}: {resource:?}");
            }
            let has = |kind: &str| held.iter().any(|resource| resource.kind == kind);
            has("Listener")
                && has("RouteConfiguration")
                && has("Cluster")
                && held.iter().all(|resource| resource.status == ACKED)
        })
        .await;
    }
    plane.settled(grpc.len() + ENVOYS).await;
    for other in OTHERS {
        let edited = text.replace(BALANCING, &format!("\"policy\": \"{other}\""));
        let version = plane.edit(FILE, &edited).await;
        // Who has not seen the edit yet owes nothing: so wait for those who hold every cluster.
        plane.taken(version, ENVOYS).await;
    }
    plane.settled(grpc.len() + ENVOYS).await;
    plane.nothing_is_refused().await;
}
