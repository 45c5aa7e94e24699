//! One process, one core: the proxy on one, load and echo on the other, so that neither is measured as the
//! other's noise.

use std::io;

use tokio::process::Command;

/// Which cores are used; `None`: too few to keep apart, and the figures are worth less.
#[derive(Clone, Copy, Debug)]
pub struct Cores {
    /// The proxy's.
    pub proxy: Option<usize>,
    /// That of load and echo.
    pub load: Option<usize>,
}

impl Cores {
    /// The first core for the proxy and the second for the rest; none on a machine with one.
    pub fn choose() -> Self {
        match std::thread::available_parallelism() {
            Ok(count) if count.get() >= 2 => Self { proxy: Some(0), load: Some(1) },
            _ => Self { proxy: None, load: None },
        }
    }
}

/// Pins the calling thread, and what it starts from now on.
///
/// # Errors
/// When the core is not ours to use.
pub fn pin_self(core: Option<usize>) -> io::Result<()> {
    core.map_or(Ok(()), pin)
}

/// Pins a child before it runs.
pub fn pin_child(command: &mut Command, core: Option<usize>) {
    let Some(core) = core else { return };
    // SAFETY: sched_setaffinity is a plain system call on a set of the stack, safe between fork and exec.
    unsafe { command.pre_exec(move || pin(core)) };
}

fn pin(core: usize) -> io::Result<()> {
    // SAFETY: the set is a plain array of bits, valid when zero, and lives through the call.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
