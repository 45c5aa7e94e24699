//! `/explain` and `/routes` of a running sidecar: calls arrive where it said that they would.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bench::call::CallSpec;
use bench::client::Client;
use bench::maze::{self, MazeCall, Shape, VERSIONS};
use bench::process::Sidecar;
use bench::server::{Server, ServerOptions};
use bench::wait::{soon, until};
use fastrand::Rng;
use serde_json::Value;
use tempfile::TempDir;

const SERVICES: usize = 4;
const ROUTES: usize = 200;
const CALLS: usize = 200;
/// Unless `OUTRIGGER_SEED` names another one.
const SEED: u64 = 7;

const SIDECAR: &str = "
service: s0
namespace: maze
outbound: {listen: 127.0.0.1:0}
admin: {listen: 127.0.0.1:0, socket: admin.sock}
probes: {listen: 127.0.0.1:0}
workers: 1
mesh: {file: mesh.yaml}
";

#[tokio::test]
async fn calls_arrive_where_the_page_said_that_they_would() {
    let seed = match std::env::var("OUTRIGGER_SEED") {
        Ok(seed) => seed.parse().expect("a number"),
        Err(_) => SEED,
    };
    println!("seed {seed}");
    let mut random = Rng::with_seed(seed);
    let servers = servers().await;
    let endpoints: Vec<SocketAddr> = servers.iter().map(|server| server.addr).collect();
    let shape = Shape { services: SERVICES, routes: ROUTES, endpoints, harsh: false };
    // By default a connection may take two seconds, which is little on a loaded machine.
    let patient = "version: 1\ndefaults: {upstream: {connect_timeout: 20s}}\n";
    let mesh = maze::mesh(&mut random, &shape).replacen("version: 1\n", patient, 1);
    let (_dir, sidecar) = start(&mesh).await;
    let client = Client::connect(sidecar.outbound(), None).await.expect("a connection");
    let (mut arrived, mut refused) = (0, 0);
    for _ in 0..CALLS {
        let call = maze::call(&mut random, &shape);
        let told = explain(&sidecar, &call).await;
        let path = format!("/{}", call.method);
        let mut spec = CallSpec::new(&call.authority, &path);
        for (name, value) in &call.headers {
            spec = spec.header(name, value);
        }
        let outcome = soon("an answer", client.unary_with(spec, b"x")).await.expect("a connection");
        let server = outcome.headers.get("x-server").and_then(|name| name.to_str().ok());
        match server {
            Some(server) => {
                let at = (0..servers.len()).find(|at| name(*at) == server).expect("one of ours");
                assert!(
                    goes_to(&told, &servers[at].addr.to_string()),
                    "seed {seed}, {call:?}: {server}\n{told:#}"
                );
                arrived += 1;
            }
            None => {
                // On the wire it is said which hop ends the call.
                let said = format!(
                    "outrigger outbound: {}",
                    told["refused"]["message"].as_str().unwrap_or_default()
                );
                assert_eq!(outcome.message, said, "seed {seed}, {call:?}");
                refused += 1;
            }
        }
    }
    println!("{arrived} arrived, {refused} were refused");
    assert!(arrived > CALLS / 2, "most calls arrive somewhere");
}

/// One echo server for each service and version.
async fn servers() -> Vec<Server> {
    let mut servers = Vec::new();
    for service in 0..SERVICES {
        for version in 0..VERSIONS.len() {
            let name = name(service * VERSIONS.len() + version);
            let options = ServerOptions { name, ..ServerOptions::default() };
            let any = "127.0.0.1:0".parse().expect("an address");
            servers.push(Server::start_with(any, options).await.expect("a server"));
        }
    }
    servers
}

/// The name of the server at this place.
fn name(at: usize) -> String {
    format!("s{}-{}", at / VERSIONS.len(), VERSIONS[at % VERSIONS.len()])
}

/// Whether an explanation leads to this endpoint.
fn goes_to(told: &Value, address: &str) -> bool {
    let backends = told["backends"].as_array().into_iter().flatten();
    backends.filter(|backend| backend["weight"] != 0).any(|backend| {
        let endpoints = backend["endpoints"].as_array().into_iter().flatten();
        endpoints.filter(|endpoint| endpoint["used"] == true).any(|endpoint| endpoint["address"] == address)
    })
}

async fn start(mesh: &str) -> (TempDir, Sidecar) {
    let dir = TempDir::new().expect("a folder");
    let sidecar = Sidecar::start(Path::new(env!("CARGO_BIN_EXE_outrigger-proxy")), SIDECAR, mesh, dir.path())
        .await
        .unwrap_or_else(|error| panic!("{error}\n{mesh}"));
    (dir, sidecar)
}

/// What the page says of a call.
async fn explain(sidecar: &Sidecar, call: &MazeCall) -> Value {
    let mut path = format!("/explain?authority={}&method={}", call.authority, call.method);
    for (name, value) in &call.headers {
        path.push_str(&format!("&header={name}:{value}"));
    }
    page(sidecar, &path).await
}

async fn page(sidecar: &Sidecar, path: &str) -> Value {
    let answer = sidecar.get(path).await.expect("an answer");
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    serde_json::from_str(&answer.body).expect("JSON")
}

const MESH: &str = "
version: 1
defaults: {stream: {idle: 1m}}
services:
  - name: s0
    namespace: maze
    endpoints: [{address: 'ADDRESS', tls: none, labels: {version: v1}}]
    deadline: {default: 9s}
    outliers: {consecutive_errors: 1, base_ejection_time: 1m, max_ejection_percent: 100%}
    methods: {a.B/Set: {idempotent: false, retries: {max_attempts: 2}}}
    routes:
      - match: {host: s0.maze, method: a.B/Set}
      - match: {service: a.C}
      - match: {headers: [{name: x-canary, exact: '1'}]}
        backends: [{service: s0, labels: {version: v1}, weight: 1}, {service: other, weight: 3}]
        deadline: {default: 1s, max: 2s}
  - name: other
    namespace: maze
    unmatched: refuse
    ports: [50051]
";

fn call(authority: &str, method: &str, headers: &[(&str, &str)]) -> MazeCall {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    MazeCall { authority: authority.to_owned(), method: method.to_owned(), headers }
}

#[tokio::test]
async fn a_page_tells_the_route_why_not_the_others_where_it_leads_and_what_holds() {
    let server = Server::start("127.0.0.1:0".parse().expect("an address")).await.expect("a server");
    let (_dir, sidecar) = start(&MESH.replace("ADDRESS", &server.addr.to_string())).await;
    let told = explain(&sidecar, &call("s0", "a.B/Set", &[("x-canary", "1")])).await;
    assert_eq!(told["service"], "s0.maze");
    assert_eq!((&told["route"]["index"], &told["idempotent"]), (&2.into(), &false.into()));
    let why: Vec<(&str, &str)> = told["passed_over"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|route| {
            (route["condition"].as_str().unwrap_or_default(), route["call"].as_str().unwrap_or_default())
        })
        .collect();
    assert_eq!(why, [("host s0.maze", "host s0"), ("service a.C", "service a.B")]);
    let shares: Vec<f64> =
        told["backends"].as_array().expect("a list").iter().filter_map(|it| it["share"].as_f64()).collect();
    assert_eq!(shares, [0.25, 0.75]);
    let levels: Vec<(&str, &Value, String)> = told["policies"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|it| (it["block"].as_str().unwrap_or_default(), &it["level"], it["value"].to_string()))
        .collect();
    let deadline = r#"{"default":"1s","max":"2s"}"#.to_owned();
    assert_eq!(levels[0], ("deadline", &"route".into(), deadline));
    assert_eq!(levels[1], ("stream", &"service or defaults".into(), r#"{"idle":"60s"}"#.to_owned()));
    assert_eq!((levels[3].0, levels[3].1), ("retries", &"method".into()));
    assert_eq!(told["deadline"]["granted"], "1s");

    let told = explain(&sidecar, &call("other", "a.B/Set", &[])).await;
    assert_eq!(told["refused"]["reason"], "NO_ROUTE");
    let told = explain(&sidecar, &call("other:1", "a.B/Set", &[])).await;
    assert!(told["refused"]["message"].as_str().is_some_and(|it| it.contains("no port 1")), "{told:#}");

    let answer = sidecar.get("/explain?authority=s0").await.expect("an answer");
    assert_eq!(answer.status, 400);
    assert!(answer.body.contains("ask /explain?authority="), "{}", answer.body);
}

#[tokio::test]
async fn a_page_tells_of_each_endpoint_whether_it_takes_calls_and_what_speaks_against_it() {
    let server = Server::start("127.0.0.1:0".parse().expect("an address")).await.expect("a server");
    let (_dir, sidecar) = start(&MESH.replace("ADDRESS", &server.addr.to_string())).await;
    let asked = call("s0", "bench.Echo/Unary", &[]);
    let endpoint = async || explain(&sidecar, &asked).await["backends"][0]["endpoints"][0].clone();
    let fresh = endpoint().await;
    assert_eq!((&fresh["used"], &fresh["against"]), (&true.into(), &Value::Array(Vec::new())));
    let client = Client::connect(sidecar.outbound(), None).await.expect("a connection");
    server.script_next("status:14");
    soon("an answer", client.unary("s0", "/bench.Echo/Unary", b"x")).await.expect("a connection");
    until("the endpoint is told to be ejected", async || {
        endpoint().await["against"].as_array().is_some_and(|against| against.contains(&"ejected".into()))
    })
    .await;
}

#[tokio::test]
async fn routes_are_listed_with_all_that_they_say_and_follow_a_change() {
    let server = Server::start("127.0.0.1:0".parse().expect("an address")).await.expect("a server");
    let mesh = MESH.replace("ADDRESS", &server.addr.to_string());
    let (dir, sidecar) = start(&mesh).await;
    let told = page(&sidecar, "/routes").await;
    let first = &told["services"][0];
    assert_eq!((&first["service"], &first["methods"][0]), (&"s0.maze".into(), &"a.B/Set".into()));
    assert_eq!(first["routes"].as_array().map(Vec::len), Some(3));
    assert_eq!(first["routes"][2]["match"]["headers"][0]["exact"], "1");
    assert_eq!(first["routes"][2]["backends"][1]["service"], "other.maze");
    assert_eq!(first["unmatched"]["deadline"]["default"], "9s");
    assert_eq!(
        (&told["services"][1]["unmatched"], &told["services"][1]["ports"][0]),
        (&Value::Null, &50_051.into())
    );
    std::fs::write(dir.path().join("mesh.yaml"), mesh.replace("weight: 3", "weight: 4")).expect("written");
    let weight =
        async || page(&sidecar, "/routes").await["services"][0]["routes"][2]["backends"][1]["weight"] == 4;
    bench::wait::within(Duration::from_secs(30), "the new weight", until("the new weight", weight)).await;
}
