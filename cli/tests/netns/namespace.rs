//! Network namespaces without names: each lives as long as something holds it, so there is nothing to clean up,
//! however a test ends.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::pin::Pin;
use std::process::Output;
use std::task::{Context, Poll};

use tokio::process::Command;

/// A network namespace of its own, with loopback up.
#[derive(Debug)]
pub(crate) struct Namespace(File);

impl Namespace {
    /// Makes one. Needs CAP_SYS_ADMIN.
    pub(crate) fn new() -> io::Result<Self> {
        // Only the thread that calls it moves, and this one is gone at once.
        let made = std::thread::spawn(|| {
            // SAFETY: a plain system call.
            match unsafe { libc::unshare(libc::CLONE_NEWNET) } {
                0 => current(),
                _ => Err(io::Error::last_os_error()),
            }
        });
        Ok(Self(made.join().expect("it does not panic")?))
    }

    /// Moves this thread, and all that it starts from now on, into the namespace.
    pub(crate) fn enter(&self) {
        set(&self.0).expect("a namespace of our own");
    }

    /// Runs `work` in the namespace: sockets that it opens belong there for good.
    pub(crate) fn within<T>(&self, work: impl FnOnce() -> T) -> T {
        let _back = Visit::begin(&self.0);
        work()
    }

    /// A future that is polled in the namespace: sockets that it opens itself belong there. What it spawns
    /// does not.
    pub(crate) fn inside<F: Future>(&self, future: F) -> Inside<'_, F> {
        Inside { namespace: self, future: Box::pin(future) }
    }

    /// A program that runs in the namespace, as this user and a group of the same number.
    pub(crate) fn command(&self, program: &Path, user: u32) -> Command {
        let mut command = Command::new(program);
        let namespace = self.0.as_raw_fd();
        // SAFETY: system calls that are safe between fork and exec. `Command::uid` would come before the
        // namespace, which then could not be entered any more.
        unsafe {
            command.pre_exec(move || {
                let done = libc::setns(namespace, libc::CLONE_NEWNET) == 0
                    && (user == 0
                        || libc::setgroups(0, std::ptr::null()) == 0
                            && libc::setgid(user) == 0
                            && libc::setuid(user) == 0);
                if done { Ok(()) } else { Err(io::Error::last_os_error()) }
            });
        }
        command.kill_on_drop(true);
        command
    }

    /// Runs a line of words in the namespace, as root, to a good end.
    ///
    /// # Panics
    /// When it fails; with what it said.
    pub(crate) async fn run(&self, line: &str) -> String {
        let output = self.attempt(line).await;
        assert!(output.status.success(), "`{line}`: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    /// Runs a line of words in the namespace, as root.
    pub(crate) async fn attempt(&self, line: &str) -> Output {
        let mut words = line.split_whitespace();
        let mut command = self.command(Path::new(words.next().expect("a program")), 0);
        command.args(words).output().await.unwrap_or_else(|error| panic!("`{line}`: {error}"))
    }
}

/// See [`Namespace::inside`].
pub(crate) struct Inside<'n, F> {
    namespace: &'n Namespace,
    future: Pin<Box<F>>,
}

impl<F: Future> Future for Inside<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let _back = Visit::begin(&self.namespace.0);
        self.future.as_mut().poll(context)
    }
}

/// This thread is elsewhere until it is dropped.
struct Visit(File);

impl Visit {
    fn begin(to: &File) -> Self {
        let back = Self(current().expect("our own namespace"));
        set(to).expect("a namespace of our own");
        back
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        set(&self.0).expect("the namespace we came from");
    }
}

fn current() -> io::Result<File> {
    File::open("/proc/thread-self/ns/net")
}

fn set(namespace: &File) -> io::Result<()> {
    // SAFETY: a plain system call on a descriptor that is open.
    match unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Runs `work` as another user, as far as the kernel's look at sockets goes: what it opens belongs to that user.
pub(crate) fn as_user<T>(user: u32, work: impl FnOnce() -> T) -> T {
    // SAFETY: plain system calls that change this thread alone.
    unsafe { libc::setfsuid(user) };
    let result = work();
    // SAFETY: as above.
    unsafe { libc::setfsuid(0) };
    result
}
