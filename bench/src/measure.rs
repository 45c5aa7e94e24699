//! One load against one running target, and what it cost the target.

use std::io;
use std::time::Duration;

use serde::Serialize;

use crate::load::{Load, Report};
use crate::process::{cpu, rss_bytes};
use crate::target::Running;

/// What one load cost.
#[derive(Clone, Debug, Serialize)]
pub struct Cost {
    /// CPU of all charged processes per completed call (or message), in microseconds.
    pub cpu_us: f64,
    /// Payload megabytes (10^6 bytes), both ways together, per second of CPU.
    pub mb_per_cpu_second: f64,
    /// Resident memory of all charged processes right after the load, in bytes.
    pub rss_bytes: u64,
    /// What the client saw.
    pub report: Report,
}

/// Warms the target up for a tenth of the load, then runs it.
///
/// # Errors
/// When a connection cannot be made, a process is gone, or any call failed: a figure with failures in it is
/// no figure.
pub async fn cost(target: &Running, load: &Load) -> io::Result<Cost> {
    let mut warm = load.clone();
    warm.duration = load.duration / 10;
    warm.calls = (load.calls / 10).max(1);
    warm.run().await?;
    let before = cpu_of(&target.pids)?;
    let report = load.run().await?;
    let spent = cpu_of(&target.pids)? - before;
    if report.failed > 0 || report.completed == 0 || report.first_failure.is_some() {
        let (failed, first) = (report.failed, &report.first_failure);
        return Err(io::Error::other(format!("{failed} of {} failed, first: {first:?}", report.offered)));
    }
    let mut rss = 0;
    for pid in &target.pids {
        rss += rss_bytes(*pid)?;
    }
    let seconds = spent.as_secs_f64();
    // Without a process to charge (direct), both are 0 and not infinite.
    let per_second = if seconds > 0.0 { report.bytes as f64 / 1e6 / seconds } else { 0.0 };
    Ok(Cost {
        cpu_us: seconds * 1e6 / report.completed as f64,
        mb_per_cpu_second: per_second,
        rss_bytes: rss,
        report,
    })
}

/// CPU time of several processes.
///
/// # Errors
/// When one is gone.
pub fn cpu_of(pids: &[u32]) -> io::Result<Duration> {
    pids.iter().map(|pid| cpu(*pid)).sum()
}

/// Median and spread of several runs.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
    /// How many runs.
    pub runs: usize,
}

impl Spread {
    /// Of these values, in any order; all 0 when there are none.
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let runs = values.len();
        let (Some(&min), Some(&max)) = (values.first(), values.last()) else { return Self::default() };
        let median = (values[(runs - 1) / 2] + values[runs / 2]) / 2.0;
        Self { median, min, max, runs }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        let spread = Spread::of(vec![4.0, 1.0, 3.0, 2.0]);
        assert_eq!((spread.median, spread.min, spread.max, spread.runs), (2.5, 1.0, 4.0, 4));
        assert_eq!(Spread::of(vec![7.0, 1.0, 2.0]).median, 2.0);
    }
}
