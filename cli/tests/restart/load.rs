//! What the store's customers do meanwhile: unary calls at a steady rate whatever becomes of them, and
//! streams that are held open. Nothing is retried.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bench::call::CallSpec;
use bench::client::Client;
use bench::outcome::Outcome;
use examples::delivery::order_id;
use examples::pb::{CreateOrderRequest, GetProductRequest, RegisterRequest, WatchOrderRequest};
use prost::Message;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

const CONNECTIONS: usize = 4;
/// A call that has not ended by then has failed.
const CALL_MAX: Duration = Duration::from_secs(30);
/// `grpc-status: 14`.
const UNAVAILABLE: i32 = 14;

/// Unary calls to all services in turn, until ended.
pub(crate) struct Unary {
    stop: watch::Sender<bool>,
    calling: JoinHandle<UnaryReport>,
}

/// What became of them.
#[derive(Debug, Default)]
pub(crate) struct UnaryReport {
    pub(crate) offered: u64,
    pub(crate) completed: u64,
    /// By what the caller was told.
    pub(crate) failed: BTreeMap<String, u64>,
    pub(crate) seconds: f64,
    pub(crate) slowest: Duration,
}

impl Unary {
    pub(crate) async fn begin(outbound: SocketAddr, per_second: f64) -> Self {
        let clients = connect(outbound).await;
        let (stop, stopped) = watch::channel(false);
        Self { stop, calling: tokio::spawn(call_steadily(clients, per_second, stopped)) }
    }

    /// Makes no further call and waits for those that are open.
    pub(crate) async fn end(self) -> UnaryReport {
        self.stop.send_replace(true);
        self.calling.await.expect("the load does not panic")
    }
}

async fn call_steadily(
    clients: Vec<Client>,
    per_second: f64,
    mut stopped: watch::Receiver<bool>,
) -> UnaryReport {
    let report = Arc::new(Mutex::new(UnaryReport::default()));
    let mut calls = JoinSet::new();
    let mut pace = interval(Duration::from_secs_f64(1.0 / per_second));
    pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let began = Instant::now();
    for number in 0.. {
        tokio::select! {
            _ = stopped.changed() => break,
            _ = pace.tick() => {}
        }
        while calls.try_join_next().is_some() {}
        let client = clients[number % clients.len()].clone();
        let report = report.clone();
        report.lock().expect("nobody panics with it held").offered += 1;
        calls.spawn(async move {
            let began = Instant::now();
            let fault = call(&client, number).await.err();
            let mut report = report.lock().expect("nobody panics with it held");
            report.slowest = report.slowest.max(began.elapsed());
            match fault {
                None => report.completed += 1,
                Some(fault) => *report.failed.entry(fault).or_default() += 1,
            }
        });
    }
    let seconds = began.elapsed().as_secs_f64();
    while calls.join_next().await.is_some() {}
    let mut report = report.lock().expect("nobody panics with it held");
    report.seconds = seconds;
    std::mem::take(&mut *report)
}

async fn call(client: &Client, number: usize) -> Result<(), String> {
    let (authority, path, request) = match number % 3 {
        0 => {
            let request = RegisterRequest { name: "a customer".into(), email: "customer@example.com".into() };
            ("users.shop", "/shop.UserService/Register", request.encode_to_vec())
        }
        1 => {
            let request = GetProductRequest { id: 1 };
            ("products.shop", "/shop.ProductService/GetProduct", request.encode_to_vec())
        }
        // This one goes on to payments.
        _ => {
            let idempotency_key = format!("order {number}");
            let request = CreateOrderRequest { user_id: 1, product_id: 1, amount_cents: 1, idempotency_key };
            ("orders.shop", "/shop.OrderService/CreateOrder", request.encode_to_vec())
        }
    };
    match timeout(CALL_MAX, client.unary(authority, path, &request)).await {
        Ok(Ok(outcome)) if outcome.is_ok() && outcome.last.is_some() => Ok(()),
        Ok(Ok(outcome)) => Err(format!("{path}: {}", told(&outcome))),
        Ok(Err(fault)) => Err(format!("{path}: not begun: {fault}")),
        Err(_) => Err(format!("{path}: no answer within {CALL_MAX:?}")),
    }
}

/// Streams that watch orders; one that ends is opened again at once.
pub(crate) struct Streams {
    stop: watch::Sender<bool>,
    watching: JoinSet<StreamsReport>,
}

/// What became of them.
#[derive(Debug, Default)]
pub(crate) struct StreamsReport {
    pub(crate) opened: u64,
    /// Ended by trailers with UNAVAILABLE.
    pub(crate) unavailable: u64,
    /// Ended OK after they were asked to.
    pub(crate) completed: u64,
    /// Ended in any other way, or before their first event by a sidecar, by what the caller was told.
    pub(crate) wrong: BTreeMap<String, u64>,
    /// What those that ended UNAVAILABLE were told.
    pub(crate) told: BTreeMap<String, u64>,
}

impl Streams {
    pub(crate) async fn begin(outbound: SocketAddr, count: usize) -> Self {
        let clients = connect(outbound).await;
        let (stop, stopped) = watch::channel(false);
        let mut watching = JoinSet::new();
        for number in 0..count {
            watching.spawn(watch_again_and_again(clients[number % CONNECTIONS].clone(), stopped.clone()));
        }
        Self { stop, watching }
    }

    /// Half-closes every stream and waits for its end.
    pub(crate) async fn end(mut self) -> StreamsReport {
        self.stop.send_replace(true);
        let mut all = StreamsReport::default();
        while let Some(report) = self.watching.join_next().await {
            let report = report.expect("the load does not panic");
            all.opened += report.opened;
            all.unavailable += report.unavailable;
            all.completed += report.completed;
            for (sum, part) in [(&mut all.wrong, report.wrong), (&mut all.told, report.told)] {
                for (told, count) in part {
                    *sum.entry(told).or_default() += count;
                }
            }
        }
        all
    }
}

async fn watch_again_and_again(client: Client, mut stopped: watch::Receiver<bool>) -> StreamsReport {
    let mut report = StreamsReport::default();
    loop {
        report.opened += 1;
        let outcome = match watch_one(&client, &mut stopped).await {
            Ok(outcome) => outcome,
            Err(fault) => {
                *report.wrong.entry(fault).or_default() += 1;
                return report;
            }
        };
        let by_sidecar = outcome.message.starts_with("outrigger");
        match outcome.grpc_status {
            Some(0) if outcome.clean_end => {
                report.completed += 1;
                return report;
            }
            Some(UNAVAILABLE) if outcome.clean_end && (outcome.messages > 0 || !by_sidecar) => {
                report.unavailable += 1;
                *report.told.entry(outcome.message).or_default() += 1;
            }
            _ => {
                *report.wrong.entry(told(&outcome)).or_default() += 1;
                // A stream that never succeeds must not spin.
                if report.opened > 1_000 {
                    return report;
                }
            }
        }
    }
}

/// Watches one order to the end of the stream, which is ours to bring about once `stopped`.
async fn watch_one(client: &Client, stopped: &mut watch::Receiver<bool>) -> Result<Outcome, String> {
    let spec = CallSpec::new("orders.shop", "/shop.OrderService/WatchOrder");
    let mut call = client.call(spec).await.map_err(|fault| format!("not begun: {fault}"))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let request = WatchOrderRequest { order_id: order_id(now, 1, 1) };
    // When it fails the stream has ended already, and its outcome says why.
    let _ = call.send(&request.encode_to_vec()).await;
    loop {
        tokio::select! {
            message = call.recv() => if message.is_none() { break },
            _ = stopped.wait_for(|stopped| *stopped) => break,
        }
    }
    timeout(CALL_MAX, call.finish()).await.map_err(|_| format!("no end within {CALL_MAX:?}"))
}

async fn connect(outbound: SocketAddr) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(Client::connect(outbound, None).await.expect("the caller's sidecar"));
    }
    clients
}

fn told(outcome: &Outcome) -> String {
    let Outcome { grpc_status, message, reset, fault, clean_end, messages, .. } = outcome;
    format!(
        "status {grpc_status:?} `{message}`, reset {reset:?}, fault {fault:?}, clean end {clean_end}, \
         {messages} messages"
    )
}
