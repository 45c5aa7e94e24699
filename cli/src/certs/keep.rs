//! `outrigger certs --sds` and `--write`: gets a certificate, keeps it new, and hands it to programs that are no sidecars.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use config::Source as Text;
use config::identity::IdentitySource;
use config::mesh_source::ControlAddress;
use config::spiffe::SpiffeId;
use identity::agent::{Agent, Control, Settings, Source};
use identity::state::State;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::certs::sds;
use crate::certs::write;

/// What `outrigger certs` takes besides its subcommands.
#[derive(Debug, Args)]
pub(crate) struct Keeping {
    /// Serves the certificate to Envoy by SDS at this Unix socket: secrets `default` and `ROOTCA`.
    #[arg(long, value_name = "unix:PATH", value_parser = socket)]
    pub(crate) sds: Option<PathBuf>,
    /// Writes tls.crt, tls.key and ca.crt into this folder, all three swapped at once at each renewal.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) write: Option<PathBuf>,
    /// Ends when the first certificate is written, for an init container.
    #[arg(long, requires = "write", conflicts_with = "sds")]
    once: bool,
    /// Lets the group use the socket and read the key, for an app of another user.
    #[arg(long)]
    group: bool,
    /// Takes all of the following from a sidecar's file.
    #[arg(long, value_name = "SIDECAR.YAML", conflicts_with_all = ["control", "workload_api", "id", "bundle", "token", "cache"])]
    config: Option<PathBuf>,
    /// A control plane whose CA is asked; may be given several times.
    #[arg(long, value_name = "URL", value_parser = address, requires = "bundle", conflicts_with = "workload_api")]
    control: Vec<ControlAddress>,
    /// The roots that vouch for the control plane.
    #[arg(long, value_name = "FILE", requires = "control")]
    bundle: Option<PathBuf>,
    /// The join token that the control plane is shown first; read anew each time.
    #[arg(long, value_name = "FILE", requires = "control")]
    token: Option<PathBuf>,
    /// Keeps key and certificate in this folder over a restart.
    #[arg(long, value_name = "FOLDER", requires = "control")]
    cache: Option<PathBuf>,
    /// The socket of the SPIFFE Workload API, in the place of a control plane.
    #[arg(long, value_name = "unix:PATH", value_parser = socket)]
    workload_api: Option<PathBuf>,
    /// Whose certificate it is, such as spiffe://cluster.local/ns/shop/sa/orders.
    #[arg(long, value_name = "SPIFFE-ID", value_parser = SpiffeId::parse)]
    id: Option<SpiffeId>,
}

impl Keeping {
    /// Whether anything is asked for that a subcommand does not do.
    pub(crate) fn are_given(&self) -> bool {
        self.sds.is_some() || self.write.is_some()
    }
}

/// Runs until it is told to end.
pub(crate) fn run(options: &Keeping) -> Result<(), String> {
    let settings = settings(options)?;
    // Sockets and folders are made for nobody else; what others may read gets its rights by name.
    // SAFETY: there is no other thread yet that could make files meanwhile.
    unsafe { libc::umask(if options.group { 0o007 } else { 0o077 }) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| error.to_string())?.block_on(serve(options, settings))
}

async fn serve(options: &Keeping, settings: Settings) -> Result<(), String> {
    let ends = [SignalKind::terminate(), SignalKind::interrupt()].map(signal);
    let [mut term, mut int] = ends.map(|end| end.map_err(|error| error.to_string()));
    let (Ok(term), Ok(int)) = (&mut term, &mut int) else {
        return Err("no signal can be waited for".to_owned());
    };
    if let Some(folder) = &options.write {
        write::prepare(folder)?;
    }
    let listener = match &options.sds {
        Some(socket) => Some(sds::bind(socket, options.group)?),
        None => None,
    };
    let id = settings.id.clone();
    let (agent, state) = Agent::begin(settings);
    let show = |path: &PathBuf| path.display().to_string();
    println!(
        "{}",
        json!({
            "pid": std::process::id(),
            "id": id.as_str(),
            "sds": options.sds.as_ref().map(|socket| format!("unix:{}", show(socket))),
            "write": options.write.as_ref().map(show),
        })
    );
    let handing_out = async {
        match listener {
            Some(listener) => sds::serve(listener, state.clone()).await,
            None => std::future::pending().await,
        }
    };
    let writing = async {
        match &options.write {
            Some(folder) => follow(folder.clone(), options, state.clone()).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = agent.run() => Ok(()),
        ended = handing_out => ended,
        ended = writing => ended,
        _ = term.recv() => Ok(()),
        _ = int.recv() => Ok(()),
    }
}

/// Writes each new identity; the first that cannot be written ends it, a later one is told and tried again with the next.
async fn follow(folder: PathBuf, options: &Keeping, mut state: watch::Receiver<State>) -> Result<(), String> {
    let mut written: Option<String> = None;
    loop {
        let other = |state: &State| {
            state.material.as_ref().is_some_and(|material| Some(&material.digest) != written.as_ref())
        };
        let newest = match state.wait_for(other).await {
            Ok(state) => state.material.clone(),
            Err(_) => return Ok(()),
        };
        let Some(material) = newest else { continue };
        let is_first = written.replace(material.digest.clone()).is_none();
        let (folder, group) = (folder.clone(), options.group);
        let done = tokio::task::spawn_blocking(move || write::swap(&folder, &material, group)).await;
        match done.map_err(|error| error.to_string()).and_then(|done| done) {
            Ok(()) if options.once => return Ok(()),
            Ok(()) => {}
            Err(error) if is_first => return Err(error),
            Err(error) => eprintln!("outrigger certs: {error}; what is there stays"),
        }
    }
}

fn settings(options: &Keeping) -> Result<Settings, String> {
    let (id, source) = match &options.config {
        Some(file) => of_file(file)?,
        None => {
            let missing = "say whose certificate it is: `--id spiffe://cluster.local/ns/shop/sa/orders`";
            let id = options.id.clone().ok_or(missing)?;
            let source = match (&options.workload_api, options.bundle.clone()) {
                (Some(socket), _) => Source::WorkloadApi { socket: socket.clone() },
                (None, Some(bundle)) => Source::Control(Control {
                    addresses: options.control.clone(),
                    bundle,
                    token: options.token.clone(),
                    cache: options.cache.clone(),
                }),
                (None, None) => {
                    return Err("say who issues it: `--control URL --bundle FILE --token FILE`, \
                                `--workload-api unix:PATH`, or `--config SIDECAR.YAML`"
                        .to_owned());
                }
            };
            (id, source)
        }
    };
    if id.path().is_empty() {
        return Err(format!("--id {id}: it names a trust domain and no workload"));
    }
    let mut settings = Settings::new(id, source);
    settings.tell = Arc::new(|line| eprintln!("outrigger certs: {line}"));
    Ok(settings)
}

fn of_file(file: &PathBuf) -> Result<(SpiffeId, Source), String> {
    let name = file.display().to_string();
    let text = fs::read_to_string(file).map_err(|error| format!("{name}: cannot be read: {error}"))?;
    let mut sidecar = config::parse_sidecar(Text { name: &name, text: &text })
        .map_err(|faults| format!("the configuration cannot be used:\n{}", faults.to_string().trim_end()))?;
    sidecar.resolve_paths(file.parent().unwrap_or_else(|| "".as_ref()));
    let id = sidecar.spiffe_id();
    let source = match sidecar.identity {
        Some(IdentitySource::WorkloadApi(socket)) => Source::WorkloadApi { socket },
        Some(IdentitySource::Control(issued)) => {
            let planes = sidecar.mesh.control();
            let bundle = planes.and_then(|planes| planes.bundle.clone());
            Source::Control(Control {
                addresses: planes.map(|planes| planes.addresses.clone()).unwrap_or_default(),
                bundle: bundle.ok_or_else(|| {
                    format!("{name}: `mesh.bundle` is missing; it vouches for the control plane")
                })?,
                token: issued.token,
                cache: issued.cache,
            })
        }
        Some(IdentitySource::Files(_)) | None => {
            return Err(format!(
                "{name}: its `identity` is issued by nobody; write `{{control: true, token: FILE}}` or `{{workload_api: unix:PATH}}`"
            ));
        }
    };
    Ok((id, source))
}

fn socket(text: &str) -> Result<PathBuf, String> {
    let path =
        text.strip_prefix("unix:").ok_or("write `unix:` and its path, as `unix:/run/outrigger/sds.sock`")?;
    match path.strip_prefix("//").unwrap_or(path) {
        "" => Err("there is no path after `unix:`".to_owned()),
        path => Ok(path.into()),
    }
}

fn address(url: &str) -> Result<ControlAddress, String> {
    let address = ControlAddress::parse(url).filter(|address| address.tls);
    address.ok_or_else(|| "write `https://host:port`, as `https://outrigger-control:15012`".to_owned())
}
