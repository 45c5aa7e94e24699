//! What a control plane costs: how fast a change reaches everybody, and memory, CPU and bytes for a large mesh.
//!
//! The control plane is a process of its own, over mTLS on loopback; the clients are [`Subscriber`]s in this one.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::certs::{Ca, LeafSpec, write_identity};
use crate::process::{START_MAX, cpu, die_with_parent, rss_bytes};
use crate::subscriber::{Subscriber, TYPES, envoy, sidecar};
use crate::tls::{TlsIdentity, client_config};

/// Nothing here takes longer.
const STEP_MAX: Duration = Duration::from_secs(120);
/// Connections that are opened at a time.
const CONNECTING: usize = 32;
/// Services that each sidecar of a large mesh calls.
const CALLED: usize = 10;
/// How long, and how often a second, an endpoint comes and goes.
const FLAPPING: Duration = Duration::from_secs(5);
const FLAPS_PER_SECOND: u32 = 100;

/// What was measured.
#[derive(Debug, Serialize)]
pub struct ControlFigures {
    /// Every sidecar holds the whole mesh; one endpoint in a file changes.
    pub change: Change,
    /// Each sidecar holds ten services of a large mesh.
    pub sidecars: Crowd,
    /// Each Envoy holds the whole of it.
    pub envoys: Crowd,
}

/// How a change of a file reaches everybody.
#[derive(Debug, Serialize)]
pub struct Change {
    /// Sidecars that are connected.
    pub sidecars: usize,
    /// Services, all held by each sidecar.
    pub services: usize,
    /// Changes made, one after the other.
    pub changes: usize,
    /// From the rename of the file to the ACK of a sidecar, in milliseconds: half of all, 99 of 100, and the slowest.
    pub ms_p50: f64,
    /// See `ms_p50`.
    pub ms_p99: f64,
    /// See `ms_p50`.
    pub ms_max: f64,
    /// Bytes that a sidecar got for a change.
    pub bytes_per_sidecar: f64,
    /// Bytes that a sidecar got when it came.
    pub first_bytes_per_sidecar: f64,
}

/// What many clients cost.
#[derive(Debug, Serialize)]
pub struct Crowd {
    /// Clients that are connected.
    pub clients: usize,
    /// Services of the mesh, with ten endpoints each.
    pub services: usize,
    /// Services that each client holds.
    pub held: usize,
    /// Resident memory before the first client, in bytes.
    pub start_rss_bytes: u64,
    /// Resident memory with all of them, in bytes.
    pub rss_bytes: u64,
    /// From the first connection until the last client holds everything, in seconds, with their own work in it.
    pub first_push_seconds: f64,
    /// CPU of the control plane for that, in seconds, handshakes included.
    pub first_push_cpu_seconds: f64,
    /// Bytes that one client got.
    pub first_push_bytes_per_client: f64,
    /// Clients that hold the endpoint that comes and goes, 100 times a second.
    pub flap_watchers: usize,
    /// Pushes that each of them got in a second: bursts are merged.
    pub flap_pushes_per_second: f64,
    /// Bytes of one such push.
    pub flap_bytes_per_push: f64,
    /// CPU of the control plane meanwhile: 1 is a whole core.
    pub flap_cpu: f64,
    /// Resident memory after it, in bytes.
    pub flap_rss_bytes: u64,
}

/// Measures it. `binary`: `outrigger-control`; `scale` divides the numbers of clients and services.
///
/// # Errors
/// Names what went wrong, or what did not come within `STEP_MAX`.
pub async fn measure(binary: &Path, scale: usize) -> io::Result<ControlFigures> {
    let of = |count: usize| (count / scale).max(CALLED + 1);
    Ok(ControlFigures {
        change: change(binary, of(200), of(200), 30).await?,
        sidecars: crowd(binary, of(1_000), of(1_000), false).await?,
        envoys: crowd(binary, of(50), of(1_000), true).await?,
    })
}

async fn change(binary: &Path, sidecars: usize, services: usize, changes: usize) -> io::Result<Change> {
    let plane = Plane::start(binary, &mesh(services, 1, 1), services).await?;
    let names = names(0..services);
    let (told, mut acked) = mpsc::channel(4_096);
    let mut clients = JoinSet::new();
    let connected = plane.crowd(sidecars, |n| sidecar(&format!("c{n}"), &[])).await?;
    for mut client in connected {
        for type_url in TYPES {
            client.ask(type_url, &names)?;
        }
        let told = told.clone();
        clients.spawn(async move {
            client.until_holding(4 * services).await?;
            follow(client, told).await
        });
    }
    let mut first_bytes = 0;
    for _ in 0..sidecars {
        first_bytes += within("the first push", acked.recv()).await?.map_or(0, |(_, bytes)| bytes);
    }
    let (mut latencies, mut bytes) = (Vec::new(), 0);
    for change in 0..changes {
        let began = plane.write(&mesh(services, 1, 2 + change))?;
        for _ in 0..sidecars {
            let Some((at, more)) = within("a change", acked.recv()).await? else { break };
            latencies.push(at.duration_since(began).as_secs_f64() * 1_000.0);
            bytes += more;
        }
    }
    latencies.sort_by(f64::total_cmp);
    let quantile = |q: f64| latencies[((latencies.len() - 1) as f64 * q).round() as usize];
    Ok(Change {
        sidecars,
        services,
        changes,
        ms_p50: quantile(0.5),
        ms_p99: quantile(0.99),
        ms_max: quantile(1.0),
        bytes_per_sidecar: bytes as f64 / latencies.len() as f64,
        first_bytes_per_sidecar: first_bytes as f64 / sidecars as f64,
    })
}

async fn crowd(binary: &Path, clients: usize, services: usize, whole: bool) -> io::Result<Crowd> {
    let plane = Plane::start(binary, &mesh(services, 10, 1), 1).await?;
    let start_rss_bytes = plane.rss()?;
    let (began, cpu_before) = (Instant::now(), plane.cpu()?);
    let node = |n: usize| match whole {
        true => envoy(&format!("e{n}")),
        false => sidecar(&format!("c{n}"), &[]),
    };
    let connected = plane.crowd(clients, node).await?;
    let (told, mut ready) = mpsc::channel(4_096);
    let mut tasks = JoinSet::new();
    for (n, mut client) in connected.into_iter().enumerate() {
        let told = told.clone();
        tasks.spawn(async move {
            if whole {
                // Everything, as Envoy asks: clusters and listeners by wildcard, the rest by name.
                client.ask(TYPES[2], &[])?;
                client.until_holding(services).await?;
                client.ask(TYPES[3], &names(0..services))?;
                client.until_holding(2 * services).await?;
                client.ask(TYPES[0], &[])?;
                client.ask(TYPES[1], &["outbound".to_owned()])?;
                client.until_holding(2 * services + 2).await?;
            } else {
                let called = names((0..CALLED).map(|at| (n + at) % services));
                for type_url in TYPES {
                    client.ask(type_url, &called)?;
                }
                client.until_holding(4 * CALLED).await?;
            }
            follow(client, told).await
        });
    }
    let mut first_bytes = 0;
    for _ in 0..clients {
        first_bytes += within("the first push", ready.recv()).await?.map_or(0, |(_, bytes)| bytes);
    }
    let first_push_seconds = began.elapsed().as_secs_f64();
    let first_push_cpu_seconds = (plane.cpu()? - cpu_before).as_secs_f64();
    let rss_bytes = plane.rss()?;

    // The endpoint is one of `s0`, which everybody holds or a few do.
    let mut flapper = plane.connect(sidecar("flapper", &[])).await?;
    flapper.ask(TYPES[1], &[])?;
    flapper.take().await?;
    let (began, cpu_before) = (Instant::now(), plane.cpu()?);
    let (mut pushes, mut bytes, mut flaps) = (0_u64, 0_u64, 0_u32);
    while began.elapsed() < FLAPPING {
        let there = [("s0", "10.9.9.9:1".to_owned())];
        flapper.announce(sidecar("flapper", if flaps % 2 == 0 { &there } else { &[] }))?;
        flaps += 1;
        let due = began + Duration::from_secs(1) * flaps / FLAPS_PER_SECOND;
        while let Ok(Some((_, more))) =
            timeout(due.saturating_duration_since(Instant::now()), ready.recv()).await
        {
            pushes += 1;
            bytes += more;
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    let flap_cpu = (plane.cpu()? - cpu_before).as_secs_f64() / seconds;
    let flap_watchers = if whole { clients } else { CALLED.min(clients) };
    Ok(Crowd {
        clients,
        services,
        held: if whole { services } else { CALLED },
        start_rss_bytes,
        rss_bytes,
        first_push_seconds,
        first_push_cpu_seconds,
        first_push_bytes_per_client: first_bytes as f64 / clients as f64,
        flap_watchers,
        flap_pushes_per_second: pushes as f64 / flap_watchers as f64 / seconds,
        flap_bytes_per_push: bytes as f64 / pushes.max(1) as f64,
        flap_cpu,
        flap_rss_bytes: plane.rss()?,
    })
}

/// Tells when, and with how many bytes, a client got what it holds, and then each change.
async fn follow(mut client: Subscriber, told: mpsc::Sender<(Instant, u64)>) -> io::Result<()> {
    let _ = told.send((Instant::now(), client.bytes)).await;
    loop {
        let before = client.bytes;
        if !client.take().await?.resources.is_empty() {
            let _ = told.send((Instant::now(), client.bytes - before)).await;
        }
    }
}

/// Services `s0`, `s1`... with so many endpoints each; `turn` moves one endpoint of one service.
fn mesh(services: usize, endpoints: usize, turn: usize) -> String {
    let mut yaml = "version: 1\ntrust_domain: bench\nservices:\n".to_owned();
    for service in 0..services {
        yaml += &format!("- {{name: s{service}, namespace: bench, registration: true, endpoints: [");
        for endpoint in 0..endpoints {
            let port = if (service, endpoint) == (7, 0) { 1_000 + turn } else { 1_000 };
            yaml += &format!("\"10.{}.{}.{endpoint}:{port}\", ", service / 256, service % 256);
        }
        yaml += "]}\n";
    }
    yaml
}

fn names(services: impl Iterator<Item = usize>) -> Vec<String> {
    services.map(|service| format!("s{service}.bench")).collect()
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> io::Result<T> {
    timeout(STEP_MAX, future).await.map_err(|_| io::Error::other(format!("{what}: not within {STEP_MAX:?}")))
}

/// A control plane, killed when dropped.
struct Plane {
    child: Child,
    bound: Bound,
    dir: TempDir,
    tls: Arc<ClientConfig>,
    /// Held open, so that its prints never meet a closed pipe.
    _stdout: BufReader<ChildStdout>,
}

/// The first line on its stdout.
#[derive(Debug, Deserialize)]
struct Bound {
    pid: u32,
    ads: SocketAddr,
}

impl Plane {
    async fn start(binary: &Path, mesh: &str, on_demand_above: usize) -> io::Result<Self> {
        let dir = tempfile::tempdir()?;
        let ca = Ca::new("bench");
        let own = LeafSpec {
            uris: vec!["spiffe://bench/control".to_owned()],
            addresses: vec!["127.0.0.1".parse().map_err(io::Error::other)?],
            ..LeafSpec::default()
        };
        write_identity(dir.path(), &ca.leaf_with(&own), ca.bundle_pem())?;
        std::fs::create_dir(dir.path().join("mesh"))?;
        std::fs::write(dir.path().join("mesh/mesh.yaml"), mesh)?;
        let yaml = format!(
            "mesh: mesh/\nads: {{listen: 127.0.0.1:0}}\nadmin: {{listen: 127.0.0.1:0}}\n\
             identity: {{cert: tls.crt, key: tls.key, bundle: ca.crt}}\non_demand_above: {on_demand_above}\n"
        );
        std::fs::write(dir.path().join("control.yaml"), yaml)?;
        let mut command = Command::new(binary);
        command.arg("control.yaml").current_dir(dir.path()).stdin(Stdio::null()).stdout(Stdio::piped());
        die_with_parent(&mut command);
        let mut child = command.kill_on_drop(true).spawn()?;
        let stdout = child.stdout.take().ok_or_else(|| io::Error::other("stdout is piped"))?;
        let mut stdout = BufReader::new(stdout);
        let mut line = String::new();
        timeout(START_MAX, stdout.read_line(&mut line)).await??;
        let bound = serde_json::from_str(&line)
            .map_err(|fault| io::Error::other(format!("{} printed {line:?}: {fault}", binary.display())))?;
        // Any service will do for those who only read; the one that registers stands for `s0`.
        let client = TlsIdentity::mutual(&ca.leaf("spiffe://bench/ns/bench/sa/s0"), ca.bundle_pem());
        Ok(Self { child, bound, dir, tls: client_config(&client)?, _stdout: stdout })
    }

    async fn connect(&self, node: envoy_types::pb::envoy::config::core::v3::Node) -> io::Result<Subscriber> {
        within("a connection", Subscriber::connect(self.bound.ads, self.tls.clone(), node)).await?
    }

    /// Many clients, a few connecting at a time.
    async fn crowd(
        &self,
        count: usize,
        node: impl Fn(usize) -> envoy_types::pb::envoy::config::core::v3::Node,
    ) -> io::Result<Vec<Subscriber>> {
        let (mut connecting, mut connected) = (JoinSet::new(), HashMap::new());
        let mut next = 0;
        while connected.len() < count {
            while next < count && connecting.len() < CONNECTING {
                let (addr, tls, node, at) = (self.bound.ads, self.tls.clone(), node(next), next);
                connecting.spawn(async move { (at, Subscriber::connect(addr, tls, node).await) });
                next += 1;
            }
            let done = within("a connection", connecting.join_next()).await?;
            let (at, client) = done.ok_or_else(|| io::Error::other("nobody connects"))??;
            connected.insert(at, client?);
        }
        let mut connected: Vec<_> = connected.into_iter().collect();
        connected.sort_by_key(|(at, _)| *at);
        Ok(connected.into_iter().map(|(_, client)| client).collect())
    }

    /// Puts another mesh in place at once, and says when that was.
    fn write(&self, mesh: &str) -> io::Result<Instant> {
        let new = self.dir.path().join("mesh.new");
        std::fs::write(&new, mesh)?;
        let began = Instant::now();
        std::fs::rename(new, self.dir.path().join("mesh/mesh.yaml"))?;
        Ok(began)
    }

    fn rss(&self) -> io::Result<u64> {
        rss_bytes(self.bound.pid)
    }

    fn cpu(&self) -> io::Result<Duration> {
        cpu(self.bound.pid)
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        let _ = self.child.start_kill();
    }
}
