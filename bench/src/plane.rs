//! A control plane as a process of its own, watched from outside.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};

use crate::http1::{self, Answer};
use crate::metrics::Metrics;
use crate::process::{START_MAX, die_with_parent, ended, keep_tail, signal, tail};

/// The first line on a control plane's stdout.
#[derive(Clone, Debug, Deserialize)]
pub struct Bound {
    /// Its process id.
    pub pid: u32,
    /// Where it serves xDS.
    pub ads: SocketAddr,
    /// Its pages.
    pub admin: SocketAddr,
}

/// A running control plane; killed when dropped, and with the thread that started it.
pub struct ControlPlane {
    /// Where it listens.
    pub bound: Bound,
    child: Child,
    stderr: Arc<Mutex<Vec<u8>>>,
    // Held open, so that its prints never meet a closed pipe.
    _stdout: BufReader<ChildStdout>,
}

impl ControlPlane {
    /// Writes `control.yaml` into `dir`, runs `BINARY control.yaml` there and waits for its first line.
    ///
    /// # Errors
    /// When it cannot be run, exits, or prints no line within [`START_MAX`]; with what it wrote to stderr.
    pub async fn start(binary: &Path, control_yaml: &str, dir: &Path) -> io::Result<Self> {
        std::fs::write(dir.join("control.yaml"), control_yaml)?;
        let mut command = Command::new(binary);
        command.arg("control.yaml").current_dir(dir);
        Self::spawn(command).await
    }

    /// Runs a command that behaves like `outrigger-control`, and waits for its first line.
    ///
    /// # Errors
    /// As [`ControlPlane::start`].
    pub async fn spawn(mut command: Command) -> io::Result<Self> {
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
        let bound =
            serde_json::from_str(&line).map_err(|fault| told(format!("first line {line:?}: {fault}")))?;
        Ok(Self { bound, child, stderr, _stdout: stdout })
    }

    /// `GET path` at the pages.
    ///
    /// # Errors
    /// As [`http1::get`].
    pub async fn get(&self, path: &str) -> io::Result<Answer> {
        http1::get(self.bound.admin, path).await
    }

    /// A scrape of `/metrics`.
    ///
    /// # Errors
    /// As [`http1::get`]; and a status other than 200.
    pub async fn metrics(&self) -> io::Result<Metrics> {
        let answer = self.get("/metrics").await?;
        match answer.status {
            200 => Ok(Metrics::parse(&answer.body)),
            status => Err(io::Error::other(format!("/metrics: status {status}"))),
        }
    }

    /// What it wrote to stderr, the end of it.
    pub fn stderr(&self) -> String {
        tail(&self.stderr)
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

    /// Sends SIGSTOP.
    pub fn stop(&self) {
        signal(&self.child, libc::SIGSTOP);
    }

    /// Sends SIGCONT.
    pub fn go_on(&self) {
        signal(&self.child, libc::SIGCONT);
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// As `waitpid`.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }
}
