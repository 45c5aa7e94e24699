//! Where a target is set up: its folder, its programs, its processes.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};

use crate::certs::{Ca, write_identity};
use crate::http1;
use crate::pin::{Cores, pin_child};
use crate::process::{START_MAX, Sidecar, die_with_parent, signal};

/// A service's policies with time to connect on a loaded machine, unless they say themselves how long that may take: by default
/// it is two seconds.
pub fn patient(policies: &str) -> String {
    if policies.contains("connect_timeout") {
        policies.to_owned()
    } else if policies.contains("upstream: {") {
        policies.replace("upstream: {", "upstream: {connect_timeout: 20s, ")
    } else {
        format!("upstream: {{connect_timeout: 20s}}\n{policies}")
    }
}

/// The programs to run.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// This program.
    pub bench: PathBuf,
    /// `outrigger-proxy`.
    pub proxy: PathBuf,
    /// `outrigger-control`.
    pub control: PathBuf,
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
        let control = bench.with_file_name("outrigger-control");
        Ok(Self { bench, proxy, control, envoy })
    }
}

/// One of this program's servers as a process; killed when dropped.
pub struct Own {
    /// Where it listens.
    pub listen: SocketAddr,
    pub(crate) child: Child,
    /// Held open, so that its prints never meet a closed pipe.
    pub(crate) _stdout: Option<BufReader<ChildStdout>>,
}

/// The first line of `bench echo`, `bench tcp` and `bench forward`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Listening {
    /// The bound address.
    pub listen: SocketAddr,
}

impl Own {
    pub(crate) async fn spawn(mut command: Command) -> io::Result<Self> {
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

    pub(crate) async fn term(&mut self) -> io::Result<ExitStatus> {
        signal(&self.child, libc::SIGTERM);
        self.child.wait().await
    }
}

/// A process of a target.
pub(crate) enum Process {
    /// One that speaks as `outrigger-proxy` does.
    Sidecar(Box<Sidecar>),
    /// Any other.
    Other(Box<Own>),
}

impl Process {
    pub(crate) fn pid(&self) -> u32 {
        match self {
            Self::Sidecar(sidecar) => sidecar.pid(),
            Self::Other(own) => own.child.id().unwrap_or(0),
        }
    }
}

/// What starting a target needs to know.
pub(crate) struct Site<'s> {
    pub(crate) dir: &'s Path,
    pub(crate) echo: SocketAddr,
    pub(crate) binaries: &'s Binaries,
    pub(crate) cores: Cores,
    pub(crate) wrap: &'s [String],
    /// Rules about callers, where the target has some.
    pub(crate) rules: usize,
}

impl Site<'_> {
    pub(crate) async fn forwarder(&self, kind: &str) -> io::Result<(SocketAddr, Vec<Process>)> {
        let mut command = self.command(&self.binaries.bench);
        command.args([kind, "--listen", "127.0.0.1:0", "--to", &self.echo.to_string()]);
        let own = Own::spawn(command).await?;
        Ok((own.listen, vec![Process::Other(Box::new(own))]))
    }

    /// `program` with what wraps it, on the proxy's core, in the site's folder.
    pub(crate) fn command(&self, program: &Path) -> Command {
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
    pub(crate) fn folder(&self, name: &str, identity: Option<(&Ca, &str)>) -> io::Result<PathBuf> {
        let dir = self.dir.join(name);
        std::fs::create_dir_all(&dir)?;
        if let Some((ca, spiffe_id)) = identity {
            write_identity(&dir, &ca.leaf(spiffe_id), ca.bundle_pem())?;
        }
        Ok(dir)
    }
}

/// Polls `http://ADDR/PATH` until it says 200.
pub(crate) async fn ready(addr: SocketAddr, path: &str) -> io::Result<()> {
    let deadline = Instant::now() + START_MAX;
    while !matches!(http1::get(addr, path).await, Ok(answer) if answer.status == 200) {
        if Instant::now() > deadline {
            return Err(io::Error::other(format!("http://{addr}{path} was not 200 within {START_MAX:?}")));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
