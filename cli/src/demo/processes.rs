//! The demo's processes: started so that they end with us, read, and stopped within bounds.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::watch;
use tokio::time::timeout;

/// How long a process may take until its first line.
pub(crate) const FIRST_LINE_WAIT: Duration = Duration::from_secs(15);

/// How long a process may take to end after SIGTERM before it is killed. Longer than the apps' and the
/// sidecars' own waits, so that they can tell what held them up.
pub(crate) const STOP_WAIT: Duration = Duration::from_secs(15);

/// How many of a process's last lines on stderr are shown when it fails.
const LAST_WORDS: usize = 20;

/// A process of the demo.
#[derive(Debug)]
pub(crate) struct Process {
    /// What it is called in messages, such as `sidecar of orders-1`.
    pub(crate) name: String,
    child: Child,
    stdout: Option<Lines<BufReader<ChildStdout>>>,
    last_line: watch::Receiver<Option<Value>>,
    stderr: PathBuf,
}

impl Process {
    /// Starts our own executable with `args`. What it writes to stderr goes to a file in `folder`.
    pub(crate) fn start(name: &str, args: &[&str], folder: &Path) -> io::Result<Self> {
        let stderr = folder.join(format!("{}.log", name.replace(' ', "-")));
        let mut command = Command::new(std::env::current_exe()?);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(&stderr)?);
        // A group of its own: Ctrl-C is for us, and we stop the others in order.
        command.process_group(0).kill_on_drop(true);
        let parent = std::process::id();
        // SAFETY: only calls that are safe between fork and exec are made (prctl, getppid), and nothing is
        // allocated: the errors are plain numbers.
        unsafe { command.pre_exec(move || die_with(parent)) };
        let mut child = command.spawn().map_err(|error| io::Error::other(format!("{name}: {error}")))?;
        let stdout = child.stdout.take().map(|stdout| BufReader::new(stdout).lines());
        let (_, last_line) = watch::channel(None);
        Ok(Self { name: name.to_owned(), child, stdout, last_line, stderr })
    }

    /// Waits for the first line, which is JSON and says where the process listens, and goes on reading.
    pub(crate) async fn first_line(&mut self) -> Result<Value, String> {
        let mut stdout = self.stdout.take().ok_or_else(|| format!("{}: read already", self.name))?;
        let line = timeout(FIRST_LINE_WAIT, stdout.next_line()).await;
        let line = match line {
            Ok(Ok(Some(line))) => line,
            Ok(_) => return Err(self.failed("ended before it was ready")),
            Err(_) => return Err(self.failed(&format!("said nothing for {FIRST_LINE_WAIT:?}"))),
        };
        let parsed = serde_json::from_str(&line);
        let parsed = parsed.map_err(|_| self.failed(&format!("its first line is not JSON: {line}")))?;
        let (told, last_line) = watch::channel(None);
        self.last_line = last_line;
        // It ends with the process, whose end closes the pipe.
        tokio::spawn(async move {
            while let Ok(Some(line)) = stdout.next_line().await {
                if let Ok(line) = serde_json::from_str(&line) {
                    told.send_replace(Some(line));
                }
            }
        });
        Ok(parsed)
    }

    /// What the process printed last.
    pub(crate) fn last_line(&self) -> Option<Value> {
        self.last_line.borrow().clone()
    }

    /// An error if the process has ended by itself.
    pub(crate) fn still_runs(&mut self) -> Result<(), String> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.failed(&format!("ended by itself: {status}"))),
            Err(error) => Err(format!("{}: {error}", self.name)),
        }
    }

    /// Asks the process to end.
    pub(crate) fn terminate(&self) {
        self.signal(libc::SIGTERM);
    }

    /// Stops it where it stands, until [`Process::thaw`].
    pub(crate) fn freeze(&self) {
        self.signal(libc::SIGSTOP);
    }

    /// Lets it go on; nothing to one that runs.
    pub(crate) fn thaw(&self) {
        self.signal(libc::SIGCONT);
    }

    /// Kills it at once, without a word.
    pub(crate) fn kill(&self) {
        self.signal(libc::SIGKILL);
    }

    fn signal(&self, signal: libc::c_int) {
        if let Some(pid) = self.child.id() {
            // SAFETY: a plain system call; the pid is that of a child we have not reaped, so it is not reused.
            unsafe { libc::kill(pid.cast_signed(), signal) };
        }
    }

    /// Waits for the end of a process that was killed; how it ended is no news.
    pub(crate) async fn gone(mut self) {
        let _ = timeout(STOP_WAIT, self.child.wait()).await;
    }

    /// Waits until the process has ended and all it printed is read; kills it after [`STOP_WAIT`].
    pub(crate) async fn ended(&mut self) -> Result<(), String> {
        let status = timeout(STOP_WAIT, self.child.wait()).await;
        let Ok(status) = status else {
            // It may have ended in this very moment, which is as good.
            let _ = self.child.kill().await;
            return Err(self.failed(&format!("did not end within {STOP_WAIT:?} of SIGTERM and was killed")));
        };
        // The reader drops its end once the pipe is closed; `changed` then errs.
        let _ = timeout(STOP_WAIT, async { while self.last_line.changed().await.is_ok() {} }).await;
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(self.failed(&format!("ended with {status}"))),
            Err(error) => Err(format!("{}: {error}", self.name)),
        }
    }

    /// The failure, with the last words of the process.
    fn failed(&self, problem: &str) -> String {
        let words = fs::read_to_string(&self.stderr).unwrap_or_default();
        let lines: Vec<_> = words.lines().collect();
        let last = &lines[lines.len().saturating_sub(LAST_WORDS)..];
        let last: String = last.iter().map(|line| format!("\n    {line}")).collect();
        format!("{}: {problem}{last}", self.name)
    }
}

/// Stops all of `processes` together and returns what went wrong.
pub(crate) async fn stop_all(processes: &mut Vec<Process>) -> Vec<String> {
    for process in processes.iter() {
        process.terminate();
    }
    let mut faults = Vec::new();
    for mut process in processes.drain(..) {
        faults.extend(process.ended().await.err());
    }
    faults
}

/// Has the kernel kill this process when its parent dies, however that happens.
fn die_with(parent: u32) -> io::Result<()> {
    // SAFETY: plain system calls on the calling process.
    let (set, actual_parent) =
        unsafe { (libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL), libc::getppid()) };
    if set != 0 {
        return Err(io::Error::last_os_error());
    }
    // The parent may have died before the request was in place.
    if actual_parent.cast_unsigned() != parent {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    Ok(())
}
