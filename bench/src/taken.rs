//! When figures were taken, of what, and how busy the machine was meanwhile.

use std::io;

use serde::Serialize;
use tokio::process::Command;

/// What stands beside figures, so that they can be judged later.
#[derive(Clone, Debug, Serialize)]
pub struct Taken {
    /// When they were begun, in UTC.
    pub date: String,
    /// The commit that this program's folder is at, `-dirty` if there is more in it than that.
    pub commit: String,
    /// Cores that there are, shared by all.
    pub cores: usize,
    /// Processes that wanted to run, over the minute before.
    pub load_before: f64,
    /// The same over the last minute; our own among them.
    pub load_after: f64,
}

impl Taken {
    /// Now.
    ///
    /// # Errors
    /// When the machine does not say.
    pub async fn now() -> io::Result<Self> {
        Ok(Self {
            date: said("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"]).await?,
            // A tree that is no repository has none.
            commit: said("git", &["describe", "--always", "--dirty", "--abbrev=7", "--exclude=*"])
                .await
                .unwrap_or_else(|_| "unknown".to_owned()),
            cores: std::thread::available_parallelism()?.get(),
            load_before: load()?,
            load_after: 0.0,
        })
    }

    /// It is over.
    ///
    /// # Errors
    /// As [`Taken::now`].
    pub async fn end(&mut self) -> io::Result<()> {
        self.load_after = load()?;
        Ok(())
    }
}

async fn said(program: &str, arguments: &[&str]) -> io::Result<String> {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = command.output().await?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        false => Err(io::Error::other(format!("`{program}` failed: {}", output.status))),
    }
}

/// The load average over a minute.
fn load() -> io::Result<f64> {
    let text = std::fs::read_to_string("/proc/loadavg")?;
    let first = text.split_whitespace().next().and_then(|word| word.parse().ok());
    first.ok_or_else(|| io::Error::other(format!("/proc/loadavg: {text:?}")))
}
