//! A sidecar as a process of its own, watched from outside.

use std::io;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::task::JoinHandle;

use crate::http1::{self, Answer};
use crate::metrics::Metrics;

/// From exec to the line of addresses, and from there to `/ready` 200, each.
pub const START_MAX: Duration = Duration::from_secs(20);
/// How much of the end of stderr is kept.
pub const STDERR_MAX: usize = 64 << 10;

const STDERR_LAST_MAX: Duration = Duration::from_secs(10);
const READY_POLL: Duration = Duration::from_millis(2);

/// The first line on a sidecar's stdout.
#[derive(Clone, Debug, Deserialize)]
pub struct Bound {
    /// Its process id.
    pub pid: u32,
    /// One per `inbound` entry, in their order.
    pub inbound: Vec<SocketAddr>,
    /// The outbound listener, if there is one.
    pub outbound: Option<SocketAddr>,
    /// The outbound listener of IPv6, if there is one.
    pub outbound_ipv6: Option<SocketAddr>,
    /// The admin listener.
    pub admin: SocketAddr,
    /// `/ready`, `/live`, `/metrics`.
    pub probes: SocketAddr,
    /// The Unix socket that takes `drain`.
    pub socket: Option<PathBuf>,
}

/// A running sidecar; killed when dropped. It also dies with the thread that started it, so start it on one
/// that lives as long as the test (any `current_thread` runtime does).
pub struct Sidecar {
    /// Where it listens.
    pub bound: Bound,
    /// From exec to `/ready` 200.
    pub ready_after: Duration,
    child: Child,
    stderr: Arc<Mutex<Vec<u8>>>,
    // Held open, so that its prints never meet a closed pipe.
    stdout: BufReader<ChildStdout>,
}

impl Sidecar {
    /// Writes `sidecar.yaml` and `mesh.yaml` into `dir`, runs `BINARY sidecar.yaml` there and waits for `/ready`.
    ///
    /// # Errors
    /// When it cannot be run, exits, or is not ready within [`START_MAX`]; with what it wrote to stderr.
    pub async fn start(binary: &Path, sidecar_yaml: &str, mesh_yaml: &str, dir: &Path) -> io::Result<Self> {
        Self::start_with(binary, sidecar_yaml, mesh_yaml, dir, &[]).await
    }

    /// [`Sidecar::start`] with variables in its environment.
    ///
    /// # Errors
    /// As [`Sidecar::start`].
    pub async fn start_with(
        binary: &Path,
        sidecar_yaml: &str,
        mesh_yaml: &str,
        dir: &Path,
        variables: &[(&str, String)],
    ) -> io::Result<Self> {
        std::fs::write(dir.join("sidecar.yaml"), sidecar_yaml)?;
        std::fs::write(dir.join("mesh.yaml"), mesh_yaml)?;
        let mut command = Command::new(binary);
        command.arg("sidecar.yaml").current_dir(dir);
        // What the machine says of traces is no part of a test.
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("OTEL_")) {
            command.env_remove(name);
        }
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        Self::spawn(command).await
    }

    /// Writes `sidecar.yaml` into `dir`, runs `BINARY sidecar.yaml` there and waits for the line of addresses alone: it may
    /// never be ready.
    ///
    /// # Errors
    /// When it cannot be run, or says nothing within [`START_MAX`]; with what it wrote to stderr.
    pub async fn start_unready(binary: &Path, sidecar_yaml: &str, dir: &Path) -> io::Result<Self> {
        std::fs::write(dir.join("sidecar.yaml"), sidecar_yaml)?;
        let mut command = Command::new(binary);
        command.arg("sidecar.yaml").current_dir(dir);
        Ok(Self::launch(command).await?.0)
    }

    /// [`Sidecar::spawn`], for one that may never be ready: waits for the line of addresses alone.
    ///
    /// # Errors
    /// As [`Sidecar::start_unready`].
    pub async fn spawn_unready(command: Command) -> io::Result<Self> {
        Ok(Self::launch(command).await?.0)
    }

    /// Runs a command that behaves like `outrigger-proxy`, perhaps under another program, and waits for
    /// `/ready`.
    ///
    /// # Errors
    /// As [`Sidecar::start`].
    pub async fn spawn(command: Command) -> io::Result<Self> {
        let (mut sidecar, mut reading, began) = Self::launch(command).await?;
        let told = |sidecar: &Self, what: String| {
            io::Error::other(format!("{what}; stderr:\n{}", tail(&sidecar.stderr)))
        };
        let deadline = began + 2 * START_MAX;
        loop {
            match http1::get(sidecar.bound.probes, "/ready").await {
                Ok(answer) if answer.status == 200 => break,
                answer if Instant::now() > deadline => {
                    return Err(told(&sidecar, format!("not ready within {START_MAX:?}: {answer:?}")));
                }
                _ if sidecar.child.try_wait()?.is_some() => {
                    let ended = ended(&mut sidecar.child, &mut reading).await;
                    return Err(told(&sidecar, format!("it ended before it was ready: {ended}")));
                }
                _ => tokio::time::sleep(READY_POLL).await,
            }
        }
        sidecar.ready_after = began.elapsed();
        Ok(sidecar)
    }

    /// Runs a command and waits for the line of addresses.
    async fn launch(command: Command) -> io::Result<(Self, JoinHandle<()>, Instant)> {
        let began = Instant::now();
        let Launched { bound, child, stderr, stdout, reading } = launch(command).await?;
        Ok((Self { bound, ready_after: began.elapsed(), child, stderr, stdout }, reading, began))
    }

    /// The address of the first inbound listener.
    ///
    /// # Panics
    /// When there is none.
    pub fn inbound(&self) -> SocketAddr {
        self.bound.inbound[0]
    }

    /// The address of the outbound listener.
    ///
    /// # Panics
    /// When there is none.
    pub fn outbound(&self) -> SocketAddr {
        self.bound.outbound.expect("a sidecar with `outbound`")
    }

    /// A scrape of `/metrics`.
    ///
    /// # Errors
    /// As [`http1::get`]; and a status other than 200.
    pub async fn metrics(&self) -> io::Result<Metrics> {
        scrape(self.bound.probes).await
    }

    /// `GET path` at the admin listener.
    ///
    /// # Errors
    /// As [`http1::get`].
    pub async fn get(&self, path: &str) -> io::Result<Answer> {
        http1::get(self.bound.admin, path).await
    }

    /// `GET path` at the probes' listener.
    ///
    /// # Errors
    /// As [`http1::get`].
    pub async fn probe(&self, path: &str) -> io::Result<Answer> {
        http1::get(self.bound.probes, path).await
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.bound.pid
    }

    /// Resident memory, in bytes.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn rss_bytes(&self) -> io::Result<u64> {
        rss_bytes(self.pid())
    }

    /// CPU time of all its threads that are alive.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn cpu(&self) -> io::Result<Duration> {
        cpu(self.pid())
    }

    /// What it wrote to stderr, the last [`STDERR_MAX`] bytes.
    pub fn stderr(&self) -> String {
        tail(&self.stderr)
    }

    /// The next line that it prints, without its end; `None`: there is none to come.
    ///
    /// # Errors
    /// As reading from a pipe.
    pub async fn print(&mut self) -> io::Result<Option<String>> {
        let mut line = String::new();
        let read = self.stdout.read_line(&mut line).await?;
        Ok((read > 0).then(|| line.trim_end().to_owned()))
    }

    /// Sends SIGTERM.
    pub fn term(&self) {
        signal(&self.child, libc::SIGTERM);
    }

    /// Sends SIGHUP.
    pub fn hup(&self) {
        signal(&self.child, libc::SIGHUP);
    }

    /// Sends SIGKILL.
    pub fn kill(&self) {
        signal(&self.child, libc::SIGKILL);
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// As `waitpid`.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }
}

/// Resident memory of a process, in bytes (`VmRSS` of `/proc/PID/status`).
///
/// # Errors
/// When the process is gone.
pub fn rss_bytes(pid: u32) -> io::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok());
    kib.map(|kib: u64| kib << 10)
        .ok_or_else(|| io::Error::other(format!("no VmRSS of process {pid}; it has ended")))
}

/// CPU time of a process: the sum over `/proc/PID/task/*/schedstat`, which counts nanoseconds where
/// `/proc/PID/stat` counts ticks. Threads that have ended are not in it.
///
/// # Errors
/// When the process is gone.
pub fn cpu(pid: u32) -> io::Result<Duration> {
    let mut total = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end between the listing and the reading.
        let Ok(text) = std::fs::read_to_string(task?.path().join("schedstat")) else { continue };
        total += text.split_whitespace().next().and_then(|nanos| nanos.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(Duration::from_nanos(total))
}

/// CPU time of a process with that of threads that have ended, in ticks of 10 ms: `utime` and `stime` of
/// `/proc/PID/stat`.
///
/// # Errors
/// When the process is gone.
pub fn cpu_ever(pid: u32) -> io::Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The command's name may hold spaces; what follows its closing bracket does not.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok());
    match (ticks(11), ticks(12)) {
        (Some(user), Some(system)) => Ok(Duration::from_millis((user + system) * 10)),
        _ => Err(io::Error::other(format!("/proc/{pid}/stat: {stat:?}"))),
    }
}

/// A process that has said where it listens; killed when dropped, and with the thread that started it.
pub(crate) struct Launched<B> {
    /// The first line that it printed.
    pub(crate) bound: B,
    pub(crate) child: Child,
    /// The end of what it writes there.
    pub(crate) stderr: Arc<Mutex<Vec<u8>>>,
    /// To be held open, so that its prints never meet a closed pipe.
    pub(crate) stdout: BufReader<ChildStdout>,
    /// Ends with stderr.
    pub(crate) reading: JoinHandle<()>,
}

/// Runs a command and waits for its first line, a JSON object of addresses.
///
/// # Errors
/// When it cannot be run, ends, or prints no such line within [`START_MAX`]; with what it wrote to stderr.
pub(crate) async fn launch<B: DeserializeOwned>(mut command: Command) -> io::Result<Launched<B>> {
    die_with_parent(&mut command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|fault| io::Error::new(fault.kind(), format!("cannot run {command:?}: {fault}")))?;
    let stderr = Arc::new(Mutex::new(Vec::new()));
    let mut reading = tokio::spawn(keep_tail(child.stderr.take().expect("it is piped"), stderr.clone()));
    let mut stdout = BufReader::new(child.stdout.take().expect("it is piped"));
    let told = |what: String| io::Error::other(format!("{what}; stderr:\n{}", tail(&stderr)));
    let mut line = String::new();
    match tokio::time::timeout(START_MAX, stdout.read_line(&mut line)).await {
        Ok(Ok(0)) => {
            let how = ended(&mut child, &mut reading).await;
            return Err(told(format!("it ended without a line: {how}")));
        }
        Ok(read) => read?,
        Err(_) => return Err(told(format!("no line of addresses within {START_MAX:?}"))),
    };
    let bound = serde_json::from_str(&line).map_err(|fault| told(format!("first line {line:?}: {fault}")))?;
    Ok(Launched { bound, child, stderr, stdout, reading })
}

/// What `/metrics` says there.
///
/// # Errors
/// As [`http1::get`]; and a status other than 200.
pub(crate) async fn scrape(at: SocketAddr) -> io::Result<Metrics> {
    let answer = http1::get(at, "/metrics").await?;
    match answer.status {
        200 => Ok(Metrics::parse(&answer.body)),
        status => Err(io::Error::other(format!("/metrics: status {status}"))),
    }
}

/// Has the child killed when the thread that spawns it ends, even by SIGKILL.
pub fn die_with_parent(command: &mut Command) {
    // SAFETY: prctl with PR_SET_PDEATHSIG is a plain system call and safe between fork and exec.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
}

pub(crate) fn signal(child: &Child, number: i32) {
    // None once it has been waited for: the id may then belong to another.
    let Some(pid) = child.id() else { return };
    // SAFETY: kill takes no pointers, and the id is that of our own child.
    unsafe { libc::kill(pid.cast_signed(), number) };
}

async fn keep_tail(mut stderr: ChildStderr, tail: Arc<Mutex<Vec<u8>>>) {
    let mut piece = [0; 4_096];
    while let Ok(count @ 1..) = stderr.read(&mut piece).await {
        let mut tail = tail.lock().expect("nobody panics with it held");
        tail.extend_from_slice(&piece[..count]);
        let excess = tail.len().saturating_sub(STDERR_MAX);
        tail.drain(..excess);
    }
}

pub(crate) fn tail(stderr: &Mutex<Vec<u8>>) -> String {
    String::from_utf8_lossy(&stderr.lock().expect("nobody panics with it held")).into_owned()
}

/// Waits for the end, and for the last of stderr, which a child of the child may hold open.
async fn ended(child: &mut Child, stderr: &mut JoinHandle<()>) -> String {
    let status = child.wait().await;
    let _ = tokio::time::timeout(STDERR_LAST_MAX, stderr).await;
    match status {
        Ok(status) => match status.signal() {
            Some(signal) => format!("signal {signal}"),
            None => status.to_string(),
        },
        Err(fault) => fault.to_string(),
    }
}
