//! Who may call, and what.

use bench::call::CallSpec;
use bench::certs::Ca;
use bench::client::Client;
use bench::tls::TlsIdentity;
use serde_json::json;

use crate::kit::{BIDI, Case, ECHO, OK, PERMISSION_DENIED, Site, UNARY, echo, id};

cases! {
    "mesh.services[].inbound.authorization[].allow.from[]" => those_may_call_that_are_named,
    "mesh.services[].inbound.authorization[].allow.methods[]" => what_is_named_may_be_called,
}

async fn those_may_call_that_are_named(case: &Case) {
    let (ca, app) = (Ca::new("cluster.local"), echo("app").await);
    let mut base = Site::inbound(&app).identified(&ca, &id("echo"));
    base.sidecar["inbound"][0]["mtls"] = json!("strict");
    base.mesh["services"][0]["inbound"] = json!({"authorization": [{"allow": {"from": [id("orders")]}}]});
    let place = "mesh services 0 inbound authorization 0 allow from 0";
    let changed = case.change(&base, place, id("users"));
    for (site, orders, users) in [(&base, OK, PERMISSION_DENIED), (&changed, PERMISSION_DENIED, OK)] {
        let sidecar = site.start().await;
        for (account, status) in [("orders", orders), ("users", users)] {
            let tls = TlsIdentity::mutual(&ca.leaf(&id(account)), ca.bundle_pem());
            let client = Client::connect(sidecar.inbound(), Some(tls)).await.expect("a connection");
            let outcome = client.unary(ECHO, UNARY, b"ping").await.expect("a call");
            assert_eq!(outcome.grpc_status, status, "{account}: {outcome:?}");
        }
    }
    assert_eq!(app.calls().len(), 2, "what is refused does not reach the app");
}

async fn what_is_named_may_be_called(case: &Case) {
    let app = echo("app").await;
    let mut base = Site::inbound(&app);
    base.mesh["services"][0]["inbound"] =
        json!({"authorization": [{"allow": {"methods": ["bench.Echo/Unary"]}}]});
    let place = "mesh services 0 inbound authorization 0 allow methods 0";
    let changed = case.change(&base, place, "bench.Echo/Bidi");
    for (site, unary, bidi) in [(&base, OK, PERMISSION_DENIED), (&changed, PERMISSION_DENIED, OK)] {
        let sidecar = site.start().await;
        for (path, status) in [(UNARY, unary), (BIDI, bidi)] {
            let outcome = sidecar.call(CallSpec::new(ECHO, path)).await;
            assert_eq!(outcome.grpc_status, status, "{path}: {outcome:?}");
        }
    }
    assert_eq!(app.calls().len(), 2, "what is refused does not reach the app");
}
