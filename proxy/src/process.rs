//! What the kernel says of this process and its cgroup.

use std::fs;

/// What this process uses.
pub(crate) struct Usage {
    pub(crate) resident_bytes: u64,
    pub(crate) cpu_seconds: f64,
}

/// Memory and CPU time so far; `None` where there is no /proc.
pub(crate) fn usage() -> Option<Usage> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The command's name may hold spaces; what follows its closing bracket does not.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    // SAFETY: sysconf reads a constant of the system and touches no memory of ours.
    let (page, hertz) = unsafe { (libc::sysconf(libc::_SC_PAGESIZE), libc::sysconf(libc::_SC_CLK_TCK)) };
    Some(Usage {
        resident_bytes: pages * u64::try_from(page).ok()?,
        cpu_seconds: ticks as f64 / u64::try_from(hertz).ok()?.max(1) as f64,
    })
}

/// Worker threads for `workers: auto`: the cgroup's CPU quota rounded up; without a quota min(cores, 2).
pub(crate) fn workers_auto() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let quota = fs::read_to_string("/sys/fs/cgroup/cpu.max").ok().and_then(|text| quota_cores(&text));
    quota.map_or(cores.min(2), |quota| quota.min(cores.max(1)))
}

/// Reads cgroup v2's `cpu.max`: `QUOTA PERIOD` in microseconds, or `max PERIOD` for none.
fn quota_cores(text: &str) -> Option<usize> {
    let mut parts = text.split_whitespace();
    let quota: u64 = parts.next()?.parse().ok()?;
    let period: u64 = parts.next()?.parse().ok().filter(|period| *period > 0)?;
    Some(quota.div_ceil(period).max(1) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_rounded_up_and_max_is_none() {
        assert_eq!(quota_cores("150000 100000\n"), Some(2));
        assert_eq!(quota_cores("50000 100000\n"), Some(1));
        assert_eq!(quota_cores("max 100000\n"), None);
        assert_eq!(quota_cores(""), None);
    }
}
