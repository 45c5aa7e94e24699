//! Where the commands of a page are run.

use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::{BuildHasher, Hasher};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::commands::{COMMANDS, How};
use crate::pages::{blocks, readme_mesh};

/// A start, or a command, on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A folder in which commands of a page are run, on a loopback host of its own, since the pages have fixed
/// ports; what still runs is killed when it is dropped.
pub(crate) struct Desk {
    host: String,
    /// Where the next command runs.
    pub(crate) folder: PathBuf,
    /// The commands that serve, in the order of their start.
    pub(crate) running: Vec<(String, Child)>,
    home: TempDir,
}

impl Desk {
    pub(crate) fn new() -> Self {
        let home = tempfile::tempdir().expect("a folder");
        let [a, b, c, ..] = RandomState::new().build_hasher().finish().to_le_bytes();
        let host = format!("127.{}.{}.{}", 1 + a % 254, b, 1 + c % 254);
        let desk = Self { host, folder: home.path().to_owned(), running: Vec::new(), home };
        let programs = desk.home.path().join("programs");
        fs::create_dir(&programs).expect("a folder");
        let outrigger = programs.join("outrigger");
        symlink(env!("CARGO_BIN_EXE_outrigger"), &outrigger).expect("a link");
        let proxy = programs.join("outrigger-proxy");
        fs::write(&proxy, "#!/bin/sh\nexec outrigger proxy \"$@\"\n").expect("a script");
        fs::set_permissions(&proxy, PermissionsExt::from_mode(0o755)).expect("its mode");
        let good = desk.home.path().join("config/tests/good");
        fs::create_dir_all(&good).expect("a folder");
        fs::write(good.join("readme.yaml"), desk.here(&patient(&readme_mesh()))).expect("a file");
        desk
    }

    /// Runs the commands of a page from top to bottom.
    pub(crate) fn walk(&mut self, page: &str) {
        let blocks = blocks(page);
        for (i, block) in blocks.iter().enumerate().filter(|(_, block)| block.language == "sh") {
            let known =
                COMMANDS.iter().find(|(file, first, _)| *file == page && *first == block.first_line());
            let Some((_, _, how)) = known else { panic!("`{}` is not in COMMANDS", block.first_line()) };
            match how {
                How::Elsewhere(_) => {}
                How::Serve => self.serve(&block.text),
                How::Run => {
                    let shown = blocks.get(i + 1).filter(|block| block.language == "text");
                    self.prints(&block.text, shown.map(|shown| shown.text.trim()));
                }
            }
        }
    }

    /// Runs a command that prints this. What was started may take a moment to be ready, which a person would not see.
    fn prints(&mut self, command: &str, shown: Option<&str>) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let printed = self.run(command);
            match shown {
                Some(shown) if printed.trim() != shown => {
                    assert!(Instant::now() < deadline, "{command}\n{printed}\nis not\n{shown}");
                }
                _ => return,
            }
        }
    }

    /// Runs a script to its end and returns what it printed; the next one begins where it ended.
    pub(crate) fn run(&mut self, script: &str) -> String {
        let place = self.home.path().join("place");
        let script = format!("{}\npwd > '{}'", script.trim_end(), place.display());
        let Output { status, stdout, stderr } = self.bash(&script).output().expect("bash");
        let stdout = String::from_utf8_lossy(&stdout).into_owned();
        assert!(status.success(), "{script}\n{stdout}\n{}", String::from_utf8_lossy(&stderr));
        self.folder = PathBuf::from(fs::read_to_string(place).expect("a place").trim());
        stdout
    }

    /// Starts a command and waits for its first line.
    pub(crate) fn serve(&mut self, command: &str) {
        let mut child = self.bash(&format!("exec {command}")).stdout(Stdio::piped()).spawn().expect("bash");
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            let mut line = String::new();
            let read = stdout.read_line(&mut line);
            // Held open for as long as the command writes.
            let _ = tell.send(read.map(|_| line)).map(|()| stdout.lines().for_each(drop));
        });
        let line = told.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("`{command}` says nothing"));
        self.running.push((command.trim().to_owned(), child));
        let line = line.expect("a line");
        assert!(line.starts_with('{'), "`{}` says {line:?}", command.trim());
    }

    fn bash(&self, script: &str) -> Command {
        let path = std::env::var("PATH").unwrap_or_default();
        let path = format!("{}:{path}", self.home.path().join("programs").display());
        let mut bash = Command::new("bash");
        bash.args(["-euo", "pipefail", "-c", &self.here(script)]).current_dir(&self.folder);
        bash.env("PATH", path).env("TMPDIR", self.home.path()).stdin(Stdio::null());
        // SAFETY: prctl with PR_SET_PDEATHSIG is a plain system call and safe between fork and exec.
        unsafe {
            bash.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            });
        }
        bash
    }

    pub(crate) fn here(&self, text: &str) -> String {
        text.replace("127.0.0.1", &self.host)
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        for (_, child) in &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The mesh with more time for everything: a machine that stands still for two seconds is no fault of it.
fn patient(mesh: &str) -> String {
    let (deadline, defaults) = ("deadline: {default: 2s, max: 5s}", "defaults:\n");
    assert!(mesh.contains(deadline) && mesh.contains(defaults), "{mesh}");
    mesh.replace(deadline, "deadline: {default: 1m, max: 1m}")
        .replace(defaults, "defaults:\n  upstream: {connect_timeout: 1m}\n")
}
