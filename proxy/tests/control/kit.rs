//! A sidecar that asks a control plane, and its folder.

use std::net::SocketAddr;
use std::path::Path;

use bench::call::CallSpec;
use bench::client::Client;
use bench::outcome::Outcome;
use bench::process::Sidecar;
use bench::server::{Server, ServerOptions};
use bench::wait::until;
use serde_json::Value;
use tempfile::TempDir;

pub(crate) const ECHO: &str = "echo.shop";
pub(crate) const UNARY: &str = "/bench.Echo/Unary";
pub(crate) const UNAVAILABLE: Option<i32> = Some(14);

/// An echo server that says its name.
pub(crate) async fn app(name: &str) -> Server {
    let options = ServerOptions { name: name.to_owned(), ..ServerOptions::default() };
    Server::start_with(([127, 0, 0, 1], 0).into(), options).await.expect("an app")
}

/// A mesh of `caller`, and of `echo` with these endpoints. By default a connection has two seconds, which a handshake may take
/// on a loaded machine.
pub(crate) fn mesh(endpoints: &[SocketAddr]) -> String {
    let endpoints: Vec<String> = endpoints.iter().map(|address| format!("\"{address}\"")).collect();
    format!(
        "version: 1\nservices:\n  - {{name: caller, namespace: shop}}\n  - {{name: echo, namespace: shop, endpoints: [{}], \
         upstream: {{connect_timeout: 20s}}}}\n",
        endpoints.join(", ")
    )
}

/// A running sidecar and its folder.
pub(crate) struct Site {
    pub(crate) sidecar: Sidecar,
    pub(crate) dir: TempDir,
}

/// `sidecar.yaml` of a service; `more` belongs to `mesh`.
pub(crate) fn yaml(service: &str, ways_in: &str, control: SocketAddr, more: &str) -> String {
    format!(
        "service: {service}\nnamespace: shop\nworkers: 2\n{ways_in}\nadmin: {{listen: \"127.0.0.1:0\", socket: admin.sock}}\n\
         probes: {{listen: \"127.0.0.1:0\"}}\ndrain: {{lag: 10s, deadline: 1s}}\n\
         mesh: {{control: [\"http://{control}\"], {more}}}\n"
    )
}

/// `sidecar.yaml` of `caller.shop`.
pub(crate) fn caller(control: SocketAddr, more: &str) -> String {
    yaml("caller", "outbound: {listen: \"127.0.0.1:0\"}", control, more)
}

/// `sidecar.yaml` of `echo.shop`, in front of an app.
pub(crate) fn callee(app: SocketAddr, control: SocketAddr, more: &str) -> String {
    let ways_in = format!("inbound: [{{listen: \"127.0.0.1:0\", app: \"{app}\", mtls: off}}]");
    yaml("echo", &ways_in, control, more)
}

impl Site {
    /// Starts one, and waits until it is ready.
    pub(crate) async fn ready(yaml: &str) -> Self {
        let site = Self::start(yaml, tempfile::tempdir().expect("a folder")).await;
        site.is_ready().await;
        site
    }

    /// Starts one in a folder, ready or not.
    pub(crate) async fn start(yaml: &str, dir: TempDir) -> Self {
        let binary = Path::new(env!("CARGO_BIN_EXE_outrigger-proxy"));
        let sidecar = Sidecar::start_unready(binary, yaml, dir.path()).await.expect("a sidecar");
        Self { sidecar, dir }
    }

    /// Kills it, and starts another one in its folder.
    pub(crate) async fn again(self, yaml: &str) -> Self {
        let Self { mut sidecar, dir } = self;
        sidecar.kill();
        sidecar.wait().await.expect("it ends");
        Self::start(yaml, dir).await
    }

    pub(crate) async fn is_ready(&self) {
        until(format!("ready; stderr:\n{}", self.sidecar.stderr()), async || self.readiness().await.0 == 200)
            .await;
    }

    /// Status and text of `/ready`.
    pub(crate) async fn readiness(&self) -> (u16, String) {
        let answer = self.sidecar.probe("/ready").await.expect("a page");
        (answer.status, answer.body)
    }

    /// A new connection to where the app's calls come in, or else the mesh's.
    pub(crate) async fn client(&self) -> Client {
        let to = self.sidecar.bound.outbound.unwrap_or_else(|| self.sidecar.inbound());
        Client::connect(to, None).await.expect("a connection")
    }

    /// One call on a connection of its own.
    pub(crate) async fn call(&self, authority: &str) -> Outcome {
        self.call_with(CallSpec::new(authority, UNARY)).await
    }

    pub(crate) async fn call_with(&self, spec: CallSpec<'_>) -> Outcome {
        self.client().await.unary_with(spec, b"ping").await.expect("a call")
    }

    /// `mesh.control` of `/config`.
    pub(crate) async fn control(&self) -> Value {
        self.config().await["mesh"]["control"].clone()
    }

    pub(crate) async fn config(&self) -> Value {
        let answer = self.sidecar.get("/config").await.expect("a page");
        serde_json::from_str(&answer.body).expect("JSON")
    }

    pub(crate) async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.sidecar.metrics().await.expect("a scrape").value(name, labels)
    }

    /// Waits until stderr holds a text.
    pub(crate) async fn says(&self, text: &str) {
        until(format!("stderr says {text:?}"), async || self.sidecar.stderr().contains(text)).await;
    }
}
