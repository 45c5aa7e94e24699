//! Where a service is, and how that is spoken to.

use bench::certs::Ca;
use bench::server::Server;
use serde_json::{Value, json};

use crate::kit::{Case, ECHO, OK, Site, UNAVAILABLE, echo, id, landed, landings, service};

cases! {
    "mesh.services[].endpoints[]" => calls_go_to_the_address,
    "mesh.services[].endpoints[].address" => calls_go_to_the_address_of_a_mapping,
    "mesh.services[].endpoints[].tls" => an_endpoint_is_spoken_to_as_it_says,
    "mesh.services[].endpoints[].weight" => an_endpoint_of_weight_zero_gets_no_call,
    "mesh.services[].endpoints[].labels.*" => a_backend_takes_endpoints_by_their_labels,
}

async fn calls_go_to_the_address(case: &Case) {
    let (one, two) = (echo("one").await, echo("two").await);
    let base = Site::outbound(&[service("echo", &[&one])]);
    let changed = case.change(&base, "mesh services 0 endpoints 0", two.addr.to_string());
    assert_eq!(landed(&base.start().await.unary(ECHO).await), "one");
    assert_eq!(landed(&changed.start().await.unary(ECHO).await), "two");
}

async fn calls_go_to_the_address_of_a_mapping(case: &Case) {
    let (one, two) = (echo("one").await, echo("two").await);
    let base = Site::outbound(&[among(&[at(&one)])]);
    let changed = case.change(&base, "mesh services 0 endpoints 0 address", two.addr.to_string());
    assert_eq!(landed(&base.start().await.unary(ECHO).await), "one");
    assert_eq!(landed(&changed.start().await.unary(ECHO).await), "two");
}

async fn an_endpoint_is_spoken_to_as_it_says(case: &Case) {
    let ca = Ca::new("cluster.local");
    let plain = echo("plain").await;
    let base = Site::outbound(&[among(&[at(&plain)])]).identified(&ca, &id("caller"));
    assert_eq!(base.status().await, UNAVAILABLE, "with an identity, nothing is said in the open");
    assert_eq!(plain.calls().len(), 0);
    assert_eq!(case.change(&base, "mesh services 0 endpoints 0 tls", "none").status().await, OK);
}

async fn an_endpoint_of_weight_zero_gets_no_call(case: &Case) {
    let (one, two) = (echo("one").await, echo("two").await);
    let base = Site::outbound(&[among(&[at(&one), at(&two)])]);
    let changed = case.change(&base, "mesh services 0 endpoints 0 weight", 0);
    let of_ten = async |site: &Site| landings(&site.start().await.client().await, 10).await;
    let landed = of_ten(&base).await;
    assert_eq!(landed.iter().filter(|name| *name == "one").count(), 5, "{landed:?}");
    assert_eq!(of_ten(&changed).await, ["two"; 10]);
}

async fn a_backend_takes_endpoints_by_their_labels(case: &Case) {
    let (one, two) = (echo("one").await, echo("two").await);
    let (mut old, mut new) = (at(&one), at(&two));
    old["labels"] = json!({"version": "v1"});
    new["labels"] = json!({"version": "v2"});
    let mut echo = among(&[old, new]);
    echo["routes"] = json!([{"backends": [{"service": "echo", "labels": {"version": "v2"}}]}]);
    let base = Site::outbound(&[echo]);
    let changed = case.change(&base, "mesh services 0 endpoints 0 labels version", "v2");
    let of_ten = async |site: &Site| landings(&site.start().await.client().await, 10).await;
    assert_eq!(of_ten(&base).await, ["two"; 10]);
    let landed = of_ten(&changed).await;
    assert_eq!(landed.iter().filter(|name| *name == "one").count(), 5, "{landed:?}");
}

/// The mapping of an endpoint.
fn at(server: &Server) -> Value {
    json!({"address": server.addr.to_string()})
}

/// `echo` with these endpoints, which take their turns.
fn among(endpoints: &[Value]) -> Value {
    let mut echo = service("echo", &[]);
    echo["endpoints"] = json!(endpoints);
    echo["balancing"] = json!({"policy": "round_robin"});
    echo
}
