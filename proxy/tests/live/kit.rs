//! A sidecar whose files change while it runs.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use bench::call::{Call, CallSpec};
use bench::certs::{Ca, Leaf, write_identity};
use bench::client::Client;
use bench::outcome::Outcome;
use bench::process::Sidecar;
use bench::server::{Server, ServerOptions};
use bench::wait::until;
use serde_json::Value;
use tempfile::TempDir;

pub(crate) const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
pub(crate) const ECHO: &str = "echo.shop";
pub(crate) const UNARY: &str = "/bench.Echo/Unary";
pub(crate) const BIDI: &str = "/bench.Echo/Bidi";

/// How long a fault of the identity must stay before it is told, as docs/operations.md says.
const IDENTITY_PATIENCE: Duration = Duration::from_secs(1);

/// A sidecar and its folder.
pub(crate) struct Live {
    pub(crate) sidecar: Sidecar,
    pub(crate) dir: TempDir,
}

impl Live {
    /// The sidecar of `caller.shop`, plain, with `more` in its `sidecar.yaml`.
    pub(crate) async fn caller(mesh: &str, more: &str) -> Self {
        let yaml = format!("service: caller\n{}outbound: {{listen: \"127.0.0.1:0\"}}\n{more}", common());
        Self::start(&yaml, mesh, None).await
    }

    /// A sidecar with these files, and perhaps an identity.
    pub(crate) async fn start(yaml: &str, mesh: &str, identity: Option<(&Leaf, &str)>) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        if let Some((leaf, bundle)) = identity {
            write_identity(dir.path(), leaf, bundle).expect("files of an identity");
        }
        let binary = Path::new(env!("CARGO_BIN_EXE_outrigger-proxy"));
        let sidecar = Sidecar::start(binary, yaml, mesh, dir.path()).await.expect("a sidecar");
        Self { sidecar, dir }
    }

    /// Replaces a file by renaming another over it.
    pub(crate) fn replace(&self, name: &str, text: &str) {
        let next = self.dir.path().join(format!("{name}.next"));
        std::fs::write(&next, text).expect("a file");
        std::fs::rename(&next, self.dir.path().join(name)).expect("a rename");
    }

    /// Writes over a file where it is.
    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.dir.path().join(name), text).expect("a file");
    }

    /// Replaces certificate, key and bundle, one after the other.
    pub(crate) fn rotate(&self, leaf: &Leaf, bundle: &str) {
        self.replace("tls.crt", &leaf.cert_pem);
        self.replace("tls.key", &leaf.key_pem);
        self.replace("ca.crt", bundle);
    }

    /// Replaces certificate and key so far apart that the first is found alone. Returns whether it was alone for so long, on a
    /// machine that stood still, that it is told as a fault.
    pub(crate) async fn replace_apart(&self, cert: &str, key: &str, gap: Duration) -> bool {
        let began = Instant::now();
        self.replace("tls.crt", cert);
        tokio::time::sleep(gap).await;
        self.replace("tls.key", key);
        began.elapsed() >= IDENTITY_PATIENCE
    }

    /// `/config`.
    pub(crate) async fn config(&self) -> Value {
        let answer = self.sidecar.get("/config").await.expect("a page");
        serde_json::from_str(&answer.body).expect("JSON")
    }

    /// A counter or gauge, the sum over its series with these labels.
    pub(crate) async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.sidecar.metrics().await.expect("a scrape").value(name, labels)
    }

    /// How often something was turned down.
    pub(crate) async fn rejections(&self) -> u32 {
        self.metric("outrigger_config_rejected_total", &[]).await as u32
    }

    /// Waits until something of a source has been turned down this many times, and returns what `/config` says.
    pub(crate) async fn rejected(&self, source: &str, times: u32) -> Vec<String> {
        let labels = [("source", source)];
        until(format!("{source} turned down {times} times"), async || {
            self.metric("outrigger_config_rejected_total", &labels).await == f64::from(times)
        })
        .await;
        self.faults(source).await
    }

    /// What `/config` says is wrong with a source; nothing, if that is so.
    pub(crate) async fn faults(&self, source: &str) -> Vec<String> {
        let config = self.config().await;
        let faults = config[source]["rejected"]["faults"].as_array().cloned().unwrap_or_default();
        faults.iter().map(|fault| fault.as_str().expect("a line").to_owned()).collect()
    }

    /// Waits until a source is in force as its files say.
    pub(crate) async fn good(&self, source: &str) {
        until(format!("{source} is good"), async || self.config().await[source]["rejected"].is_null()).await;
    }

    /// Waits until a version of a source is in force.
    pub(crate) async fn in_force(&self, source: &str, version: u64) {
        until(format!("{source} of version {version}"), async || {
            self.config().await[source]["version"].as_u64().expect("a version") >= version
        })
        .await;
    }

    /// Waits until stderr holds a text.
    pub(crate) async fn says(&self, text: &str) {
        until(format!("stderr says {text:?}, not {}", self.sidecar.stderr()), async || {
            self.sidecar.stderr().contains(text)
        })
        .await;
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.sidecar.outbound(), None).await.expect("a connection to the sidecar")
    }

    /// Waits until a call lands on `name`.
    pub(crate) async fn lands_on(&self, client: &Client, name: &str) {
        until(format!("a call lands on {name}"), async || landed(&call(client).await) == name).await;
    }

    /// Connections to endpoints that are open now.
    pub(crate) async fn upstream(&self) -> f64 {
        self.metric("outrigger_connections", &[("direction", "upstream")]).await
    }
}

pub(crate) fn common() -> &'static str {
    "namespace: shop\n\
     workers: 2\n\
     admin: {listen: \"127.0.0.1:0\", socket: admin.sock}\n\
     probes: {listen: \"127.0.0.1:0\"}\n\
     mesh: {file: mesh.yaml}\n\
     drain: {lag: 1ms, deadline: 1s}\n"
}

/// The sidecars of `caller` and `echo`, mTLS between them, in front of `app`; both with leaves of `ca`.
pub(crate) async fn pair(ca: &Ca, app: SocketAddr) -> (Live, Live) {
    let callee = callee(ca, app).await;
    let mesh = mesh(&[format!("\"{}\"", callee.sidecar.inbound())]);
    (caller(ca, &mesh).await, callee)
}

const IDENTITY: &str = "identity: {cert: tls.crt, key: tls.key, bundle: ca.crt}\n";

/// The sidecar of `echo`, strict, in front of `app`.
pub(crate) async fn callee(ca: &Ca, app: SocketAddr) -> Live {
    let yaml = format!(
        "service: echo\n{}{IDENTITY}inbound: [{{listen: \"127.0.0.1:0\", app: \"{app}\", mtls: strict}}]\n",
        common()
    );
    let none: [&str; 0] = [];
    Live::start(&yaml, &mesh(&none), Some((&ca.leaf(&id("echo")), ca.bundle_pem()))).await
}

/// The sidecar of `caller`, with an identity.
pub(crate) async fn caller(ca: &Ca, mesh: &str) -> Live {
    let yaml = format!("service: caller\n{}{IDENTITY}outbound: {{listen: \"127.0.0.1:0\"}}\n", common());
    Live::start(&yaml, mesh, Some((&ca.leaf(&id("caller")), ca.bundle_pem()))).await
}

/// A mesh of `echo` with these endpoints, each a line of YAML, and `caller`. By default a connection has two seconds, which a
/// handshake may take on a loaded machine.
pub(crate) fn mesh<T: ToString>(endpoints: &[T]) -> String {
    let endpoints: Vec<String> = endpoints.iter().map(T::to_string).collect();
    format!(
        "version: 1\nservices:\n  - name: echo\n    namespace: shop\n    endpoints: [{}]\n    \
         upstream: {{connect_timeout: 20s}}\n  - {{name: caller, namespace: shop}}\n",
        endpoints.join(", ")
    )
}

/// An address as an endpoint.
pub(crate) fn at(server: &Server) -> String {
    format!("\"{}\"", server.addr)
}

pub(crate) async fn echo(name: &str) -> Server {
    let options = ServerOptions { name: name.to_owned(), ..ServerOptions::default() };
    Server::start_with(ANY, options).await.expect("a server")
}

/// A unary call that goes well.
pub(crate) async fn call(client: &Client) -> Outcome {
    let outcome = client.unary(ECHO, UNARY, b"ping").await.expect("a call");
    assert!(outcome.is_ok(), "{outcome:?}");
    outcome
}

/// Which server answered.
pub(crate) fn landed(outcome: &Outcome) -> &str {
    outcome.headers.get("x-server").map_or("", |name| name.to_str().expect("a name"))
}

/// A stream on which one message has gone there and back.
pub(crate) async fn stream(client: &Client) -> Call {
    let mut call = client.call(CallSpec::new(ECHO, BIDI)).await.expect("a call");
    echoes(&mut call).await;
    call
}

/// Sends a message there and back.
pub(crate) async fn echoes(call: &mut Call) {
    call.send(b"ping").await.expect("a stream that is open");
    assert_eq!(call.recv().await.as_deref(), Some(&b"ping"[..]));
}

/// `spiffe://cluster.local/ns/shop/sa/ACCOUNT`.
pub(crate) fn id(account: &str) -> String {
    format!("spiffe://cluster.local/ns/shop/sa/{account}")
}

pub(crate) fn ca() -> Ca {
    Ca::new("cluster.local")
}
