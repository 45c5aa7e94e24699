//! The demo from outside: it tells the truth by its exit code and leaves nothing behind, however it ends.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A run's processes all carry this in their environment, with a value of the run's own.
const MARK: &str = "OUTRIGGER_DEMO_TEST";

/// A killed parent takes its children along, but the kernel needs a moment.
const GONE_WAIT: Duration = Duration::from_secs(5);

static RUNS: AtomicU32 = AtomicU32::new(0);

struct Demo {
    temporary: tempfile::TempDir,
    mark: String,
}

impl Demo {
    fn new() -> Self {
        let run = RUNS.fetch_add(1, Ordering::Relaxed);
        let temporary = tempfile::tempdir().expect("a folder");
        Self { temporary, mark: format!("{MARK}={}-{run}", std::process::id()) }
    }

    fn command(&self, temporary: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
        let (name, value) = self.mark.split_once('=').expect("name=value");
        command.arg("demo").args(args).env(name, value).env("TMPDIR", temporary);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Starts a demo without an end and waits for a line on stdout that contains `until`.
    fn start(&self, until: &str) -> (Child, impl Iterator<Item = String> + use<>) {
        let mut child = self.command(self.temporary.path(), &[]).spawn().expect("our own binary");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
        let found = lines.any(|line| line.contains(until));
        assert!(found, "the demo ended before `{until}`");
        (child, lines)
    }

    fn processes(&self) -> Vec<String> {
        let entries = fs::read_dir("/proc").expect("/proc").flatten();
        let ours = entries.filter(|entry| {
            let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == self.mark.as_bytes())
        });
        ours.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    fn assert_no_process_is_left(&self) {
        let end = Instant::now() + GONE_WAIT;
        while !self.processes().is_empty() {
            assert!(Instant::now() < end, "left behind: {:?}", self.processes());
            std::thread::yield_now();
        }
    }

    fn assert_no_file_is_left(&self, temporary: &Path) {
        let left: Vec<_> = fs::read_dir(temporary).expect("the folder").flatten().collect();
        assert!(left.is_empty(), "left behind: {left:?}");
    }
}

fn send(signal: libc::c_int, child: &Child) {
    // SAFETY: a plain system call on a child that has not been waited for.
    let sent = unsafe { libc::kill(child.id().cast_signed(), signal) };
    assert_eq!(sent, 0);
}

#[test]
fn a_demo_of_three_seconds_exits_0_with_every_count_agreed_and_leaves_nothing() {
    let demo = Demo::new();
    let output = demo.command(demo.temporary.path(), &["--for", "3s"]).output().expect("our own binary");
    let stdout = String::from_utf8(output.stdout).expect("text");
    let stderr = String::from_utf8(output.stderr).expect("text");
    assert!(output.status.success(), "{stdout}\n{stderr}");
    assert_eq!(stderr, "");
    assert!(stdout.contains("only orders may: PermissionDenied"), "{stdout}");
    assert!(stdout.contains(" 0 failed, 1 denied as it should be"), "{stdout}");
    for service in ["users", "products", "payments", "orders", "storefront"] {
        let rows = stdout.lines().filter(|line| line.starts_with(service) && line.contains("100.00%"));
        assert!(rows.count() > 0, "no calls to {service} in\n{stdout}");
    }
    // Piped, it prints plain lines.
    assert!(!stdout.contains('\x1b'));
    demo.assert_no_process_is_left();
    demo.assert_no_file_is_left(demo.temporary.path());
}

#[test]
fn a_sigterm_ends_a_running_demo_in_order() {
    let demo = Demo::new();
    let (mut child, lines) = demo.start("100.00%");
    assert!(demo.processes().len() >= 15, "seven apps, seven sidecars, and the demo");
    send(libc::SIGTERM, &child);
    let last: Vec<_> = lines.collect();
    let status = child.wait().expect("a status");
    assert!(status.success(), "{status}: {last:?}");
    demo.assert_no_process_is_left();
    demo.assert_no_file_is_left(demo.temporary.path());
}

#[test]
fn a_sigterm_during_the_start_leaves_nothing() {
    let demo = Demo::new();
    let (mut child, _lines) = demo.start("starting");
    send(libc::SIGTERM, &child);
    assert_eq!(child.wait().expect("a status").code(), Some(1));
    demo.assert_no_process_is_left();
    demo.assert_no_file_is_left(demo.temporary.path());
}

#[test]
fn a_killed_demo_takes_its_processes_along() {
    let demo = Demo::new();
    let (mut child, _lines) = demo.start("100.00%");
    send(libc::SIGKILL, &child);
    child.wait().expect("a status");
    demo.assert_no_process_is_left();
}

#[test]
fn a_start_error_names_the_process_and_leaves_nothing() {
    let demo = Demo::new();
    // No Unix socket can be made below so long a name, so the first sidecar gives up.
    let long = demo.temporary.path().join("x".repeat(120));
    fs::create_dir(&long).expect("a folder");
    let output = demo.command(&long, &["--for", "3s"]).output().expect("our own binary");
    let stderr = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.contains("sidecar of users: "), "{stderr}");
    demo.assert_no_process_is_left();
    demo.assert_no_file_is_left(&long);
}
