//! What many clients of a large mesh cost: when they come, and while one endpoint comes and goes.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::core::v3::Node;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::control::ground::{CALLED, Ground, names, within};
use crate::subscriber::{Subscriber, TYPES, Take, envoy, sidecar};

/// Endpoints of each service.
const ENDPOINTS: usize = 10;
/// How long, and how often a second, an endpoint comes and goes.
const FLAPPING: Duration = Duration::from_secs(10);
const FLAPS_PER_SECOND: u32 = 100;

/// Who the clients are, and what they ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Sidecars, each of which asks for ten services by name.
    OnDemand,
    /// Sidecars of a mesh that is shown to all of them.
    Everything,
    /// Envoys.
    Envoy,
}

/// What they cost.
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
    /// From the first connection until the last client holds everything, in seconds, with the clients' own work in it.
    pub first_push_seconds: f64,
    /// CPU of the control plane for that, in seconds, handshakes and encoding included.
    pub first_push_cpu_seconds: f64,
    /// Bytes that one client got, before HTTP/2 and TLS.
    pub first_push_bytes_per_client: f64,
    /// How often a second an endpoint came or went.
    pub flaps_per_second: f64,
    /// Clients that hold the service whose endpoint comes and goes.
    pub flap_watchers: usize,
    /// Pushes that each of them got in a second: bursts are merged.
    pub flap_pushes_per_second: f64,
    /// Bytes of one such push.
    pub flap_bytes_per_push: f64,
    /// Bytes of all pushes in a second.
    pub flap_bytes_per_second: f64,
    /// CPU of the control plane meanwhile: 1 is a whole core.
    pub flap_cpu: f64,
    /// Resident memory after it, in bytes.
    pub flap_rss_bytes: u64,
}

impl Who {
    /// The node of the `n`th client.
    pub(crate) fn node(self, n: usize) -> Node {
        match self {
            Self::Envoy => envoy(&format!("e{n}")),
            Self::OnDemand | Self::Everything => sidecar(&format!("c{n}"), &[]),
        }
    }

    /// The services that the `n`th client holds.
    fn held(self, n: usize, services: usize) -> Vec<usize> {
        match self {
            Self::OnDemand => (0..CALLED.min(services)).map(|at| (n + at) % services).collect(),
            Self::Everything | Self::Envoy => (0..services).collect(),
        }
    }
}

/// Connects them, has them take everything that they ask for, and then an endpoint come and go.
pub(crate) async fn measure(binary: &Path, clients: usize, services: usize, who: Who) -> io::Result<Crowd> {
    let on_demand_above = if who == Who::OnDemand { 1 } else { services };
    let ground = Ground::start(binary, services, ENDPOINTS, on_demand_above).await?;
    let start_rss_bytes = ground.rss()?;
    let (began, cpu_before) = (Instant::now(), ground.cpu()?);
    let (told, mut takes) = mpsc::channel(4_096);
    let mut tasks = JoinSet::new();
    for (n, client) in ground.crowd(clients, |n| who.node(n)).await?.into_iter().enumerate() {
        let told = told.clone();
        tasks.spawn(async move { follow(begin(client, n, services, who).await?, told).await });
    }
    let mut first_bytes = 0;
    for _ in 0..clients {
        first_bytes += within("the first push", takes.recv()).await?.map_or(0, |take| take.bytes);
    }
    let first_push_seconds = began.elapsed().as_secs_f64();
    let first_push_cpu_seconds = ground.cpu()?.saturating_sub(cpu_before).as_secs_f64();
    let rss_bytes = ground.rss()?;

    // The endpoint is one of `s0`.
    let mut flapper = ground.connect(sidecar("flapper", &[])).await?;
    flapper.ask(TYPES[1], &[])?;
    flapper.take().await?;
    let (began, cpu_before) = (Instant::now(), ground.cpu()?);
    let (mut pushes, mut bytes, mut flaps) = (0_u64, 0_u64, 0_u32);
    while began.elapsed() < FLAPPING {
        let there = [("s0", "10.9.9.9:15006".to_owned())];
        flapper.announce(sidecar("flapper", if flaps % 2 == 0 { &there } else { &[] }))?;
        flaps += 1;
        let due = began + Duration::from_secs(1) * flaps / FLAPS_PER_SECOND;
        while let Ok(Some(take)) = timeout(due.saturating_duration_since(Instant::now()), takes.recv()).await
        {
            pushes += 1;
            bytes += take.bytes;
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    let flap_cpu = ground.cpu()?.saturating_sub(cpu_before).as_secs_f64() / seconds;
    let flap_watchers = (0..clients).filter(|n| who.held(*n, services).contains(&0)).count();
    Ok(Crowd {
        clients,
        services,
        held: who.held(0, services).len(),
        start_rss_bytes,
        rss_bytes,
        first_push_seconds,
        first_push_cpu_seconds,
        first_push_bytes_per_client: first_bytes as f64 / clients as f64,
        flaps_per_second: f64::from(flaps) / seconds,
        flap_watchers,
        flap_pushes_per_second: pushes as f64 / flap_watchers.max(1) as f64 / seconds,
        flap_bytes_per_push: bytes as f64 / pushes.max(1) as f64,
        flap_bytes_per_second: bytes as f64 / seconds,
        flap_cpu,
        flap_rss_bytes: ground.rss()?,
    })
}

/// Asks for what the `n`th client holds, as its kind asks, and takes all of it.
pub(crate) async fn begin(
    mut client: Subscriber,
    n: usize,
    services: usize,
    who: Who,
) -> io::Result<Subscriber> {
    let [listeners, routes, clusters, endpoints] = TYPES;
    let held = names(who.held(n, services).into_iter());
    match who {
        Who::OnDemand => {
            for type_url in TYPES {
                client.ask(type_url, &held)?;
            }
            client.until_holding(4 * held.len()).await?;
        }
        Who::Everything => {
            client.ask(listeners, &[])?;
            for type_url in [routes, clusters, endpoints] {
                client.ask(type_url, &held)?;
            }
            client.until_holding(4 * services).await?;
        }
        // Clusters and listeners by wildcard, the rest by name.
        Who::Envoy => {
            client.ask(clusters, &[])?;
            client.until_holding(services).await?;
            client.ask(endpoints, &held)?;
            client.until_holding(2 * services).await?;
            client.ask(listeners, &[])?;
            client.ask(routes, &["outbound".to_owned()])?;
            client.until_holding(2 * services + 2).await?;
        }
    }
    Ok(client)
}

/// Tells what a client got when it came, and then each change.
pub(crate) async fn follow(mut client: Subscriber, told: mpsc::Sender<Take>) -> io::Result<()> {
    let first = Take { at: Instant::now(), bytes: client.bytes, resource_bytes: 0, resources: 0 };
    let _ = told.send(first).await;
    loop {
        let take = client.take().await?;
        if take.resources > 0 {
            let _ = told.send(take).await;
        }
    }
}
