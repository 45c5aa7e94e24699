//! A gRPC server that is told by xDS whom to let in; and what stock tools can ask the control plane.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::Stdio;
use std::sync::atomic::{AtomicU8, Ordering};

use serde_json::Value;
use tokio::process::Command;

use crate::Case;
use crate::callers::{Caller, Tally};
use crate::mesh::ORDERS_ID;
use crate::parts::{Part, Parts};
use crate::plane::{NAME, Plane, Trust, list};
use crate::programs::{Program, Server, python};

/// `ConfigStatus.SYNCED`.
const SYNCED: u64 = 1;

const CALLS: u32 = 10;

pub(crate) fn cases() -> Vec<Case> {
    let needs = [Part::Python, Part::Xds, Part::Envoy];
    vec![
        Case::new("a_proxyless_server_lets_in_whom_the_mesh_allows".to_owned(), &needs, |parts| {
            authorization(parts, Trust::Certificates)
        }),
        Case::new("envoy_and_grpc_take_certificates_of_the_control_plane".to_owned(), &needs, |parts| {
            authorization(parts, Trust::Authority)
        }),
        Case::new("openssl_believes_what_the_control_plane_signs".to_owned(), &[Part::Openssl], openssl),
        Case::new("a_stock_client_of_csds_reads_what_every_proxy_holds".to_owned(), &needs[..2], csds),
    ]
}

/// By the tools that people have at hand: a leaf, the control plane's own certificate and that of a sidecar.
async fn openssl(_: Parts) {
    let address = own_address();
    let plane = Plane::start(Trust::Authority, &[("mesh.yaml", &mesh(address, "interop.Where/Ask"))]).await;
    let inbound = format!("inbound: [{{listen: \"127.0.0.1:0\", app: \"{address}\", mtls: strict}}]\n");
    let sidecar = plane.sidecar("payments", &inbound).await;
    let bundle = plane.bundle().display().to_string();
    let kept = plane.certificates("orders", "orders");
    let run = async |args: &[&str]| {
        let mut command = Command::new("openssl");
        // By its own name: it opens the certificate and then the key, and a renewal between them swaps both.
        let folder = kept.join("..data").canonicalize().expect("a folder");
        command.args(args).current_dir(folder).stdin(Stdio::null());
        let output = command.output().await.expect("openssl");
        let said = [&output.stdout, &output.stderr].map(|part| String::from_utf8_lossy(part).into_owned());
        (output.status.success(), said.concat())
    };
    for purpose in ["sslclient", "sslserver"] {
        let (good, said) =
            run(&["verify", "-x509_strict", "-purpose", purpose, "-CAfile", &bundle, "tls.crt"]).await;
        assert!(good, "{purpose}: {said}");
    }
    let (ads, inbound) = (plane.ads().to_string(), sidecar.inbound().to_string());
    let own = ["-cert", "tls.crt", "-key", "tls.key", "-alpn", "h2", "-tls1_3", "-verify_return_error"];
    let to = |at: &str| ["s_client", "-connect", at, "-CAfile", &bundle].map(str::to_owned).to_vec();
    for (at, more) in
        [(&ads, &["-verify_ip", "127.0.0.1"][..]), (&ads, &["-verify_hostname", NAME]), (&inbound, &[])]
    {
        let args = to(at);
        let args: Vec<&str> =
            args.iter().map(String::as_str).chain(own).chain(more.iter().copied()).collect();
        let (good, said) = run(&args).await;
        assert!(
            good && said.contains("Verification: OK") && said.contains("ALPN protocol: h2"),
            "{at}: {said}"
        );
    }
    // A name that it has not is refused, so that the above says something.
    let args = to(&ads);
    let args = args.iter().map(String::as_str).chain(own).chain(["-verify_hostname", "elsewhere"]);
    let (good, said) = run(&args.collect::<Vec<_>>()).await;
    assert!(!good, "{said}");
}

async fn authorization(parts: Parts, trust: Trust) {
    let address = own_address();
    let plane = Plane::start(trust, &[("mesh.yaml", &mesh(address, "interop.Where/Ask"))]).await;
    let _server = serve(&parts, &plane, address).await;

    let mut callers = vec![
        Caller::grpc(&parts, &plane, "orders", "xds:///payments.shop"),
        Caller::envoy(&parts, &plane, "payments.shop", "DELTA_GRPC").await,
        Caller::sidecar(&parts, &plane, "orders", "payments.shop").await,
    ];
    for caller in &mut callers {
        caller.until("it is let in", |tally| tally.all("proxyless")).await;
        let tally = caller.call(CALLS, "Ask").await;
        assert!(tally.all("proxyless") && tally.callers == [ORDERS_ID], "{}: {tally:?}", caller.name);
        let tally = caller.call(CALLS, "Tell").await;
        assert!(denied(&tally), "{}, another method: {tally:?}", caller.name);
    }
    let mut others = vec![
        Caller::grpc(&parts, &plane, "refunds", "xds:///payments.shop"),
        Caller::sidecar(&parts, &plane, "refunds", "payments.shop").await,
    ];
    for other in &mut others {
        other.until("the mesh has come to it", |tally| tally.failed.contains_key("PERMISSION_DENIED")).await;
        let tally = other.call(CALLS, "Ask").await;
        assert!(denied(&tally), "{}, another caller: {tally:?}", other.name);
    }
    let mut stranger = Caller::plain(&parts, address);
    let tally = stranger.call(1, "Ask").await;
    assert_eq!(tally.failed.get("UNAVAILABLE"), Some(&1), "without a certificate: {tally:?}");

    // The rules change while it serves.
    plane.edit("mesh.yaml", &mesh(address, "interop.Where/*")).await;
    for caller in &mut callers {
        caller.until_of("Tell", "the new rules hold", |tally| tally.all("proxyless")).await;
    }
    plane.settled(callers.len() + others.len() + 1).await;
}

async fn csds(parts: Parts) {
    let address = own_address();
    let plane =
        Plane::start(Trust::Certificates, &[("mesh.yaml", &mesh(address, "interop.Where/Ask"))]).await;
    let _server = serve(&parts, &plane, address).await;
    let mut callers = vec![
        Caller::grpc(&parts, &plane, "orders", "xds:///payments.shop"),
        Caller::sidecar(&parts, &plane, "orders", "payments.shop").await,
    ];
    for caller in &mut callers {
        caller.until("it is let in", |tally| tally.all("proxyless")).await;
    }
    plane.settled(callers.len() + 1).await;

    let folder = plane.certificates("operator", "operator");
    for stream in [&[][..], &["--stream"]] {
        let mut command = python(&parts, "csds");
        command.args([
            "--server",
            &plane.ads().to_string(),
            "--cert",
            "tls.crt",
            "--key",
            "tls.key",
            "--ca",
            "ca.crt",
        ]);
        command.args(stream).current_dir(&folder);
        let mut program = Program::start(command);
        let Some(told) = program.line().await else { panic!("no answer: {}", program.said()) };
        for (proxy, name) in
            [("grpc", "payments.shop"), ("orders.shop~", "orders.shop"), ("server", "grpc/server")]
        {
            let of = |client: &&Value| client["node"].as_str().is_some_and(|node| node.contains(proxy));
            let client = list(&told).iter().find(of).unwrap_or_else(|| panic!("no {proxy} in {told:#}"));
            let configs = list(&client["configs"]);
            let named = |config: &Value| config["name"].as_str().is_some_and(|held| held.starts_with(name));
            assert!(configs.iter().any(named), "{proxy} holds {name}: {client:#}");
            for config in configs {
                assert_eq!(config["config_status"].as_u64(), Some(SYNCED), "{proxy}: {config:#}");
            }
        }
    }
}

/// The server of `payments`, which speaks xDS.
async fn serve(parts: &Parts, plane: &Plane, address: SocketAddr) -> Server {
    let folder = plane.certificates("server", "payments");
    let mut command = python(parts, "where");
    command.env("GRPC_XDS_BOOTSTRAP", plane.grpc_bootstrap(&folder, "payments.shop~server", "payments"));
    command.args(["--id", "proxyless", "--xds", "--listen", &address.to_string()]);
    Server::start(command).await
}

fn denied(tally: &Tally) -> bool {
    tally.ids.is_empty() && tally.failed.get("PERMISSION_DENIED") == Some(&CALLS)
}

/// An address of loopback that nobody else takes: it must be known before anybody listens there, for a listener is asked
/// for by it.
fn own_address() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    let ip = Ipv4Addr::new(127, high.max(1), low, NEXT.fetch_add(1, Ordering::Relaxed));
    let free = TcpListener::bind((ip, 0)).expect("a port");
    free.local_addr().expect("an address")
}

fn mesh(address: SocketAddr, methods: &str) -> String {
    format!(
        "version: 1\nservices:\n  - {{name: orders, namespace: shop}}\n  - {{name: refunds, namespace: shop}}\n  \
         - name: payments\n    namespace: shop\n    upstream: {{connect_timeout: 20s}}\n    \
         endpoints: [{{address: \"{address}\", tls: mesh}}]\n    \
         inbound: {{authorization: [{{allow: {{from: [\"{ORDERS_ID}\"], methods: [\"{methods}\"]}}}}]}}\n"
    )
}
