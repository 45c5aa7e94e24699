//! A control plane as a process of its own, watched from outside.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex};

use serde::Deserialize;
use tokio::io::BufReader;
use tokio::process::{Child, ChildStdout, Command};

use crate::http1::{self, Answer};
use crate::metrics::Metrics;
use crate::process::{Launched, launch, scrape, signal, tail};
use crate::wait::comes;

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
    /// When it cannot be run, exits, or prints no line within [`START_MAX`](crate::process::START_MAX); with what it wrote to stderr.
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
    pub async fn spawn(command: Command) -> io::Result<Self> {
        let Launched { bound, child, stderr, stdout, .. } = launch(command).await?;
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
        scrape(self.bound.admin).await
    }

    /// What it wrote to stderr, the end of it.
    pub fn stderr(&self) -> String {
        tail(&self.stderr)
    }

    /// Waits until it has written `text` to stderr.
    ///
    /// # Panics
    /// When it has not within [`crate::wait::PATIENCE`]; with what it has written.
    pub async fn says(&self, text: &str) {
        let is_said = comes(async || self.stderr().contains(text)).await;
        assert!(is_said, "stderr does not say {text:?}: {}", self.stderr());
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
