//! The same control plane that is not ours, by mTLS: what it says goes for calls, and of what it sends in one breath the good is
//! taken and the bad is refused by its name, whatever the type.

use std::net::SocketAddr;

use bench::certs::LeafSpec;
use serde_json::{Value, json};

use crate::Case;
use crate::callers::Caller;
use crate::mesh::{Site, sidecar};
use crate::parts::{Part, Parts};
use crate::programs::{Program, Server, python};

const NEEDS: [Part; 2] = [Part::Python, Part::Xds];

/// Lines of the server's log that are looked through for one event; far more than there are.
const LINES_MAX: usize = 1_000;

pub(crate) fn cases() -> Vec<Case> {
    let case = |protocol: &'static str| {
        let name = format!(
            "of_what_a_foreign_control_plane_says_by_{protocol}_the_good_is_taken_and_the_bad_is_refused_by_name"
        );
        Case::new(name, &NEEDS, move |parts| driven(parts, protocol))
    };
    vec![case("delta"), case("sotw")]
}

async fn driven(parts: Parts, protocol: &'static str) {
    let (a, b) = (Server::of_where(&parts, "a").await, Server::of_where(&parts, "b").await);
    let mut lab = Lab::start(&parts, &resources(&a, &b, &Said::default())).await;
    let mut ledger = lab.caller(&parts, protocol, "ledger.shop").await;
    let mut stock = lab.caller(&parts, protocol, "stock.shop").await;

    ledger.until("a foreign route leads to a", |tally| tally.all("a")).await;
    let tally = ledger.call(10, "Tell").await;
    assert!(tally.all("b"), "an exact path: {tally:?}");
    let tally = ledger.call_with(10, "Ask", &json!({"x-canary": "yes"})).await;
    assert!(tally.all("b"), "a header: {tally:?}");
    let tally = ledger.call(400, "Split").await;
    assert!(tally.failed.is_empty() && (57..=143).contains(&tally.of("b")), "a quarter: {tally:?}");
    stock.until("another service", |tally| tally.all("a")).await;

    // One bad resource beside a good one: the good one is in force, and so is the last good version of the bad one.
    lab.says(&resources(&a, &b, &Said { ledger: "b", stock: "b", rewritten: true, ..Said::default() }));
    let error = lab.nack(protocol, "RouteConfiguration").await;
    for said in ["ledger-routes", "prefix_rewrite"] {
        assert!(error.contains(said), "{said} is missing in {error:?}");
    }
    stock.until("the good one is in force", |tally| tally.all("b")).await;
    let tally = ledger.call(10, "Ask").await;
    assert!(tally.all("a"), "the last good version is in force: {tally:?}");

    lab.says(&resources(&a, &b, &Said { ledger: "b", stock: "b", original: true, ..Said::default() }));
    let error = lab.nack(protocol, "Cluster").await;
    for said in ["cluster-a", "ORIGINAL_DST"] {
        assert!(error.contains(said), "{said} is missing in {error:?}");
    }
    ledger.until("the route is mended", |tally| tally.all("b")).await;

    lab.says(&resources(&a, &b, &Said { ledger: "a", stock: "b", ..Said::default() }));
    ledger.until("the cluster is good again", |tally| tally.all("a")).await;

    // An endpoint goes, and another comes.
    lab.says(&resources(&b, &a, &Said { ledger: "a", stock: "b", ..Said::default() }));
    ledger.until("the endpoints have changed places", |tally| tally.all("b")).await;
    stock.until("the endpoints have changed places", |tally| tally.all("a")).await;
}

/// What varies of the resources.
#[derive(Clone, Copy)]
struct Said {
    /// The cluster for most of `ledger`'s calls.
    ledger: &'static str,
    /// The cluster for `stock`'s calls.
    stock: &'static str,
    /// A route that rewrites paths, which is refused.
    rewritten: bool,
    /// A cluster whose endpoints are where calls were going, which is refused.
    original: bool,
}

impl Default for Said {
    fn default() -> Self {
        Self { ledger: "a", stock: "a", rewritten: false, original: false }
    }
}

/// The control plane, and its log.
struct Lab {
    site: Site,
    program: Program,
    address: SocketAddr,
    file: String,
    /// The types of which something has been refused.
    refused: Vec<&'static str>,
}

impl Lab {
    async fn start(parts: &Parts, resources: &Value) -> Self {
        let site = Site::new();
        let leaf = site.ca.leaf_with(&LeafSpec {
            uris: vec!["spiffe://cluster.local/ns/lab/sa/control".to_owned()],
            addresses: vec!["127.0.0.1".parse().expect("an address")],
            ..LeafSpec::default()
        });
        let folder = site.identity("lab", &leaf);
        let file = site.file("resources.json", &resources.to_string());
        let mut command = python(parts, "ads");
        command.args(["--resources", &file, "--cert", "tls.crt", "--key", "tls.key", "--ca", "ca.crt"]);
        command.current_dir(folder);
        let server = Server::start(command).await;
        Self { site, program: server.program, address: server.addr, file, refused: Vec::new() }
    }

    /// A client behind a sidecar of its own.
    async fn caller(&self, parts: &Parts, protocol: &str, authority: &str) -> Caller {
        let name = format!("orders-for-{authority}");
        let folder = self.site.identity(&name, &self.site.ca.leaf(crate::mesh::ORDERS_ID));
        let mesh = format!("control: [\"https://{}\"], protocol: {protocol}", self.address);
        let sidecar = sidecar(&folder, "orders", "outbound: {listen: \"127.0.0.1:0\"}\n", &mesh).await;
        Caller::behind(parts, sidecar, authority)
    }

    /// Replaces the resources.
    fn says(&self, resources: &Value) {
        let next = self.site.file("next.json", &resources.to_string());
        std::fs::rename(next, &self.file).expect("a rename");
    }

    /// What the next refusal of a resource of this type says.
    async fn nack(&mut self, protocol: &str, kind: &'static str) -> String {
        self.refused.push(kind);
        for _ in 0..LINES_MAX {
            let line = self.program.line().await.expect("a line of the log");
            if line["what"] != "nack" {
                continue;
            }
            // Each of the sidecars refuses it.
            assert!(self.refused.iter().any(|refused| line["type"] == **refused), "{line}");
            assert_eq!(line["protocol"], protocol, "{line}");
            if line["type"] == kind {
                return line["why"].as_str().expect("a reason").to_owned();
            }
        }
        panic!("no refusal of a {kind} within {LINES_MAX} lines");
    }
}

/// Two services, two clusters, as another control plane would write them.
fn resources(a: &Server, b: &Server, said: &Said) -> Value {
    let route = |name: &str| json!({"cluster": format!("cluster-{name}")});
    let mut rest = json!({"match": {"prefix": "/"}, "route": route(said.ledger)});
    if said.rewritten {
        rest["route"]["prefixRewrite"] = json!("/other/");
    }
    let canary = [json!({"name": "x-canary", "stringMatch": {"exact": "yes"}})];
    let split = json!({"weightedClusters": {"clusters": [
        {"name": "cluster-a", "weight": 75},
        {"name": "cluster-b", "weight": 25},
    ]}});
    let ledger = json!([
        {"match": {"path": "/interop.Where/Tell"}, "route": route("b")},
        {"match": {"prefix": "/", "headers": canary}, "route": route("b")},
        {"match": {"safeRegex": {"regex": "/interop\\.Where/Spl.t"}}, "route": split},
        rest,
    ]);
    let stock = json!([{"match": {"prefix": "/"}, "route": route(said.stock)}]);
    let mut first = cluster("a");
    if said.original {
        first["type"] = json!("ORIGINAL_DST");
    }
    json!([
        listener("ledger"),
        listener("stock"),
        routes("ledger", &ledger),
        routes("stock", &stock),
        first,
        cluster("b"),
        endpoints("a", a.addr),
        endpoints("b", b.addr),
    ])
}

fn listener(name: &str) -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
        "name": format!("{name}.shop"),
        "apiListener": {"apiListener": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "rds": {"configSource": ads(), "routeConfigName": format!("{name}-routes")},
            "httpFilters": [{
                "name": "envoy.filters.http.router",
                "typedConfig": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
            }],
        }},
    })
}

fn routes(name: &str, routes: &Value) -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        "name": format!("{name}-routes"),
        "virtualHosts": [{"name": name, "domains": [format!("{name}.shop")], "routes": routes}],
    })
}

fn cluster(name: &str) -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        "name": format!("cluster-{name}"),
        "type": "EDS",
        "edsClusterConfig": {"edsConfig": ads(), "serviceName": format!("endpoints-{name}")},
        "connectTimeout": "20s",
    })
}

fn endpoints(name: &str, address: SocketAddr) -> Value {
    let address =
        json!({"socketAddress": {"address": address.ip().to_string(), "portValue": address.port()}});
    json!({
        "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
        "clusterName": format!("endpoints-{name}"),
        "endpoints": [{"lbEndpoints": [{"endpoint": {"address": address}}], "loadBalancingWeight": 1}],
    })
}

fn ads() -> Value {
    json!({"ads": {}, "resourceApiVersion": "V3"})
}
