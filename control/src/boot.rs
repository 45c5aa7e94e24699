//! From a file name to a running control plane and back to nothing.

use std::io::{ErrorKind, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use config::Source;
use config::control::Control;
use files::Reports;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::timeout;

use crate::accept::Door;
use crate::admin::{self, Pages};
use crate::ads::hub::Hub;
use crate::ads::limits::Settings;
use crate::ads::server;
use crate::ca::authority::Authority;
use crate::ca::keeper::Keeper;
use crate::counters::Counters;
use crate::credentials::{self, Held};
use crate::folder;
use crate::follow::Follower;
use crate::maker::Maker;
use crate::metrics::Exporter;
use crate::own::Renewal;
use crate::registrations::Registrations;
use crate::world::Worlds;

/// How long clients may take to go elsewhere when we leave.
const LEAVE_MAX: Duration = Duration::from_secs(5);
/// How long the last lines of the audit may take then.
const AUDIT_MAX: Duration = Duration::from_secs(1);

/// Runs the control plane of `path` until it has been asked to go and has gone.
pub(crate) fn run(path: &Path) -> Result<(), String> {
    let started = SystemTime::now();
    let control = load(path)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("the runtime: {error}"))?;
    let done = runtime.block_on(live(control, started));
    // A file that is read at this moment, from a disk that does not answer, must not hold up the end.
    runtime.shutdown_background();
    done
}

/// Reads a `control.yaml`, its paths made relative to its folder.
fn load(path: &Path) -> Result<Control, String> {
    let name = path.display().to_string();
    let text = folder::read(path).map_err(|error| format!("{name}: {error}"))?;
    let mut control = config::parse_control(Source { name: &name, text: &text })
        .map_err(|faults| format!("the configuration cannot be used:\n{faults}"))?;
    control.resolve_paths(path.parent().unwrap_or(Path::new("")));
    Ok(control)
}

/// Reads everything, binds, says where, and stays until it is asked to go.
async fn live(control: Control, started: SystemTime) -> Result<(), String> {
    let hangup = || signal(SignalKind::hangup()).map_err(|error| format!("signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| format!("signals: {error}"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| format!("signals: {error}"))?;
    let reports = Reports::start("outrigger-control").map_err(|error| format!("reports: {error}"))?;
    let counters = Arc::new(Counters::default());
    let registrations = Arc::new(Registrations::new(control.limits.registrations));
    let (follower, meshes) = Follower::begin(&control.mesh, control.cache.as_deref(), reports.clone())?;
    let (maker, worlds) = Maker::begin(meshes, registrations.clone(), counters.clone(), control.debounce);
    let keeper = control
        .ca
        .as_ref()
        .map(|ca| Keeper::begin(ca, control.cache.as_deref(), &control.limits, reports.clone()))
        .transpose()
        .map_err(|why| format!("ca: {why}"))?;
    let ca = keeper.as_ref().map(|keeper| keeper.authority().clone());
    let met = Met::begin(&control, ca.clone(), &worlds, &reports)?;
    let identity = met.held();
    let ads = listen("ads.listen", control.ads).await?;
    let pages = listen("admin.listen", control.admin).await?;
    let first_line = json!({"pid": std::process::id(), "ads": address(&ads)?, "admin": address(&pages)?});

    let hub = Hub::with_ca(worlds.clone(), registrations.clone(), Settings::from(&control), ca);
    let exporter = Exporter {
        worlds,
        journal: follower.journal().clone(),
        registrations,
        counters: counters.clone(),
        hub: hub.clone(),
        identity: identity.clone(),
        started,
    };
    let shown = Arc::new(Pages { exporter, hub: hub.clone(), leaving: AtomicBool::new(false) });
    let mut tasks = JoinSet::new();
    tasks.spawn(follower.run(hangup()?));
    tasks.spawn(maker.run());
    if let Some(keeper) = keeper {
        tasks.spawn(keeper.run(hangup()?));
    }
    let hangups = hangup()?;
    match met {
        Met::Files(follower) => _ = tasks.spawn(follower.run(hangups)),
        Met::Signed(renewal) => _ = tasks.spawn(renewal.run()),
        Met::Plaintext => {}
    }
    tasks.spawn(admin::serve(pages, shown.clone()));
    let door = Door { listener: ads, identity, limits: control.limits, counters, reports };
    let mut serving = tokio::spawn(server::run(door.open(), hub.clone()));
    // Whoever reads this line may be gone; the control plane serves all the same.
    let _ = writeln!(std::io::stdout(), "{first_line}");
    // Where the audit goes to stdout, that line is still the first.
    if let Some(ca) = hub.ca() {
        ca.open_audit();
    }

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    shown.leaving.store(true, Ordering::Relaxed);
    hub.leave();
    tokio::select! {
        _ = timeout(LEAVE_MAX, &mut serving) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    serving.abort();
    tasks.shutdown().await;
    if let Some(ca) = hub.ca().cloned() {
        let _ = spawn_blocking(move || ca.close_audit(AUDIT_MAX)).await;
    }
    Ok(())
}

/// As what clients meet us.
enum Met {
    Plaintext,
    Files(Box<credentials::Follower>),
    /// By a certificate of our own CA.
    Signed(Renewal),
}

impl Met {
    fn begin(
        control: &Control,
        ca: Option<Arc<Authority>>,
        worlds: &Worlds,
        reports: &Reports,
    ) -> Result<Self, String> {
        let (worlds, reports) = (worlds.clone(), reports.clone());
        let names = control.ca.as_ref().map(|ca| ca.names.as_slice()).unwrap_or_default();
        match (&control.identity, ca) {
            _ if control.plaintext => Ok(Self::Plaintext),
            (Some(files), ca) => credentials::Follower::begin(files.clone(), ca, worlds, reports)
                .map(|follower| Self::Files(Box::new(follower)))
                .map_err(|why| format!("identity: {why}")),
            (None, Some(ca)) => Renewal::begin(ca, names, worlds, reports)
                .map(Self::Signed)
                .map_err(|why| format!("ca: {why}")),
            // The parser asks for one of them.
            (None, None) => Err("there is neither `identity` nor `ca`".to_owned()),
        }
    }

    fn held(&self) -> Option<Arc<Held>> {
        match self {
            Self::Plaintext => None,
            Self::Files(follower) => Some(follower.held().clone()),
            Self::Signed(renewal) => Some(renewal.held().clone()),
        }
    }
}

async fn listen(key: &str, at: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(at).await.map_err(|error| {
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
