//! What stands between load and echo: nothing, a forwarder, Outrigger, Envoy, or a pair of sidecars with mTLS.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde::Serialize;
use tempfile::TempDir;
use tokio::process::Command;

use crate::pin::{Cores, pin_child};
use crate::process::START_MAX;
use crate::site::{Binaries, Own, Process, Site};

mod envoy;
mod outrigger;

/// One way from load to echo.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Target {
    /// No proxy at all.
    Direct,
    /// The TCP forwarder.
    Tcp,
    /// The bare h2 forwarder.
    Forward,
    /// Outrigger's inbound, plaintext.
    Outrigger,
    /// Envoy, minimal, plaintext.
    Envoy,
    /// Two Outriggers, mTLS between them.
    OutriggerPair,
    /// Two Envoys, mTLS between them.
    EnvoyPair,
}

impl Target {
    /// The name in tables and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Tcp => "tcp",
            Self::Forward => "forward",
            Self::Outrigger => "outrigger",
            Self::Envoy => "envoy",
            Self::OutriggerPair => "outrigger_pair",
            Self::EnvoyPair => "envoy_pair",
        }
    }

    /// Whether it needs an Envoy.
    pub fn is_envoy(self) -> bool {
        matches!(self, Self::Envoy | Self::EnvoyPair)
    }
}

/// A target that runs. Dropped, its processes are killed and its folder removed.
pub struct Running {
    /// Where load connects.
    pub entry: SocketAddr,
    /// The processes that are charged.
    pub pids: Vec<u32>,
    /// From exec to ready, of the last process started.
    pub ready_after: Duration,
    processes: Vec<Process>,
    _dir: TempDir,
}

/// Starts a target in front of the echo server at `echo`. `wrap` is put before each command, valgrind say.
///
/// # Errors
/// When a process cannot be started or does not come up, with its stderr where it has one.
pub async fn start(
    target: Target,
    echo: SocketAddr,
    binaries: &Binaries,
    cores: Cores,
    wrap: &[String],
) -> io::Result<Running> {
    start_ruled(target, echo, binaries, cores, wrap, 0).await
}

/// The same, where the sidecar before the echo server has so many rules about callers, of which the last one lets calls in.
///
/// # Errors
/// As [`start`].
pub async fn start_ruled(
    target: Target,
    echo: SocketAddr,
    binaries: &Binaries,
    cores: Cores,
    wrap: &[String],
    rules: usize,
) -> io::Result<Running> {
    let dir = TempDir::new()?;
    let site = Site { dir: dir.path(), echo, binaries, cores, wrap, rules };
    let began = Instant::now();
    let (entry, processes) = match target {
        Target::Direct => (echo, Vec::new()),
        Target::Tcp => site.forwarder("tcp").await?,
        Target::Forward => site.forwarder("forward").await?,
        Target::Outrigger => outrigger::inbound(&site).await?,
        Target::OutriggerPair => outrigger::pair(&site).await?,
        Target::Envoy => envoy::inbound(&site).await?,
        Target::EnvoyPair => envoy::pair(&site).await?,
    };
    let ready_after = match processes.last() {
        Some(Process::Sidecar(sidecar)) => sidecar.ready_after,
        _ => began.elapsed(),
    };
    let pids = processes.iter().map(Process::pid).collect();
    Ok(Running { entry, pids, ready_after, processes, _dir: dir })
}

impl Running {
    /// Ends it by SIGTERM and waits, so that what wraps it can write its results.
    ///
    /// # Errors
    /// When a process does not end within [`START_MAX`].
    pub async fn term(mut self) -> io::Result<()> {
        for process in &mut self.processes {
            let end = async {
                match process {
                    Process::Sidecar(sidecar) => {
                        sidecar.term();
                        sidecar.wait().await
                    }
                    Process::Other(own) => own.term().await,
                }
            };
            tokio::time::timeout(START_MAX, end).await??;
        }
        Ok(())
    }
}

/// Starts the echo server as a process of its own on the load's core.
///
/// # Errors
/// As [`start`].
pub async fn start_echo(binaries: &Binaries, cores: Cores) -> io::Result<Own> {
    let mut command = Command::new(&binaries.bench);
    command.args(["echo", "--listen", "127.0.0.1:0"]);
    pin_child(&mut command, cores.load);
    Own::spawn(command).await
}
