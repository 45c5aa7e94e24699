//! Bad input of every kind: it is refused in time and counted, and neither the sidecar nor those who call beside
//! it are harmed.

#[path = "../pair/mod.rs"]
mod pair;

mod burst;
mod bytes;
mod calls;
mod certificates;
mod doors;
mod endpoints;
mod frames;
mod neighbour;
mod silent;
mod stopped;
mod tiny;
mod wire;

use std::net::SocketAddr;
use std::path::Path;

use bench::process::Sidecar;
use bench::server::Server;
use bench::tls::TlsIdentity;
use bench::wait::until;
use tempfile::TempDir;

use crate::neighbour::Neighbour;
use crate::pair::{ANY, SHOPPER_ID, Site, metric};

/// A sidecar that takes callers by mTLS alone, its app, and one who calls all the while.
struct Strict {
    site: Site,
    app: Server,
    callee: Sidecar,
}

impl Strict {
    /// `more` is added to `sidecar.yaml`.
    async fn start(more: &str) -> Self {
        let app = Server::start(ANY).await.expect("an app");
        let site = Site::new();
        let callee = site.callee(app.addr, more).await;
        Self { site, app, callee }
    }

    /// What a good caller shows and trusts.
    fn good(&self) -> TlsIdentity {
        TlsIdentity::mutual(&self.site.ca.leaf(SHOPPER_ID), self.site.ca.bundle_pem())
    }

    async fn neighbour(&self) -> Neighbour {
        Neighbour::start(self.callee.inbound(), Some(self.good())).await
    }
}

/// A sidecar without an identity: plain inbound, and outbound to the same app.
struct Plain {
    sidecar: Sidecar,
    _app: Option<Server>,
    _folder: TempDir,
}

impl Plain {
    async fn start(more: &str) -> Self {
        let app = Server::start(ANY).await.expect("an app");
        let plain = Self::before(app.addr, more).await;
        Self { _app: Some(app), ..plain }
    }

    /// Before an app of any kind.
    async fn before(app: SocketAddr, more: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let yaml = format!(
            "service: echo\nnamespace: shop\n{more}\n\
             inbound: [{{listen: \"127.0.0.1:0\", app: \"{app}\", mtls: off}}]\n\
             outbound: {{listen: \"127.0.0.1:0\"}}\n\
             admin: {{listen: \"127.0.0.1:0\", socket: admin.sock}}\n\
             probes: {{listen: \"127.0.0.1:0\"}}\n\
             mesh: {{file: mesh.yaml}}\n"
        );
        let mesh = pair::mesh(&[app], "    upstream: {connect_timeout: 20s}");
        let binary = Path::new(env!("CARGO_BIN_EXE_outrigger-proxy"));
        let sidecar = Sidecar::start(binary, &yaml, &mesh, folder.path()).await.expect("a sidecar");
        Self { sidecar, _app: None, _folder: folder }
    }

    fn doors(&self) -> [SocketAddr; 2] {
        [self.sidecar.inbound(), self.sidecar.outbound()]
    }
}

/// Waits until a counter has come to exactly what it must, and sees that it does not go past it.
async fn counts(sidecar: &Sidecar, name: &str, labels: &[(&str, &str)], exactly: u64) {
    let what = format!("{name} {labels:?} {exactly}");
    until(what, async || metric(sidecar, name, labels).await >= exactly).await;
    assert_eq!(metric(sidecar, name, labels).await, exactly, "{name} {labels:?}");
}

const HANDSHAKES: &str = "outrigger_handshake_failures_total";
const REFUSED: &str = "outrigger_refused_total";
const FAILURES: &str = "outrigger_failures_total";
