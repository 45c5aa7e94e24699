//! The sidecar of a caller with one worker, so that there is one pool for each endpoint of the service `far`.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use bench::call::{Call, CallSpec};
use bench::client::Client;
use bench::metrics::Metrics;
use bench::outcome::Outcome;
use bench::process::Sidecar;
use bench::site::patient;
use bench::wait::soon;
use serde_json::Value;
use tempfile::TempDir;

/// Any port of the loopback interface.
pub(crate) const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
pub(crate) const UNARY: &str = "/bench.Echo/Unary";
pub(crate) const BIDI: &str = "/bench.Echo/Bidi";

/// How long is waited for what must not come. A machine that is slower than that lets a fault pass, and never
/// fails a sidecar that does right.
pub(crate) const NEVER: Duration = Duration::from_millis(300);

pub(crate) struct Caller {
    pub(crate) sidecar: Sidecar,
    /// One connection of the app that calls.
    pub(crate) client: Client,
    _folder: TempDir,
}

impl Caller {
    /// `far` has these endpoints, and these policies, one a line.
    pub(crate) async fn start(endpoints: &[SocketAddr], policies: &str) -> Self {
        let endpoints: Vec<_> = endpoints.iter().map(|at| format!("\"{at}\"")).collect();
        Self::with(&format!("[{}]", endpoints.join(", ")), policies).await
    }

    /// The endpoints as they stand in the file.
    pub(crate) async fn with(endpoints: &str, policies: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let sidecar = "service: near\nworkers: 1\noutbound: {listen: \"127.0.0.1:0\"}\n\
            admin: {listen: \"127.0.0.1:0\", socket: admin.sock}\nprobes: {listen: \"127.0.0.1:0\"}\n\
            mesh: {file: mesh.yaml}\n";
        let policies: String =
            patient(policies).lines().map(|line| format!("    {}\n", line.trim())).collect();
        let mesh = format!(
            "version: 1\nservices:\n  - name: near\n  - name: far\n    endpoints: {endpoints}\n{policies}"
        );
        let binary = Path::new(env!("CARGO_BIN_EXE_outrigger-proxy"));
        let sidecar = Sidecar::start(binary, sidecar, &mesh, folder.path()).await.expect("a sidecar");
        let client = Client::connect(sidecar.outbound(), None).await.expect("a connection");
        Self { sidecar, client, _folder: folder }
    }

    /// A unary call, whatever comes of it.
    pub(crate) async fn call(&self) -> Outcome {
        unary(&self.client).await
    }

    /// A unary call that must go well.
    pub(crate) async fn call_well(&self) {
        let outcome = self.call().await;
        assert!(outcome.is_ok(), "{outcome:?}");
    }

    /// A stream on which one message has been echoed.
    pub(crate) async fn stream(&self) -> Call {
        let mut call = self.begin().await;
        echoed(&mut call).await;
        call
    }

    /// A stream on which one message has been sent.
    pub(crate) async fn begin(&self) -> Call {
        let mut call = self.client.call(CallSpec::new("far", BIDI)).await.expect("a call");
        call.send(b"hello").await.expect("the stream is open");
        call
    }

    pub(crate) async fn metrics(&self) -> Metrics {
        self.sidecar.metrics().await.expect("a scrape")
    }

    /// Open connections to endpoints.
    pub(crate) async fn connections(&self) -> usize {
        self.metrics().await.value("outrigger_connections", &[("direction", "upstream")]) as usize
    }

    /// Attempts of `far`'s calls that ended like this.
    pub(crate) async fn attempts(&self, outcome: &str) -> usize {
        let labels = [("service", "far.default"), ("outcome", outcome)];
        self.metrics().await.value("outrigger_attempts_total", &labels) as usize
    }

    /// Attempts in flight on the endpoints of `far`, those included that wait for a connection.
    pub(crate) async fn in_flight(&self) -> u64 {
        let page = self.sidecar.get("/clusters").await.expect("an answer").body;
        let page: Value = serde_json::from_str(&page).expect("JSON");
        let endpoints = page["clusters"].as_array().expect("a list").iter();
        let endpoints = endpoints.filter(|cluster| cluster["service"] == "far.default");
        let endpoints = endpoints.flat_map(|cluster| cluster["endpoints"].as_array().expect("a list"));
        endpoints.map(|endpoint| endpoint["in_flight"].as_u64().expect("a number")).sum()
    }
}

pub(crate) async fn unary(client: &Client) -> Outcome {
    soon("a call", client.unary("far", UNARY, b"hello")).await.expect("the sidecar takes calls")
}

/// Sends a message on a stream and waits for it to come back.
pub(crate) async fn echoed(call: &mut Call) {
    call.send(b"hello").await.expect("the stream is open");
    heard(call).await;
}

/// Waits for a message that was sent to come back.
pub(crate) async fn heard(call: &mut Call) {
    assert_eq!(soon("an echo", call.recv()).await.as_deref(), Some(&b"hello"[..]));
}

/// Ends a stream, which must go well.
pub(crate) async fn ends_well(call: Call) {
    let outcome = soon("the end of a stream", call.finish()).await;
    assert!(outcome.is_ok(), "{outcome:?}");
}
