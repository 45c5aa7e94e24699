//! No plaintext of a call through the mesh goes over the wire between pods.

use std::net::SocketAddr;

use bench::call::CallSpec;
use bench::client::Client;
use bench::server::{Server, ServerOptions};
use bench::wait::{soon, until};

use crate::cluster::{Cluster, INBOUND, OUTBOUND, Pod};
use crate::wire::{Tap, huffman};

/// In metadata, which HPACK writes in a code of its own.
const ASKED: &str = "isitaseatoastie";
const ANSWERED: &str = "itistoasttaste";
const PATH: &str = "/coasts/taste";
const PAYLOAD: &[u8] = b"a message that nobody on the wire may read";

/// What would be seen of a call that is not encrypted, by name.
fn secrets() -> [(&'static str, Vec<u8>); 4] {
    [
        ("the message", PAYLOAD.to_vec()),
        ("metadata of the request", huffman(ASKED)),
        ("metadata of the response", huffman(ANSWERED)),
        ("the path", huffman(PATH)),
    ]
}

/// Calls a service at an address, from within a pod.
async fn call(pod: &Pod, at: SocketAddr, service: &str) {
    let client = pod.namespace.inside(Client::connect(at, None)).await.expect("a connection");
    let spec = CallSpec::new(service, "/bench.Echo/Unary").header("x-asked", ASKED);
    let outcome = soon("a call", client.unary_with(spec, PAYLOAD)).await.expect("a connection");
    assert!(outcome.is_ok() && outcome.last.as_deref() == Some(PAYLOAD), "{outcome:?}");
    // The app does not know this method; what counts is who reads its name.
    let outcome = soon("a call", client.unary(service, PATH, b"")).await.expect("a connection");
    assert!(outcome.grpc_status.is_some_and(|status| status != 0), "{outcome:?}");
}

async fn app(pod: &Pod) -> Server {
    let options = ServerOptions { name: ANSWERED.to_owned(), ..ServerOptions::default() };
    let at = "0.0.0.0:50051".parse().expect("an address");
    pod.namespace.inside(Server::start_with(at, options)).await.expect("an app")
}

/// Calls through two sidecars, from an app that knows of its own or does not.
async fn nothing_is_to_be_read(redirected: bool) {
    let Some(cluster) = Cluster::open().await else { return };
    let (orders, payments) = (cluster.pod("orders").await, cluster.pod("payments").await);
    let (mesh_app, stranger) = (app(&payments).await, cluster.pod("users").await);
    let plain_app = app(&stranger).await;
    payments.configure("inbound: [{listen: 0.0.0.0:15006, app: 127.0.0.1:50051, mtls: strict}]\n");
    orders.configure("outbound: {listen: 127.0.0.1:15001}\n");
    let (endpoint, door) = match redirected {
        true => (50_051, "10.96.0.20:50051".parse().expect("an address")),
        false => (INBOUND, SocketAddr::from(([127, 0, 0, 1], OUTBOUND))),
    };
    if redirected {
        orders.init("").await;
        payments.init("").await;
    }
    let mesh = cluster.mesh(&[("payments", payments.at(endpoint))]);
    let (_callee, _caller) = (payments.sidecar(&mesh).await, orders.sidecar(&mesh).await);

    let wire = Tap::here(&orders.interface);
    let inside = [&orders, &payments].map(|pod| Tap::within(&pod.namespace, "lo"));
    call(&orders, door, "payments.shop").await;
    for (what, bytes) in secrets() {
        for (tap, pod) in inside.iter().zip(["orders", "payments"]) {
            until(format!("{what} inside the pod of {pod}"), async || !tap.with(&bytes).is_empty()).await;
        }
    }
    // The same call to somebody outside of the mesh: it passes by this tap, after all that went before.
    call(&orders, stranger.at(50_051), "users").await;
    for (what, bytes) in secrets() {
        until(format!("{what} on the wire, without a mesh"), async || !wire.with(&bytes).is_empty()).await;
        for flow in wire.with(&bytes) {
            assert!([flow.0, flow.1].contains(&stranger.at(50_051)), "{what} was to be read: {flow:?}");
        }
    }
    assert!(
        wire.bytes_to(payments.at(endpoint)) > PAYLOAD.len(),
        "the call through the mesh passed by this tap"
    );
    wire.assert_complete();
    assert_eq!((mesh_app.calls().len(), plain_app.calls().len()), (2, 2));
}

#[tokio::test]
async fn nothing_of_a_call_is_to_be_read_on_the_wire_between_pods() {
    nothing_is_to_be_read(false).await;
}

#[tokio::test]
async fn nothing_of_a_redirected_call_is_to_be_read_on_the_wire_between_pods() {
    nothing_is_to_be_read(true).await;
}
