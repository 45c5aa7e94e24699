//! One mesh, told by one control plane: it means the same to gRPC that speaks xDS, to Envoy and to our sidecars.

use serde_json::json;

use crate::Case;
use crate::callers::{ACKED, Caller, Tally};
use crate::mesh::sidecar;
use crate::parts::{Part, Parts};
use crate::plane::{Plane, Trust};
use crate::programs::Server;

const NEEDS: [Part; 3] = [Part::Python, Part::Xds, Part::Envoy];

/// Calls of which shares are counted.
const CALLS: u32 = 400;
/// A share of a quarter of [`CALLS`] is within these bounds but for once in a million runs, and so is none of a half or none.
const QUARTER: std::ops::RangeInclusive<u32> = 57..=143;
/// As [`QUARTER`], of a half.
const HALF: std::ops::RangeInclusive<u32> = 150..=250;

/// Calls of what is certain.
const FEW: u32 = 20;
/// What `Delay` waits, less what clocks that look now and then are off.
const DELAY_MS: f64 = 300.0 - 10.0;

pub(crate) fn cases() -> Vec<Case> {
    let ways = [("in_plain_text", Trust::PlainText), ("by_mtls", Trust::Certificates)];
    let case = |(way, trust)| {
        let name = format!("one_mesh_means_the_same_to_grpc_to_envoy_and_to_our_sidecar_{way}");
        Case::new(name, &NEEDS, move |parts| same(parts, trust))
    };
    ways.into_iter().map(case).collect()
}

/// Two versions of `payments`: by plain text in the one case, each behind a sidecar of ours in the other.
async fn same(parts: Parts, trust: Trust) {
    let (v1, v2) = (Server::of_where(&parts, "v1").await, Server::of_where(&parts, "v2").await);
    let plane = Plane::start(trust, &[("callers.yaml", CALLERS)]).await;
    let mut between = Vec::new();
    let mut addresses = vec![v1.addr, v2.addr];
    if trust == Trust::Certificates {
        for (app, address) in [&v1, &v2].into_iter().zip(&mut addresses) {
            let folder = plane.certificates(&format!("payments-{}", app.addr.port()), "payments");
            let inbound =
                format!("inbound: [{{listen: \"127.0.0.1:0\", app: \"{}\", mtls: strict}}]\n", app.addr);
            // It has a mesh of its own, so that it does not wait for a service that is to come.
            std::fs::write(folder.join("mesh.yaml"), ALONE).expect("a file");
            let sidecar = sidecar(&folder, "payments", &inbound, "file: mesh.yaml").await;
            *address = sidecar.inbound();
            between.push(sidecar);
        }
    }
    let tls = if trust == Trust::Certificates { "mesh" } else { "none" };
    let payments = PAYMENTS
        .replace("V1", &addresses[0].to_string())
        .replace("V2", &addresses[1].to_string())
        .replace("TLS", tls);
    plane.edit("payments.yaml", &payments).await;
    // Beside it one of plain text, which those with a certificate call too.
    let ledger = LEDGER.replace("V1", &v1.addr.to_string());
    plane.edit("ledger.yaml", &ledger).await;

    let mut callers = vec![
        Caller::grpc(&parts, &plane, "orders", "xds:///payments.shop"),
        Caller::grpc(&parts, &plane, "orders", "xds:///payments.shop.svc:50051"),
        Caller::envoy(&parts, &plane, "payments.shop", "DELTA_GRPC").await,
        Caller::envoy(&parts, &plane, "payments.shop:50051", "GRPC").await,
        Caller::sidecar(&parts, &plane, "orders", "payments.shop").await,
    ];
    let mut faults = Vec::new();
    for caller in &mut callers {
        caller.until("it is ready", |tally| tally.all("v1")).await;
        faults.extend(differences(caller).await);
    }
    let mut ledgers = vec![
        Caller::grpc(&parts, &plane, "orders", "xds:///ledger.shop"),
        Caller::envoy(&parts, &plane, "ledger.shop", "GRPC").await,
    ];
    for caller in &mut ledgers {
        caller.until("it is ready", |tally| tally.all("v1")).await;
    }
    plane.settled(callers.len() + ledgers.len()).await;
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    for caller in callers.iter_mut().take(2) {
        let held = caller.held().await;
        let subset = held.iter().filter(|resource| resource.name == "payments.shop;version=v2");
        assert_eq!(subset.count(), 2, "a cluster, and where it is: {held:?}");
        for resource in held {
            assert!(resource.status == ACKED && resource.error.is_empty(), "{}: {resource:?}", caller.name);
            assert!(!resource.version.is_empty() && !resource.kind.is_empty(), "{resource:?}");
        }
    }
}

/// What a caller does otherwise than the mesh says.
async fn differences(caller: &mut Caller) -> Vec<String> {
    let mut faults = Vec::new();
    let name = caller.name.clone();
    let mut expect = |what: &str, tally: Tally, holds: &dyn Fn(&Tally) -> bool| {
        if !holds(&tally) {
            faults.push(format!("{name}: {what}: {tally:?}"));
        }
    };
    let tally = caller.call_with(FEW, "Ask", &json!({"x-canary": "1"})).await;
    expect("the header's exact value goes to v2", tally, &|tally| tally.all("v2"));
    let tally = caller.call_with(FEW, "Ask", &json!({"x-canary": "12"})).await;
    expect("another value does not", tally, &|tally| tally.all("v1"));
    let tally = caller.call(FEW, "Tell").await;
    expect("the exact method goes to v2", tally, &|tally| tally.all("v2"));
    let tally = caller.call(FEW, "Teller").await;
    expect("a method that begins alike does not", tally, &|tally| tally.all("v1"));
    let tally = caller.call(CALLS, "Split").await;
    expect("a quarter goes to v2", tally, &|tally| {
        tally.failed.is_empty()
            && QUARTER.contains(&tally.of("v2"))
            && tally.of("v1") + tally.of("v2") == CALLS
    });
    let tally = caller.call(FEW, "Abort").await;
    expect("every call is aborted, as a fault on purpose", tally, &|tally| {
        let told = tally.said.iter().all(|said| said.to_lowercase().contains("fault"));
        tally.failed.get("DATA_LOSS") == Some(&FEW) && told
    });
    let tally = caller.call(CALLS, "Half").await;
    expect("half of the calls are aborted", tally, &|tally| {
        let aborted = tally.failed.get("FAILED_PRECONDITION").copied().unwrap_or(0);
        HALF.contains(&aborted) && aborted + tally.of("v1") == CALLS
    });
    let tally = caller.call(3, "Delay").await;
    expect("calls are delayed", tally, &|tally| {
        tally.all("v1") && tally.shortest_ms.is_some_and(|shortest| shortest >= DELAY_MS)
    });
    faults
}

const CALLERS: &str = "version: 1\nservices:\n  - {name: orders, namespace: shop}\n";

const ALONE: &str = "version: 1\nservices:\n  - {name: payments, namespace: shop, inbound: {authorization: \
                     [{allow: {from: [\"spiffe://cluster.local/ns/shop/sa/orders\"]}}]}}\n";

const LEDGER: &str =
    "version: 1\nservices:\n  - {name: ledger, namespace: shop, endpoints: [{address: \"V1\", tls: none}]}\n";

const PAYMENTS: &str = r#"version: 1
services:
  - name: payments
    namespace: shop
    ports: [50051]
    upstream: {connect_timeout: 20s}
    endpoints:
      - {address: "V1", tls: TLS, labels: {version: v1}}
      - {address: "V2", tls: TLS, labels: {version: v2}}
    routes:
      - match: {method: interop.Where/Ask, headers: [{name: x-canary, exact: "1"}]}
        backends: [{service: payments, labels: {version: v2}}]
      - match: {method: interop.Where/Tell}
        backends: [{service: payments, labels: {version: v2}}]
      - match: {method: interop.Where/Split}
        backends:
          - {service: payments, labels: {version: v1}, weight: 75}
          - {service: payments, labels: {version: v2}, weight: 25}
      - match: {method: interop.Where/Abort}
        backends: [{service: payments}]
        faults: {abort: {code: DATA_LOSS}}
      - match: {method: interop.Where/Half}
        backends: [{service: payments, labels: {version: v1}}]
        faults: {abort: {percentage: 50%, code: FAILED_PRECONDITION}}
      - match: {method: interop.Where/Delay}
        backends: [{service: payments, labels: {version: v1}}]
        faults: {delay: {duration: 300ms}}
      - backends: [{service: payments, labels: {version: v1}}]
"#;
