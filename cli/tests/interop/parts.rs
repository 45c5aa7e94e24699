//! What of other people's software is here.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Something that a case may need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// An interpreter that can import grpcio.
    Python,
}

/// Each part: where it is, or why it is not here.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    python: Result<PathBuf, String>,
}

impl Parts {
    /// Looks for all of them: `.ci/peers` tells in the environment where it has put them.
    pub(crate) fn find() -> Self {
        Self { python: python() }
    }

    /// The interpreter. A case that asks has named it among its needs.
    pub(crate) fn python(&self) -> &Path {
        self.python.as_deref().expect("a case that needs it")
    }

    /// Why this part is not here, if it is not.
    pub(crate) fn missing(&self, part: Part) -> Option<String> {
        match part {
            Part::Python => self.python.as_ref().err().cloned(),
        }
    }

    /// Why parts are not here.
    pub(crate) fn all_missing(&self) -> Vec<String> {
        [Part::Python].into_iter().filter_map(|part| self.missing(part)).collect()
    }
}

fn python() -> Result<PathBuf, String> {
    let python = std::env::var_os("OUTRIGGER_PYTHON").map_or_else(|| PathBuf::from("python3"), PathBuf::from);
    runs(Command::new(&python).args(["-c", "import grpc"]))
        .map_err(|why| format!("no python with grpcio: {why}"))?;
    Ok(python)
}

/// Whether a command succeeds; if not, the last line that it says.
fn runs(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|fault| format!("{command:?}: {fault}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(said.lines().last().unwrap_or("it failed without a word").to_owned())
}
