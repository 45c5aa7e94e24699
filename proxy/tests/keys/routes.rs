//! Which calls a route takes, and where it sends them.
//!
//! In all sites but the last two, calls of `echo` land on `one`, and on `two` if its only route takes them.

use bench::call::CallSpec;
use bench::server::Server;
use serde_json::{Value, json};

use crate::kit::{BIDI, Case, ECHO, Site, UNARY, echo, landed, landings, service};

cases! {
    "mesh.services[].routes[].match.host" => a_route_takes_calls_to_its_host,
    "mesh.services[].routes[].match.service" => a_route_takes_calls_of_its_grpc_service,
    "mesh.services[].routes[].match.method" => a_route_takes_calls_of_its_method,
    "mesh.services[].routes[].match.method.exact" => a_route_takes_calls_of_its_exact_method,
    "mesh.services[].routes[].match.method.prefix" => a_route_takes_methods_that_begin_so,
    "mesh.services[].routes[].match.method.regex" => a_route_takes_methods_of_its_pattern,
    "mesh.services[].routes[].match.headers[].name" => a_route_takes_calls_with_its_header,
    "mesh.services[].routes[].match.headers[].exact" => a_route_takes_the_exact_value,
    "mesh.services[].routes[].match.headers[].prefix" => a_route_takes_values_that_begin_so,
    "mesh.services[].routes[].match.headers[].regex" => a_route_takes_values_of_its_pattern,
    "mesh.services[].routes[].match.headers[].present" => a_route_asks_whether_a_header_is_there,
    "mesh.services[].routes[].match.headers[].invert" => a_condition_can_be_turned_around,
    "mesh.services[].routes[].backends[].service" => a_route_sends_calls_to_its_backend,
    "mesh.services[].routes[].backends[].labels.*" => a_backend_is_the_endpoints_with_its_labels,
    "mesh.services[].routes[].backends[].weight" => backends_share_by_weight,
}

async fn a_route_takes_calls_to_its_host(case: &Case) {
    let servers = Servers::start().await;
    let base = servers.routed(&json!({"host": "a.example"}));
    let changed = case.change(&base, "mesh services 0 routes 0 match host", "b.example");
    let calls = [CallSpec::new("a.example", UNARY), CallSpec::new("b.example", UNARY)];
    assert_eq!(land(&base, &calls).await, ["two", "one"]);
    assert_eq!(land(&changed, &calls).await, ["one", "two"]);
}

async fn a_route_takes_calls_of_its_grpc_service(case: &Case) {
    let servers = Servers::start().await;
    let base = servers.routed(&json!({"service": "bench.Echo"}));
    let changed = case.change(&base, "mesh services 0 routes 0 match service", "bench.Ech");
    // The servers answer UNIMPLEMENTED there, and say who they are all the same.
    let calls = [CallSpec::new(ECHO, UNARY), CallSpec::new(ECHO, "/bench.Ech/Unary")];
    assert_eq!(land(&base, &calls).await, ["two", "one"]);
    assert_eq!(land(&changed, &calls).await, ["one", "two"]);
}

async fn a_route_takes_calls_of_its_method(case: &Case) {
    let matches = json!({"method": "bench.Echo/Unary"});
    unary_then_bidi(case, matches, "method", "bench.Echo/Bidi").await;
}

async fn a_route_takes_calls_of_its_exact_method(case: &Case) {
    let matches = json!({"method": {"exact": "bench.Echo/Unary"}});
    unary_then_bidi(case, matches, "method exact", "bench.Echo/Bidi").await;
}

async fn a_route_takes_methods_that_begin_so(case: &Case) {
    let matches = json!({"method": {"prefix": "bench.Echo/U"}});
    unary_then_bidi(case, matches, "method prefix", "bench.Echo/B").await;
}

async fn a_route_takes_methods_of_its_pattern(case: &Case) {
    let matches = json!({"method": {"regex": "bench[.]E.*/U[a-z]+"}});
    unary_then_bidi(case, matches, "method regex", "bench[.]E.*/B[a-z]+").await;
}

async fn a_route_takes_calls_with_its_header(case: &Case) {
    let matches = json!({"headers": [{"name": "x-a", "exact": "1"}]});
    let calls = [unary().header("x-a", "1"), unary().header("x-b", "1")];
    first_then_second(case, matches, "name", "x-b", &calls).await;
}

async fn a_route_takes_the_exact_value(case: &Case) {
    let matches = json!({"headers": [{"name": "x-a", "exact": "1"}]});
    let calls = [unary().header("x-a", "1"), unary().header("x-a", "2")];
    first_then_second(case, matches, "exact", "2", &calls).await;
}

async fn a_route_takes_values_that_begin_so(case: &Case) {
    let matches = json!({"headers": [{"name": "x-a", "prefix": "ab"}]});
    let calls = [unary().header("x-a", "abc"), unary().header("x-a", "bc")];
    first_then_second(case, matches, "prefix", "b", &calls).await;
}

async fn a_route_takes_values_of_its_pattern(case: &Case) {
    let matches = json!({"headers": [{"name": "x-a", "regex": "a+"}]});
    let calls = [unary().header("x-a", "aaa"), unary().header("x-a", "b")];
    first_then_second(case, matches, "regex", "b+", &calls).await;
}

async fn a_route_asks_whether_a_header_is_there(case: &Case) {
    let matches = json!({"headers": [{"name": "x-a", "present": true}]});
    let calls = [unary().header("x-a", "1"), unary()];
    first_then_second(case, matches, "present", false, &calls).await;
}

async fn a_condition_can_be_turned_around(case: &Case) {
    let matches = json!({"headers": [{"name": "x-a", "exact": "1"}]});
    let calls = [unary().header("x-a", "1"), unary().header("x-a", "2")];
    first_then_second(case, matches, "invert", true, &calls).await;
}

async fn a_route_sends_calls_to_its_backend(case: &Case) {
    let servers = Servers::start().await;
    let base = servers.routed(&json!({"service": "bench.Echo"}));
    let changed = case.change(&base, "mesh services 0 routes 0 backends 0 service", "echo");
    assert_eq!(land(&base, &[unary()]).await, ["two"]);
    assert_eq!(land(&changed, &[unary()]).await, ["one"]);
}

async fn a_backend_is_the_endpoints_with_its_labels(case: &Case) {
    let servers = Servers::start().await;
    let mut echo = service("echo", &[]);
    echo["endpoints"] = json!([
        {"address": servers.one.addr.to_string(), "labels": {"version": "v1"}},
        {"address": servers.two.addr.to_string(), "labels": {"version": "v2"}},
    ]);
    echo["routes"] = json!([{"backends": [{"service": "echo", "labels": {"version": "v1"}}]}]);
    let base = Site::outbound(&[echo]);
    let changed = case.change(&base, "mesh services 0 routes 0 backends 0 labels version", "v2");
    assert_eq!(landings(&base.start().await.client().await, 10).await, ["one"; 10]);
    assert_eq!(landings(&changed.start().await.client().await, 10).await, ["two"; 10]);
}

async fn backends_share_by_weight(case: &Case) {
    const CALLS: usize = 200;
    let servers = Servers::start().await;
    let mut base = servers.routed(&json!({"service": "bench.Echo"}));
    base.mesh["services"][0]["routes"][0]["backends"] =
        json!([{"service": "other", "weight": 1}, {"service": "echo", "weight": 0}]);
    let changed = case.change(&base, "mesh services 0 routes 0 backends 1 weight", 3);
    assert_eq!(landings(&base.start().await.client().await, CALLS).await, ["two"; CALLS]);
    let landed = landings(&changed.start().await.client().await, CALLS).await;
    let three_of_four = landed.iter().filter(|name| *name == "one").count();
    // Drawn by chance: 150 with a standard deviation of 6.
    assert!((100..CALLS).contains(&three_of_four), "{three_of_four} of {CALLS} for a weight of 3 in 4");
}

/// `one` behind `echo` and `two` behind `other`.
struct Servers {
    one: Server,
    two: Server,
}

impl Servers {
    async fn start() -> Self {
        Self { one: echo("one").await, two: echo("two").await }
    }

    /// Calls of `echo` that match go to `other`.
    fn routed(&self, matches: &Value) -> Site {
        let mut echo = service("echo", &[&self.one]);
        echo["hosts"] = json!(["a.example", "b.example"]);
        echo["routes"] = json!([{"match": matches, "backends": [{"service": "other"}]}]);
        Site::outbound(&[echo, service("other", &[&self.two])])
    }
}

fn unary() -> CallSpec<'static> {
    CallSpec::new(ECHO, UNARY)
}

/// The route takes unary calls, and after the change of `key` bidirectional ones.
async fn unary_then_bidi(case: &Case, matches: Value, key: &str, to: &str) {
    let servers = Servers::start().await;
    let base = servers.routed(&matches);
    let changed = case.change(&base, &format!("mesh services 0 routes 0 match {key}"), to);
    let calls = [unary(), CallSpec::new(ECHO, BIDI)];
    assert_eq!(land(&base, &calls).await, ["two", "one"]);
    assert_eq!(land(&changed, &calls).await, ["one", "two"]);
}

/// The route takes the first of two calls, and after the change of a header's `key` the second.
async fn first_then_second(
    case: &Case,
    matches: Value,
    key: &str,
    to: impl Into<Value>,
    calls: &[CallSpec<'_>; 2],
) {
    let servers = Servers::start().await;
    let base = servers.routed(&matches);
    let changed = case.change(&base, &format!("mesh services 0 routes 0 match headers 0 {key}"), to);
    assert_eq!(land(&base, calls).await, ["two", "one"]);
    assert_eq!(land(&changed, calls).await, ["one", "two"]);
}

/// Where calls land.
async fn land(site: &Site, calls: &[CallSpec<'_>]) -> Vec<String> {
    let sidecar = site.start().await;
    let mut landings = Vec::new();
    for call in calls {
        landings.push(landed(&sidecar.call(call.clone()).await).to_owned());
    }
    landings
}
