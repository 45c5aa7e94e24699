//! All numbers that later changes are held against, in one file.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::Serialize;
use tokio::process::Command;

use crate::client::Client;
use crate::compare::{self, LOADS, Table};
use crate::control::{self, ControlFigures};
use crate::instructions;
use crate::measure::Spread;
use crate::pin::{Cores, pin_self};
use crate::process::rss_bytes;
use crate::site::Binaries;
use crate::target::{Target, start, start_echo};

/// Connections that are opened to weigh one.
pub const IDLE_CONNECTIONS: usize = 500;

/// `bench/figures.json`.
#[derive(Debug, Serialize)]
pub struct Figures {
    /// Resident memory of a proxy that is ready and has served nothing, in bytes.
    pub start_rss_bytes: BTreeMap<&'static str, Spread>,
    /// From exec to `/ready` 200, in milliseconds.
    pub ready_ms: BTreeMap<&'static str, Spread>,
    /// `outrigger-proxy` as containers ship it, in bytes.
    pub lean_binary_bytes: u64,
    /// CPU, throughput, latency and memory under each load.
    pub loads: Table,
    /// Resident memory per idle plaintext connection, in bytes.
    pub idle_connection_bytes: BTreeMap<&'static str, Spread>,
    /// User instructions per unary call; empty where valgrind is not installed.
    pub instructions_per_call: BTreeMap<&'static str, Spread>,
    /// The control plane under many clients; its large rows are measured once.
    pub control: ControlFigures,
}

/// Measures everything `runs` times; `each` is the length of one load. Load runs on the calling thread, which is
/// pinned for it.
///
/// # Errors
/// Names what could not be measured.
pub async fn measure(runs: usize, each: Duration, binaries: &Binaries, cores: Cores) -> io::Result<Figures> {
    // On all cores, as it runs.
    let control = control::measure(&binaries.control, runs, 1).await?;
    pin_self(cores.load)?;
    let with_envoy = |target: &Target| !target.is_envoy() || binaries.envoy.is_some();
    let single = [Target::Forward, Target::Outrigger, Target::Envoy].into_iter().filter(with_envoy);
    let single: Vec<_> = single.collect();
    let mut starts: BTreeMap<_, [Vec<f64>; 3]> = BTreeMap::new();
    for _ in 0..runs {
        for target in &single {
            let seen = idle(*target, binaries, cores).await?;
            for (values, value) in starts.entry(target.name()).or_default().iter_mut().zip(seen) {
                values.push(value);
            }
        }
    }
    let of = |which: usize| {
        starts.iter().map(|(name, values)| (*name, Spread::of(values[which].clone()))).collect()
    };

    let all = [Target::Direct, Target::Tcp, Target::Forward, Target::Outrigger, Target::Envoy].into_iter();
    let all: Vec<_> = all.filter(with_envoy).collect();
    let mut loads = compare::run(&all, &LOADS, runs, each, binaries, cores).await?;
    let pairs: Vec<_> = [Target::OutriggerPair, Target::EnvoyPair].into_iter().filter(with_envoy).collect();
    loads.extend(compare::run(&pairs, &LOADS[..2], runs, each, binaries, cores).await?);

    let mut instructions_per_call = BTreeMap::new();
    if valgrind_is_there().await {
        for target in single {
            let mut values = Vec::with_capacity(runs);
            for _ in 0..runs {
                values.push(instructions::per_call(target, binaries, cores, 0).await?);
            }
            instructions_per_call.insert(target.name(), Spread::of(values));
        }
    }
    Ok(Figures {
        start_rss_bytes: of(0),
        ready_ms: of(1),
        idle_connection_bytes: of(2),
        lean_binary_bytes: std::fs::metadata(&binaries.proxy)?.len(),
        loads,
        instructions_per_call,
        control,
    })
}

/// Start RSS in bytes, time to ready in milliseconds, bytes per idle connection.
async fn idle(target: Target, binaries: &Binaries, cores: Cores) -> io::Result<[f64; 3]> {
    let echo = start_echo(binaries, cores).await?;
    let running = start(target, echo.listen, binaries, cores, &[]).await?;
    let rss = || -> io::Result<f64> {
        running.pids.iter().map(|pid| rss_bytes(*pid)).try_fold(0.0, |sum, rss| Ok(sum + rss? as f64))
    };
    let start_rss = rss()?;
    let mut connections = Vec::with_capacity(IDLE_CONNECTIONS);
    let first = Client::connect(running.entry, None).await?;
    check(&first).await?;
    let before = rss()?;
    for _ in 0..IDLE_CONNECTIONS {
        let client = Client::connect(running.entry, None).await?;
        check(&client).await?;
        connections.push(client);
    }
    let each = (rss()? - before) / IDLE_CONNECTIONS as f64;
    Ok([start_rss, running.ready_after.as_secs_f64() * 1_000.0, each])
}

/// One call: a connection that never carried one weighs less than those that a mesh has.
async fn check(client: &Client) -> io::Result<()> {
    let outcome = client.unary("echo.bench", "/bench.Echo/Unary", b"idle").await.map_err(io::Error::other)?;
    if outcome.is_ok() {
        Ok(())
    } else {
        Err(io::Error::other(format!("an idle connection's call: {outcome:?}")))
    }
}

/// Builds what containers ship in `workspace`, and the floors and the echo server in the same way; `proxy`, if
/// given, stands in for the one that was built.
///
/// # Errors
/// When cargo is not there or fails.
pub async fn build_lean(workspace: &Path, proxy: Option<PathBuf>) -> io::Result<Binaries> {
    let lean = lean(workspace, &["outrigger-proxy", "outrigger-control", "bench"]).await?;
    let proxy = proxy.unwrap_or_else(|| lean.join("outrigger-proxy"));
    let (bench, control) = (lean.join("bench"), lean.join("outrigger-control"));
    Ok(Binaries { bench, control, ..Binaries::find(Some(proxy))? })
}

/// Builds the control plane that containers ship.
///
/// # Errors
/// As [`build_lean`].
pub async fn build_lean_control(workspace: &Path) -> io::Result<PathBuf> {
    Ok(lean(workspace, &["outrigger-control"]).await?.join("outrigger-control"))
}

/// Builds these packages, and says in which folder they are then.
async fn lean(workspace: &Path, packages: &[&str]) -> io::Result<PathBuf> {
    let mut command = Command::new("cargo");
    command.args(["build", "--profile", "lean"]).args(packages.iter().flat_map(|package| ["-p", *package]));
    if !command.current_dir(workspace).status().await?.success() {
        return Err(io::Error::other(format!(
            "`cargo build --profile lean` of {} failed",
            packages.join(", ")
        )));
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from);
    Ok(target.join("lean"))
}

async fn valgrind_is_there() -> bool {
    let mut command = Command::new("valgrind");
    command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
    command.status().await.is_ok_and(|status| status.success())
}
