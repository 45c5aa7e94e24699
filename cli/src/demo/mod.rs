//! `outrigger demo`: a store of five services in processes of their own, each behind its own sidecar
//! process, every hop mTLS, and a control plane that tells the sidecars where calls go. Live numbers on the terminal, a
//! route that is edited meanwhile, and an exact account at the end.

mod account;
mod canary;
mod chaos;
mod control;
mod files;
mod identity;
mod mesh;
pub(crate) mod options;
mod processes;
mod scrape;
mod sidecar;
mod store;
mod table;
mod terminal;

use std::cell::RefCell;
use std::io;
use std::path::Path;
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep, sleep_until};

use crate::demo::account::{Calls, by_apps, by_mesh, differences, expected_denial, failures, total};
use crate::demo::canary::Canary;
use crate::demo::identity::Account;
use crate::demo::mesh::{Replica, SERVICES};
use crate::demo::options::Options;
use crate::demo::store::Store;
use crate::demo::table::{Seen, Table, row};
use crate::demo::terminal::{StopSignal, say};

/// Between two states of the table.
const TABLE_PERIOD: Duration = Duration::from_secs(1);

/// How long the mesh's counts may take to show the last call. They are there at once, unless the machine
/// stands still.
const COUNTS_WAIT: Duration = Duration::from_secs(15);

/// Between two looks at the counts.
const COUNTS_PERIOD: Duration = Duration::from_millis(50);

/// Calls per second where the command line says nothing.
const RATE: u32 = 200;

/// Runs the demo. Exit code 0 when no call failed that should not have, every count agreed and every process
/// ended as asked; else 1, with what went wrong on stderr. Nothing is left behind either way.
pub(crate) fn run(options: Options) -> ExitCode {
    // One thread: children die with the thread that started them, so it must be the one that lives longest.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(async {
        match options.chaos {
            true => chaos::demo(&options).await,
            false => demo(&options).await,
        }
    });
    match ended {
        Ok(faults) if faults.is_empty() => ExitCode::SUCCESS,
        Ok(faults) => {
            for fault in faults {
                eprintln!("demo: {fault}");
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Starts, watches, stops; returns what went wrong.
async fn demo(options: &Options) -> io::Result<Vec<String>> {
    let mut stop = StopSignal::listen()?;
    let folder = tempfile::Builder::new().prefix("outrigger-demo-").tempdir()?;
    let mut store = Store::default();
    let started = tokio::select! {
        started = start(&mut store, folder.path(), options) => started,
        () = stop.told() => Err("stopped before everything had started".to_owned()),
    };
    let faults = match started {
        Ok(mut opening) => {
            let mut faults = Vec::from_iter(watch(&mut store, &mut opening, options, &mut stop).await.err());
            faults.extend(settle(&mut store, &opening, folder.path()).await);
            faults.extend(store.stop().await);
            faults
        }
        Err(fault) => {
            // What the others say while they are stopped half-way is not what went wrong.
            store.stop().await;
            vec![fault]
        }
    };
    folder.close()?;
    Ok(faults)
}

/// When the shoppers came, and what the sidecars had counted by then; and what is to happen meanwhile.
struct Opening {
    at: Instant,
    seen: Vec<Seen>,
    canary: Canary,
}

async fn start(store: &mut Store, folder: &Path, options: &Options) -> Result<Opening, String> {
    say("starting a control plane, 7 apps and 7 sidecars");
    let mut replicas: Vec<Replica> = store.start(folder).await?;
    for sidecar in store.sidecars() {
        let (name, probes, admin) = (&sidecar.replica, sidecar.probes, sidecar.admin);
        say(&format!("  {name:<11} http://{probes}/metrics   http://{admin}/clusters"));
    }
    say(&format!("  the mesh, which you may edit as well: {}", files::mesh(folder).display()));
    say(&format!("  who holds what: {}", store.control()?.status_command()));
    say(&Account::read(folder)?.opening());
    let (code, message) = store.charge_as_storefront(folder).await?;
    if code != expected_denial().code {
        return Err(format!("the storefront may not call Charge, but its call ended {code}: {message}"));
    }
    say(&format!("the storefront may not charge, only orders may: {code} ({message})"));
    let (at, seen) = (Instant::now(), look(store).await?);
    let canary = store.canary(folder, &replicas, options.shoppers)?;
    let rate = options.rate.unwrap_or(RATE);
    store.open(folder, &mut replicas, options.shoppers, rate).await?;
    say(&format!(
        "{} shoppers, {rate} calls/s; p50 and p99 are of unary calls; the last two columns must agree at the end",
        options.shoppers
    ));
    Ok(Opening { at, seen, canary })
}

/// Rolls the canary out and prints the table until both the time is up and the canary is out, somebody says stop, or
/// something breaks.
async fn watch(
    store: &mut Store,
    opening: &mut Opening,
    options: &Options,
    stop: &mut StopSignal,
) -> Result<(), String> {
    let table = RefCell::new(Table::new());
    let opened = Instant::now();
    let end = options.run_for.map(|run_for| opened + run_for);
    let Opening { at, seen, canary } = opening;
    let (mut looked, mut before) = (*at, seen.clone());
    // That nobody reads it is seen when the table is printed.
    let tell = |line: &str| drop(table.borrow_mut().announce(line));
    let mut rolling_out = pin!(canary.run(opened, options.run_for, tell));
    let mut is_out = false;
    loop {
        tokio::select! {
            () = stop.told() => return Ok(()),
            done = &mut rolling_out, if !is_out => {
                done?;
                is_out = true;
                continue;
            }
            () = sleep_until(end.unwrap_or(looked)), if end.is_some() && is_out => return Ok(()),
            () = sleep_until(looked + TABLE_PERIOD) => {}
        }
        store.still_runs()?;
        let now = tokio::select! {
            // A sidecar that stands still holds a stop up no longer than anything else.
            () = stop.told() => return Ok(()),
            now = look(store) => now?,
        };
        let elapsed = looked.elapsed();
        looked = Instant::now();
        let lines: Vec<_> = store.storefront_line().into_iter().chain(store.orders_lines()).collect();
        if table.borrow_mut().print(rows(&lines, &before, &now, elapsed)).is_err() {
            // Nobody reads on: as good as a stop.
            return Ok(());
        }
        before = now;
    }
}

/// One look at every service, in the order of the table.
async fn look(store: &Store) -> Result<Vec<Seen>, String> {
    let mut seen = Vec::new();
    for (service, _) in SERVICES {
        let samples = store.scrape(Some(service)).await?;
        let side = if service == "storefront" { Seen::caller(&samples) } else { Seen::callee(&samples) };
        if side.plain > 0.0 {
            return Err(format!("{service} has {} connections without mTLS", side.plain));
        }
        seen.push(side);
    }
    Ok(seen)
}

/// The rows of the table; `lines` are what the storefront and the replicas of orders printed, in this order.
fn rows(lines: &[Value], before: &[Seen], now: &[Seen], elapsed: Duration) -> Vec<String> {
    let shoppers = by_apps(lines.iter().take(1));
    let mut counted = by_apps(lines.iter());
    *counted.entry(expected_denial()).or_default() += 1;
    let services = SERVICES.iter().zip(before.iter().zip(now));
    let rows = services.map(|((service, _), (before, now))| {
        let callers_say = match *service {
            // It is called by nobody; what it calls is what its shoppers counted, and the one denial.
            "storefront" => shoppers.values().sum::<u64>() + 1,
            called => total(&counted, called),
        };
        row(service, before, now, elapsed, callers_say)
    });
    rows.collect()
}

/// Closes the store and settles the account: what the apps counted against what the sidecars did.
async fn settle(store: &mut Store, opening: &Opening, folder: &Path) -> Vec<String> {
    let (lines, mut faults) = store.close().await;
    let elapsed = opening.at.elapsed();
    let counted = by_apps(lines.iter());
    faults.extend(failures(&counted));
    faults.extend(left_open(&lines));
    let calls: u64 = counted.values().sum();
    if calls == 0 {
        faults.push("no call was made".to_owned());
    }
    let mut expected = counted;
    *expected.entry(expected_denial()).or_default() += 1;
    match agreement(store, &expected).await {
        Ok(found) => faults.extend(found),
        Err(error) => faults.push(error),
    }
    match look(store).await {
        Ok(seen) => {
            faults.extend(bare(&seen));
            say("in all:");
            // That nobody reads it is no fault: the exit code tells as well.
            let _ = Table::new().print(rows(&lines, &opening.seen, &seen, elapsed));
        }
        Err(error) => faults.push(error),
    }
    opening.canary.table().iter().for_each(|row| say(row));
    faults.extend(opening.canary.faults());
    match (Account::read(folder), store.scrape(None).await) {
        (Ok(account), Ok(samples)) => {
            say(&account.closing(&samples));
            faults.extend(account.faults());
        }
        (account, samples) => faults.extend([account.err(), samples.err()].into_iter().flatten()),
    }
    if faults.is_empty() {
        say(&format!(
            "{calls} calls, 0 failed, 1 denied as it should be; callers' and callees' sidecars counted the same"
        ));
    }
    faults
}

/// Services that no caller was ever connected to by mTLS. By now some are connected to nobody: a caller with
/// a new certificate lets go of what it does not need, and calls nobody any more.
fn bare(seen: &[Seen]) -> Vec<String> {
    let callees = SERVICES.iter().zip(seen).filter(|((service, _), _)| *service != "storefront");
    let bare = callees.filter(|(_, seen)| seen.mtls_ever == 0.0);
    bare.map(|((service, _), _)| format!("no caller of {service} was ever connected by mTLS")).collect()
}

/// Differences between the apps' counts and the sidecars', once the sidecars have had time to count.
async fn agreement(store: &Store, expected: &Calls) -> Result<Vec<String>, String> {
    let end = Instant::now() + COUNTS_WAIT;
    loop {
        let samples = store.scrape(None).await?;
        let mut found = differences(expected, &by_mesh(&samples, "grpc_client_handled_total"), "callers'");
        found.extend(differences(expected, &by_mesh(&samples, "grpc_server_handled_total"), "callees'"));
        if found.is_empty() || Instant::now() > end {
            return Ok(found);
        }
        sleep(COUNTS_PERIOD).await;
    }
}

fn left_open(lines: &[Value]) -> Vec<String> {
    let entries = lines.iter().flat_map(|line| line["calls"].as_array().into_iter().flatten());
    let open = entries.filter(|entry| entry["open"] != 0);
    open.map(|entry| format!("{} calls of {} were left open", entry["open"], entry["method"])).collect()
}
