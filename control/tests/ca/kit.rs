//! A control plane with a CA.

use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use bench::certs::Leaf;
use bench::joiner::{Connection, Csr};
use bench::plane::ControlPlane;
use bench::tls::{TlsIdentity, client_config};
use bench::wait::{soon, until};
use config::spiffe::SpiffeId;
use outrigger_control::ca::make::{make_root, make_token};
use serde_json::Value;
use tempfile::TempDir;

pub(crate) const ORDERS: &str = "spiffe://cluster.local/ns/shop/sa/orders";
pub(crate) const USERS: &str = "spiffe://cluster.local/ns/shop/sa/users";
pub(crate) const SECRETS: &str = "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets";
pub(crate) const ADS: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
pub(crate) const CSDS: &str = "/envoy.service.status.v3.ClientStatusDiscoveryService/FetchClientStatus";

const MESH: &str = "version: 1\nservices: [{name: users, endpoints: [\"10.0.0.1:1\"]}]\n";

/// What tests have in `ca` unless they say otherwise.
pub(crate) const CA: &str = "folder: ca, names: [\"127.0.0.1\"], audit: audit.jsonl";

/// `control.yaml` with these keys of `ca`, and more.
pub(crate) fn yaml(ca: &str, more: &str) -> String {
    format!(
        "mesh: mesh\nads: {{listen: \"127.0.0.1:0\"}}\nadmin: {{listen: \"127.0.0.1:0\"}}\nca: {{{ca}}}\n{more}\n"
    )
}

pub(crate) fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_outrigger-control"))
}

/// A folder with a mesh.
pub(crate) fn folder() -> TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(dir.path().join("mesh")).expect("a folder");
    std::fs::write(dir.path().join("mesh/mesh.yaml"), MESH).expect("a file");
    dir
}

/// A control plane and its folder.
pub(crate) struct Live {
    pub(crate) plane: ControlPlane,
    pub(crate) dir: TempDir,
}

impl Live {
    pub(crate) async fn start() -> Self {
        Self::within(folder(), &yaml(CA, "")).await
    }

    pub(crate) async fn within(dir: TempDir, yaml: &str) -> Self {
        let plane = ControlPlane::start(binary(), yaml, dir.path()).await.expect("a control plane");
        Self { plane, dir }
    }

    /// The same folder, after the process has gone.
    pub(crate) async fn restart(self, yaml: &str) -> Self {
        let Self { mut plane, dir } = self;
        plane.term();
        soon("its end", plane.wait()).await.expect("a status");
        Self::within(dir, yaml).await
    }

    pub(crate) fn ca(&self) -> std::path::PathBuf {
        self.dir.path().join("ca")
    }

    pub(crate) fn token(&self, id: &str) -> String {
        self.token_with(id, Duration::from_secs(600), false)
    }

    pub(crate) fn token_with(&self, id: &str, life: Duration, single_use: bool) -> String {
        token(&self.ca(), id, life, single_use, SystemTime::now())
    }

    /// What clients are to trust.
    pub(crate) fn bundle(&self) -> String {
        std::fs::read_to_string(self.ca().join("bundle.pem")).expect("a bundle")
    }

    /// Another root, made now.
    pub(crate) fn add_root(&self) -> String {
        let made = make_root(&self.ca(), SystemTime::now()).expect("a root");
        made.certificate.file_stem().expect("a name").to_string_lossy().into_owned()
    }

    /// A connection as this caller, who trusts the bundle that is in force.
    pub(crate) async fn connect(&self, leaf: Option<&Leaf>) -> io::Result<Connection> {
        let identity = TlsIdentity { leaf: leaf.cloned(), trust: Some(self.bundle()) };
        Connection::open(self.plane.bound.ads, client_config(&identity)?).await
    }

    /// A first certificate, by a token.
    pub(crate) async fn join(&self, id: &str) -> Leaf {
        let mut connection = self.connect(None).await.expect("a connection");
        let asked = Csr::of(&[id]);
        let answer = connection.create(Some(&self.token(id)), &asked.pem, 0).await;
        asked.leaf(&answer)
    }

    pub(crate) async fn page(&self) -> Value {
        let answer = self.plane.get("/ca").await.expect("a page");
        serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{error}: {}", answer.body))
    }

    pub(crate) async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.plane.metrics().await.expect("a scrape").value(name, labels)
    }

    pub(crate) async fn refused(&self, reason: &str) -> f64 {
        self.metric("outrigger_control_certificates_refused_total", &[("reason", reason)]).await
    }

    pub(crate) async fn says(&self, text: &str) {
        self.plane.says(text).await;
    }

    /// The lines of the audit; waits until there are so many.
    pub(crate) async fn audit(&self, event: &str, count: usize) -> Vec<Value> {
        let path = self.dir.path().join("audit.jsonl");
        let lines = || -> Vec<Value> {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            // The last one may be in the middle of being written.
            let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
            let all = whole.lines().map(|line| serde_json::from_str(line).expect("a line of JSON"));
            all.filter(|line: &Value| line["event"] == event).collect()
        };
        until(format!("{count} lines of {event}"), async || lines().len() >= count).await;
        lines()
    }
}

pub(crate) fn token(folder: &Path, id: &str, life: Duration, single_use: bool, now: SystemTime) -> String {
    make_token(folder, &SpiffeId::parse(id).expect("an id"), life, single_use, now).expect("a token")
}
