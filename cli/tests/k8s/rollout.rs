//! The whole store, run by the manifests.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::net::Ipv4Addr;

use bench::wait::until;

use crate::make_secrets;
use crate::pod::{Plan, Pod, secrets};
use crate::rendered::{Rendered, text};

pub(crate) fn the_store_works_with_these_files_and_a_pod_that_is_replaced_fails_no_call() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let folder = tempfile::tempdir().expect("a folder");
        let secrets = secrets(&make_secrets(folder.path(), &[]));
        let plans = plans();
        let mut pods = Vec::new();
        for plan in &plans {
            pods.push(Pod::start(plan, &plans, &secrets, folder.path()).await);
        }
        let storefront =
            pods.remove(pods.iter().position(|pod| pod.plan.service == "storefront").expect("one"));
        assert_eq!(storefront.charge().await, "PermissionDenied");
        for pod in &pods {
            until(format!("shoppers come to {}", pod.plan.host), async || served(pod).await > 0.0).await;
        }

        // A roll-out ends one replica of orders and starts it anew.
        let at = pods.iter().position(|pod| pod.plan.service == "orders").expect("two");
        let replaced = pods.remove(at);
        let plan = replaced.plan.clone();
        replaced.end().await;
        let replaced = Pod::start(&plan, &plans, &secrets, folder.path()).await;
        until("calls come to the new pod", async || served(&replaced).await > 0.0).await;
        assert_eq!(failed(&storefront).await, Vec::<String>::new());
    });
}

/// A pod for each replica, each on a loopback address of this run.
fn plans() -> Vec<Plan> {
    let [a, b, c, ..] = RandomState::new().build_hasher().finish().to_ne_bytes();
    let mut last = 0;
    let mut plans = Vec::new();
    for deployment in Rendered::get().all("Deployment") {
        for _ in 0..deployment["spec"]["replicas"].as_u64().expect("replicas") {
            last += 1;
            let host = Ipv4Addr::new(127, a.clamp(1, 254), b ^ c, last);
            plans.push(Plan { service: text(&deployment["metadata"]["name"]).to_owned(), host });
        }
    }
    // Shoppers come when everything is open.
    plans.sort_by_key(|plan| plan.service == "storefront");
    plans
}

async fn served(pod: &Pod) -> f64 {
    let metrics = pod.sidecar.metrics().await.expect("a scrape");
    metrics.value("grpc_server_handled_total", &[("grpc_code", "OK")])
}

/// The calls of this pod's app that did not end OK, each a line. A watch ends with the app that it watches, and
/// one charge was to be denied.
async fn failed(pod: &Pod) -> Vec<String> {
    let metrics = pod.sidecar.metrics().await.expect("a scrape");
    let handled = metrics.matching("grpc_client_handled_total", &[]).filter(|sample| {
        let is = |label, value| sample.label(label) == Some(value);
        sample.value > 0.0
            && !is("grpc_code", "OK")
            && !is("grpc_method", "WatchOrder")
            && !is("grpc_method", "Charge")
    });
    handled.map(|sample| format!("{sample:?}")).collect()
}
