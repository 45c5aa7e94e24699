//! A demo as a process: how it is started, what it prints, and what it leaves behind.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A run's processes all carry this in their environment, with a value of the run's own.
const MARK: &str = "OUTRIGGER_DEMO_TEST";

/// A killed parent takes its children along, but the kernel needs a moment.
const GONE_WAIT: Duration = Duration::from_secs(30);

static RUNS: AtomicU32 = AtomicU32::new(0);

/// A run of `outrigger demo`.
pub(crate) struct Demo {
    pub(crate) temporary: tempfile::TempDir,
    mark: String,
}

impl Demo {
    pub(crate) fn new() -> Self {
        let run = RUNS.fetch_add(1, Ordering::Relaxed);
        let temporary = tempfile::tempdir().expect("a folder");
        Self { temporary, mark: format!("{MARK}={}-{run}", std::process::id()) }
    }

    pub(crate) fn command(&self, temporary: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
        let (name, value) = self.mark.split_once('=').expect("name=value");
        command.arg("demo").args(args).env(name, value).env("TMPDIR", temporary);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Starts a demo and waits for a line on stdout that contains `until`.
    pub(crate) fn start(&self, args: &[&str], until: &str) -> (Child, impl Iterator<Item = String> + use<>) {
        let mut child = self.command(self.temporary.path(), args).spawn().expect("our own binary");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
        let found = lines.any(|line| line.contains(until));
        assert!(found, "the demo ended before `{until}`");
        (child, lines)
    }

    pub(crate) fn processes(&self) -> Vec<String> {
        let entries = fs::read_dir("/proc").expect("/proc").flatten();
        let ours = entries.filter(|entry| {
            let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == self.mark.as_bytes())
        });
        ours.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    pub(crate) fn assert_no_process_is_left(&self) {
        let end = Instant::now() + GONE_WAIT;
        while !self.processes().is_empty() {
            assert!(Instant::now() < end, "left behind: {:?}", self.processes());
            std::thread::yield_now();
        }
    }

    pub(crate) fn assert_no_file_is_left(&self, temporary: &Path) {
        let left: Vec<_> = fs::read_dir(temporary).expect("the folder").flatten().collect();
        assert!(left.is_empty(), "left behind: {left:?}");
    }
}

/// What a demo tells of certificates at its end: so many by token, renewed, refused, and the seconds that the oldest has left.
pub(crate) fn certificates(stdout: &str) -> [i64; 4] {
    let line = stdout.lines().find(|line| line.starts_with("certificates: "));
    let line = line.unwrap_or_else(|| panic!("no account of certificates in\n{stdout}"));
    let numbers: Vec<i64> = line.split([' ', ',']).filter_map(|word| word.parse().ok()).collect();
    numbers.try_into().unwrap_or_else(|_| panic!("`{line}` has not four numbers"))
}

/// Sends a signal to the demo itself.
pub(crate) fn send(signal: libc::c_int, child: &Child) {
    // SAFETY: a plain system call on a child that has not been waited for.
    let sent = unsafe { libc::kill(child.id().cast_signed(), signal) };
    assert_eq!(sent, 0);
}
