//! Our sidecar driven by a control plane that knows nothing of us: `python/ads.py`, by both variants of xDS.
//!
//! It has what a foreign control plane has: names of its own for routes and clusters, and nothing private of ours.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use bench::call::CallSpec;
use bench::client::Client;
use bench::outcome::Outcome;
use bench::process::Sidecar;
use bench::server::{Server, ServerOptions};
use bench::wait::until;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::Case;
use crate::parts::{Part, Parts, sources};
use crate::programs::Program;

const METHOD: &str = "/bench.Echo/Unary";
const PAYMENTS: &str = "payments.shop";
const API: &str =
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";

pub(crate) fn cases() -> Vec<Case> {
    let of = |protocol: &'static str| {
        let name = format!("a_foreign_control_plane_drives_our_sidecar_by_{protocol}");
        Case::new(name, &[Part::Xds], move |parts| driven(parts, protocol))
    };
    vec![of("delta"), of("sotw")]
}

/// Routes, endpoints, what cannot be honoured, what comes late, and the end of the control plane; no call fails.
async fn driven(parts: Parts, protocol: &'static str) {
    let mut servers = Vec::new();
    for name in ["a", "b", "c"] {
        let options = ServerOptions { name: name.to_owned(), ..ServerOptions::default() };
        servers.push(Server::start_with(([127, 0, 0, 1], 0).into(), options).await.expect("a server"));
    }
    let [a, b, c] = [servers[0].addr, servers[1].addr, servers[2].addr];
    let folder = tempfile::tempdir().expect("a folder");
    let shelf = Shelf(folder.path().join("resources.json"));
    shelf.put(&[&service(PAYMENTS, &usual()), &endpoints(a, b)]);
    let mut python = Command::new(parts.path(Part::Xds));
    python.arg(sources().join("python/ads.py")).arg("--resources").arg(&shelf.0);
    let mut ads = Program::start(python);
    let at = ads.line().await.expect("a control plane")["listen"].as_str().expect("an address").to_owned();
    let orders = sidecar(&folder, &at, protocol).await;
    let client = Client::connect(orders.outbound(), None).await.expect("a connection");

    // It is ready two seconds after it has heard of the first resources at the latest, whole or not.
    for canary in ["0", "1"] {
        until("the first set", async || ask(&client, canary).await.grpc_status == Some(0)).await;
    }
    assert_eq!((call(&client, "0").await, call(&client, "1").await), ("a".to_owned(), "b".to_owned()));

    // Everything goes to b.
    shelf.put(&[&service(PAYMENTS, &json!([route("two")])), &endpoints(a, b)]);
    until("the new routes", async || call(&client, "0").await == "b").await;

    // Routes that nobody can honour, and in the same breath other endpoints.
    let redirect = json!([{"match": {"prefix": ""}, "redirect": {"hostRedirect": "elsewhere.example"}}]);
    shelf.put(&[&service(PAYMENTS, &redirect), &endpoints(a, c)]);
    let nack = loop {
        let line = ads.line().await.expect("a NACK");
        if line["what"] == "nack" {
            break line;
        }
    };
    assert_eq!(nack["type"], "RouteConfiguration", "{nack}");
    let why = nack["why"].as_str().expect("a reason");
    assert!(why.contains("payments-routes") && why.contains("redirect"), "{why}");
    until("the endpoints, by the routes before", async || call(&client, "0").await == "c").await;
    let config = orders.get("/config").await.expect("a page").body;
    assert!(config.contains("payments-routes"), "{config}");

    shelf.put(&[&service(PAYMENTS, &usual()), &endpoints(a, b)]);
    until("good routes again", async || call(&client, "0").await == "a").await;

    // A service that is not there, and then is.
    let late = client.unary("late.shop", METHOD, b"x").await.expect("an answer");
    assert_eq!(late.grpc_status, Some(14), "{late:?}");
    shelf.put(&[
        &service(PAYMENTS, &usual()),
        &service("late.shop", &json!([route("two")])),
        &endpoints(a, b),
    ]);
    until("the late one", async || {
        client.unary("late.shop", METHOD, b"x").await.expect("an answer").grpc_status == Some(0)
    })
    .await;

    drop(ads);
    until("the loss is seen", async || {
        orders.metrics().await.expect("a scrape").value("outrigger_control_connected", &[]) == 0.0
    })
    .await;
    assert_eq!((call(&client, "0").await, call(&client, "1").await), ("a".to_owned(), "b".to_owned()));
}

/// A call of `payments`.
async fn ask(client: &Client, canary: &str) -> Outcome {
    let spec = CallSpec { headers: vec![("x-canary", canary)], ..CallSpec::new(PAYMENTS, METHOD) };
    client.unary_with(spec, b"x").await.expect("an answer")
}

/// The same; who has answered it.
async fn call(client: &Client, canary: &str) -> String {
    let outcome = ask(client, canary).await;
    assert_eq!(outcome.grpc_status, Some(0), "no call fails: {outcome:?}");
    outcome.headers["x-server"].to_str().expect("text").to_owned()
}

async fn sidecar(folder: &TempDir, control: &str, protocol: &str) -> Sidecar {
    let yaml = format!(
        "service: orders\nnamespace: shop\n\
         outbound: {{listen: \"127.0.0.1:0\", unknown: refuse}}\n\
         admin: {{listen: \"127.0.0.1:0\", socket: admin.sock}}\n\
         probes: {{listen: \"127.0.0.1:0\"}}\n\
         mesh: {{control: [\"http://{control}\"], protocol: {protocol}}}\n"
    );
    std::fs::write(folder.path().join("sidecar.yaml"), yaml).expect("a file");
    let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
    command.args(["proxy", "sidecar.yaml"]).current_dir(folder.path());
    Sidecar::spawn(command).await.expect("a sidecar")
}

/// The file that the control plane reads.
struct Shelf(PathBuf);

impl Shelf {
    /// Replaces all of it at once.
    fn put(&self, resources: &[&Value]) {
        let all: Vec<&Value> =
            resources.iter().flat_map(|some| some.as_array().expect("resources")).collect();
        let next: &Path = &self.0.with_extension("next");
        std::fs::write(next, json!(all).to_string()).expect("a file");
        std::fs::rename(next, &self.0).expect("another name for it");
    }
}

/// `x-canary: 1` goes to cluster two, the rest to cluster one.
fn usual() -> Value {
    let canary = json!({"prefix": "", "headers": [{"name": "x-canary", "stringMatch": {"exact": "1"}}]});
    json!([{"match": canary, "route": {"cluster": "two"}}, route("one")])
}

fn route(cluster: &str) -> Value {
    json!({"match": {"prefix": ""}, "route": {"cluster": cluster}})
}

/// A listener and its routes.
fn service(host: &str, routes: &Value) -> Value {
    let short = host.split('.').next().expect("a name");
    let ads = json!({"ads": {}, "resourceApiVersion": "V3"});
    let router = json!({"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"});
    json!([
        {
            "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
            "name": host,
            "apiListener": {"apiListener": {
                "@type": API,
                "rds": {"configSource": ads, "routeConfigName": format!("{short}-routes")},
                "httpFilters": [{"name": "envoy.filters.http.router", "typedConfig": router}],
            }},
        },
        {
            "@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            "name": format!("{short}-routes"),
            "virtualHosts": [{"name": short, "domains": [host], "routes": routes}],
        },
    ])
}

/// Clusters one and two, and where they are.
fn endpoints(one: SocketAddr, two: SocketAddr) -> Value {
    let ads = json!({"ads": {}, "resourceApiVersion": "V3"});
    let both = [("one", one), ("two", two)].map(|(name, addr)| {
        let address = json!({"address": addr.ip().to_string(), "portValue": addr.port()});
        let endpoint = json!({"endpoint": {"address": {"socketAddress": address}}});
        let locality =
            json!({"locality": {"zone": "z"}, "loadBalancingWeight": 1, "lbEndpoints": [endpoint]});
        [
            json!({
                "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
                "name": name,
                "type": "EDS",
                "lbPolicy": "ROUND_ROBIN",
                "edsClusterConfig": {"edsConfig": ads},
            }),
            json!({
                "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
                "clusterName": name,
                "endpoints": [locality],
            }),
        ]
    });
    json!(both.concat())
}
