//! The sidecar of `echo.shop`, strict, with rules that change.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use bench::call::{Call, CallSpec};
use bench::certs::{Ca, write_identity};
use bench::client::Client;
use bench::outcome::Outcome;
use bench::process::Sidecar;
use bench::server::Server;
use bench::tls::TlsIdentity;
use bench::wait::until;
use serde_json::Value;
use tempfile::TempDir;

const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
pub(crate) const ECHO: &str = "echo.shop";
pub(crate) const UNARY: &str = "/bench.Echo/Unary";
pub(crate) const BIDI: &str = "/bench.Echo/Bidi";
pub(crate) const OK: Option<i32> = Some(0);
pub(crate) const PERMISSION_DENIED: Option<i32> = Some(7);

/// Ten times what the promise says: a core that stands still for a while does not take so long, and what does not end by
/// itself takes for ever. The product waits for one thing only before it ends a call, a socket that nobody reads, and for
/// a second: `what_nobody_takes_has_its_time_and_no_more` in `src/io.rs` holds it to that by a clock of its own.
pub(crate) const ENDED_WITHIN: Duration = Duration::from_secs(10);

/// The sidecar, its app and its certificates.
pub(crate) struct Site {
    pub(crate) ca: Ca,
    pub(crate) sidecar: Sidecar,
    pub(crate) app: Server,
    dir: TempDir,
}

impl Site {
    /// With these rules, as `inbound:` of the service has them.
    pub(crate) async fn start(inbound: &str) -> Self {
        let (ca, app) = (Ca::new("cluster.local"), Server::start(ANY).await.expect("a server"));
        let dir = tempfile::tempdir().expect("a folder");
        write_identity(dir.path(), &ca.leaf(&id("echo")), ca.bundle_pem()).expect("files of an identity");
        let yaml = format!(
            "service: echo\nnamespace: shop\nworkers: 2\nadmin: {{listen: \"127.0.0.1:0\", socket: admin.sock}}\n\
             probes: {{listen: \"127.0.0.1:0\"}}\nmesh: {{file: mesh.yaml}}\ndrain: {{lag: 1ms, deadline: 1s}}\n\
             log: {{access: {{}}}}\nidentity: {{cert: tls.crt, key: tls.key, bundle: ca.crt}}\n\
             inbound: [{{listen: \"127.0.0.1:0\", app: \"{}\", mtls: strict}}]\n",
            app.addr
        );
        let binary = Path::new(env!("CARGO_BIN_EXE_outrigger-proxy"));
        let sidecar = Sidecar::start(binary, &yaml, &mesh(inbound), dir.path()).await.expect("a sidecar");
        Self { ca, sidecar, app, dir }
    }

    /// Puts other rules in force, and waits until they are.
    pub(crate) async fn change(&self, inbound: &str) {
        self.replace("mesh.yaml", &mesh(inbound), "mesh").await;
    }

    /// Puts other roots in force, and waits until they are.
    pub(crate) async fn trust(&self, bundle: &str) {
        self.replace("ca.crt", bundle, "identity").await;
    }

    async fn replace(&self, name: &str, text: &str, source: &str) {
        let before = self.version(source).await;
        let next = self.dir.path().join("next");
        std::fs::write(&next, text).expect("a file");
        std::fs::rename(&next, self.dir.path().join(name)).expect("a rename");
        until(format!("the next {source}: {}", self.sidecar.stderr()), async || {
            self.version(source).await > before
        })
        .await;
    }

    async fn version(&self, source: &str) -> u64 {
        let answer = self.sidecar.get("/config").await.expect("a page");
        let config: Value = serde_json::from_str(&answer.body).expect("JSON");
        config[source]["version"].as_u64().expect("a version")
    }

    /// A connection of a caller.
    pub(crate) async fn client(&self, id: &str) -> Client {
        self.client_of(&self.ca, id).await
    }

    /// The same with a certificate of another authority.
    pub(crate) async fn client_of(&self, ca: &Ca, id: &str) -> Client {
        let tls = TlsIdentity::mutual(&ca.leaf(id), self.ca.bundle_pem());
        Client::connect(self.sidecar.inbound(), Some(tls)).await.expect("a connection")
    }

    pub(crate) async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.sidecar.metrics().await.expect("a scrape").value(name, labels)
    }

    /// How often a rule decided.
    pub(crate) async fn decided(&self, decision: &str, rule: &str) -> f64 {
        let labels = [("service", ECHO), ("decision", decision), ("rule", rule)];
        self.metric("outrigger_authorization_total", &labels).await
    }
}

fn mesh(inbound: &str) -> String {
    format!(
        "version: 1\nservices:\n  - name: echo\n    namespace: shop\n    inbound: {inbound}\n  \
         - {{name: orders, namespace: shop}}\n"
    )
}

/// `spiffe://cluster.local/ns/shop/sa/ACCOUNT`.
pub(crate) fn id(account: &str) -> String {
    format!("spiffe://cluster.local/ns/shop/sa/{account}")
}

/// What becomes of a call without headers.
pub(crate) async fn status(client: &Client, path: &str) -> Option<i32> {
    with(client, path, &[]).await.grpc_status
}

/// What becomes of a call with headers.
pub(crate) async fn with(client: &Client, path: &str, headers: &[(&str, &str)]) -> Outcome {
    let spec = headers.iter().fold(CallSpec::new(ECHO, path), |spec, (name, value)| spec.header(name, value));
    client.unary_with(spec, b"ping").await.expect("a call")
}

/// A stream on which one message has gone there and back.
pub(crate) async fn stream(client: &Client, headers: &[(&str, &str)]) -> Call {
    let spec = headers.iter().fold(CallSpec::new(ECHO, BIDI), |spec, (name, value)| spec.header(name, value));
    let mut call = client.call(spec).await.expect("a call");
    echoes(&mut call).await;
    call
}

/// Sends a message there and back.
pub(crate) async fn echoes(call: &mut Call) {
    call.send(b"ping").await.expect("a stream that is open");
    assert_eq!(call.recv().await.as_deref(), Some(&b"ping"[..]));
}
