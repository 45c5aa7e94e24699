//! A sidecar process beside a replica.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::demo::files::sidecar_file;
use crate::demo::mesh::Replica;
use crate::demo::processes::Process;
use crate::demo::scrape;

/// How long the mesh may take to its place on disk.
const KEPT_WAIT: Duration = Duration::from_secs(15);

/// Between two looks at that.
const KEPT_PERIOD: Duration = Duration::from_millis(50);

/// A running sidecar.
#[derive(Debug)]
pub(crate) struct Sidecar {
    /// The service it stands beside, by its short name.
    pub(crate) service: &'static str,
    /// The replica it stands beside.
    pub(crate) replica: String,
    /// Where `/metrics` is.
    pub(crate) probes: SocketAddr,
    /// Where `/config` and `/clusters` are.
    pub(crate) admin: SocketAddr,
    /// Where its app's calls come in.
    pub(crate) outbound: SocketAddr,
    /// The process.
    pub(crate) process: Process,
}

impl Sidecar {
    /// Starts it on the files in `folder` and learns where it listens.
    ///
    /// # Errors
    /// One message that names it, with its last words.
    pub(crate) async fn start(folder: &Path, replica: &mut Replica) -> Result<Self, String> {
        let file = folder.join(sidecar_file(&replica.name));
        let name = format!("sidecar of {}", replica.name);
        replica.inbound.let_go();
        let args = ["proxy", &file.to_string_lossy()];
        let mut process = Process::start(&name, &args, folder).map_err(|error| error.to_string())?;
        let line = process.first_line().await?;
        let (probes, admin) = (address(&name, &line, "probes")?, address(&name, &line, "admin")?);
        let outbound = address(&name, &line, "outbound")?;
        let (service, replica) = (replica.service, replica.name.clone());
        Ok(Self { service, replica, probes, admin, outbound, process })
    }

    /// Waits until it says that it is ready.
    ///
    /// # Errors
    /// When it does not.
    pub(crate) async fn ready(&self) -> Result<(), String> {
        scrape::ready(self.probes).await.map_err(|error| format!("{}: {error}", self.process.name))
    }

    /// Waits until it has written the mesh to disk, so that it can start again without a control plane.
    ///
    /// # Errors
    /// When it does not.
    pub(crate) async fn kept(&self) -> Result<(), String> {
        let (name, end) = (&self.process.name, Instant::now() + KEPT_WAIT);
        loop {
            let samples = scrape::metrics(self.probes).await.map_err(|error| format!("{name}: {error}"))?;
            if samples.sum("outrigger_mesh_cache_writes_total", &[]) > 0.0 {
                return Ok(());
            }
            if Instant::now() > end {
                return Err(format!("{name}: the mesh is not on disk within {KEPT_WAIT:?}"));
            }
            sleep(KEPT_PERIOD).await;
        }
    }
}

fn address(name: &str, line: &Value, key: &str) -> Result<SocketAddr, String> {
    let address = line[key].as_str().and_then(|address| address.parse().ok());
    address.ok_or_else(|| format!("{name}: its first line has no address `{key}`: {line}"))
}
