//! Pods on one wire: each a network namespace with an address of both protocols, tied to a bridge by veth.
//!
//! ```text
//!   pod 1 (eth0) -- veth1 \
//!   pod 2 (eth0) -- veth2 -- bridge 10.88.0.1, fd88::1 -- the test's thread
//! ```

use std::fs::{self, File, Permissions};
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use bench::certs::{Ca, write_identity};
use bench::process::Sidecar;
use tempfile::TempDir;

use crate::namespace::Namespace;

/// The trust domain of the mesh.
const TRUST_DOMAIN: &str = "cluster.local";
/// Who sidecars run as, and whom the rules leave alone.
pub(crate) const SIDECAR_UID: u32 = 1337;
/// Where the sidecars of all pods let redirected connections in.
pub(crate) const INBOUND: u16 = 15_006;
/// And where out.
pub(crate) const OUTBOUND: u16 = 15_001;
/// Probes and metrics of all pods.
pub(crate) const PROBES: u16 = 15_020;

/// How many tests were skipped so far.
static SKIPPED: AtomicU32 = AtomicU32::new(0);

/// A wire with pods on it. The thread that opens it stands at the bridge from then on.
pub(crate) struct Cluster {
    bridge: Namespace,
    pods: AtomicU8,
    pub(crate) ca: Ca,
    folder: TempDir,
    // The binary may lie in a folder that only root can enter; a descriptor of it can be run by anybody.
    outrigger: File,
}

impl Cluster {
    /// An empty wire; `None` where namespaces cannot be made or tools are missing, which is told and counted.
    ///
    /// # Panics
    /// When something is missing and `OUTRIGGER_INTEROP=required` says that nothing may be.
    pub(crate) async fn open() -> Option<Self> {
        let missing = ["ip", "nft", "iptables-restore"].into_iter().find(|tool| !is_installed(tool));
        let bridge = match (missing, Namespace::new()) {
            (None, Ok(bridge)) => bridge,
            (Some(tool), _) => return skip(&format!("{tool} is not installed")),
            (None, Err(error)) => return skip(&format!("no network namespace can be made: {error}")),
        };
        bridge.enter();
        for line in [
            "ip link set lo up",
            "ip link add bridge0 type bridge",
            "ip addr add 10.88.0.1/24 dev bridge0",
            "ip addr add fd88::1/64 dev bridge0 nodad",
            "ip link set bridge0 up",
        ] {
            bridge.run(line).await;
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("our own folder");
        let outrigger = File::open(env!("CARGO_BIN_EXE_outrigger")).expect("our own binary");
        Some(Self { bridge, pods: AtomicU8::new(0), ca: Ca::new(TRUST_DOMAIN), folder, outrigger })
    }

    /// A `mesh.yaml`: the services of all pods, with these endpoints; `reports` is another app in the pod of
    /// `payments`.
    pub(crate) fn mesh(&self, endpoints: &[(&str, SocketAddr)]) -> String {
        let mut yaml = "version: 1\nservices:\n".to_owned();
        for (name, account) in [("orders", "orders"), ("payments", "payments"), ("reports", "payments")] {
            let endpoints = endpoints.iter().filter(|(service, _)| *service == name);
            let endpoints: Vec<String> = endpoints.map(|(_, endpoint)| format!("\"{endpoint}\"")).collect();
            let endpoints = endpoints.join(", ");
            // By default two seconds to connect, which a handshake may take on a loaded machine.
            yaml += &format!(
                "  - name: {name}\n    namespace: shop\n    upstream: {{connect_timeout: 20s}}\n    \
                 identities: [spiffe://{TRUST_DOMAIN}/ns/shop/sa/{account}]\n    endpoints: [{endpoints}]\n"
            );
        }
        yaml
    }

    /// A new pod, beside which a sidecar of `service` may stand.
    pub(crate) async fn pod(&self, service: &str) -> Pod {
        let number = self.pods.fetch_add(1, Ordering::Relaxed) + 1;
        let namespace = Namespace::new().expect("another namespace");
        // SAFETY: a plain system call. The kernel finds the namespace of a thread by its id.
        let here = unsafe { libc::gettid() };
        for line in [
            "ip link set lo up".to_owned(),
            format!("ip link add eth0 type veth peer name veth{number} netns {here}"),
            format!("ip addr add 10.88.0.{}/24 dev eth0", 10 + number),
            format!("ip addr add fd88::{}/64 dev eth0 nodad", 10 + number),
            "ip link set eth0 up".to_owned(),
            "ip route add default via 10.88.0.1".to_owned(),
            "ip route add default via fd88::1".to_owned(),
        ] {
            namespace.run(&line).await;
        }
        self.bridge.run(&format!("ip link set veth{number} master bridge0 up")).await;
        let folder = self.folder.path().join(number.to_string());
        fs::create_dir(&folder).expect("a folder");
        let leaf = self.ca.leaf(&format!("spiffe://{TRUST_DOMAIN}/ns/shop/sa/{service}"));
        write_identity(&folder, &leaf, self.ca.bundle_pem()).expect("files of an identity");
        chown(&folder, Some(SIDECAR_UID), Some(SIDECAR_UID)).expect("we are root");
        Pod {
            namespace,
            v4: Ipv4Addr::new(10, 88, 0, 10 + number),
            v6: format!("fd88::{}", 10 + number).parse().expect("an address"),
            interface: format!("veth{number}"),
            service: service.to_owned(),
            folder,
            outrigger: format!("/proc/self/fd/{}", self.outrigger.as_raw_fd()).into(),
        }
    }
}

/// A pod: its app is the test itself or a program, run as root; its sidecar is a process of the user 1337.
pub(crate) struct Pod {
    pub(crate) namespace: Namespace,
    pub(crate) v4: Ipv4Addr,
    pub(crate) v6: Ipv6Addr,
    /// Its end of the wire at the bridge.
    pub(crate) interface: String,
    pub(crate) folder: PathBuf,
    service: String,
    outrigger: PathBuf,
}

impl Pod {
    /// A port at its IPv4 address.
    pub(crate) fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.v4), port)
    }

    /// A port at its IPv6 address.
    pub(crate) fn at_v6(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V6(self.v6), port)
    }

    /// Writes `sidecar.yaml`: the head that all share, and `more`.
    pub(crate) fn configure(&self, more: &str) {
        self.configure_with("{file: mesh.yaml}", more);
    }

    /// [`Pod::configure`] with a mesh from elsewhere: the value of the key `mesh`.
    pub(crate) fn configure_with(&self, mesh: &str, more: &str) {
        let (service, at) = (&self.service, self.at(PROBES));
        let yaml = format!(
            "service: {service}\nnamespace: shop\nidentity: {{cert: tls.crt, key: tls.key, bundle: ca.crt}}\n\
             admin: {{listen: 127.0.0.1:15000, socket: admin.sock}}\nprobes: {{listen: \"{at}\"}}\n\
             mesh: {mesh}\ndrain: {{lag: 1ms, deadline: 1s}}\n{more}"
        );
        fs::write(self.folder.join("sidecar.yaml"), yaml).expect("a file");
    }

    /// Runs `outrigger init sidecar.yaml` with more words, as root.
    ///
    /// # Panics
    /// When it fails; with what it said.
    pub(crate) async fn init(&self, words: &str) -> String {
        let output = self.try_init(words).await;
        assert!(output.status.success(), "init {words}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    /// Runs `outrigger init sidecar.yaml` with more words, as root.
    pub(crate) async fn try_init(&self, words: &str) -> Output {
        let mut command = self.namespace.command(&self.outrigger, 0);
        command.args(["init", "sidecar.yaml"]).args(words.split_whitespace()).current_dir(&self.folder);
        command.output().await.expect("our own binary")
    }

    /// Our binary, to be run in the pod as this user.
    pub(crate) fn command(&self, user: u32) -> tokio::process::Command {
        self.namespace.command(&self.outrigger, user)
    }

    /// Starts the sidecar of the file that [`Pod::configure`] wrote, as the user that the rules leave alone.
    pub(crate) async fn sidecar(&self, mesh: &str) -> Sidecar {
        self.sidecar_as(SIDECAR_UID, mesh).await
    }

    /// [`Pod::sidecar`] as another user.
    pub(crate) async fn sidecar_as(&self, user: u32, mesh: &str) -> Sidecar {
        fs::write(self.folder.join("mesh.yaml"), mesh).expect("a file");
        for file in fs::read_dir(&self.folder).expect("a folder").flatten() {
            chown(file.path(), Some(user), Some(user)).expect("we are root");
        }
        let mut command = self.namespace.command(&self.outrigger, user);
        command.args(["proxy", "sidecar.yaml"]).current_dir(&self.folder);
        Sidecar::spawn(command).await.expect("a sidecar")
    }
}

/// Tells that a test does not run, past the harness, which keeps what good tests print.
pub(crate) fn skip<T>(why: &str) -> Option<T> {
    let required = std::env::var("OUTRIGGER_INTEROP").is_ok_and(|word| word == "required");
    assert!(!required, "OUTRIGGER_INTEROP=required, and {why}");
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let count = SKIPPED.fetch_add(1, Ordering::Relaxed) + 1;
    let _ = writeln!(std::io::stderr(), "netns: {test} is skipped: {why} ({count} so far)");
    None
}

fn is_installed(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| Path::new(&folder).join(tool).is_file())
}
