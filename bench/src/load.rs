//! Load on h2: a closed loop, an open loop, and ping-pong on long streams.
//!
//! The open loop is free of coordinated omission: a call's latency counts from the moment it was meant to
//! start, so a stalled proxy is charged for the calls that had to wait behind the stall.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::task::JoinSet;

use crate::call::CallSpec;
use crate::client::{Client, ClientOptions};
use crate::tls::TlsIdentity;

/// Calls of an open loop that may be open at once; those that would be more count as failed.
pub const OPEN_CALLS_MAX: u64 = 20_000;
/// A call, or one message of a ping-pong, that takes longer has failed.
pub const CALL_MAX: Duration = Duration::from_secs(30);
/// Extra request headers, as a mesh sees them (trace context, user agent and the like).
pub const HEADERS: [(&str, &str); 8] = [
    ("user-agent", "bench/1.0"),
    ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ("x-request-id", "6f1c2a52-9d1a-4f2c-8b1e-0f6f3a1d2c4b"),
    ("x-tenant", "shop-eu-1"),
    ("x-session", "c2Vzc2lvbi1pZC1vZi1hLXNob3BwZXI"),
    ("accept-encoding", "identity"),
    ("grpc-accept-encoding", "identity,gzip"),
    ("grpc-timeout", "60S"),
];

const HIGHEST_NANOS: u64 = 120_000_000_000;

/// What to send, where, and until when: the earlier of `duration` and `calls`.
#[derive(Clone, Debug)]
pub struct Load {
    /// Where to connect.
    pub addr: SocketAddr,
    /// `:authority`.
    pub authority: String,
    /// TLS; `None`: h2c.
    pub tls: Option<TlsIdentity>,
    /// Connections.
    pub connections: usize,
    /// Calls at once on each connection (closed loop, ping-pong).
    pub streams: usize,
    /// Bytes of a message.
    pub payload: usize,
    /// How calls follow each other.
    pub shape: Shape,
    /// The longest it runs.
    pub duration: Duration,
    /// The most calls (of a ping-pong: messages) it makes.
    pub calls: u64,
}

/// How calls follow each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shape {
    /// Unary; the next begins when the last has ended.
    Closed,
    /// Unary, so many begun each second whatever became of the others.
    Open(f64),
    /// One bidirectional stream per slot; the next message goes out when the last has come back.
    PingPong,
}

/// What came of it. `offered` = `completed` + `failed`: at its end nothing is open.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Calls (of a ping-pong: messages) begun.
    pub offered: u64,
    /// Ended as they should, with the payload they sent.
    pub completed: u64,
    /// The others.
    pub failed: u64,
    /// What the first failure was.
    pub first_failure: Option<String>,
    /// From the first begun to the last ended.
    pub seconds: f64,
    /// Completed per second.
    pub per_second: f64,
    /// Payload carried, both ways together, in bytes.
    pub bytes: u64,
    /// Latency of the completed, in microseconds.
    pub latency_us: Latency,
}

/// Quantiles, in microseconds.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Latency {
    /// The median.
    pub p50: f64,
    /// 90 %.
    pub p90: f64,
    /// 99 %.
    pub p99: f64,
    /// 99.9 %.
    pub p999: f64,
    /// The worst.
    pub max: f64,
}

impl Load {
    /// A closed loop of 100-byte calls, `connections` times `streams`, for `duration`.
    pub fn closed(addr: SocketAddr, connections: usize, streams: usize, duration: Duration) -> Self {
        Self {
            addr,
            authority: "echo.bench".to_owned(),
            tls: None,
            connections,
            streams,
            payload: 100,
            shape: Shape::Closed,
            duration,
            calls: u64::MAX,
        }
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// When a connection cannot be made; what goes wrong later is counted.
    pub async fn run(&self) -> io::Result<Report> {
        let clients = self.connect().await?;
        let tally = Arc::new(Tally::new(self));
        let began = Instant::now();
        let mut slots = JoinSet::new();
        match self.shape {
            Shape::Closed => {
                for client in clients.iter().cycle().take(self.connections * self.streams) {
                    slots.spawn(closed(client.clone(), tally.clone()));
                }
            }
            Shape::PingPong => {
                for client in clients.iter().cycle().take(self.connections * self.streams) {
                    slots.spawn(ping_pong(client.clone(), tally.clone()));
                }
            }
            Shape::Open(per_second) => open(&clients, per_second, &tally, &mut slots).await,
        }
        while slots.join_next().await.is_some() {}
        Ok(tally.report(began.elapsed()))
    }

    async fn connect(&self) -> io::Result<Vec<Client>> {
        let mut clients = Vec::with_capacity(self.connections);
        for _ in 0..self.connections {
            let options = ClientOptions { tls: self.tls.clone(), ..ClientOptions::default() };
            clients.push(Client::connect_with(self.addr, options).await?);
        }
        Ok(clients)
    }
}

async fn closed(client: Client, tally: Arc<Tally>) {
    while tally.offer() {
        let began = Instant::now();
        tally.count(began, unary(&client, &tally).await);
    }
}

async fn ping_pong(client: Client, tally: Arc<Tally>) {
    let spec = CallSpec { headers: HEADERS.to_vec(), ..CallSpec::new(&tally.authority, "/bench.Echo/Bidi") };
    let mut call = match client.call(spec).await {
        Ok(call) => call,
        Err(fault) => return tally.lost(&fault.to_string()),
    };
    while tally.offer() {
        let began = Instant::now();
        let (sent, back) = {
            let (sender, receiver) = (&mut call.sender, &mut call.receiver);
            let exchange = async { tokio::join!(sender.send(&tally.payload), receiver.recv()) };
            tokio::time::timeout(CALL_MAX, exchange).await.unwrap_or((Ok(()), None))
        };
        let well = sent.is_ok() && back.as_deref() == Some(&tally.payload[..]);
        tally.count(began, if well { Ok(()) } else { Err("a message did not come back".to_owned()) });
        if !well {
            return;
        }
    }
    let outcome = call.finish().await;
    if !outcome.is_ok() {
        tally.note(&format!("{outcome:?}"));
    }
}

async fn open(clients: &[Client], per_second: f64, tally: &Arc<Tally>, calls: &mut JoinSet<()>) {
    let began = Instant::now();
    for (turn, client) in clients.iter().cycle().enumerate() {
        let intended = began + Duration::from_secs_f64(turn as f64 / per_second);
        tokio::time::sleep_until(intended.into()).await;
        while calls.try_join_next().is_some() {}
        if !tally.offer() {
            return;
        }
        if calls.len() as u64 >= OPEN_CALLS_MAX {
            tally.count(intended, Err(format!("{OPEN_CALLS_MAX} calls were open")));
            continue;
        }
        let (client, tally) = (client.clone(), tally.clone());
        calls.spawn(async move {
            let result = unary(&client, &tally).await;
            tally.count(intended, result);
        });
    }
}

async fn unary(client: &Client, tally: &Tally) -> Result<(), String> {
    let spec = CallSpec { headers: HEADERS.to_vec(), ..CallSpec::new(&tally.authority, "/bench.Echo/Unary") };
    match tokio::time::timeout(CALL_MAX, client.unary_with(spec, &tally.payload)).await {
        Ok(Ok(outcome)) if outcome.is_ok() && outcome.last.as_deref() == Some(&tally.payload[..]) => Ok(()),
        Ok(Ok(outcome)) => Err(format!("{outcome:?}")),
        Ok(Err(fault)) => Err(fault.to_string()),
        Err(_) => Err(format!("no answer within {CALL_MAX:?}")),
    }
}

struct Tally {
    authority: String,
    payload: Vec<u8>,
    until: Instant,
    calls: u64,
    offered: AtomicU64,
    seen: Mutex<Seen>,
}

struct Seen {
    completed: u64,
    failed: u64,
    first_failure: Option<String>,
    nanos: Histogram<u64>,
}

impl Tally {
    fn new(load: &Load) -> Self {
        Self {
            authority: load.authority.clone(),
            payload: vec![b'p'; load.payload],
            until: Instant::now() + load.duration,
            calls: load.calls,
            offered: AtomicU64::new(0),
            seen: Mutex::new(Seen {
                completed: 0,
                failed: 0,
                first_failure: None,
                nanos: Histogram::new_with_max(HIGHEST_NANOS, 3).expect("bounds that HDR allows"),
            }),
        }
    }

    /// Whether another call is due; if so, it is counted as offered.
    fn offer(&self) -> bool {
        if Instant::now() >= self.until || self.offered.load(Ordering::Relaxed) >= self.calls {
            return false;
        }
        self.offered.fetch_add(1, Ordering::Relaxed);
        true
    }

    fn count(&self, began: Instant, result: Result<(), String>) {
        let mut seen = self.seen.lock().expect("nobody panics with it held");
        match result {
            Ok(()) => {
                seen.completed += 1;
                let nanos = u64::try_from(began.elapsed().as_nanos()).unwrap_or(HIGHEST_NANOS);
                seen.nanos.saturating_record(nanos);
            }
            Err(fault) => {
                seen.failed += 1;
                seen.first_failure.get_or_insert(fault);
            }
        }
    }

    /// A stream that could not even begin is an offered message that failed.
    fn lost(&self, fault: &str) {
        self.offered.fetch_add(1, Ordering::Relaxed);
        self.count(Instant::now(), Err(fault.to_owned()));
    }

    fn note(&self, fault: &str) {
        let mut seen = self.seen.lock().expect("nobody panics with it held");
        seen.first_failure.get_or_insert_with(|| fault.to_owned());
    }

    fn report(&self, elapsed: Duration) -> Report {
        let seen = self.seen.lock().expect("nobody panics with it held");
        let at = |quantile| seen.nanos.value_at_quantile(quantile) as f64 / 1_000.0;
        Report {
            offered: self.offered.load(Ordering::Relaxed),
            completed: seen.completed,
            failed: seen.failed,
            first_failure: seen.first_failure.clone(),
            seconds: elapsed.as_secs_f64(),
            per_second: seen.completed as f64 / elapsed.as_secs_f64(),
            bytes: 2 * seen.completed * self.payload.len() as u64,
            latency_us: Latency {
                p50: at(0.5),
                p90: at(0.9),
                p99: at(0.99),
                p999: at(0.999),
                max: seen.nanos.max() as f64 / 1_000.0,
            },
        }
    }
}
