//! A control plane with a CA, and sidecars that have their certificates from it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bench::client::Client;
use bench::outcome::Outcome;
use bench::plane::ControlPlane;
use bench::process::Sidecar;
use bench::server::{Server, ServerOptions};
use bench::wait::until;
use config::spiffe::SpiffeId;
use control::ca::make::{make_root, make_token};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use crate::loopback::own_host;

pub(crate) const ECHO: &str = "echo.shop";
pub(crate) const UNARY: &str = "/bench.Echo/Unary";
/// Its account; and whose calls it takes.
pub(crate) const CALLEE: &str = "echo";
/// The account of whoever calls.
pub(crate) const CALLER: &str = "caller";
const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// How long tokens are good.
const TOKEN: Duration = Duration::from_secs(3_600);

/// Folders of a mesh: `ca`, `mesh`, `control`, and one for each sidecar.
pub(crate) struct Ground {
    dir: TempDir,
    /// Of the control plane, which may come back.
    host: Ipv4Addr,
    /// `ca` of `control.yaml`, beside its folder and names.
    ca: &'static str,
}

/// A sidecar that does not have its certificate from files.
pub(crate) struct Member {
    pub(crate) sidecar: Sidecar,
    folder: PathBuf,
    _app: Option<Server>,
}

impl Ground {
    pub(crate) fn new(ca: &'static str) -> Self {
        let ground = Self { dir: tempfile::tempdir().expect("a folder"), host: own_host(), ca };
        for name in ["mesh", "control"] {
            std::fs::create_dir(ground.path(name)).expect("a folder");
        }
        ground.mesh(&[]);
        ground.add_root();
        ground
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Makes the next root.
    pub(crate) fn add_root(&self) {
        make_root(&self.path("ca"), SystemTime::now()).expect("a root");
    }

    /// A token for an account of the namespace `shop`.
    pub(crate) fn token(&self, account: &str) -> String {
        let id = SpiffeId::parse(&format!("spiffe://cluster.local/ns/shop/sa/{account}")).expect("an id");
        make_token(&self.path("ca"), &id, TOKEN, false, SystemTime::now()).expect("a token")
    }

    /// A mesh of `caller` and of `echo`, which lets `caller` in alone.
    pub(crate) fn mesh(&self, endpoints: &[SocketAddr]) {
        let endpoints: Vec<String> = endpoints.iter().map(|address| format!("\"{address}\"")).collect();
        // By default two seconds to connect, which a handshake may take on a loaded machine.
        let text = format!(
            "version: 1\nservices:\n  - {{name: caller, namespace: shop}}\n  - name: echo\n    namespace: shop\n    \
             upstream: {{connect_timeout: 20s}}\n    endpoints: [{}]\n    \
             inbound: {{authorization: [{{allow: {{from: [spiffe://cluster.local/ns/shop/sa/caller]}}}}]}}\n",
            endpoints.join(", ")
        );
        let next = self.path("mesh/.next");
        std::fs::write(&next, text).expect("a file");
        std::fs::rename(next, self.path("mesh/mesh.yaml")).expect("a rename");
    }

    /// The control plane, at an address that is free, or that it had before.
    pub(crate) async fn control(&self, at: Option<SocketAddr>) -> ControlPlane {
        let yaml = format!(
            "mesh: ../mesh\nads: {{listen: \"{}\"}}\nadmin: {{listen: \"127.0.0.1:0\"}}\n\
             ca: {{folder: ../ca, names: [\"{}\"], audit: audit.jsonl, {}}}\n",
            at.unwrap_or_else(|| (self.host, 0).into()),
            self.host,
            self.ca
        );
        let folder = self.path("control");
        std::fs::write(folder.join("control.yaml"), yaml).expect("a file");
        let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
        command.args(["control", "control.yaml"]).current_dir(folder);
        ControlPlane::spawn(command).await.expect("a control plane")
    }

    /// The sidecar of `caller`, in a folder of this name, ready or not.
    pub(crate) async fn caller(&self, name: &str, control: SocketAddr, identity: &str) -> Member {
        self.asking(name, CALLER, control, identity, None).await
    }

    /// A sidecar of `echo` before an app of this name, ready or not.
    pub(crate) async fn callee(&self, name: &str, control: SocketAddr, identity: &str) -> Member {
        self.asking(name, CALLEE, control, identity, Some(echo(name).await)).await
    }

    /// A sidecar that asks the control plane for its certificate by a token.
    async fn asking(
        &self,
        name: &str,
        account: &str,
        control: SocketAddr,
        identity: &str,
        app: Option<Server>,
    ) -> Member {
        std::fs::create_dir_all(self.path(name)).expect("a folder");
        std::fs::write(self.path(name).join("token"), self.token(account)).expect("a file");
        let sources = format!(
            "identity: {{control: true, token: token, {identity}}}\n\
             mesh: {{control: [\"https://{control}\"], bundle: ../ca/bundle.pem, cache: mesh-cache}}\n"
        );
        self.member(name, &sources, app).await
    }

    /// The sidecar of `caller` or, with an app, of `echo`, whose certificates come from the Workload API at a socket, and its mesh from the file.
    pub(crate) async fn workload(&self, name: &str, socket: &Path, app: Option<Server>) -> Member {
        let sources = format!(
            "identity: {{workload_api: \"unix:{}\"}}\nmesh: {{file: ../mesh/mesh.yaml}}\n",
            socket.display()
        );
        self.member(name, &sources, app).await
    }

    async fn member(&self, name: &str, sources: &str, app: Option<Server>) -> Member {
        let folder = self.path(name);
        std::fs::create_dir_all(&folder).expect("a folder");
        let ways = app.as_ref().map_or_else(
            || format!("service: {CALLER}\noutbound: {{listen: \"127.0.0.1:0\"}}"),
            |app| {
                let inbound = format!("{{listen: \"127.0.0.1:0\", app: \"{}\", mtls: strict}}", app.addr);
                format!("service: {CALLEE}\ninbound: [{inbound}]")
            },
        );
        let yaml = format!(
            "{ways}\nnamespace: shop\nworkers: 1\nadmin: {{listen: \"127.0.0.1:0\", socket: admin.sock}}\n\
             probes: {{listen: \"127.0.0.1:0\"}}\ndrain: {{lag: 10ms, deadline: 1s}}\n{sources}"
        );
        std::fs::write(folder.join("sidecar.yaml"), yaml).expect("a file");
        Member { sidecar: launch(&folder).await, folder, _app: app }
    }
}

/// An app of this name.
pub(crate) async fn echo(name: &str) -> Server {
    let options = ServerOptions { name: name.to_owned(), ..ServerOptions::default() };
    Server::start_with(ANY, options).await.expect("an app")
}

async fn launch(folder: &Path) -> Sidecar {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
    command.args(["proxy", "sidecar.yaml"]).current_dir(folder);
    Sidecar::spawn_unready(command).await.expect("a sidecar")
}

impl Member {
    /// Kills it, and starts it anew in its folder.
    pub(crate) async fn restart(&mut self) {
        self.sidecar.kill();
        self.sidecar.wait().await.expect("it ends");
        self.sidecar = launch(&self.folder).await;
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.join(name), text).expect("a file");
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

    /// `identity` of `/config`.
    pub(crate) async fn identity(&self) -> Value {
        let answer = self.sidecar.get("/config").await.expect("a page");
        let page: Value = serde_json::from_str(&answer.body).expect("JSON");
        page["identity"].clone()
    }

    pub(crate) async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.sidecar.metrics().await.expect("a scrape").value(name, labels)
    }

    pub(crate) async fn renewals(&self) -> f64 {
        self.metric("outrigger_identity_renewals_total", &[]).await
    }

    /// A call of `echo` on a connection of its own.
    pub(crate) async fn call(&self) -> Outcome {
        let client = Client::connect(self.sidecar.outbound(), None).await.expect("a connection");
        client.unary(ECHO, UNARY, b"ping").await.expect("a call")
    }

    /// Waits until a call goes well.
    pub(crate) async fn reaches_echo(&self) {
        until("a call goes well", async || self.call().await.is_ok()).await;
    }
}
