//! The mesh files change while calls are made.

use bench::wait::until;

use crate::Case;
use crate::callers::Caller;
use crate::parts::{Part, Parts};
use crate::plane::{Plane, Trust};
use crate::programs::Server;

pub(crate) fn cases() -> Vec<Case> {
    let needs = [Part::Python, Part::Xds, Part::Envoy];
    let name = "an_edit_and_endpoints_that_go_and_come_reach_everybody_without_a_failed_call".to_owned();
    vec![Case::new(name, &needs, edits)]
}

async fn edits(parts: Parts) {
    let (v1, v2) = (Server::of_where(&parts, "v1").await, Server::of_where(&parts, "v2").await);
    let file = |endpoints: &[(&str, &Server)], backend: &str| {
        let mut yaml = "version: 1\nservices:\n  - {name: orders, namespace: shop}\n  - name: payments\n    namespace: shop\n\
                        \x20   upstream: {connect_timeout: 20s}\n    endpoints:\n"
            .to_owned();
        for (version, server) in endpoints {
            yaml += &format!(
                "      - {{address: \"{}\", tls: none, labels: {{version: {version}}}}}\n",
                server.addr
            );
        }
        yaml + &format!("    routes: [{{backends: [{{service: payments{backend}}}]}}]\n")
    };
    let to = |version: &str| format!(", labels: {{version: {version}}}");
    let both = [("v1", &v1), ("v2", &v2)];
    let plane = Plane::start(Trust::Certificates, &[("mesh.yaml", &file(&both, &to("v1")))]).await;
    let mut callers = vec![
        Caller::grpc(&parts, &plane, "orders", "xds:///payments.shop"),
        Caller::envoy(&parts, &plane, "payments.shop", "DELTA_GRPC").await,
        Caller::sidecar(&parts, &plane, "orders", "payments.shop").await,
    ];
    for caller in &mut callers {
        caller.until("the first version", |tally| tally.all("v1")).await;
        caller.begin().await;
    }

    // A route is edited.
    plane.edit("mesh.yaml", &file(&both, &to("v2"))).await;
    for caller in &mut callers {
        caller.until("the edited route", |tally| tally.all("v2")).await;
    }
    plane.edit("mesh.yaml", &file(&both, "")).await;
    for caller in &mut callers {
        caller.until("both", |tally| tally.of("v1") > 0 && tally.of("v2") > 0).await;
    }

    // An endpoint goes, and with it the process.
    plane.edit("mesh.yaml", &file(&both[1..], "")).await;
    for caller in &mut callers {
        caller.until("one that is gone gets no call", |tally| tally.all("v2")).await;
    }
    drop(v1);
    let v3 = Server::of_where(&parts, "v3").await;

    // Others come.
    plane.edit("mesh.yaml", &file(&[("v2", &v2), ("v3", &v3)], "")).await;
    for caller in &mut callers {
        caller.until("a new one gets calls", |tally| tally.of("v3") > 0).await;
    }

    for caller in &mut callers {
        let tally = caller.end().await;
        assert!(tally.failed.is_empty(), "{}: {tally:?}", caller.name);
        for id in ["v1", "v2", "v3"] {
            assert!(tally.of(id) > 0, "{}: no call to {id}: {tally:?}", caller.name);
        }
    }
    plane.settled(callers.len()).await;
    until("every caller is known to the control plane", async || {
        let kinds: Vec<String> = plane
            .proxies()
            .await
            .iter()
            .map(|proxy| proxy["kind"].as_str().unwrap_or_default().to_owned())
            .collect();
        ["grpc", "envoy", "outrigger"].iter().all(|kind| kinds.iter().any(|known| known == kind))
    })
    .await;
}
