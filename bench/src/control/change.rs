//! How one change reaches many sidecars that all hold the whole mesh.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::control::crowd::{Who, begin, follow};
use crate::control::ground::{Ground, within};
use crate::measure::Spread;
use crate::subscriber::{Subscriber, TYPES, Take, sidecar};

/// Between two changes, at least and at most: one is over before the next, and they meet no clock of the control plane.
const PAUSE_MS: std::ops::Range<u64> = 100..250;

/// What is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// A route of one service, in its file. The clock starts at the rename.
    Edit,
    /// One endpoint of a service comes or goes by registration. The clock starts at the announcement.
    Flap,
}

/// One round of changes of a kind.
#[derive(Debug)]
pub struct Change {
    /// From the change to its receipt by a client, in milliseconds: sorted, one for each client and change.
    pub ms: Vec<f64>,
    /// Bytes that a client got for a change: whole messages, before HTTP/2 and TLS.
    pub bytes: f64,
    /// Of these, bytes of the resources themselves.
    pub resource_bytes: f64,
    /// Resources that a client got for a change.
    pub resources: f64,
    /// Bytes that a client got when it came.
    pub first_bytes: f64,
    /// Services that were encoded for a change.
    pub encoded: f64,
    /// CPU of the control plane for a change, in milliseconds.
    pub cpu_ms: f64,
}

impl Change {
    /// The time within which this part of all receipts has come, in milliseconds.
    pub fn quantile(&self, part: f64) -> f64 {
        let last = self.ms.len().saturating_sub(1);
        self.ms.get((last as f64 * part).round() as usize).copied().unwrap_or(0.0)
    }
}

/// Several rounds of both kinds.
#[derive(Debug, Serialize)]
pub struct Changes {
    /// Sidecars that are connected, each of which holds everything.
    pub clients: usize,
    /// Services, a file for each.
    pub services: usize,
    /// Changes of each kind in each round.
    pub changes: usize,
    /// A route of one service is edited in its file.
    pub edit: ChangeFigures,
    /// One endpoint of a service comes and goes by registration.
    pub flap: ChangeFigures,
}

/// Medians of the rounds, and how they lie apart.
#[derive(Debug, Serialize)]
pub struct ChangeFigures {
    /// From the change to a client's receipt, in milliseconds: half of all.
    pub ms_p50: Spread,
    /// 99 of 100.
    pub ms_p99: Spread,
    /// The slowest.
    pub ms_max: Spread,
    /// Bytes that a client gets for a change, before HTTP/2 and TLS.
    pub bytes_per_client: Spread,
    /// Of these, bytes of the resources that have changed.
    pub resource_bytes_per_client: Spread,
    /// Resources that a client gets for a change.
    pub resources_per_client: Spread,
    /// Bytes that a client gets when it comes.
    pub first_bytes_per_client: Spread,
    /// Services that are encoded for a change, whatever the number of clients.
    pub encoded_services: Spread,
    /// CPU of the control plane for a change and all clients, in milliseconds.
    pub cpu_ms: Spread,
}

impl Changes {
    /// Of these rounds, edits and flaps each.
    pub(crate) fn of(clients: usize, services: usize, changes: usize, rounds: &[[Change; 2]]) -> Self {
        let figures = |which: usize| {
            let spread = |value: &dyn Fn(&Change) -> f64| {
                Spread::of(rounds.iter().map(|round| value(&round[which])).collect())
            };
            ChangeFigures {
                ms_p50: spread(&|change| change.quantile(0.5)),
                ms_p99: spread(&|change| change.quantile(0.99)),
                ms_max: spread(&|change| change.quantile(1.0)),
                bytes_per_client: spread(&|change| change.bytes),
                resource_bytes_per_client: spread(&|change| change.resource_bytes),
                resources_per_client: spread(&|change| change.resources),
                first_bytes_per_client: spread(&|change| change.first_bytes),
                encoded_services: spread(&|change| change.encoded),
                cpu_ms: spread(&|change| change.cpu_ms),
            }
        };
        Self { clients, services, changes, edit: figures(0), flap: figures(1) }
    }
}

/// Edits, then flaps, on a control plane of its own.
pub(crate) async fn round(
    binary: &Path,
    clients: usize,
    services: usize,
    changes: usize,
) -> io::Result<[Change; 2]> {
    let ground = Ground::start(binary, services, 10, services).await?;
    let (told, mut takes) = mpsc::channel(4_096);
    let mut tasks = JoinSet::new();
    for (n, client) in ground.crowd(clients, |n| Who::Everything.node(n)).await?.into_iter().enumerate() {
        let told = told.clone();
        tasks.spawn(async move {
            let client = begin(client, n, services, Who::Everything).await?;
            follow(client, told).await
        });
    }
    let mut first_bytes = 0;
    for _ in 0..clients {
        first_bytes += within("the first push", takes.recv()).await?.map_or(0, |take| take.bytes);
    }
    let first_bytes = first_bytes as f64 / clients as f64;
    let mut flapper = ground.connect(sidecar("flapper", &[])).await?;
    flapper.ask(TYPES[1], &[])?;
    flapper.take().await?;
    let edits = turns(&ground, &mut flapper, &mut takes, How::Edit, clients, changes).await?;
    let flaps = turns(&ground, &mut flapper, &mut takes, How::Flap, clients, changes).await?;
    Ok([Change { first_bytes, ..edits }, Change { first_bytes, ..flaps }])
}

async fn turns(
    ground: &Ground,
    flapper: &mut Subscriber,
    takes: &mut mpsc::Receiver<Take>,
    how: How,
    clients: usize,
    changes: usize,
) -> io::Result<Change> {
    let (encoded, cpu) = (ground.encoded().await?, ground.cpu()?);
    let mut all: Vec<(f64, Take)> = Vec::with_capacity(clients * changes);
    for change in 0..changes {
        sleep(Duration::from_millis(fastrand::u64(PAUSE_MS))).await;
        let began = match how {
            How::Edit => ground.edit(1 + change)?,
            How::Flap => {
                let there = [("s0", "10.9.9.9:15006".to_owned())];
                let endpoints: &[_] = if change % 2 == 0 { &there } else { &[] };
                let began = Instant::now();
                flapper.announce(sidecar("flapper", endpoints))?;
                began
            }
        };
        for _ in 0..clients {
            let Some(take) = within("a change", takes.recv()).await? else { break };
            all.push((take.at.duration_since(began).as_secs_f64() * 1_000.0, take));
        }
    }
    let per_change = |total: f64| total / changes as f64;
    let mean =
        |of: fn(&Take) -> u64| all.iter().map(|(_, take)| of(take)).sum::<u64>() as f64 / all.len() as f64;
    let (bytes, resource_bytes) = (mean(|take| take.bytes), mean(|take| take.resource_bytes));
    let resources = mean(|take| take.resources as u64);
    let encoded = per_change(ground.encoded().await? - encoded);
    let cpu_ms = per_change(ground.cpu()?.saturating_sub(cpu).as_secs_f64() * 1_000.0);
    let mut ms: Vec<f64> = all.into_iter().map(|(ms, _)| ms).collect();
    ms.sort_by(f64::total_cmp);
    Ok(Change { ms, bytes, resource_bytes, resources, first_bytes: 0.0, encoded, cpu_ms })
}
