//! Python with grpcio on both sides, neither of which is told of a proxy.

use std::ffi::{CStr, CString, c_char};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::ptr;
use std::time::Duration;

use bench::process::die_with_parent;
use bench::wait::{soon, until, within};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};

use crate::cluster::{Cluster, Pod, skip};
use crate::wire::Tap;

/// What a client takes for all its checks at most, on a machine that compiles beside it.
const CHECKS_MAX: Duration = Duration::from_secs(120);
/// Addresses of a Service: no pod has them.
const SERVICE: [&str; 2] = ["10.96.0.20", "fd96::20"];
/// What a call would show to whoever reads along: grpcio writes the path as it is.
const PATH: &[u8] = b"/interop.Echo/";

/// Two pods, each with a sidecar and the rules for both protocols.
struct Row {
    orders: Pod,
    payments: Pod,
    cluster: Cluster,
    python: PathBuf,
}

impl Row {
    async fn open() -> Option<Self> {
        let cluster = Cluster::open().await?;
        let python = std::env::var_os("OUTRIGGER_PYTHON").map_or_else(|| "python3".into(), PathBuf::from);
        let imports = std::process::Command::new(&python).args(["-c", "import grpc"]).output();
        if !imports.is_ok_and(|output| output.status.success()) {
            return skip(&format!("{} has no grpcio", python.display()));
        }
        let (orders, payments) = (cluster.pod("orders").await, cluster.pod("payments").await);
        orders.configure("outbound: {listen: 127.0.0.1:15001, listen_ipv6: \"[::1]:15001\"}\n");
        payments.configure("inbound: [{listen: \"[::]:15006\", app: 127.0.0.1:50051, mtls: strict}]\n");
        orders.init("").await;
        payments.init("").await;
        Some(Self { orders, payments, cluster, python })
    }

    /// Runs a server beside one sidecar and a client beside the other, whose name for the server leads to `at`.
    async fn check(&self, at: IpAddr, endpoint: SocketAddr, checks: &str) {
        let mesh = self.cluster.mesh(&[("payments", endpoint)]);
        let callee = self.payments.sidecar(&mesh).await;
        let caller = self.orders.sidecar(&mesh).await;
        let _server =
            Server::start(self.program(&self.payments, "server", &["--listen", "[::]:50051"])).await;
        let wire = Tap::here(&self.orders.interface);
        let inside = Tap::within(&self.orders.namespace, "lo");

        let [hosts, resolver] = ["hosts", "resolv.conf"].map(|name| self.orders.folder.join(name));
        std::fs::write(&hosts, format!("127.0.0.1 localhost\n{at} payments.shop\n")).expect("a file");
        // Nobody is there, which is known at once; a server elsewhere would be waited for.
        std::fs::write(&resolver, "nameserver 127.0.0.1\n").expect("a file");
        let words = ["--target", "payments.shop:50051", "--checks", checks];
        let mut client = self.program(&self.orders, "client", &words);
        with_files(&mut client, [(&hosts, c"/etc/hosts"), (&resolver, c"/etc/resolv.conf")]);
        let output = within(CHECKS_MAX, "all checks", client.output()).await.expect("a client");
        let lines = String::from_utf8(output.stdout).expect("text");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !lines.is_empty(), "{lines}{stderr}\n{}", caller.stderr());

        until("the calls inside the pod", async || !inside.with(PATH).is_empty()).await;
        assert_eq!(wire.with(PATH), [], "nothing is to be read on the wire");
        assert!(wire.bytes_to(endpoint) > 0, "the calls passed by this tap");
        let handled = callee.metrics().await.expect("a scrape").value("grpc_server_handled_total", &[]);
        assert!(handled >= lines.lines().count() as f64, "{handled} calls came in through the sidecar");
    }

    fn program(&self, pod: &Pod, name: &str, words: &[&str]) -> Command {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/python");
        let mut command = pod.namespace.command(&self.python, 0);
        command.arg(sources.join(format!("{name}.py"))).args(words);
        for variable in ["grpc_proxy", "http_proxy", "https_proxy", "no_proxy"] {
            command.env_remove(variable).env_remove(variable.to_uppercase());
        }
        die_with_parent(&mut command);
        command
    }
}

/// A server that listens; it ends when dropped.
struct Server {
    _child: Child,
    _stdout: BufReader<ChildStdout>,
}

impl Server {
    async fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("a server");
        let mut stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut line = String::new();
        soon("a server that listens", stdout.read_line(&mut line)).await.expect("a line");
        let told: Value = serde_json::from_str(&line).unwrap_or_else(|fault| panic!("{line:?}: {fault}"));
        assert_eq!(told["listen"], "[::]:50051");
        Self { _child: child, _stdout: stdout }
    }
}

/// Has a command find these files in the place of others.
fn with_files(command: &mut Command, files: [(&Path, &'static CStr); 2]) {
    let files = files.map(|(file, place)| {
        (CString::new(file.as_os_str().as_encoded_bytes()).expect("no zero in a path"), place)
    });
    // SAFETY: system calls that are safe between fork and exec, on texts that outlive them. What is mounted
    // here nobody else sees.
    unsafe {
        command.pre_exec(move || {
            let mount = |from: *const c_char, to: &CStr, flags| {
                libc::mount(from, to.as_ptr(), ptr::null(), flags, ptr::null()) == 0
            };
            let done = libc::unshare(libc::CLONE_NEWNS) == 0
                && mount(ptr::null(), c"/", libc::MS_REC | libc::MS_PRIVATE)
                && files.iter().all(|(file, place)| mount(file.as_ptr(), place, libc::MS_BIND));
            if done { Ok(()) } else { Err(io::Error::last_os_error()) }
        });
    }
}

#[tokio::test]
async fn a_python_client_reaches_a_python_server_by_redirection() {
    let Some(row) = Row::open().await else { return };
    let at = SERVICE[0].parse().expect("an address");
    row.check(at, row.payments.at(50_051), "all").await;
}

#[tokio::test]
async fn a_python_client_reaches_a_python_server_by_redirection_of_ipv6() {
    let Some(row) = Row::open().await else { return };
    let at = SERVICE[1].parse().expect("an address");
    row.check(at, row.payments.at_v6(50_051), "unary,server_stream,bidi_stream").await;
}
