//! Active checks: what they find, and how they follow the snapshots.

use std::time::Duration;

use bench::closed::ClosedPort;
use bench::server::{Server, ServerOptions};
use bench::tls::ServerTls;
use bench::wait::{soon, until};
use serde_json::Value;
use tokio::net::{TcpListener, TcpSocket};

use crate::kit::{ANY, Live, at, ca, call, caller, common, echo, id, landed, mesh};

const SERVING: u8 = 1;
const NOT_SERVING: u8 = 2;
/// Of these, some would land on every endpoint.
const CALLS: usize = 30;
/// Checks of one sidecar that may be under way at a time.
const CHECKS_MAX: usize = 256;
/// Checks that come fast, and with which one result makes no difference.
const FAST: &str =
    "{check: grpc, interval: 20ms, timeout: 10s, unhealthy_threshold: 2, healthy_threshold: 2}";

/// A mesh of `echo` with these endpoints, checked like this.
fn checked<T: ToString>(endpoints: &[T], health: &str) -> String {
    mesh(endpoints).replace("    endpoints:", &format!("    health: {health}\n    endpoints:"))
}

impl Live {
    /// What `/clusters` says of the checks of an endpoint of `echo`.
    async fn health(&self, address: impl ToString) -> Value {
        let page = self.sidecar.get("/clusters").await.expect("a page");
        let page: Value = serde_json::from_str(&page.body).expect("JSON");
        let clusters = page["clusters"].as_array().expect("clusters");
        let endpoints = clusters.iter().flat_map(|cluster| cluster["endpoints"].as_array().expect("a list"));
        let mut found = endpoints.filter(|endpoint| endpoint["address"] == address.to_string());
        let endpoint = found.next().unwrap_or_else(|| panic!("{} is not in {page:#}", address.to_string()));
        endpoint["health"].clone()
    }

    /// Waits until an endpoint is in a state.
    async fn is(&self, address: impl ToString, state: &str) -> Value {
        let address = address.to_string();
        until(format!("{address} is {state}"), async || self.health(&address).await["state"] == state).await;
        self.health(&address).await
    }

    /// Waits until the last check that failed of an endpoint that is unhealthy came to this.
    async fn fails(&self, address: impl ToString, said: &str) {
        let address = address.to_string();
        let health = self.is(&address, "unhealthy").await;
        // A machine that stands still makes any answer late: then the next check says it.
        until(format!("{address}: {said}, not {health}"), async || {
            let why = self.health(&address).await["last_failure"]["why"].clone();
            why.as_str().expect("words").contains(said)
        })
        .await;
    }

    /// Waits until an endpoint has been checked this many times more.
    async fn checks(&self, address: impl ToString, more: u64) {
        let address = address.to_string();
        let count = async || self.health(&address).await["checks"].as_u64().expect("a count");
        let goal = count().await + more;
        until(format!("{address} is checked {more} times"), async || count().await >= goal).await;
    }

    async fn unhealthy(&self) -> f64 {
        self.metric("outrigger_endpoints_unhealthy", &[("service", "echo.shop")]).await
    }

    async fn found(&self, result: &str) -> f64 {
        let labels = [("service", "echo.shop"), ("result", result)];
        self.metric("outrigger_health_checks_total", &labels).await
    }
}

#[tokio::test]
async fn an_endpoint_is_unhealthy_while_it_says_so_and_healthy_again_after_it_has_served_a_while() {
    let (good, bad) = (echo("good").await, echo("bad").await);
    good.serve_health(Some(SERVING));
    bad.serve_health(Some(NOT_SERVING));
    let live = Live::caller(&checked(&[at(&good), at(&bad)], FAST), "").await;
    let health = live.is(bad.addr, "unhealthy").await;
    assert_eq!(health["last_failure"]["why"], "it says NOT_SERVING");
    live.says(&format!("echo.shop {} is unhealthy, by its first check: it says NOT_SERVING", bad.addr)).await;
    live.is(good.addr, "healthy").await;
    until("it is counted", async || live.unhealthy().await == 1.0).await;
    live.checks(good.addr, 3).await;
    assert_eq!(good.accepted(), 1, "the connection is kept");
    let client = live.client().await;
    for _ in 0..CALLS {
        assert_eq!(landed(&call(&client).await), "good");
    }
    bad.serve_health(Some(SERVING));
    live.is(bad.addr, "healthy").await;
    live.says(&format!("echo.shop {} is healthy again", bad.addr)).await;
    assert_eq!(live.unhealthy().await, 0.0);
    live.lands_on(&client, "bad").await;
    bad.serve_health(Some(NOT_SERVING));
    live.is(bad.addr, "unhealthy").await;
    live.says(&format!("echo.shop {} is unhealthy, by 2 checks in a row", bad.addr)).await;
    assert!(live.found("healthy").await >= 2.0 && live.found("not_serving").await >= 3.0);
    let asked = &good.health_checks()[0];
    assert_eq!(asked.authority, "echo.shop");
    assert_eq!(asked.headers["grpc-timeout"], "10000000u");
}

#[tokio::test]
async fn a_server_without_the_health_service_counts_as_healthy_and_is_told_once() {
    let (one, two) = (echo("one").await, echo("two").await);
    let live = Live::caller(&checked(&[at(&one), at(&two)], FAST), "").await;
    for server in [&one, &two] {
        let health = live.is(server.addr, "healthy").await;
        assert_eq!(health["unimplemented"], true);
        live.checks(server.addr, 3).await;
    }
    live.says("does not know grpc.health.v1.Health, and counts as healthy").await;
    assert_eq!(live.sidecar.stderr().matches("grpc.health.v1").count(), 1, "{}", live.sidecar.stderr());
    one.serve_health(Some(SERVING));
    until("it knows it now", async || live.health(one.addr).await["unimplemented"] == false).await;
}

#[tokio::test]
async fn every_way_to_fail_is_told_and_counted() {
    let serving: &[u8] = &[0x08, SERVING];
    let long = vec![0; 70 << 10];
    // What the message of the answer is, how it comes, and what is said and counted.
    let ways: [(Option<&[u8]>, &str, &str, &str); 8] = [
        (Some(&[0x08, 3]), "delay:0ms", "it says SERVICE_UNKNOWN", "not_serving"),
        (Some(serving), "trailers-only:5", "does not know the service `shop.Echo`", "error"),
        (Some(serving), "trailers-only:7", "must allow grpc.health.v1.Health/Check", "error"),
        (Some(serving), "reset:INTERNAL_ERROR", "stream error received", "error"),
        (Some(&long), "delay:0ms", "longer than 65536 bytes", "error"),
        (Some(b"\xff"), "delay:0ms", "is no HealthCheckResponse", "error"),
        (Some(serving), "hang", "no answer within 200ms", "timeout"),
        (Some(serving), "disconnect", "the connection was lost", "unreachable"),
    ];
    let settings = "{check: grpc, service: shop.Echo, interval: 20ms, timeout: 200ms, unhealthy_threshold: 1, healthy_threshold: 1}";
    let server = echo("echo").await;
    server.serve_health(Some(SERVING));
    let live = Live::caller(&checked(&[at(&server)], settings), "").await;
    for (message, script, said, counted) in ways {
        live.is(server.addr, "healthy").await;
        let before = live.found(counted).await;
        server.answer_health(message, script);
        live.fails(server.addr, said).await;
        assert!(live.found(counted).await > before, "{script}");
        server.serve_health(Some(SERVING));
    }
    // Nobody listens; and somebody takes the connection and says nothing.
    drop(server);
    let gone = ClosedPort::take().expect("a port");
    let silent = TcpListener::bind(ANY).await.expect("a listener");
    let silent_at = silent.local_addr().expect("an address");
    for (address, said) in [(gone.addr, "connect: "), (silent_at, "no connection within 200ms")] {
        live.replace("mesh.yaml", &checked(&[format!("\"{address}\"")], settings));
        until("it is an endpoint", async || {
            live.sidecar.get("/clusters").await.expect("a page").body.contains(&address.to_string())
        })
        .await;
        live.fails(address, said).await;
    }
}

#[tokio::test]
async fn a_check_of_tcp_asks_for_a_connection_only() {
    let socket = |at| {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("a socket");
        socket.bind(at).expect("a port");
        socket
    };
    // The port is taken twice, so that no other test is given it when its listener goes.
    let taken = socket(ANY);
    let address = taken.local_addr().expect("an address");
    let listener = socket(address).listen(1_024).expect("a listener");
    let settings = "{check: tcp, interval: 20ms, timeout: 10s, unhealthy_threshold: 2}";
    let live = Live::caller(&checked(&[format!("\"{address}\"")], settings), "").await;
    live.is(address, "healthy").await;
    soon("a connection", listener.accept()).await.expect("a connection");
    drop(listener);
    let health = live.is(address, "unhealthy").await;
    assert!(health["last_failure"]["why"].as_str().expect("words").contains("connect: "), "{health}");
}

#[tokio::test]
async fn checkers_come_go_and_change_with_the_snapshots_and_keep_what_they_found() {
    let (stays, goes, comes) = (echo("stays").await, echo("goes").await, echo("comes").await);
    stays.serve_health(Some(NOT_SERVING));
    let rare = "{check: grpc, interval: 1h, timeout: 10s}";
    let live = Live::caller(&checked(&[at(&stays), at(&goes)], FAST), "").await;
    live.is(stays.addr, "unhealthy").await;
    live.is(goes.addr, "healthy").await;

    live.replace("mesh.yaml", &checked(&[at(&stays), at(&comes)], FAST));
    until("the new one is checked", async || !comes.health_checks().is_empty()).await;
    until("the old one is let go", async || goes.open_connections() == 0).await;
    let checks = goes.health_checks().len();
    live.checks(stays.addr, 5).await;
    assert_eq!(goes.health_checks().len(), checks, "nobody asks it any more");
    assert_eq!(live.sidecar.stderr().matches("is unhealthy").count(), 1, "it stayed what it was");
    assert_eq!(stays.accepted(), 1, "and so did its connection");

    // Slower: the state stays. Asked for nothing: nothing is held against it.
    live.replace("mesh.yaml", &checked(&[at(&stays)], rare));
    until("there is one endpoint", async || comes.open_connections() == 0).await;
    assert_eq!(live.health(stays.addr).await["state"], "unhealthy");
    let checks = stays.health_checks().len();
    stays.serve_health(Some(SERVING));
    live.replace("mesh.yaml", &checked(&[at(&stays)], FAST));
    live.is(stays.addr, "healthy").await;
    assert!(stays.health_checks().len() > checks, "the faster interval holds at once");
    stays.serve_health(Some(NOT_SERVING));
    live.is(stays.addr, "unhealthy").await;
    live.replace("mesh.yaml", &mesh(&[at(&stays)]));
    until("nobody is checked", async || live.health(stays.addr).await.is_null()).await;
    until("its connection is closed", async || stays.open_connections() == 0).await;
    call(&live.client().await).await;
}

#[tokio::test]
async fn between_sidecars_a_check_shows_our_certificate_and_the_new_one_after_a_rotation() {
    let (ca, other) = (ca(), crate::kit::ca());
    let tls = |leaf| Some(ServerTls { leaf, client_trust: Some(ca.bundle_pem().to_owned()) });
    let serve = async |leaf| {
        let options = ServerOptions { tls: tls(leaf), ..ServerOptions::default() };
        let server = Server::start_with(ANY, options).await.expect("a server");
        server.serve_health(Some(SERVING));
        server
    };
    let (good, foreign) = (serve(ca.leaf(&id("echo"))).await, serve(other.leaf(&id("echo"))).await);
    for check in ["grpc", "tcp"] {
        let settings = FAST.replace("grpc", check);
        let live = caller(&ca, &checked(&[at(&good), at(&foreign)], &settings)).await;
        live.is(good.addr, "healthy").await;
        let health = live.is(foreign.addr, "unhealthy").await;
        assert!(health["last_failure"]["why"].as_str().expect("words").contains("TLS: "), "{health}");
    }
    until("they have gone", async || good.open_connections() == 0).await;

    let before = good.accepted();
    let live = caller(&ca, &checked(&[at(&good)], FAST)).await;
    live.is(good.addr, "healthy").await;
    live.checks(good.addr, 3).await;
    assert_eq!(good.accepted(), before + 1, "the connection is kept");
    live.rotate(&ca.leaf(&id("caller")), ca.bundle_pem());
    live.in_force("identity", 2).await;
    until("a connection with the new certificate", async || good.accepted() == before + 2).await;
    until("the old one is closed", async || good.open_connections() == 1).await;
    assert_eq!(live.is(good.addr, "healthy").await["last_failure"], Value::Null);
}

#[tokio::test]
async fn a_server_that_says_goodbye_is_not_kept_waiting_and_not_blamed() {
    let mut server = echo("echo").await;
    server.serve_health(Some(SERVING));
    let settings = "{check: grpc, interval: 500ms, timeout: 10s, unhealthy_threshold: 1000}";
    let live = Live::caller(&checked(&[at(&server)], settings), "").await;
    live.is(server.addr, "healthy").await;
    soon("its end, with nobody who holds it up", server.stop()).await;
    server.restart().await.expect("the same port");
    live.checks(server.addr, 2).await;
    assert_eq!(live.health(server.addr).await["state"], "healthy");
    assert_eq!(server.accepted(), 2);
}

#[tokio::test]
async fn a_check_goes_through_the_endpoints_sidecar_whose_authorization_must_allow_it() {
    let app = echo("app").await;
    app.serve_health(Some(SERVING));
    let yaml = format!(
        "service: echo\n{}inbound: [{{listen: \"127.0.0.1:0\", app: \"{}\", mtls: \"off\"}}]\n",
        common(),
        app.addr
    );
    let allows = |methods: &str| {
        let none: [&str; 0] = [];
        let rules =
            format!("    inbound: {{authorization: [{{allow: {{methods: [{methods}]}}}}]}}\n    endpoints:");
        mesh(&none).replace("    endpoints:", &rules)
    };
    let callee = Live::start(&yaml, &allows("bench.Echo/*"), None).await;
    let inbound = callee.sidecar.inbound();
    let live = Live::caller(&checked(&[format!("\"{inbound}\"")], FAST), "").await;
    let health = live.is(inbound, "unhealthy").await;
    let why = health["last_failure"]["why"].as_str().expect("words");
    assert!(why.contains("must allow grpc.health.v1.Health/Check"), "{why}");
    callee.replace("mesh.yaml", &allows("bench.Echo/*, grpc.health.v1.Health/*"));
    live.is(inbound, "healthy").await;
    assert!(!app.health_checks().is_empty());
    // It leaves: no check of ours holds it up, and it is not there any more.
    let Live { mut sidecar, dir: _dir } = callee;
    sidecar.term();
    soon("its end", sidecar.wait()).await.expect("an end");
    live.is(inbound, "unhealthy").await;
}

#[tokio::test]
async fn a_sidecar_that_leaves_is_not_held_up_by_a_check() {
    let server = echo("echo").await;
    server.answer_health(Some(&[0x08, SERVING]), "hang");
    let mesh = checked(&[at(&server)], "{check: grpc, interval: 1ms, timeout: 1h}");
    let Live { mut sidecar, dir: _dir } = Live::caller(&mesh, "").await;
    until("a check is under way", async || server.health_checks().len() == 1).await;
    sidecar.term();
    soon("its end", sidecar.wait()).await.expect("an end");
    until("its connection is closed", async || server.open_connections() == 0).await;
    assert_eq!(server.health_checks().len(), 1);
}

#[tokio::test]
async fn so_many_checks_are_under_way_at_a_time_and_the_others_wait_and_are_counted() {
    const MORE: usize = 44;
    // Connections are made, and nobody says a word on them.
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(([0, 0, 0, 0], 0).into()).expect("an address");
    let listener = socket.listen(1_024).expect("a listener");
    let port = listener.local_addr().expect("an address").port();
    let endpoints: Vec<String> =
        (0..CHECKS_MAX + MORE).map(|n| format!("\"127.1.{}.{}:{port}\"", n / 250, n % 250 + 1)).collect();
    let settings = "{check: grpc, interval: 100ms, timeout: 1h}";
    let live = Live::caller(&checked(&endpoints, settings), "").await;
    let waiting = async || live.metric("outrigger_refused_total", &[("limit", "health_checks")]).await;
    until("all want to check", async || waiting().await == MORE as f64).await;
    let mut open = Vec::new();
    for _ in 0..CHECKS_MAX {
        open.push(soon("a check", listener.accept()).await.expect("a connection").0);
    }
    let next = tokio::time::timeout(Duration::from_millis(300), listener.accept());
    assert!(next.await.is_err(), "one more is under way");
    // Whoever is done makes room.
    open.truncate(CHECKS_MAX - 1);
    soon("one more", listener.accept()).await.expect("a connection");
}
