//! What of other people's software is here.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Something that a case may need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// An interpreter that can import grpcio.
    Python,
    /// The same interpreter, which can import what xDS needs too: xds-protos and grpcio-csds.
    Xds,
    /// Node, and a folder with `@grpc/grpc-js`.
    Node,
    /// Our Go programs, built with grpc-go.
    Go,
    /// Envoy.
    Envoy,
    /// The command line of OpenSSL.
    Openssl,
}

/// Each part: where it is, or why it is not here.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    python: Result<PathBuf, String>,
    xds: Result<PathBuf, String>,
    node: Result<PathBuf, String>,
    go: Result<PathBuf, String>,
    envoy: Result<PathBuf, String>,
    openssl: Result<PathBuf, String>,
}

impl Parts {
    /// Looks for all of them: `.ci/peers` tells in the environment where it has put them.
    pub(crate) fn find() -> Self {
        Self { python: python(), xds: xds(), node: node(), go: go(), envoy: envoy(), openssl: openssl() }
    }

    /// Where this part is: the interpreter, the folder of modules, the folder of programs, the
    /// program.
    ///
    /// # Panics
    /// When it is not here: a case that asks has named it among its needs.
    pub(crate) fn path(&self, part: Part) -> &Path {
        self.found(part).as_deref().expect("a case that needs it")
    }

    /// Why this part is not here, if it is not.
    pub(crate) fn missing(&self, part: Part) -> Option<String> {
        self.found(part).as_ref().err().cloned()
    }

    /// Why parts are not here.
    pub(crate) fn all_missing(&self) -> Vec<String> {
        [Part::Python, Part::Xds, Part::Node, Part::Go, Part::Envoy, Part::Openssl]
            .into_iter()
            .filter_map(|part| self.missing(part))
            .collect()
    }

    fn found(&self, part: Part) -> &Result<PathBuf, String> {
        match part {
            Part::Python => &self.python,
            Part::Xds => &self.xds,
            Part::Node => &self.node,
            Part::Go => &self.go,
            Part::Envoy => &self.envoy,
            Part::Openssl => &self.openssl,
        }
    }
}

/// Where the programs stand.
pub(crate) fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop")
}

fn openssl() -> Result<PathBuf, String> {
    match Command::new("openssl").arg("version").output() {
        Ok(output) if output.status.success() => Ok("openssl".into()),
        _ => Err("no openssl".to_owned()),
    }
}

fn python() -> Result<PathBuf, String> {
    python_with("import grpc").map_err(|why| format!("no python with grpcio: {why}"))
}

fn xds() -> Result<PathBuf, String> {
    let modules = "import grpc, grpc_csds, envoy.service.status.v3.csds_pb2_grpc";
    python_with(modules).map_err(|why| format!("no python with xds-protos and grpcio-csds: {why}"))
}

fn python_with(modules: &str) -> Result<PathBuf, String> {
    let python = std::env::var_os("OUTRIGGER_PYTHON").map_or_else(|| PathBuf::from("python3"), PathBuf::from);
    runs(Command::new(&python).args(["-c", modules]))?;
    Ok(python)
}

fn node() -> Result<PathBuf, String> {
    let modules = std::env::var_os("OUTRIGGER_NODE_MODULES").map(PathBuf::from);
    let modules = modules.ok_or("no grpc-js: OUTRIGGER_NODE_MODULES is not set")?;
    runs(Command::new("node").args(["-e", "require('@grpc/grpc-js')"]).env("NODE_PATH", &modules))
        .map_err(|why| format!("no node with grpc-js: {why}"))?;
    Ok(modules)
}

/// Builds them: at once where that was done before. What is not in the cache of modules is not fetched.
fn go() -> Result<PathBuf, String> {
    let programs = Path::new(env!("CARGO_TARGET_TMPDIR")).join("interop-go");
    let mut build = Command::new("go");
    build.args(["build", "-o"]).arg(programs.join("")).arg("./...").current_dir(sources().join("go"));
    build.env("GOPROXY", "off").env("GOFLAGS", "-mod=readonly");
    runs(&mut build).map_err(|why| format!("no go with grpc-go: {why}"))?;
    Ok(programs)
}

fn envoy() -> Result<PathBuf, String> {
    let envoy = std::env::var_os("OUTRIGGER_ENVOY").map_or_else(|| PathBuf::from("envoy"), PathBuf::from);
    runs(Command::new(&envoy).arg("--version")).map_err(|why| format!("no envoy: {why}"))?;
    Ok(envoy)
}

/// Whether a command succeeds; if not, the first line that it says.
fn runs(command: &mut Command) -> Result<(), String> {
    let program = command.get_program().to_owned();
    let output = command.output().map_err(|fault| format!("{}: {fault}", program.display()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let mut lines = said.lines().filter(|line| line.contains("rror") || line.contains("go"));
    Err(lines.next().unwrap_or("it failed without a word").trim().to_owned())
}
