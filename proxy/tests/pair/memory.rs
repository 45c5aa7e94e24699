//! What the two sidecars hold in memory.

use bench::process::Sidecar;

use crate::pair::MIB;

/// What they held at a moment, to tell how much more they held at most since.
pub(crate) struct Memory {
    pids: [u32; 2],
    before: [u64; 2],
}

impl Memory {
    /// Begins to watch the caller's and the callee's.
    pub(crate) fn watch(caller: &Sidecar, callee: &Sidecar) -> Self {
        let pids = [caller.pid(), callee.pid()];
        Self { pids, before: pids.map(|pid| status(pid, "VmRSS:")) }
    }

    /// The most they held since, and be it for a moment, above what they held then: the caller's, the callee's.
    pub(crate) fn growth(&self) -> [u64; 2] {
        std::array::from_fn(|at| status(self.pids[at], "VmHWM:").saturating_sub(self.before[at]))
    }

    /// Fails when one of them grew by `max` bytes or more; `what` goes into the line of figures.
    pub(crate) fn assert_growth_below(&self, what: &str, max: u64) {
        let growth = self.growth();
        let [caller, callee] = growth.map(|bytes| bytes as f64 / MIB as f64);
        println!("{what}: the caller's sidecar grew by {caller:.1} MiB, the callee's by {callee:.1} MiB");
        assert!(growth.iter().all(|bytes| *bytes < max), "{what}: {caller:.1} and {callee:.1} MiB");
    }
}

/// A line of `/proc/PID/status` that is in KiB, as bytes.
fn status(pid: u32, name: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the sidecar is alive");
    let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("such a line");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number of KiB");
    kib << 10
}
