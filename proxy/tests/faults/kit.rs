//! The sidecar of a caller with one worker, and what is asked of it.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use bench::call::CallSpec;
use bench::client::Client;
use bench::metrics::Metrics;
use bench::outcome::Outcome;
use bench::process::Sidecar;
use bench::server::Server;
use bench::site::patient;
use bench::wait::{soon, until};
use bytes::Bytes;
use tempfile::TempDir;

/// Any port of the loopback interface.
pub(crate) const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// The four kinds of call that the echo server knows.
pub(crate) const UNARY: &str = "/bench.Echo/Unary";
pub(crate) const CLIENT_STREAM: &str = "/bench.Echo/ClientStream";
pub(crate) const SERVER_STREAM: &str = "/bench.Echo/ServerStream";
pub(crate) const BIDI: &str = "/bench.Echo/Bidi";

/// How long is waited for what must not come. A machine that is slower than that lets a fault pass, and never fails a
/// sidecar that does right.
pub(crate) const NEVER: Duration = Duration::from_millis(300);

/// The sidecar of the service `near`, which calls `far`.
pub(crate) struct Caller {
    pub(crate) sidecar: Sidecar,
    /// One connection of the app that calls.
    pub(crate) client: Client,
    mesh: String,
    folder: TempDir,
}

impl Caller {
    /// `far` has this endpoint, and these policies, one a line.
    pub(crate) async fn start(server: &Server, policies: &str) -> Self {
        Self::start_with(server, policies, "").await
    }

    /// The same with `more` in `sidecar.yaml`, which may say another number of workers than one.
    pub(crate) async fn start_with(server: &Server, policies: &str, more: &str) -> Self {
        Self::start_at(server.addr, policies, more).await
    }

    /// The same with the endpoint's address.
    pub(crate) async fn start_at(endpoint: SocketAddr, policies: &str, more: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let workers = if more.contains("workers:") { "" } else { "workers: 1\n" };
        let sidecar = format!(
            "service: near\n{workers}outbound: {{listen: \"127.0.0.1:0\"}}\n\
             admin: {{listen: \"127.0.0.1:0\", socket: admin.sock}}\nprobes: {{listen: \"127.0.0.1:0\"}}\n\
             mesh: {{file: mesh.yaml}}\n{more}"
        );
        let policies: String = patient(policies).lines().map(|line| format!("    {line}\n")).collect();
        let mesh = format!(
            "version: 1\nservices:\n  - name: near\n  - name: far\n    endpoints: [\"{}\"]\n{policies}",
            endpoint
        );
        let binary = Path::new(env!("CARGO_BIN_EXE_outrigger-proxy"));
        let sidecar = Sidecar::start(binary, &sidecar, &mesh, folder.path()).await.expect("a sidecar");
        let client = Client::connect(sidecar.outbound(), None).await.expect("a connection");
        Self { sidecar, client, mesh, folder }
    }

    /// Puts another mesh in force: the first one with these lines behind it.
    pub(crate) async fn rewrite(&self, more: &str) {
        const LOADED: &str = "outrigger_config_loaded_total";
        let before = self.metric(LOADED, &[("source", "mesh")]).await;
        let aside = self.folder.path().join("next");
        std::fs::write(&aside, format!("{}{more}", self.mesh)).expect("a file");
        std::fs::rename(aside, self.folder.path().join("mesh.yaml")).expect("in its place");
        until("the change is in force", async || self.metric(LOADED, &[("source", "mesh")]).await > before)
            .await;
    }

    pub(crate) async fn metrics(&self) -> Metrics {
        self.sidecar.metrics().await.expect("a scrape")
    }

    pub(crate) async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        self.metrics().await.value(name, labels) as u64
    }

    /// Faults of this kind that took effect.
    pub(crate) async fn injected(&self, kind: &str) -> u64 {
        self.metric("outrigger_faults_injected_total", &[("kind", kind)]).await
    }

    /// A call with one message.
    pub(crate) async fn call(&self, spec: CallSpec<'_>) -> Outcome {
        soon("a call", self.client.unary_with(spec, b"ping")).await.expect("the sidecar takes calls")
    }
}

/// Makes a call that sends `sends` messages and ends its request; all that comes back, and how it ended.
pub(crate) async fn exchange(
    client: &Client,
    spec: CallSpec<'_>,
    sends: &[Vec<u8>],
) -> (Vec<Bytes>, Outcome) {
    let mut call = client.call(spec).await.expect("a call");
    for message in sends {
        // A call may end before all of it is sent.
        if call.send(message).await.is_err() {
            break;
        }
    }
    call.half_close();
    let mut came = Vec::new();
    while let Some(message) = soon("a message or the end", call.recv()).await {
        came.push(message);
    }
    (came, soon("the end", call.finish()).await)
}

/// One kind of call: its path, how many messages go and come, and those that come.
pub(crate) struct Kind {
    pub(crate) path: &'static str,
    pub(crate) sends: Vec<Vec<u8>>,
    pub(crate) comes: Vec<Vec<u8>>,
}

/// `count` messages in a server's answer, each of `size` bytes.
pub(crate) fn kinds(count: usize, size: usize) -> [Kind; 4] {
    let payload = |number: usize| vec![number as u8; size];
    let many: Vec<Vec<u8>> = (0..count).map(payload).collect();
    let one = vec![payload(7)];
    let sum = format!("{count} {}", count * size).into_bytes();
    [
        Kind { path: UNARY, sends: one.clone(), comes: one.clone() },
        Kind { path: CLIENT_STREAM, sends: many.clone(), comes: vec![sum] },
        Kind { path: SERVER_STREAM, sends: one, comes: vec![vec![b's'; size]; count] },
        Kind { path: BIDI, sends: many.clone(), comes: many },
    ]
}
