//! User instructions per call, by callgrind: the one figure that a noisy machine does not move.
//!
//! Two runs with different numbers of calls; the difference takes start and end out. The kernel is not
//! counted, and under valgrind writes batch differently: look at the clock as well.

use std::io;
use std::path::Path;
use std::time::Duration;

use crate::load::Load;
use crate::pin::Cores;
use crate::site::Binaries;
use crate::target::{Target, start_echo, start_ruled};

/// Calls of the first and of the second run. A sidecar looks at its files once more soon after its start: the first run is to be longer
/// than that takes under valgrind, or reading ten thousand rules again counts as calls.
pub const CALLS: [u64; 2] = [10_000, 14_000];

/// Valgrind is slow; a run that takes longer than this has failed.
const RUN_MAX: Duration = Duration::from_secs(300);

/// Instructions that all processes of `target` spend on one 100-byte unary call, 10 connections x 10 streams; with so many `rules`
/// about callers, where it is Outrigger.
///
/// # Errors
/// When valgrind is not there, a call fails or takes too long, or its result cannot be read.
pub async fn per_call(target: Target, binaries: &Binaries, cores: Cores, rules: usize) -> io::Result<f64> {
    let few = collected(target, binaries, cores, rules, CALLS[0]).await?;
    let many = collected(target, binaries, cores, rules, CALLS[1]).await?;
    Ok((many as f64 - few as f64) / (CALLS[1] - CALLS[0]) as f64)
}

async fn collected(
    target: Target,
    binaries: &Binaries,
    cores: Cores,
    rules: usize,
    calls: u64,
) -> io::Result<u64> {
    let results = tempfile::tempdir()?;
    let out = results.path().join("callgrind.%p");
    let wrap = [
        "valgrind".to_owned(),
        "--quiet".to_owned(),
        "--tool=callgrind".to_owned(),
        format!("--callgrind-out-file={}", out.display()),
    ];
    let echo = start_echo(binaries, cores).await?;
    let running = start_ruled(target, echo.listen, binaries, cores, &wrap, rules).await?;
    let load = Load { calls, ..Load::closed(running.entry, 10, 10, RUN_MAX) };
    let report = load.run().await?;
    if report.completed != calls {
        let first = report.first_failure;
        return Err(io::Error::other(format!("{} of {calls} calls completed: {first:?}", report.completed)));
    }
    running.term().await?;
    let mut total = 0;
    for file in std::fs::read_dir(results.path())? {
        total += summary(&file?.path())?;
    }
    if total == 0 {
        return Err(io::Error::other("callgrind wrote nothing; is the target a process of ours?"));
    }
    Ok(total)
}

fn summary(file: &Path) -> io::Result<u64> {
    let text = std::fs::read_to_string(file)?;
    let of = |key| text.lines().find_map(|line: &str| line.strip_prefix(key)?.trim().parse().ok());
    of("totals:")
        .or_else(|| of("summary:"))
        .ok_or_else(|| io::Error::other(format!("{}: neither `totals:` nor `summary:`", file.display())))
}
