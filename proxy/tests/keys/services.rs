//! What a service is called, and what is known of its methods.

use bench::call::CallSpec;
use serde_json::json;

use crate::kit::{BIDI, Case, ECHO, OK, Site, UNARY, UNAVAILABLE, UNIMPLEMENTED, echo, service};

cases! {
    "mesh.services[].name" => a_service_answers_to_its_name,
    "mesh.services[].namespace" => a_service_answers_in_its_namespace,
    "mesh.services[].ports[]" => an_authority_may_name_a_port_of_the_service,
    "mesh.services[].hosts[]" => a_service_answers_to_further_hosts,
    "mesh.services[].unmatched" => a_call_that_no_route_takes_goes_on_or_not,
    "mesh.services[].methods.*.type" => the_metrics_say_what_kind_of_method_it_is,
}

async fn a_service_answers_to_its_name(case: &Case) {
    let server = echo("echo").await;
    let base = Site::outbound(&[service("reply", &[&server])]);
    assert_eq!(base.status().await, UNAVAILABLE);
    assert_eq!(case.change(&base, "mesh services 0 name", "echo").status().await, OK);
}

async fn a_service_answers_in_its_namespace(case: &Case) {
    let server = echo("echo").await;
    let mut night = service("echo", &[&server]);
    night["namespace"] = json!("night");
    let base = Site::outbound(&[night]);
    assert_eq!(base.status().await, UNAVAILABLE);
    assert_eq!(case.change(&base, "mesh services 0 namespace", "shop").status().await, OK);
}

async fn an_authority_may_name_a_port_of_the_service(case: &Case) {
    let server = echo("echo").await;
    let mut echo = service("echo", &[&server]);
    echo["ports"] = json!([1000]);
    let base = Site::outbound(&[echo]);
    let changed = case.change(&base, "mesh services 0 ports 0", 2000);
    for (site, first, second) in [(&base, OK, UNAVAILABLE), (&changed, UNAVAILABLE, OK)] {
        let sidecar = site.start().await;
        assert_eq!(sidecar.unary("echo.shop:1000").await.grpc_status, first);
        assert_eq!(sidecar.unary("echo.shop:2000").await.grpc_status, second);
        assert_eq!(sidecar.unary("echo.shop").await.grpc_status, OK);
    }
}

async fn a_service_answers_to_further_hosts(case: &Case) {
    let server = echo("echo").await;
    let base = Site::outbound(&[service("echo", &[&server])]);
    let changed = case.change(&base, "mesh services 0 hosts 0", "echo.example");
    for (site, status) in [(&base, UNAVAILABLE), (&changed, OK)] {
        let sidecar = site.start().await;
        assert_eq!(sidecar.unary("echo.example").await.grpc_status, status);
        assert_eq!(sidecar.unary(ECHO).await.grpc_status, OK);
    }
}

async fn a_call_that_no_route_takes_goes_on_or_not(case: &Case) {
    let server = echo("echo").await;
    let mut echo = service("echo", &[&server]);
    echo["routes"] = json!([{"match": {"method": "bench.Echo/Bidi"}}]);
    let base = Site::outbound(&[echo]);
    let changed = case.change(&base, "mesh services 0 unmatched", "refuse");
    for (site, unmatched) in [(&base, OK), (&changed, UNIMPLEMENTED)] {
        let sidecar = site.start().await;
        assert_eq!(sidecar.call(CallSpec::new(ECHO, BIDI)).await.grpc_status, OK);
        assert_eq!(sidecar.unary(ECHO).await.grpc_status, unmatched);
    }
    assert_eq!(server.calls().len(), 3, "what is refused reaches nobody");
}

async fn the_metrics_say_what_kind_of_method_it_is(case: &Case) {
    let server = echo("echo").await;
    let base = Site::outbound(&[service("echo", &[&server])]);
    let place = format!("mesh services 0 methods {} type", &UNARY[1..]);
    let changed = case.change(&base, &place, "unary");
    for (site, kind) in [(&base, "unknown"), (&changed, "unary")] {
        let sidecar = site.start().await;
        assert_eq!(sidecar.unary(ECHO).await.grpc_status, OK);
        let labels = [("grpc_method", "Unary"), ("grpc_type", kind)];
        sidecar.counts("grpc_client_started_total", &labels, 1.0).await;
    }
}
