//! Two sidecars in a row, mTLS strict between them, in front of an app: what these tests drive.
//!
//! ```text
//! client --h2c--> caller's sidecar --mTLS--> callee's sidecar --h2c--> app
//! ```
#![allow(dead_code, reason = "each test file uses a part of it")]

pub(crate) mod frames;
pub(crate) mod memory;
pub(crate) mod peer;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use bench::certs::{Ca, Leaf, write_identity};
use bench::client::Client;
use bench::outcome::Outcome;
use bench::process::Sidecar;
use bench::server::{Server, ServerOptions};
use tempfile::TempDir;

/// A mebibyte.
pub(crate) const MIB: u64 = 1 << 20;
/// Any port of the loopback interface.
pub(crate) const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// The trust domain of the mesh.
pub(crate) const TRUST_DOMAIN: &str = "cluster.local";
/// The service that is called, as callers name it.
pub(crate) const ECHO: &str = "echo.shop";
/// Who serves it.
pub(crate) const ECHO_ID: &str = "spiffe://cluster.local/ns/shop/sa/echo";
/// Who calls it.
pub(crate) const SHOPPER_ID: &str = "spiffe://cluster.local/ns/shop/sa/shopper";

/// The four kinds of call that the echo server knows.
pub(crate) const UNARY: &str = "/bench.Echo/Unary";
pub(crate) const CLIENT_STREAM: &str = "/bench.Echo/ClientStream";
pub(crate) const SERVER_STREAM: &str = "/bench.Echo/ServerStream";
pub(crate) const BIDI: &str = "/bench.Echo/Bidi";

/// What every `sidecar.yaml` here says, beside its service and its ways in.
pub(crate) const COMMON: &str = "namespace: shop\n\
    identity: {cert: tls.crt, key: tls.key, bundle: ca.crt}\n\
    admin: {listen: 127.0.0.1:0, socket: admin.sock}\n\
    probes: {listen: 127.0.0.1:0}\n\
    mesh: {file: mesh.yaml}\n\
    drain: {lag: 1ms, deadline: 5s}\n";

/// An authority, and a folder for the sidecars that it vouches for.
pub(crate) struct Site {
    pub(crate) ca: Ca,
    /// What the environment of its sidecars says.
    pub(crate) variables: Vec<(&'static str, String)>,
    folder: TempDir,
    sidecars: AtomicU32,
}

impl Site {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (ca, variables) = (Ca::new(TRUST_DOMAIN), Vec::new());
        Self { ca, variables, folder, sidecars: AtomicU32::new(0) }
    }

    /// A sidecar of the service `echo` in front of `app`; `more` is added to its `sidecar.yaml`.
    pub(crate) async fn callee(&self, app: SocketAddr, more: &str) -> Sidecar {
        self.callee_as(&self.ca.leaf(ECHO_ID), app, more, "").await
    }

    /// [`Site::callee`] with a certificate of the test's own, and `policies` of `echo`, each line indented by
    /// four.
    pub(crate) async fn callee_as(
        &self,
        leaf: &Leaf,
        app: SocketAddr,
        more: &str,
        policies: &str,
    ) -> Sidecar {
        let yaml = format!(
            "service: echo\n{COMMON}{more}\ninbound:\n  - {{listen: 127.0.0.1:0, app: \"{app}\", mtls: strict}}\n"
        );
        self.sidecar(leaf, &yaml, &mesh(&[], policies)).await
    }

    /// The sidecar of `shopper`; `more` is added to its `sidecar.yaml`.
    pub(crate) async fn caller(&self, mesh: &str, more: &str) -> Sidecar {
        self.caller_as(&self.ca.leaf(SHOPPER_ID), mesh, more).await
    }

    /// [`Site::caller`] with a certificate of the test's own.
    pub(crate) async fn caller_as(&self, leaf: &Leaf, mesh: &str, more: &str) -> Sidecar {
        let yaml = format!("service: shopper\n{COMMON}{more}\noutbound: {{listen: 127.0.0.1:0}}\n");
        self.sidecar(leaf, &yaml, mesh).await
    }

    /// A sidecar of any kind that shows `leaf`.
    pub(crate) async fn sidecar(&self, leaf: &Leaf, yaml: &str, mesh: &str) -> Sidecar {
        let dir = self.new_folder();
        write_identity(&dir, leaf, self.ca.bundle_pem()).expect("files of an identity");
        let binary = Path::new(env!("CARGO_BIN_EXE_outrigger-proxy"));
        Sidecar::start_with(binary, yaml, mesh, &dir, &self.variables).await.expect("a sidecar")
    }

    fn new_folder(&self) -> PathBuf {
        let number = self.sidecars.fetch_add(1, Ordering::Relaxed);
        let dir = self.folder.path().join(number.to_string());
        std::fs::create_dir(&dir).expect("a folder");
        dir
    }
}

/// A `mesh.yaml`: the service `echo` with these endpoints, mTLS to each, and `shopper`. `policies` is added
/// to `echo`, each line indented by four.
pub(crate) fn mesh(endpoints: &[SocketAddr], policies: &str) -> String {
    let endpoints = endpoints.iter().map(|address| format!("\"{address}\"")).collect::<Vec<_>>().join(", ");
    format!(
        "version: 1\nservices:\n  - name: echo\n    namespace: shop\n    endpoints: [{endpoints}]\n{policies}\n  \
         - name: shopper\n    namespace: shop\n"
    )
}

/// The whole row, with one app.
pub(crate) struct Pair {
    pub(crate) caller: Sidecar,
    pub(crate) callee: Sidecar,
    pub(crate) app: Server,
    pub(crate) site: Site,
}

impl Pair {
    pub(crate) async fn start() -> Self {
        Self::start_with(ServerOptions::default(), "").await
    }

    /// An app with these options, and both sidecars with `more` in their `sidecar.yaml`.
    pub(crate) async fn start_with(options: ServerOptions, more: &str) -> Self {
        let app = Server::start_with(ANY, options).await.expect("an app");
        let (site, callee, caller) = around(app.addr, more).await;
        Self { caller, callee, app, site }
    }

    /// A connection of an app that calls.
    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.caller.outbound(), None).await.expect("a connection to our own sidecar")
    }
}

/// Both sidecars around an app of any kind: the site, the callee's and the caller's.
pub(crate) async fn around(app: SocketAddr, more: &str) -> (Site, Sidecar, Sidecar) {
    let site = Site::new();
    let callee = site.callee(app, more).await;
    // By default two seconds, which a handshake may take on a loaded machine.
    let patient = "    upstream: {connect_timeout: 20s}";
    let caller = site.caller(&mesh(&[callee.inbound()], patient), more).await;
    (site, callee, caller)
}

/// A call that went well, or a failed test that says how it went.
#[track_caller]
pub(crate) fn well(call: Result<Outcome, h2::Error>) -> Outcome {
    let outcome = call.expect("the connection takes it");
    assert!(outcome.is_ok(), "{outcome:?}");
    outcome
}

/// What a metric says now, the sum over its series with these labels.
pub(crate) async fn metric(sidecar: &Sidecar, name: &str, labels: &[(&str, &str)]) -> u64 {
    sidecar.metrics().await.expect("a scrape").value(name, labels) as u64
}
