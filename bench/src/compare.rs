//! Outrigger beside its floors and beside Envoy: the same load, the same core, alternating rounds.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use serde::Serialize;

use crate::load::{Load, Shape};
use crate::measure::{Cost, Spread, cost};
use crate::pin::Cores;
use crate::site::Binaries;
use crate::target::{Running, Target, start, start_echo};

/// The loads that targets are compared under.
pub const LOADS: [&str; 6] =
    ["calls_10x10", "calls_50x20", "open_2000", "ping_pong", "message_64k", "message_1m"];

/// One line of the comparison: a target under a load.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// One of [`LOADS`].
    pub load: &'static str,
    /// CPU per call or message, in microseconds.
    pub cpu_us: Spread,
    /// Payload megabytes, both ways, per CPU second.
    pub mb_per_cpu_second: Spread,
    /// Completed per second.
    pub per_second: Spread,
    /// Latency, in microseconds.
    pub p50_us: Spread,
    /// Latency, in microseconds.
    pub p99_us: Spread,
    /// Resident memory right after, in bytes.
    pub rss_bytes: Spread,
}

/// Lines by target.
pub type Table = BTreeMap<&'static str, Vec<Line>>;

/// Runs every load of `loads` against every target, `rounds` times; in each round every target has its turn, so
/// that a slow minute of the machine meets all of them. Load runs on the calling thread: pin it first.
///
/// # Errors
/// Names target and load at fault.
pub async fn run(
    targets: &[Target],
    loads: &[&'static str],
    rounds: usize,
    each: Duration,
    binaries: &Binaries,
    cores: Cores,
) -> io::Result<Table> {
    let echo = start_echo(binaries, cores).await?;
    let mut running = Vec::new();
    for target in targets {
        let started = start(*target, echo.listen, binaries, cores, &[]).await;
        running.push((*target, started.map_err(|fault| at(target.name(), "start", &fault))?));
    }
    let mut table = Table::new();
    for load in loads {
        let mut costs: Vec<Vec<Cost>> = vec![Vec::new(); running.len()];
        for _ in 0..rounds {
            for ((target, running), costs) in running.iter().zip(&mut costs) {
                let cost = cost(running, &named(load, running, each)).await;
                costs.push(cost.map_err(|fault| at(target.name(), load, &fault))?);
            }
        }
        for ((target, _), costs) in running.iter().zip(&costs) {
            table.entry(target.name()).or_default().push(line(load, costs));
        }
    }
    Ok(table)
}

/// The table as Markdown, one row per target and load.
pub fn markdown(table: &Table) -> String {
    let mut text = "| load | target | CPU us | min-max | MB/CPU s | per s | p50 us | p99 us | RSS MiB |\n\
        |---|---|---|---|---|---|---|---|---|\n"
        .to_owned();
    for load in LOADS {
        for (target, lines) in table {
            for line in lines.iter().filter(|line| line.load == load) {
                text += &format!(
                    "| {load} | {target} | {:.2} | {:.2}-{:.2} | {:.0} | {:.0} | {:.0} | {:.0} | {:.1} |\n",
                    line.cpu_us.median,
                    line.cpu_us.min,
                    line.cpu_us.max,
                    line.mb_per_cpu_second.median,
                    line.per_second.median,
                    line.p50_us.median,
                    line.p99_us.median,
                    line.rss_bytes.median / f64::from(1 << 20),
                );
            }
        }
    }
    text
}

fn named(load: &str, target: &Running, each: Duration) -> Load {
    let base = Load::closed(target.entry, 10, 10, each);
    match load {
        "calls_50x20" => Load { connections: 50, streams: 20, ..base },
        "open_2000" => Load { shape: Shape::Open(2_000.0), ..base },
        "ping_pong" => Load { shape: Shape::PingPong, ..base },
        "message_64k" => {
            Load { shape: Shape::PingPong, payload: 64 << 10, connections: 4, streams: 2, ..base }
        }
        "message_1m" => Load { shape: Shape::PingPong, payload: 1 << 20, connections: 4, streams: 1, ..base },
        _ => base,
    }
}

fn line(load: &'static str, costs: &[Cost]) -> Line {
    let of = |value: fn(&Cost) -> f64| Spread::of(costs.iter().map(value).collect());
    Line {
        load,
        cpu_us: of(|cost| cost.cpu_us),
        mb_per_cpu_second: of(|cost| cost.mb_per_cpu_second),
        per_second: of(|cost| cost.report.per_second),
        p50_us: of(|cost| cost.report.latency_us.p50),
        p99_us: of(|cost| cost.report.latency_us.p99),
        rss_bytes: of(|cost| cost.rss_bytes as f64),
    }
}

fn at(target: &str, load: &str, fault: &io::Error) -> io::Error {
    io::Error::new(fault.kind(), format!("{target}, {load}: {fault}"))
}
