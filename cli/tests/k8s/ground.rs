//! Where the processes of a pod run: as everything else here, or as in its containers, each with a static
//! binary, the user of its manifest, and nothing else in its file system than what is mounted.

use std::ffi::CString;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use serde_json::Value;
use tokio::process::Command;

const OUTRIGGER: &str = env!("CARGO_BIN_EXE_outrigger");

/// What an image holds.
pub(crate) const BINARIES: [&str; 3] = ["outrigger-proxy", "outrigger-control", "outrigger-store"];

/// What the kubelet writes behind the name server.
const SEARCH: &str = "search shop.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n";

/// Where processes run.
#[derive(Clone, Debug)]
pub(crate) enum Ground {
    /// From the binary that cargo made for this test.
    Here,
    /// From these static binaries, in an empty root. Only root can do that.
    Empty(PathBuf),
}

impl Ground {
    /// Static binaries that the environment names, if this process may change its root.
    pub(crate) fn empty() -> Result<Self, String> {
        // SAFETY: a plain system call.
        if unsafe { libc::geteuid() } != 0 {
            return Err("only root can run something in an empty root".to_owned());
        }
        let folder = std::env::var_os("OUTRIGGER_STATIC").map(PathBuf::from);
        let folder = folder.ok_or("no OUTRIGGER_STATIC: .ci/images makes static binaries")?;
        match BINARIES.iter().find(|binary| !folder.join(binary).exists()) {
            Some(missing) => Err(format!("no {missing} in {}", folder.display())),
            None => Ok(Self::Empty(folder)),
        }
    }

    /// Puts what the containers' images hold into the root of a pod, and gives what is mounted to its group.
    pub(crate) fn furnish(&self, root: &Path, group: u32, server: SocketAddr) {
        let Self::Empty(binaries) = self else { return };
        fs::write(root.join("etc/resolv.conf"), format!("nameserver {}\n{SEARCH}", server.ip()))
            .expect("a file");
        for binary in BINARIES.iter().filter(|binary| !root.join(binary).exists()) {
            fs::copy(binaries.join(binary), root.join(binary)).expect("a copy");
        }
        let runs = ["run/outrigger", "run/identity"].map(|inside| root.join(inside));
        for run in runs.iter().filter(|run| run.exists()) {
            chown(run, None, Some(group)).expect("a group");
            fs::set_permissions(run, fs::Permissions::from_mode(0o2777)).expect("a mode");
        }
        for mounted in
            ["etc/outrigger/..data", "etc/mesh/..data", "etc/ca/..data"].map(|inside| root.join(inside))
        {
            for file in fs::read_dir(mounted).into_iter().flatten() {
                let file = file.expect("an entry").path();
                chown(&file, None, Some(group)).expect("a group");
                fs::set_permissions(&file, fs::Permissions::from_mode(0o440)).expect("a mode");
            }
        }
    }

    /// Where the name server of this ground listens: a `resolv.conf` has no port.
    pub(crate) fn name_server(&self, host: Ipv4Addr) -> SocketAddr {
        SocketAddr::from((host, if matches!(self, Self::Here) { 0 } else { 53 }))
    }

    /// What the sidecar's file says of the name server, if the pod cannot be told as pods are.
    pub(crate) fn dns(&self, server: SocketAddr) -> String {
        match self {
            Self::Here => format!("dns: {{servers: [\"{server}\"]}}\n"),
            Self::Empty(_) => String::new(),
        }
    }

    /// Where a folder of a pod is, as its processes see it.
    pub(crate) fn place(&self, root: &Path, inside: &str) -> PathBuf {
        match self {
            Self::Here => root.join(inside),
            Self::Empty(_) => Path::new("/").join(inside),
        }
    }

    /// The sidecar of the pod whose root this is; `words` stand where a container's `args` stand.
    pub(crate) fn sidecar(&self, root: &Path, words: &[String], context: &Value) -> Command {
        match self {
            Self::Here => {
                let mut command = Command::new(OUTRIGGER);
                command.arg("proxy").args(words).arg(root.join("etc/outrigger/sidecar.yaml"));
                command
            }
            // It finds its file by itself.
            Self::Empty(_) => contained("/outrigger-proxy", root, words, context),
        }
    }

    /// The control plane of the pod whose root this is.
    pub(crate) fn control(&self, root: &Path, context: &Value) -> Command {
        match self {
            Self::Here => {
                let mut command = Command::new(OUTRIGGER);
                command.arg("control").arg(root.join("etc/outrigger/control.yaml"));
                command
            }
            Self::Empty(_) => contained("/outrigger-control", root, &[], context),
        }
    }

    /// An app of the store.
    pub(crate) fn app(&self, root: &Path, words: &[String], context: &Value) -> Command {
        match self {
            Self::Here => {
                let mut command = Command::new(OUTRIGGER);
                command.arg("store").args(words);
                command
            }
            Self::Empty(_) => contained("/outrigger-store", root, words, context),
        }
    }
}

/// A process that sees nothing but `root`, as the user and with the groups of this security context.
fn contained(program: &str, root: &Path, words: &[String], context: &Value) -> Command {
    let id = |key: &str| u32::try_from(context[key].as_u64().expect("an id")).expect("an id");
    let (user, group) = (id("runAsUser"), id("fsGroup"));
    let root = CString::new(root.as_os_str().as_bytes()).expect("a path");
    let mut command = Command::new(program);
    command.args(words).env_clear();
    // SAFETY: only system calls, which are safe between fork and exec, on a path that was made before.
    unsafe {
        command.pre_exec(move || {
            done(libc::chroot(root.as_ptr()))?;
            done(libc::chdir(c"/".as_ptr()))?;
            done(libc::setgroups(1, &raw const group))?;
            done(libc::setgid(user))?;
            done(libc::setuid(user))
        });
    }
    command
}

fn done(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
