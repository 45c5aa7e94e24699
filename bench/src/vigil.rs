//! Calls at a steady pace to one sidecar, and looks at several, on a thread of its own, while something else goes wrong
//! that nobody who calls may notice.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{interval, sleep_until, timeout};

use crate::call::CallSpec;
use crate::client::Client;
use crate::http1;
use crate::process::{Sidecar, rss_bytes};

/// A call that takes longer has failed.
pub const CALL_MAX: Duration = Duration::from_secs(10);
/// Connections that the calls go over: several, so that they are on all workers.
const CLIENTS: usize = 4;
/// Between two looks at the sidecars.
const LOOK: Duration = Duration::from_millis(250);
/// Failures that are kept in words.
const WORDS_MAX: usize = 5;

/// What is done and looked at.
#[derive(Clone, Debug)]
pub struct Duty {
    /// Where calls go in.
    pub outbound: SocketAddr,
    /// Their `:authority`; `/bench.Echo/Unary` of it is called.
    pub authority: String,
    /// Calls that begin each second, whatever becomes of those before.
    pub per_second: u32,
    /// The sidecars to look at: a name, where `/live` is, and the process.
    pub sidecars: Vec<(String, SocketAddr, u32)>,
}

impl Duty {
    /// Calls of `authority` through the first of these sidecars; all are looked at.
    pub fn new(authority: &str, per_second: u32, sidecars: &[(&str, &Sidecar)]) -> Self {
        let of = |(name, sidecar): &(&str, &Sidecar)| {
            ((*name).to_owned(), sidecar.bound.probes, sidecar.bound.pid)
        };
        Self {
            outbound: sidecars[0].1.outbound(),
            authority: authority.to_owned(),
            per_second,
            sidecars: sidecars.iter().map(of).collect(),
        }
    }
}

/// What has been seen.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Calls that have ended.
    pub calls: u64,
    /// Those of them that have failed.
    pub failed: u64,
    /// The first of these, in words: how long after the beginning, and what it was.
    pub failures: Vec<String>,
    /// The longest of the good ones.
    pub slowest: Duration,
    /// Looks at `/live` that were answered 200, and the longest of them.
    pub looks: u64,
    /// The longest of these.
    pub slowest_look: Duration,
    /// Looks that were not, in words.
    pub blind: Vec<String>,
    /// By the name of the sidecar: resident memory at first and at most, in bytes.
    pub memory: BTreeMap<String, (u64, u64)>,
}

/// A vigil that goes on; dropped, it ends.
pub struct Vigil {
    seen: Arc<Seen>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Seen {
    is_over: AtomicBool,
    report: Mutex<Report>,
    landed: Mutex<BTreeMap<String, u64>>,
}

impl Vigil {
    /// Begins, in the network namespace of the caller.
    ///
    /// # Panics
    /// When no thread can be had.
    pub fn begin(duty: Duty) -> Self {
        let seen = Arc::new(Seen::default());
        let shared = seen.clone();
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.expect("a runtime");
            runtime.block_on(keep(duty, shared));
        };
        let thread = std::thread::Builder::new().name("vigil".to_owned()).spawn(run).expect("a thread");
        Self { seen, thread: Some(thread) }
    }

    /// How many calls have ended by now.
    pub fn calls(&self) -> u64 {
        lock(&self.seen.report).calls
    }

    /// Where calls have landed since this was asked last: servers by name, and how many each.
    pub fn landed(&self) -> BTreeMap<String, u64> {
        std::mem::take(&mut *lock(&self.seen.landed))
    }

    /// Ends it, once the calls that are open have ended.
    ///
    /// # Panics
    /// When its thread has panicked.
    pub async fn end(mut self) -> Report {
        self.seen.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // The servers that the open calls wait for may be tasks of the caller's thread.
            let joined = spawn_blocking(|| thread.join()).await.expect("it is not cancelled");
            joined.expect("it does not panic");
        }
        lock(&self.seen.report).clone()
    }
}

impl Drop for Vigil {
    fn drop(&mut self) {
        self.seen.is_over.store(true, Ordering::Relaxed);
    }
}

impl Report {
    /// Tells what was seen, and checks that nothing was noticed: no call failed, `/live` was always answered within `live_max`,
    /// and no sidecar has grown by more than `growth_max` bytes.
    ///
    /// # Panics
    /// When one of these is not so.
    pub fn nothing_noticed(&self, what: &str, live_max: Duration, growth_max: u64) {
        let growth: BTreeMap<&str, u64> = self
            .memory
            .iter()
            .map(|(name, (first, most))| (name.as_str(), most.saturating_sub(*first)))
            .collect();
        let Self { calls, slowest, looks, slowest_look, .. } = self;
        println!(
            "{what}: {calls} calls, {} failed, the slowest took {slowest:?}; {looks} looks, {slowest_look:?}; grown by {growth:?}",
            self.failed
        );
        assert!(*calls > 0 && *looks > 0, "{what}: nothing was looked at: {self:?}");
        assert_eq!(self.failed, 0, "{what}: {:#?}", self.failures);
        assert!(self.blind.is_empty(), "{what}: {:#?}", self.blind);
        assert!(*slowest_look <= live_max, "{what}: /live took {slowest_look:?}");
        assert!(growth.values().all(|grown| *grown <= growth_max), "{what}: grown by {growth:?}");
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody panics with it held")
}

async fn keep(duty: Duty, seen: Arc<Seen>) {
    tokio::join!(call_on(&duty, &seen), look_on(&duty, &seen));
}

async fn call_on(duty: &Duty, seen: &Arc<Seen>) {
    let began = Instant::now();
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        match Client::connect(duty.outbound, None).await {
            Ok(client) => clients.push(client),
            Err(fault) => return seen.count(began, began, Err(fault.to_string())),
        }
    }
    let mut calls = JoinSet::new();
    for (turn, client) in (0..).zip(clients.iter().cycle()) {
        let intended = began + Duration::from_secs(1) / duty.per_second * turn;
        sleep_until(intended.into()).await;
        if seen.is_over.load(Ordering::Relaxed) {
            break;
        }
        while calls.try_join_next().is_some() {}
        let (client, authority, seen) = (client.clone(), duty.authority.clone(), seen.clone());
        calls.spawn(async move {
            // Not from when it was meant to begin: this thread is not what is looked at.
            let at = Instant::now();
            seen.count(began, at, call(&client, &authority).await);
        });
    }
    while calls.join_next().await.is_some() {}
}

/// Where it has landed.
async fn call(client: &Client, authority: &str) -> Result<String, String> {
    let spec = CallSpec::new(authority, "/bench.Echo/Unary");
    match timeout(CALL_MAX, client.unary_with(spec, b"ping")).await {
        Err(_) => Err(format!("no answer within {CALL_MAX:?}")),
        Ok(Err(fault)) => Err(fault.to_string()),
        Ok(Ok(outcome)) if outcome.is_ok() => {
            let name = outcome.headers.get("x-server").and_then(|name| name.to_str().ok());
            Ok(name.unwrap_or_default().to_owned())
        }
        Ok(Ok(outcome)) => Err(format!("{outcome:?}")),
    }
}

async fn look_on(duty: &Duty, seen: &Seen) {
    let mut ticks = interval(LOOK);
    while !seen.is_over.load(Ordering::Relaxed) {
        ticks.tick().await;
        for (name, probes, pid) in &duty.sidecars {
            let began = Instant::now();
            let answer = http1::get(*probes, "/live").await;
            let took = began.elapsed();
            let mut report = lock(&seen.report);
            match answer {
                Ok(answer) if answer.status == 200 => {
                    report.looks += 1;
                    report.slowest_look = report.slowest_look.max(took);
                }
                Ok(answer) => report.blind.push(format!("{name}: {}: {}", answer.status, answer.body)),
                Err(fault) => report.blind.push(format!("{name}: {fault}")),
            }
            if let Ok(bytes) = rss_bytes(*pid) {
                let memory = report.memory.entry(name.clone()).or_insert((bytes, bytes));
                memory.1 = memory.1.max(bytes);
            }
        }
    }
}

impl Seen {
    fn count(&self, first: Instant, began: Instant, result: Result<String, String>) {
        let took = began.elapsed();
        let mut report = lock(&self.report);
        report.calls += 1;
        match result {
            Ok(landed) => {
                report.slowest = report.slowest.max(took);
                *lock(&self.landed).entry(landed).or_default() += 1;
            }
            Err(fault) => {
                report.failed += 1;
                if report.failures.len() < WORDS_MAX {
                    report.failures.push(format!("{:?} after the beginning: {fault}", began - first));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::Server;
    use crate::wait::until;

    #[tokio::test]
    async fn a_call_that_fails_and_a_look_that_is_not_answered_are_noticed() {
        let mut server = Server::start(([127, 0, 0, 1], 0).into()).await.expect("a server");
        let nobody = ("nobody".to_owned(), ([127, 0, 0, 1], 1).into(), std::process::id());
        let (outbound, authority) = (server.addr, "echo".to_owned());
        let vigil = Vigil::begin(Duty { outbound, authority, per_second: 1_000, sidecars: vec![nobody] });
        until("ten calls", async || vigil.calls() >= 10).await;
        assert!(vigil.landed()["echo"] >= 10);
        server.kill().await;
        until("ten failures", async || lock(&vigil.seen.report).failed >= 10).await;
        let report = vigil.end().await;
        assert!(report.failed >= 10 && report.failures.len() == WORDS_MAX, "{report:?}");
        assert!(report.looks == 0 && !report.blind.is_empty(), "{report:?}");
    }
}
