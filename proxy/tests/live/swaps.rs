//! Swaps and rotations under load: no call fails, no stream is harmed, nothing is left behind.
//!
//! ```text
//! client --h2c--> caller's sidecar --mTLS--> one of three sidecars --h2c--> its app
//! ```

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use bench::call::Call;
use bench::certs::Ca;
use bench::client::Client;
use bench::server::Server;
use bench::wait::until;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::kit::{ECHO, Live, UNARY, ca, callee, caller, echo, echoes, id, landed, mesh, stream};

const SWAPS: usize = 200;
const ROTATIONS: usize = 20;
const STREAMS: usize = 50;
const CALLS_PER_SECOND: u32 = 500;
/// Calls that are looked at after each swap.
const LOOKED_AT: usize = 20;
/// A swap that no call has shown by then is not visible.
const VISIBLE_WITHIN: Duration = Duration::from_secs(2);
/// What the caller may have grown by, in bytes, from the first quarter of the swaps to the end.
const GROWTH_MAX: u64 = 16 << 20;

/// One call: when it began, and where it landed.
struct Landing {
    began: Instant,
    on: Option<usize>,
}

/// What the load has met so far.
#[derive(Default)]
struct Load {
    landings: RefCell<Vec<Landing>>,
    calls: Cell<usize>,
    failed: RefCell<Vec<String>>,
    over: Cell<bool>,
}

struct Hop {
    app: Server,
    sidecar: Live,
}

#[tokio::test]
async fn swaps_and_rotations_under_load_fail_no_call_and_leave_nothing_behind() {
    LocalSet::new().run_until(swap_and_rotate()).await;
}

async fn swap_and_rotate() {
    let ca = ca();
    let mut hops = Vec::new();
    for number in 0..3 {
        let app = echo(&number.to_string()).await;
        let sidecar = callee(&ca, app.addr).await;
        hops.push(Hop { app, sidecar });
    }
    let caller = caller(&ca, &file(&hops, &[0], false)).await;
    let load = Rc::new(Load::default());
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(caller.client().await);
    }
    let mut streams = Vec::new();
    for number in 0..STREAMS {
        streams.push(stream(&clients[number % clients.len()]).await);
    }
    let calling = tokio::task::spawn_local(call_on(clients.clone(), load.clone()));

    let rotated = Cell::new(false);
    let ((visible, early, slowest), ()) = tokio::join!(
        swap(&caller, &hops, &clients, &mut streams, &load, &rotated),
        rotate(ca, &caller, &hops, &rotated),
    );

    for stream in &mut streams {
        echoes(stream).await;
    }
    for stream in streams {
        let outcome = stream.finish().await;
        assert!(outcome.is_ok(), "{outcome:?}");
    }
    load.over.set(true);
    calling.await.expect("the load");
    let failed = load.failed.take();
    assert!(failed.is_empty(), "{} of {} calls: {:?}", failed.len(), load.calls.get(), failed.first());
    assert!(visible * 100 >= SWAPS * 95, "{visible} of {SWAPS} swaps are seen in where calls landed");

    // Two workers, and one connection of each to the one endpoint of the last file.
    until("no connection is left behind", async || caller.upstream().await <= 2.0).await;
    for hop in &hops {
        until("nor behind the callee", async || {
            let inbound = [("direction", "inbound")];
            hop.sidecar.metric("outrigger_connections", &inbound).await <= 2.0
                && hop.app.open_connections() <= 2
        })
        .await;
    }
    let late = caller.sidecar.rss_bytes().expect("a process");
    println!(
        "{SWAPS} swaps, {visible} visible, the slowest after {} ms; {ROTATIONS} rotations; {} calls and {STREAMS} streams, \
         {} failed; resident {} KiB after {} swaps, {} KiB at the end",
        slowest.as_millis(),
        load.calls.get(),
        failed.len(),
        early >> 10,
        SWAPS / 4,
        late >> 10,
    );
    assert!(late < early + GROWTH_MAX, "the caller grew from {early} to {late} bytes");
}

/// Swaps the caller's mesh file. Returns how many swaps showed, the memory after the first quarter, and how long
/// the slowest took to show.
async fn swap(
    caller: &Live,
    hops: &[Hop],
    clients: &[Client],
    streams: &mut [Call],
    load: &Load,
    rotated: &Cell<bool>,
) -> (usize, u64, Duration) {
    let sets: [&[usize]; 6] = [&[1, 2], &[0], &[1], &[0, 2], &[1], &[2]];
    let (mut visible, mut early, mut slowest) = (0, 0, Duration::ZERO);
    for number in 0..SWAPS {
        // Each set has nothing in common with the one before; every other swap changes weights alone.
        let set = sets[number % sets.len()];
        caller.replace("mesh.yaml", &file(hops, set, number % 2 == 0));
        let written = Instant::now();
        if let Some(after) = shows(load, set, written).await {
            visible += 1;
            slowest = slowest.max(after);
        }
        // Streams that begin on many snapshots, so that many are alive.
        let oldest = &mut streams[number % STREAMS];
        let ended = std::mem::replace(oldest, stream(&clients[number % clients.len()]).await);
        let outcome = ended.finish().await;
        assert!(outcome.is_ok(), "{outcome:?}");
        echoes(&mut streams[(number * 7) % STREAMS]).await;
        if number == SWAPS / 4 {
            early = caller.sidecar.rss_bytes().expect("a process");
        }
    }
    until("the rotations are through", async || rotated.get()).await;
    (visible, early, slowest)
}

/// Whether calls land in `set`, and from the first one that does nowhere else; after how long.
async fn shows(load: &Load, set: &[usize], written: Instant) -> Option<Duration> {
    let inside = |landing: &Landing| landing.on.is_some_and(|on| set.contains(&on));
    load.landings.borrow_mut().clear();
    let first = loop {
        let first = load.landings.borrow().iter().any(inside).then(Instant::now);
        match first {
            Some(first) => break first,
            None if written.elapsed() > VISIBLE_WITHIN => return None,
            None => sleep(Duration::from_millis(1)).await,
        }
    };
    // From here on the new file is in force, for every call that begins.
    let after = |landing: &&Landing| landing.began > first;
    until("calls after the swap", async || load.landings.borrow().iter().filter(after).count() >= LOOKED_AT)
        .await;
    let all = load.landings.borrow().iter().filter(after).all(inside);
    all.then(|| first - written)
}

/// Rotates all identities: mostly leaves, every fourth time the authority as well. Those before stay trusted, since some stream
/// may go on that they vouch for; what becomes of streams whose root goes is another test's.
async fn rotate(mut ca: Ca, caller: &Live, hops: &[Hop], rotated: &Cell<bool>) {
    let mut all = vec![(caller, "caller")];
    all.extend(hops.iter().map(|hop| (&hop.sidecar, "echo")));
    let mut bundle = ca.bundle_pem().to_owned();
    let late = Cell::new(0);
    for number in 0..ROTATIONS {
        let next = if number % 4 == 3 { Some(Ca::new("cluster.local")) } else { None };
        if let Some(next) = &next {
            // Whoever shows the new authority must find it trusted.
            bundle.push_str(next.bundle_pem());
            each(&all, async |live, _| live.replace("ca.crt", &bundle)).await;
        }
        let signer = next.as_ref().unwrap_or(&ca);
        each(&all, async |live, account| {
            // Found between the two by a look, which must not harm.
            let leaf = signer.leaf(&id(account));
            let gap = Duration::from_millis(30);
            let is_late = live.replace_apart(&leaf.cert_pem, &leaf.key_pem, gap).await;
            late.set(late.get() + u32::from(is_late));
        })
        .await;
        ca = next.unwrap_or(ca);
        // Spread over the swaps.
        sleep(Duration::from_millis(200)).await;
    }
    let (mut rejections, late) = (0, late.get());
    for (live, _) in all {
        rejections += live.rejections().await;
    }
    assert!(rejections <= late, "{rejections} rejections, where {late} keys came late");
    rotated.set(true);
}

/// Does something to the files of each, and waits until all of it is in force.
async fn each(all: &[(&Live, &str)], change: impl AsyncFn(&Live, &str)) {
    let mut versions = Vec::new();
    for (live, account) in all {
        versions.push(live.config().await["identity"]["version"].as_u64().expect("a version"));
        change(live, account).await;
    }
    for ((live, _), version) in all.iter().zip(versions) {
        live.in_force("identity", version + 1).await;
    }
}

/// Calls at a steady rate, each on its own, until it is told to stop.
async fn call_on(clients: Vec<Client>, load: Rc<Load>) {
    let mut ticks = interval(Duration::from_secs(1) / CALLS_PER_SECOND);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut calls = JoinSet::new();
    while !load.over.get() {
        ticks.tick().await;
        while calls.try_join_next().is_some() {}
        let number = load.calls.get();
        load.calls.set(number + 1);
        let (client, load) = (clients[number % clients.len()].clone(), load.clone());
        calls.spawn_local(async move {
            let began = Instant::now();
            match client.unary(ECHO, UNARY, b"ping").await {
                Ok(outcome) if outcome.is_ok() => {
                    let on = landed(&outcome).parse().ok();
                    load.landings.borrow_mut().push(Landing { began, on });
                }
                other => load.failed.borrow_mut().push(format!("{other:?}")),
            }
        });
    }
    while calls.join_next().await.is_some() {}
}

/// A mesh whose calls go to these hops: by the list of endpoints, or by their weights.
fn file(hops: &[Hop], set: &[usize], by_weight: bool) -> String {
    let lines = hops.iter().enumerate().filter_map(|(number, hop)| {
        let weight = u32::from(set.contains(&number));
        let line = format!("{{address: \"{}\", weight: {weight}}}", hop.sidecar.sidecar.inbound());
        (by_weight || weight > 0).then_some(line)
    });
    mesh(&lines.collect::<Vec<_>>())
}
