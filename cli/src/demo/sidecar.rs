//! A sidecar process beside a replica, and the files that it reads.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use serde_json::Value;

use crate::demo::mesh::{Replica, sidecar_yaml};
use crate::demo::processes::Process;
use crate::demo::scrape;

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
}

fn address(name: &str, line: &Value, key: &str) -> Result<SocketAddr, String> {
    let address = line[key].as_str().and_then(|address| address.parse().ok());
    address.ok_or_else(|| format!("{name}: its first line has no address `{key}`: {line}"))
}

/// Writes `mesh.yaml` and the file of each replica's sidecar.
pub(crate) fn write_config(folder: &Path, host: IpAddr, replicas: &[Replica], mesh: &str) -> io::Result<()> {
    fs::write(folder.join("mesh.yaml"), mesh)?;
    for replica in replicas {
        fs::write(folder.join(sidecar_file(&replica.name)), sidecar_yaml(host, replica))?;
    }
    Ok(())
}

fn sidecar_file(replica: &str) -> String {
    format!("sidecar-{replica}.yaml")
}
