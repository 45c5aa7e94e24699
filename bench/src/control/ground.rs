//! A control plane that is measured, and the connections of many clients to it.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::core::v3::Node;
use rustls::ClientConfig;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::certs::{Ca, LeafSpec, write_identity};
use crate::control::mesh;
use crate::plane::ControlPlane;
use crate::process::{cpu_ever, rss_bytes};
use crate::subscriber::Subscriber;
use crate::tls::{TlsIdentity, client_config};

/// Nothing here takes longer.
const STEP_MAX: Duration = Duration::from_secs(120);
/// Connections that are opened at a time.
const CONNECTING: usize = 32;
/// Services that each sidecar of a large mesh calls.
pub(crate) const CALLED: usize = 10;
/// Files that this process and the control plane may need: a socket for each client, and some more.
const FILES_MIN: u64 = 4_096;

/// A control plane, killed when dropped, over a folder of mesh files.
pub(crate) struct Ground {
    pub(crate) plane: ControlPlane,
    services: usize,
    endpoints: usize,
    dir: TempDir,
    tls: Arc<ClientConfig>,
}

impl Ground {
    /// Of so many services with so many endpoints each; a wildcard means all of them up to `on_demand_above`.
    pub(crate) async fn start(
        binary: &Path,
        services: usize,
        endpoints: usize,
        on_demand_above: usize,
    ) -> io::Result<Self> {
        raise_files()?;
        let dir = tempfile::tempdir()?;
        let ca = Ca::new("bench");
        let own = LeafSpec {
            uris: vec!["spiffe://bench/control".to_owned()],
            addresses: vec!["127.0.0.1".parse().map_err(io::Error::other)?],
            ..LeafSpec::default()
        };
        write_identity(dir.path(), &ca.leaf_with(&own), ca.bundle_pem())?;
        mesh::write(&dir.path().join("mesh"), services, endpoints)?;
        let yaml = format!(
            "mesh: mesh/\nads: {{listen: 127.0.0.1:0}}\nadmin: {{listen: 127.0.0.1:0}}\n\
             identity: {{cert: tls.crt, key: tls.key, bundle: ca.crt}}\non_demand_above: {on_demand_above}\n\
             registration: {{grace: 1s}}\n"
        );
        // It runs in its own folder, from where a relative path would lead elsewhere.
        let binary = std::path::absolute(binary)?;
        let plane = ControlPlane::start(&binary, &yaml, dir.path()).await?;
        // Any service will do for those who only read; the one that registers stands for `s0`.
        let client = TlsIdentity::mutual(&ca.leaf("spiffe://bench/ns/bench/sa/s0"), ca.bundle_pem());
        Ok(Self { plane, services, endpoints, dir, tls: client_config(&client)? })
    }

    pub(crate) async fn connect(&self, node: Node) -> io::Result<Subscriber> {
        let ads = self.plane.bound.ads;
        within("a connection", Subscriber::connect(ads, self.tls.clone(), node)).await?
    }

    /// Many clients, a few connecting at a time; in the order of their numbers.
    pub(crate) async fn crowd(
        &self,
        count: usize,
        node: impl Fn(usize) -> Node,
    ) -> io::Result<Vec<Subscriber>> {
        let (mut connecting, mut connected) = (JoinSet::new(), BTreeMap::new());
        let mut next = 0;
        while connected.len() < count {
            while next < count && connecting.len() < CONNECTING {
                let (ads, tls, node, at) = (self.plane.bound.ads, self.tls.clone(), node(next), next);
                connecting.spawn(async move { (at, Subscriber::connect(ads, tls, node).await) });
                next += 1;
            }
            let done = within("a connection", connecting.join_next()).await?;
            let (at, client) = done.ok_or_else(|| io::Error::other("nobody connects"))??;
            connected.insert(at, client?);
        }
        Ok(connected.into_values().collect())
    }

    /// Edits a route of one service, for the `edits`th time, and says when that was: at the rename of its file.
    pub(crate) fn edit(&self, edits: usize) -> io::Result<Instant> {
        let (file, text) = mesh::edited(self.services, self.endpoints, edits);
        let folder = self.dir.path().join("mesh");
        let new = folder.join(format!(".{file}.new"));
        std::fs::write(&new, text)?;
        // Of the file system's work the rename counts, not the writing.
        let began = Instant::now();
        std::fs::rename(new, folder.join(file))?;
        Ok(began)
    }

    /// Services encoded since the start, over all audiences.
    pub(crate) async fn encoded(&self) -> io::Result<f64> {
        Ok(self.plane.metrics().await?.value("outrigger_control_encoded_services_total", &[]))
    }

    pub(crate) fn rss(&self) -> io::Result<u64> {
        rss_bytes(self.plane.bound.pid)
    }

    pub(crate) fn cpu(&self) -> io::Result<Duration> {
        cpu_ever(self.plane.bound.pid)
    }
}

/// The names of services.
pub(crate) fn names(services: impl Iterator<Item = usize>) -> Vec<String> {
    services.map(mesh::name).collect()
}

/// What is awaited, or its name as an error.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> io::Result<T> {
    timeout(STEP_MAX, future).await.map_err(|_| io::Error::other(format!("{what}: not within {STEP_MAX:?}")))
}

/// Has this process, and those that it starts, open as many files as it may.
fn raise_files() -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls take the limit of this frame, and nothing else.
    let failed = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) != 0 || {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) != 0
        }
    };
    match failed {
        true => Err(io::Error::last_os_error()),
        false if limit.rlim_max < FILES_MIN => {
            let most = limit.rlim_max;
            Err(io::Error::other(format!(
                "{most} open files are allowed, {FILES_MIN} are needed: `ulimit -Hn`"
            )))
        }
        false => Ok(()),
    }
}
