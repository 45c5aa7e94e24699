//! The store as processes: two replicas of each service, each an app with a sidecar beside it, and one more
//! sidecar for the caller.

use std::collections::hash_map::RandomState;
use std::fmt::Write as _;
use std::hash::{BuildHasher, Hasher};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use bench::certs::{Ca, write_identity};
use bench::process::{Sidecar, die_with_parent};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

const OUTRIGGER: &str = env!("CARGO_BIN_EXE_outrigger");

const SERVICES: [&str; 4] = ["users", "products", "payments", "orders"];
const REPLICAS: usize = 2;

/// How long a process may take to its first line, and after SIGTERM to its end.
const PATIENCE: Duration = Duration::from_secs(60);

/// The store, open.
pub(crate) struct Store {
    folder: tempfile::TempDir,
    pub(crate) replicas: Vec<Replica>,
    /// The sidecar through which all calls come; it is not restarted.
    pub(crate) caller: Sidecar,
}

/// One replica of a service.
pub(crate) struct Replica {
    name: String,
    service: &'static str,
    addresses: Addresses,
    app: Child,
    sidecar: Sidecar,
}

/// What of a replica is restarted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    App,
    Sidecar,
}

/// Where a replica listens, the same after every restart.
#[derive(Clone, Copy)]
struct Addresses {
    app: SocketAddr,
    inbound: SocketAddr,
    outbound: SocketAddr,
}

impl Store {
    /// Starts every process.
    pub(crate) async fn open() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let plan = plan();
        write_files(folder.path(), &plan);
        let mut replicas = Vec::new();
        for (name, service, addresses) in plan {
            let app = start_app(service, addresses).await;
            let sidecar = start_sidecar(&folder.path().join(&name)).await;
            replicas.push(Replica { name, service, addresses, app, sidecar });
        }
        let caller = start_sidecar(&folder.path().join("caller")).await;
        Self { folder, replicas, caller }
    }

    /// Ends a part of a replica by SIGTERM and, once it has exited, starts it again.
    pub(crate) async fn restart(&mut self, index: usize, part: Part) {
        let folder = self.folder.path();
        let replica = &mut self.replicas[index];
        let began = std::time::Instant::now();
        let status = match part {
            Part::App => {
                terminate(&replica.app);
                timeout(PATIENCE, replica.app.wait()).await
            }
            Part::Sidecar => {
                replica.sidecar.term();
                timeout(PATIENCE, replica.sidecar.wait()).await
            }
        };
        let took = began.elapsed();
        let status = status.expect("it ends within a minute").expect("a status");
        assert!(status.success(), "{} {part:?}: {status}\n{}", replica.name, replica.sidecar.stderr());
        match part {
            Part::App => replica.app = start_app(replica.service, replica.addresses).await,
            Part::Sidecar => replica.sidecar = start_sidecar(&folder.join(&replica.name)).await,
        }
        println!("{} {part:?}: gone after {took:?}, back after {:?}", replica.name, began.elapsed());
    }

    /// What became of the attempts of the caller's sidecar, for people.
    pub(crate) async fn attempts(&self) -> String {
        let metrics = self.caller.metrics().await.expect("a scrape");
        let mut text = String::new();
        for sample in metrics.matching("outrigger_attempts_total", &[]).filter(|sample| sample.value > 0.0) {
            let labels: Vec<_> = sample.labels.iter().map(|(_, value)| value.as_str()).collect();
            let _ = write!(text, "{} {}; ", labels.join(" "), sample.value);
        }
        text
    }
}

/// Names and addresses of all replicas, on a loopback host that no other test uses: nobody takes a port
/// there while its process is away.
fn plan() -> Vec<(String, &'static str, Addresses)> {
    let [a, b, c, ..] = RandomState::new().build_hasher().finish().to_ne_bytes();
    let host = IpAddr::V4(Ipv4Addr::new(127, a.max(1), b, c.clamp(1, 254)));
    // All are held until all are known, or one could be given out twice.
    let mut held = Vec::new();
    let mut address = || {
        let listener = TcpListener::bind((host, 0)).expect("a loopback address");
        let address = listener.local_addr().expect("an address");
        held.push(listener);
        address
    };
    let mut plan = Vec::new();
    for service in SERVICES {
        for number in 1..=REPLICAS {
            let addresses = Addresses { app: address(), inbound: address(), outbound: address() };
            plan.push((format!("{service}-{number}"), service, addresses));
        }
    }
    plan
}

fn write_files(folder: &Path, plan: &[(String, &'static str, Addresses)]) {
    let ca = Ca::new("cluster.local");
    let mesh = mesh_yaml(plan);
    let write = |name: &str, service: &str, sidecar: &str| {
        let own = folder.join(name);
        std::fs::create_dir(&own).expect("a folder");
        let leaf = ca.leaf(&format!("spiffe://cluster.local/ns/shop/sa/{service}"));
        write_identity(&own, &leaf, ca.bundle_pem()).expect("certificates");
        std::fs::write(own.join("mesh.yaml"), &mesh).expect("a file");
        std::fs::write(own.join("sidecar.yaml"), sidecar).expect("a file");
    };
    for (name, service, Addresses { app, inbound, outbound }) in plan {
        let ways = format!(
            "inbound: [{{listen: \"{inbound}\", app: \"{app}\", mtls: strict}}]\n\
             outbound: {{listen: \"{outbound}\"}}\n"
        );
        write(name, service, &sidecar_yaml(service, &ways));
    }
    write("caller", "caller", &sidecar_yaml("caller", "outbound: {listen: \"127.0.0.1:0\"}\n"));
}

fn sidecar_yaml(service: &str, ways: &str) -> String {
    // Watches of orders are open until it is over, which each restart of their sidecars waits for. Everything
    // else has ended long before, unless the machine stands still.
    let deadline = if service == "orders" { "6s" } else { "15s" };
    format!(
        "service: {service}\n\
         namespace: shop\n\
         identity: {{cert: tls.crt, key: tls.key, bundle: ca.crt}}\n\
         {ways}\
         admin: {{listen: \"127.0.0.1:0\", socket: sidecar.sock}}\n\
         probes: {{listen: \"127.0.0.1:0\"}}\n\
         mesh: {{file: mesh.yaml}}\n\
         drain: {{lag: 200ms, deadline: {deadline}}}\n"
    )
}

fn mesh_yaml(plan: &[(String, &'static str, Addresses)]) -> String {
    let mut yaml = "version: 1\nservices:\n".to_owned();
    for service in SERVICES {
        let inbound = plan.iter().filter(|(_, of, _)| *of == service).map(|(.., at)| at.inbound.to_string());
        let endpoints: Vec<_> = inbound.map(|at| format!("\"{at}\"")).collect();
        let _ = writeln!(yaml, "  - name: {service}\n    namespace: shop");
        // By default two seconds, which a handshake may take on a loaded machine.
        let _ = writeln!(yaml, "    upstream: {{connect_timeout: 20s}}");
        let _ = writeln!(yaml, "    endpoints: [{}]", endpoints.join(", "));
    }
    yaml + "  - {name: caller, namespace: shop}\n"
}

async fn start_app(service: &str, addresses: Addresses) -> Child {
    let mut command = Command::new(OUTRIGGER);
    command.args(["store", service, "--listen", &addresses.app.to_string()]);
    if service == "orders" {
        command.args(["--mesh", &format!("http://{}", addresses.outbound)]);
    }
    die_with_parent(&mut command);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().expect("our own binary");
    let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let line = timeout(PATIENCE, lines.next_line()).await.expect("a line within a minute");
    let line = line.expect("text").unwrap_or_default();
    assert!(line.contains(&addresses.app.to_string()), "{service} does not listen: {line}");
    // Some apps go on printing; the task ends with the pipe.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    child
}

async fn start_sidecar(folder: &PathBuf) -> Sidecar {
    let mut command = Command::new(OUTRIGGER);
    command.args(["proxy", "sidecar.yaml"]).current_dir(folder);
    Sidecar::spawn(command).await.unwrap_or_else(|fault| panic!("sidecar in {}: {fault}", folder.display()))
}

fn terminate(child: &Child) {
    let pid = child.id().expect("it has not been waited for");
    // SAFETY: kill takes no pointers, and the id is that of our own child.
    unsafe { libc::kill(pid.cast_signed(), libc::SIGTERM) };
}
