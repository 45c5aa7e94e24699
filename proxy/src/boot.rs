//! From a file name to a running sidecar and back to nothing.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{ErrorKind, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use ::files::Reports;
use arc_swap::{ArcSwap, ArcSwapOption};
use config::model::{Inbound, Mesh, Mtls, Sidecar, Unknown, Workers};
use identity::agent::Agent;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::LocalSet;

use crate::build::Parts;
use crate::clock::Clock;
use crate::context::Shared;
use crate::control::access;
use crate::control::admin::{self, Audience, Pages};
use crate::control::drain::{Ask, Way, second_terminate, see_out};
use crate::control::export::Exporter;
use crate::control::files::{self, Judged, Loaded};
use crate::control::follow::Follower;
use crate::control::health::Checks;
use crate::control::health::board::Board;
use crate::control::issued::{self, Issued};
use crate::control::journal::Journal;
use crate::control::lookup::{self, Lookups};
use crate::control::names::Names;
use crate::control::recording::{self, Prepared, Recording};
use crate::control::runway::Crier;
use crate::control::sent::begin::{Beside, Found, begin};
use crate::control::sent::resume::{Resumed, resume};
use crate::control::{socket, sweep};
use crate::demand::{Demand, PATIENCE};
use crate::dial::Dialled;
use crate::dns::{Answers, Question, Resolver};
use crate::downstream::hall::{Door, Gate};
use crate::inherited::Inherited;
use crate::metrics::calls::Registry;
use crate::metrics::events::Events;
use crate::process;
use crate::tables::Tables;
use crate::tls::credentials::Credentials;
use crate::worker::{self, Listener, Phase};

/// Connections that the kernel holds for us until we accept them.
const BACKLOG: i32 = 1_024;
/// Reasons to go that wait to be looked at.
const ASKS_MAX: usize = 8;

/// Runs the sidecar of `path` until it has been asked to go and has gone.
pub(crate) fn run(path: &Path) -> Result<(), String> {
    let started = SystemTime::now();
    let Loaded { sidecar, sidecar_file, mesh } = files::load(path)?;
    let reports = Reports::start("outrigger-proxy").map_err(|error| format!("reports: {error}"))?;
    let lookups = Lookups::new(&sidecar.dns);
    let dialled = Dialled::default();
    let (agent, issued) = issued::begin(&sidecar, &lookups, &dialled, &reports).unzip();
    let Whoami { credentials, digest: of_identity, issued } = whoami(&sidecar, issued)?;
    let workers = match sidecar.workers {
        Workers::Auto => process::workers_auto(),
        Workers::Count(count) => count.get(),
    };
    let Prepared { propagate, recorder, recording } = recording::prepare(&sidecar, &lookups, environment)?;
    let build = |mesh: &Mesh, unruled: &BTreeSet<String>| {
        if sidecar.identity.is_some() && credentials.is_none() {
            return Ok(Tables { waits_for_identity: true, ..Tables::blank(None, None) });
        }
        Tables::build(&Parts {
            sidecar: &sidecar,
            mesh,
            unruled,
            credentials: credentials.as_ref(),
            answers: &Answers::default(),
            workers,
            before: None,
            now: 0,
        })
    };
    let mut resumed = match sidecar.mesh.control() {
        Some(control) => resume(control, &sidecar, &sidecar_file),
        None => Resumed::default(),
    };
    let mut unruled = BTreeSet::new();
    let (mesh, mesh_file, digest, tables) = match (mesh, resumed.mesh.take()) {
        (Some((mesh, file)), _) => {
            let (tables, digest) = (build(&mesh, &unruled)?, file.digest());
            (Some(mesh), Some(file), Some(digest), tables)
        }
        (None, Some((verdict, digest))) => {
            unruled = verdict.unruled;
            let tables = build(&verdict.mesh, &unruled)?;
            (Some(verdict.mesh), None, Some(digest), tables)
        }
        (None, None) => (None, None, None, Tables::blank(credentials.clone(), None)),
    };
    let (resolver, questions, doubts) = Resolver::new();
    let (demand, hosts) = Demand::new();
    let entries = sidecar.inbound.iter();
    let entries = entries.map(|entry| format!("{}.{}", entry.service, sidecar.namespace).into()).collect();
    let shared = Arc::new(Shared {
        clock: Clock::start(),
        limits: sidecar.limits,
        tables: ArcSwap::from_pointee(tables),
        published: watch::Sender::new(()),
        events: (0..workers).map(|_| Events::default()).collect(),
        calls: Registry::new(workers, sidecar.limits.series),
        identity: sidecar.identity.is_some().then(|| sidecar.spiffe_id()),
        no_identity: ArcSwapOption::empty(),
        propagate,
        recorder,
        draining: AtomicBool::new(false),
        leaving: watch::Sender::new(false),
        demand,
        entries,
        resolver,
        inherited: Inherited::default(),
        dialled,
        listeners: OnceLock::new(),
        opaque_ports: sidecar.opaque_ports.clone(),
        strict: sidecar.inbound.iter().any(|entry| entry.mtls == Mtls::Strict),
        unknown: sidecar.outbound.map_or(Unknown::Refuse, |outbound| outbound.unknown),
    });
    if sidecar.identity.is_some() && credentials.is_none() {
        let why = format!("nothing has come within {PATIENCE:?} from whoever issues it");
        shared.no_identity.store(Some(Arc::new(why)));
    }
    let identity = sidecar.identity.clone().map(|source| (source, of_identity));
    let journal = Arc::new(Journal::new(sidecar_file, mesh_file, digest, identity));
    // What a cache held: pages may be asked for before the follower looks.
    if let Some(issued) = &issued {
        *journal.issued() = issued.first();
    }
    journal.sent().unruled = unruled.clone();
    let sidecar = Arc::new(sidecar);
    let names = Names::new(lookups.clone(), sidecar.dns.clone(), doubts, journal.clone(), reports.clone());
    let proof = watch::Sender::new(credentials.clone());
    let (sent, beside) = sidecar
        .mesh
        .control()
        .map(|control| {
            let (sidecar, shared, journal, reports) = (&sidecar, &shared, &journal, &reports);
            let (lookups, credentials, questions) = (&lookups, proof.subscribe(), hosts);
            begin(
                control,
                Found { sidecar, shared, journal, reports, lookups, credentials, questions, resumed },
            )
        })
        .unzip();
    let follower = Follower {
        shared,
        sidecar,
        mesh: mesh.map(Arc::new),
        unruled,
        credentials,
        names,
        journal,
        reports,
        proof,
        sent,
        issued,
        crier: Crier::default(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("the control thread's runtime: {error}"))?;
    let done = runtime.block_on(live(follower, (beside, agent), (lookups, questions), recording, started));
    // A file that is read at this moment, from a disk that does not answer, must not hold up the end.
    runtime.shutdown_background();
    done
}

/// Who we are when we start.
struct Whoami {
    credentials: Option<Arc<Credentials>>,
    digest: Option<String>,
    issued: Option<Issued>,
}

/// Reads the files of the identity, which must be good, or takes what the agent has found in its cache.
fn whoami(sidecar: &Sidecar, issued: Option<Issued>) -> Result<Whoami, String> {
    let found = match (files::judge_identity(sidecar), &issued) {
        (Some(Judged { digest, verdict }), _) => Some((verdict?, digest)),
        (None, Some(issued)) => {
            let state = issued.first();
            let digest = state.material.as_ref().map(|material| material.digest.clone());
            // What is no good is told by the follower.
            issued::credentials(&state, sidecar).and_then(Result::ok).zip(digest)
        }
        (None, None) => None,
    };
    let (own, digest) = found.unzip();
    Ok(Whoami { credentials: own.map(Arc::new), digest, issued })
}

/// Binds everything, says where, and stays until the way out has been walked.
async fn live(
    mut follower: Follower,
    (beside, agent): (Option<Beside>, Option<Agent>),
    (lookups, questions): (Lookups, mpsc::Receiver<Question>),
    recording: Recording,
    started: SystemTime,
) -> Result<(), String> {
    let (shared, sidecar, journal) =
        (follower.shared.clone(), follower.sidecar.clone(), follower.journal.clone());
    let reports = follower.reports.clone();
    let (asks, mut asked) = mpsc::channel(ASKS_MAX);
    let hangups = signal(SignalKind::hangup()).map_err(|error| format!("signals: {error}"))?;
    take_signals(&asks)?;
    let mut listeners = Vec::new();
    let mut inbound = Vec::new();
    for group in shared_listens(&sidecar.inbound) {
        let first = group[0];
        let socket = listen(&format!("inbound[{first}].listen"), sidecar.inbound[first].listen)?;
        let bound = address(&socket)?;
        let mut gates = Vec::new();
        for index in group {
            let entry = &sidecar.inbound[index];
            gates.push(Gate { entry: index, app: entry.app, mtls: entry.mtls });
            inbound.push((index, bound));
        }
        listeners.push(Listener { socket, door: Door::Inbound(gates.into()) });
    }
    inbound.sort_unstable();
    let inbound: Vec<SocketAddr> = inbound.into_iter().map(|(_, bound)| bound).collect();
    let mut outbound = Vec::new();
    let second = sidecar.outbound.and_then(|outbound| outbound.listen_ipv6);
    let first = sidecar.outbound.map(|outbound| outbound.listen);
    for (key, at) in [("outbound.listen", first), ("outbound.listen_ipv6", second)] {
        let Some(at) = at else { continue };
        let socket = listen(key, at)?;
        outbound.push(address(&socket)?);
        listeners.push(Listener { socket, door: Door::Outbound });
    }
    // Nobody is served before this is known: the workers start below.
    let _ = shared.listeners.set([inbound.clone(), outbound.clone()].concat());
    let admin = listen("admin.listen", sidecar.admin.listen)?;
    let probes = listen("probes.listen", sidecar.probes)?;
    let socket_path = socket::path(&sidecar);
    let commands = socket::bind(&socket_path).map_err(|error| {
        format!(
            "admin.socket: cannot listen on {}: {error}; name a path that can be written",
            socket_path.display()
        )
    })?;
    let first_line = serde_json::json!({
        "pid": std::process::id(),
        "inbound": inbound,
        "outbound": outbound.first(),
        "outbound_ipv6": outbound.get(1),
        "admin": address(&admin)?,
        "probes": address(&probes)?,
        "socket": &socket_path,
    });

    let counts = beside.as_ref().map(|beside| beside.counts.clone()).unwrap_or_default();
    if let Some(beside) = beside {
        beside.spawn();
    }
    if let Some(agent) = agent {
        tokio::spawn(agent.run());
    }
    follower.begin().await;
    let (phase, follow) = watch::channel(Phase::Serving);
    let threads = worker::start(&shared, listeners, &follow).map_err(|error| format!("workers: {error}"))?;
    let board = Arc::new(Board::default());
    let exporter = Exporter::new(shared.clone(), journal.clone(), board.clone(), counts, started)
        .map_err(|error| format!("metrics: {error}"))?;
    let pages = Arc::new(Pages { shared: shared.clone(), exporter, journal, board: board.clone() });
    for (listener, audience) in [(admin, Audience::Admin), (probes, Audience::Probes)] {
        let listener = tokio::net::TcpListener::from_std(listener).map_err(|error| error.to_string())?;
        tokio::spawn(admin::serve(listener, audience, pages.clone()));
    }
    tokio::spawn(socket::serve(commands, asks));
    tokio::spawn(keep_books(shared.clone()));
    tokio::spawn(sweep::run(shared.clone()));
    tokio::spawn(lookup::serve(lookups, questions));
    tokio::spawn(follower.run(hangups));
    let local = LocalSet::new();
    // Who calls nobody need not know how anybody is.
    if sidecar.outbound.is_some() {
        local.spawn_local(Checks { shared: shared.clone(), board, reports: reports.clone() }.run());
    }
    // Whoever reads this line may be gone; the sidecar serves all the same.
    let _ = writeln!(std::io::stdout(), "{first_line}");
    let recording = access::stdout()
        .and_then(|out| recording.start(out, reports))
        .map_err(|error| format!("log.access: its thread: {error}"))?;

    let way = local.run_until(see_out(shared, sidecar.drain, &mut asked, phase)).await;
    drop(local);
    for thread in threads {
        let _ = thread.join();
    }
    if way == Way::InOrder {
        tokio::select! {
            () = recording.finish() => {}
            () = second_terminate(&mut asked) => {}
        }
    }
    let _ = std::fs::remove_file(&socket_path);
    Ok(())
}

/// The one place that reads the environment: `OTEL_*` are how a cluster says where traces go.
fn environment(name: &str) -> Option<OsString> {
    #[expect(
        clippy::disallowed_methods,
        reason = "these variables are a standard, and the file wins over them"
    )]
    std::env::var_os(name)
}

fn listen(key: &str, at: SocketAddr) -> Result<TcpListener, String> {
    let bind = || -> std::io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&at.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    bind().map_err(|error| {
        let hint = match error.kind() {
            ErrorKind::AddrInUse => "; another process listens there: end it, or name another port",
            ErrorKind::AddrNotAvailable => "; name an address of this host",
            ErrorKind::PermissionDenied => "; name a port of 1024 or above",
            _ => "",
        };
        format!("{key}: cannot listen on {at}: {error}{hint}")
    })
}

fn address(listener: &TcpListener) -> Result<SocketAddr, String> {
    listener.local_addr().map_err(|error| error.to_string())
}

/// The entries of `inbound` by listener: those that name the same address share one. Port 0 is a port of its own
/// each time.
fn shared_listens(inbound: &[Inbound]) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (index, entry) in inbound.iter().enumerate() {
        let same =
            |group: &&mut Vec<usize>| entry.listen.port() != 0 && inbound[group[0]].listen == entry.listen;
        match groups.iter_mut().find(same) {
            Some(group) => group.push(index),
            None => groups.push(vec![index]),
        }
    }
    groups
}

fn take_signals(asks: &mpsc::Sender<Ask>) -> Result<(), String> {
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut signals = signal(kind).map_err(|error| format!("signals: {error}"))?;
        let asks = asks.clone();
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                if asks.send(Ask::Terminate).await.is_err() {
                    return;
                }
            }
        });
    }
    Ok(())
}

/// Gives the retry budgets and the medians their seconds, and closes the accounts of clusters that are gone.
async fn keep_books(shared: Arc<Shared>) {
    let mut seconds = tokio::time::interval(std::time::Duration::from_secs(1));
    loop {
        seconds.tick().await;
        let tables = shared.tables.load_full();
        tables.ledger.close();
        tables.ledger.tick(shared.clock.nanos(tokio::time::Instant::now()));
        tables.medians.iter().for_each(|median| median.tick());
    }
}
