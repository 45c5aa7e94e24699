//! What stands between load and echo: nothing, a forwarder, Outrigger, Envoy, or a pair of sidecars with mTLS.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};

use crate::certs::{Ca, write_identity};
use crate::http1;
use crate::pin::{Cores, pin_child};
use crate::process::{START_MAX, Sidecar, die_with_parent};

mod envoy;
mod outrigger;

/// One way from load to echo.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
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

/// The programs to run.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// This program.
    pub bench: PathBuf,
    /// `outrigger-proxy`.
    pub proxy: PathBuf,
    /// Envoy, where there is one.
    pub envoy: Option<PathBuf>,
}

impl Binaries {
    /// Finds them: `outrigger-proxy` is `proxy`, or stands beside this program; Envoy is `OUTRIGGER_ENVOY`,
    /// or `envoy` on the PATH.
    ///
    /// # Errors
    /// When this program's own path is not known.
    pub fn find(proxy: Option<PathBuf>) -> io::Result<Self> {
        let bench = std::env::current_exe()?;
        let proxy = proxy.unwrap_or_else(|| bench.with_file_name("outrigger-proxy"));
        let on_path = || {
            let path = std::env::var_os("PATH")?;
            std::env::split_paths(&path).map(|dir| dir.join("envoy")).find(|file| file.is_file())
        };
        let envoy = std::env::var_os("OUTRIGGER_ENVOY").map(PathBuf::from).or_else(on_path);
        Ok(Self { bench, proxy, envoy })
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

enum Process {
    Sidecar(Box<Sidecar>),
    Other(Own),
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
    let dir = TempDir::new()?;
    let site = Site { dir: dir.path(), echo, binaries, cores, wrap };
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

/// One of this program's servers as a process; killed when dropped.
pub struct Own {
    /// Where it listens.
    pub listen: SocketAddr,
    child: Child,
    _stdout: Option<BufReader<ChildStdout>>,
}

/// The first line of `bench echo`, `bench tcp` and `bench forward`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Listening {
    /// The bound address.
    pub listen: SocketAddr,
}

impl Own {
    async fn spawn(mut command: Command) -> io::Result<Self> {
        die_with_parent(&mut command);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let mut stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut line = String::new();
        tokio::time::timeout(START_MAX, stdout.read_line(&mut line)).await??;
        let told: Listening = serde_json::from_str(&line).map_err(|fault| {
            io::Error::other(format!("{command:?} printed {line:?}, no address: {fault}"))
        })?;
        Ok(Self { listen: told.listen, child, _stdout: Some(stdout) })
    }

    async fn term(&mut self) -> io::Result<std::process::ExitStatus> {
        if let Some(pid) = self.child.id() {
            // SAFETY: kill takes no pointers, and the id is that of our own child, not yet waited for.
            unsafe { libc::kill(pid.cast_signed(), libc::SIGTERM) };
        }
        self.child.wait().await
    }
}

impl Process {
    fn pid(&self) -> u32 {
        match self {
            Self::Sidecar(sidecar) => sidecar.pid(),
            Self::Other(own) => own.child.id().unwrap_or(0),
        }
    }
}

/// What starting a target needs to know.
struct Site<'s> {
    dir: &'s Path,
    echo: SocketAddr,
    binaries: &'s Binaries,
    cores: Cores,
    wrap: &'s [String],
}

impl Site<'_> {
    async fn forwarder(&self, kind: &str) -> io::Result<(SocketAddr, Vec<Process>)> {
        let mut command = self.command(&self.binaries.bench);
        command.args([kind, "--listen", "127.0.0.1:0", "--to", &self.echo.to_string()]);
        let own = Own::spawn(command).await?;
        Ok((own.listen, vec![Process::Other(own)]))
    }

    /// `program` with what wraps it, on the proxy's core, in the site's folder.
    fn command(&self, program: &Path) -> Command {
        let mut command = match self.wrap {
            [] => Command::new(program),
            [first, rest @ ..] => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
        };
        command.current_dir(self.dir);
        pin_child(&mut command, self.cores.proxy);
        command
    }

    /// A folder below the site's, with certificates of `ca` if given.
    fn folder(&self, name: &str, identity: Option<(&Ca, &str)>) -> io::Result<PathBuf> {
        let dir = self.dir.join(name);
        std::fs::create_dir_all(&dir)?;
        if let Some((ca, spiffe_id)) = identity {
            write_identity(&dir, &ca.leaf(spiffe_id), ca.bundle_pem())?;
        }
        Ok(dir)
    }
}

/// Polls `http://ADDR/PATH` until it says 200.
async fn ready(addr: SocketAddr, path: &str) -> io::Result<()> {
    let deadline = Instant::now() + START_MAX;
    while !matches!(http1::get(addr, path).await, Ok(answer) if answer.status == 200) {
        if Instant::now() > deadline {
            return Err(io::Error::other(format!("http://{addr}{path} was not 200 within {START_MAX:?}")));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
