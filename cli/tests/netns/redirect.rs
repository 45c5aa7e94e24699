//! Apps that know of no sidecar, with sidecars behind the rules of `outrigger init`.

use std::net::{Ipv4Addr, SocketAddr};

use bench::client::{Client, ClientOptions};
use bench::http1;
use bench::outcome::Outcome;
use bench::process::Sidecar;
use bench::server::{Server, ServerOptions};
use bench::tls::{ServerTls, TlsIdentity};
use bench::wait::{soon, until};

use crate::cluster::{Cluster, INBOUND, OUTBOUND, PROBES, Pod};
use crate::speaker;

const UNARY: &str = "/bench.Echo/Unary";
/// The address of a Service, which no pod has.
const SERVICE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(10, 96, 0, 20)), 50_051);
/// Behind the head of the `sidecar.yaml` of `orders`, which calls.
const ORDERS: &str = "opaque_ports: [3306]\n\
    outbound: {listen: 127.0.0.1:15001, listen_ipv6: \"[::1]:15001\"}\n\
    inbound: [{listen: \"[::]:15006\", app: 127.0.0.1:50051, mtls: strict}]\n";
/// And of `payments`, which is called.
const PAYMENTS: &str = "opaque_ports: [3306]\ninbound:\n  \
    - {listen: \"[::]:15006\", app: 127.0.0.1:50051, mtls: strict}\n  \
    - {listen: \"[::]:15006\", app: 127.0.0.1:50052, mtls: strict, service: reports}\n  \
    - {listen: \"[::]:15006\", app: 127.0.0.1:3306, mtls: strict}\n";

/// An app in a pod, on every address of it.
async fn app(pod: &Pod, port: u16) -> Server {
    app_with(pod, port, ServerOptions::default()).await
}

async fn app_with(pod: &Pod, port: u16, options: ServerOptions) -> Server {
    let at = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
    pod.namespace.inside(Server::start_with(at, options)).await.expect("an app")
}

/// One call from within a pod on a connection of its own; `Err`: there was no connection, or it broke.
async fn call(pod: &Pod, to: SocketAddr, authority: &str) -> Result<Outcome, String> {
    let call = async {
        let client =
            pod.namespace.inside(Client::connect(to, None)).await.map_err(|error| error.to_string())?;
        client.unary(authority, UNARY, b"hello").await.map_err(|error| error.to_string())
    };
    soon(format!("a call to {to}"), call).await
}

#[track_caller]
fn well(call: Result<Outcome, String>) {
    let outcome = call.expect("a connection");
    assert!(outcome.is_ok() && outcome.last.as_deref() == Some(b"hello"), "{outcome:?}");
}

#[track_caller]
fn broken(call: &Result<Outcome, String>) {
    if let Ok(outcome) = call {
        assert!(outcome.http_status.is_none() && outcome.fault.is_some(), "{outcome:?}");
    }
}

async fn count(sidecar: &Sidecar, name: &str, labels: &[(&str, &str)]) -> u64 {
    sidecar.metrics().await.expect("a scrape").value(name, labels) as u64
}

async fn refused(sidecar: &Sidecar, reason: &str) -> u64 {
    count(sidecar, "outrigger_handshake_failures_total", &[("reason", reason)]).await
}

/// A caller of `payments`, and `payments`: apps, sidecars, rules.
struct Row {
    orders: Pod,
    payments: Pod,
    caller: Sidecar,
    callee: Sidecar,
    cluster: Cluster,
}

impl Row {
    async fn open() -> Option<Self> {
        Self::open_as(ORDERS, PAYMENTS).await
    }

    /// What is behind the head of each `sidecar.yaml`.
    async fn open_as(caller: &str, callee: &str) -> Option<Self> {
        let cluster = Cluster::open().await?;
        let (orders, payments) = (cluster.pod("orders").await, cluster.pod("payments").await);
        orders.configure(caller);
        payments.configure(callee);
        let mesh = cluster.mesh(&[
            ("payments", payments.at(50_051)),
            ("reports", payments.at(50_052)),
            ("orders", orders.at(50_051)),
        ]);
        orders.init("").await;
        payments.init("").await;
        let (callee, caller) = (payments.sidecar(&mesh).await, orders.sidecar(&mesh).await);
        Some(Self { orders, payments, caller, callee, cluster })
    }
}

#[tokio::test]
async fn calls_come_through_both_sidecars_whatever_address_the_name_has() {
    let Some(row) = Row::open().await else { return };
    let (payments, reports) = (app(&row.payments, 50_051).await, app(&row.payments, 50_052).await);
    well(call(&row.orders, SERVICE, "payments.shop:50051").await);
    well(call(&row.orders, row.payments.at(50_051), "payments.shop:50051").await);
    well(call(&row.orders, row.payments.at_v6(50_051), "payments.shop:50051").await);
    well(call(&row.orders, SERVICE, "reports.shop:50052").await);
    assert_eq!((payments.calls().len(), reports.calls().len()), (3, 1));
    for call in payments.calls() {
        let shown = call.headers["x-forwarded-client-cert"].to_str().expect("text");
        assert!(shown.contains("URI=spiffe://cluster.local/ns/shop/sa/orders"), "{shown}");
    }
    for (service, calls) in [("payments.shop", 3), ("reports.shop", 1)] {
        let name = "grpc_server_handled_total";
        assert_eq!(count(&row.callee, name, &[("service", service), ("peer", "orders.shop")]).await, calls);
    }
}

#[tokio::test]
async fn an_app_reaches_its_own_service_by_name_through_the_mesh_and_by_its_address_directly() {
    let Some(row) = Row::open().await else { return };
    let orders = app(&row.orders, 50_051).await;
    well(call(&row.orders, SERVICE, "orders.shop:50051").await);
    assert!(orders.calls()[0].headers.contains_key("x-forwarded-client-cert"), "it came by mTLS");
    let handled = async || count(&row.caller, "grpc_server_handled_total", &[("peer", "orders.shop")]).await;
    assert_eq!(handled().await, 1);
    for to in [row.orders.at(50_051), SocketAddr::from(([127, 0, 0, 1], 50_051))] {
        well(call(&row.orders, to, "orders.shop:50051").await);
        let last = orders.calls().pop().expect("a call");
        assert!(!last.headers.contains_key("x-forwarded-client-cert"), "{to}: it came from nobody else");
    }
    assert_eq!((orders.calls().len(), handled().await, refused(&row.caller, "loop").await), (3, 1, 0));
}

#[tokio::test]
async fn who_comes_to_a_strict_app_in_plain_is_sent_away_and_counted_and_permissive_lets_it_in() {
    let Some(row) = Row::open().await else { return };
    let stranger = row.cluster.pod("users").await;
    let payments = app(&row.payments, 50_051).await;
    for to in [row.payments.at(50_051), row.payments.at_v6(50_051), row.payments.at(INBOUND)] {
        broken(&call(&stranger, to, "payments.shop").await);
    }
    let why = async || {
        let (plain, no_entry) =
            (refused(&row.callee, "plaintext").await, refused(&row.callee, "no_entry").await);
        (plain, no_entry)
    };
    // A direct connection to a listener that entries share belongs to none of them.
    until("two refusals for being plain and one for being nobody's", async || why().await == (2, 1)).await;
    // Ports that no entry speaks for are closed too where something is strict.
    let closed = app(&row.payments, 9_090).await;
    broken(&call(&stranger, row.payments.at(9_090), "payments.shop").await);
    until("another one that is nobody's", async || why().await == (2, 2)).await;
    assert_eq!((payments.calls().len(), closed.accepted()), (0, 0));

    let permissive = PAYMENTS.replace("strict", "permissive");
    let Some(row) = Row::open_as(ORDERS, &permissive).await else { return };
    let stranger = row.cluster.pod("users").await;
    let (payments, metrics) = (app(&row.payments, 50_051).await, app(&row.payments, 9_090).await);
    well(call(&stranger, row.payments.at(50_051), "payments.shop").await);
    assert!(!payments.calls()[0].headers.contains_key("x-forwarded-client-cert"));
    well(call(&row.orders, SERVICE, "payments.shop").await);
    assert!(
        payments.calls()[1].headers.contains_key("x-forwarded-client-cert"),
        "the mesh still comes by mTLS"
    );
    well(call(&stranger, row.payments.at(9_090), "anybody").await);
    assert_eq!(metrics.calls().len(), 1, "a port without an entry is the app's own affair");
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_on_an_opaque_port_and_on_an_excluded_one() {
    let Some(row) = Row::open().await else { return };
    let stranger = row.cluster.pod("users").await;
    for port in [3_306, 2_525] {
        speaker::open(&stranger, &format!("[::]:{port}"));
        speaker::open(&row.payments, &format!("[::]:{port}"));
    }
    let tunnels = async |sidecar: &Sidecar, direction: &str| {
        count(sidecar, "outrigger_tunnels_total", &[("direction", direction)]).await
    };
    // Out, through the sidecar, by both protocols.
    speaker::listen_and_speak(&row.orders, stranger.at(3_306)).await.expect("an opaque port, out");
    speaker::listen_and_speak(&row.orders, stranger.at_v6(3_306)).await.expect("an opaque port, out");
    assert_eq!(tunnels(&row.caller, "outbound").await, 2);
    // In, from who has no sidecar.
    speaker::listen_and_speak(&stranger, row.payments.at(3_306)).await.expect("an opaque port, in");
    assert_eq!(tunnels(&row.callee, "inbound").await, 1);
    // Out and in.
    speaker::listen_and_speak(&row.orders, row.payments.at(3_306)).await.expect("an opaque port, both");
    // Silence on a port that is not opaque ends the detection, and the bytes pass.
    speaker::listen_and_speak(&row.orders, stranger.at(2_525)).await.expect("silence, out");
    // But not into a pod where something is strict.
    speaker::listen_and_speak(&stranger, row.payments.at(2_525)).await.expect_err("silence, in");
    let before = (tunnels(&row.caller, "outbound").await, tunnels(&row.callee, "inbound").await);
    assert_eq!(before, (4, 2));
    row.orders.init("--exclude-outbound-ports 2525").await;
    row.payments.init("--exclude-inbound-ports 2525").await;
    speaker::listen_and_speak(&row.orders, row.payments.at(2_525)).await.expect("an excluded port");
    assert_eq!((tunnels(&row.caller, "outbound").await, tunnels(&row.callee, "inbound").await), before);
}

#[tokio::test]
async fn what_is_for_no_service_of_the_mesh_goes_where_it_was_going_or_is_refused() {
    let passing = format!("{ORDERS}log: {{access: {{}}}}\n");
    let refusing = ORDERS.replace("127.0.0.1:15001, ", "127.0.0.1:15001, unknown: refuse, ");
    for (caller, passes) in [(passing.as_str(), true), (refusing.as_str(), false)] {
        let Some(mut row) = Row::open_as(caller, PAYMENTS).await else { return };
        let stranger = row.cluster.pod("users").await;
        let plain = app(&stranger, 50_051).await;
        let leaf = row.cluster.ca.leaf("spiffe://elsewhere/sa/users");
        let tls = ServerTls { leaf, client_trust: None };
        let secure =
            app_with(&stranger, 443, ServerOptions { tls: Some(tls), ..ServerOptions::default() }).await;

        // gRPC without a mesh, by address.
        let outcome = call(&row.orders, stranger.at(50_051), &stranger.at(50_051).to_string()).await;
        // TLS from end to end: the certificate that the app checks is the server's own.
        let trust = TlsIdentity { leaf: None, trust: Some(row.cluster.ca.bundle_pem().to_owned()) };
        let options = ClientOptions { tls: Some(trust), ..ClientOptions::default() };
        let connecting = row.orders.namespace.inside(Client::connect_with(stranger.at(443), options));
        let encrypted = soon("a TLS handshake", connecting).await;
        // HTTP/1.1: another pod's metrics.
        let page = row.orders.namespace.inside(http1::get(row.payments.at(PROBES), "/metrics")).await;
        if passes {
            well(outcome);
            let client = encrypted.expect("a TLS connection");
            well(client.unary("anybody", UNARY, b"hello").await.map_err(|error| error.to_string()));
            assert!(page.is_ok_and(|page| page.body.contains("outrigger_info")));
            assert_eq!((plain.calls().len(), secure.calls().len()), (1, 1));
            assert!(!plain.calls()[0].headers.contains_key("x-forwarded-client-cert"));
            let logged = soon("a line", row.caller.print()).await.expect("stdout").expect("a line");
            let logged: serde_json::Value = serde_json::from_str(&logged).expect("JSON");
            let told = ["service", "method", "endpoint", "grpc_status"].map(|name| &logged[name]);
            let endpoint = stranger.at(50_051).to_string();
            assert_eq!(told, ["passthrough", "bench.Echo/Unary", endpoint.as_str(), "OK"], "{logged}");
        } else {
            let outcome = outcome.expect("a connection to the sidecar");
            assert_eq!(outcome.grpc_status, Some(14), "{outcome:?}");
            assert!(outcome.message.starts_with("outrigger outbound: "), "{}", outcome.message);
            assert!(encrypted.is_err() && page.is_err());
            assert_eq!((plain.accepted(), secure.accepted()), (0, 0));
            until("two refusals", async || refused(&row.caller, "unknown").await == 2).await;
        }
        // The mesh goes on either way.
        let _payments = app(&row.payments, 50_051).await;
        well(call(&row.orders, SERVICE, "payments.shop").await);
    }
}

#[tokio::test]
async fn a_connection_to_the_sidecar_itself_goes_round_nowhere() {
    let Some(row) = Row::open().await else { return };
    let stranger = row.cluster.pod("users").await;
    // From elsewhere: outbound and the admin pages are on loopback, and nobody is led there.
    for port in [OUTBOUND, 15_000] {
        let error = call(&stranger, row.orders.at(port), "payments.shop").await.expect_err("nobody listens");
        assert!(error.contains("refused"), "{error}");
    }
    // From the pod itself.
    let error =
        call(&row.orders, row.orders.at(OUTBOUND), "payments.shop").await.expect_err("nobody listens");
    assert!(error.contains("refused"), "{error}");
    broken(&call(&row.orders, row.orders.at(INBOUND), "payments.shop").await);
    // By rules that lead there all the same.
    let rules = "table ip wrong {\n chain output {\n  type nat hook output priority -110;\n  \
        ip daddr 10.88.0.0/24 tcp dport { 15001, 15006 } redirect to :15001\n }\n}\n";
    let file = row.orders.folder.join("wrong");
    std::fs::write(&file, rules).expect("a file");
    row.orders.namespace.run(&format!("nft -f {}", file.display())).await;
    for port in [OUTBOUND, INBOUND] {
        let outcome = call(&row.orders, row.orders.at(port), "nobody").await;
        assert!(outcome.is_err() || outcome.is_ok_and(|outcome| !outcome.is_ok()), "{port}");
    }
    until("two loops", async || refused(&row.caller, "loop").await == 2).await;
    let _payments = app(&row.payments, 50_051).await;
    well(call(&row.orders, SERVICE, "payments.shop").await);
}

#[tokio::test]
async fn a_sidecar_whose_user_the_rules_do_not_leave_out_refuses_its_own_connections() {
    let Some(row) = Row::open().await else { return };
    let stranger = row.cluster.pod("users").await;
    let (_payments, plain) = (app(&row.payments, 50_051).await, app(&stranger, 50_051).await);
    row.orders.init("--uid 4242").await;
    // Through the mesh, and to somebody else.
    let outcome = call(&row.orders, SERVICE, "payments.shop").await.expect("a connection to the sidecar");
    assert_eq!(outcome.grpc_status, Some(14), "{outcome:?}");
    let outcome =
        call(&row.orders, stranger.at(50_051), "nobody").await.expect("a connection to the sidecar");
    assert_eq!(outcome.grpc_status, Some(14), "{outcome:?}");
    assert!(speaker::listen_and_speak(&row.orders, stranger.at(3_306)).await.is_err());
    let loops = refused(&row.caller, "loop").await;
    assert!((3..100).contains(&loops), "{loops} connections came back");
    assert_eq!(plain.accepted(), 0);
    let accepted = count(&row.caller, "outrigger_connections_total", &[]).await;
    assert!(accepted < 100, "{accepted} connections");
    // Mended, it goes on.
    row.orders.init("").await;
    until("the mesh", async || {
        call(&row.orders, SERVICE, "payments.shop").await.is_ok_and(|call| call.is_ok())
    })
    .await;
}
