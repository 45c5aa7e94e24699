//! One of the two stores: with a sidecar beside each app, or with apps that call each other directly.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use examples::ledger::{self, Audit};

use crate::demo::chaos::policies::{self, SERVICES};
use crate::demo::chaos::relay::Relay;
use crate::demo::chaos::schedule::{BEHIND_RELAY, Fault, Hit, SERVICES_HIT};
use crate::demo::chaos::tally::Tally;
use crate::demo::control::{Control, Pages};
use crate::demo::files;
use crate::demo::identity::{self, Account};
use crate::demo::mesh::{Port, Replica, lay_out};
use crate::demo::processes::{Process, stop_all};
use crate::demo::scrape::{self, Samples};
use crate::demo::sidecar::Sidecar;

/// How long a call may take, watches aside, in either store.
pub(crate) const DEADLINE: Duration = Duration::from_secs(3);

/// How the apps of a store call each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Through a sidecar beside each.
    Mesh,
    /// Directly, by the addresses of all replicas.
    Plain,
}

/// A store and its processes.
#[derive(Debug)]
pub(crate) struct World {
    way: Way,
    folder: PathBuf,
    /// What the sidecars are told by; none without sidecars.
    control: Option<Control>,
    pods: Vec<Pod>,
}

/// A replica and what runs of it.
#[derive(Debug)]
struct Pod {
    replica: Replica,
    sidecar: Option<Sidecar>,
    app: Option<Process>,
    relay: Option<Relay>,
    /// What the app is told besides where to listen.
    args: Vec<String>,
}

impl World {
    /// Writes the files of a store into a folder of `parent` and opens its relays; nothing runs yet.
    ///
    /// # Errors
    /// One message that says what could not be done.
    pub(crate) fn lay_out(way: Way, parent: &Path) -> Result<Self, String> {
        let folder = parent.join(match way {
            Way::Mesh => "mesh",
            Way::Plain => "plain",
        });
        let at = |error: std::io::Error| format!("{}: {error}", folder.display());
        fs::create_dir(&folder).map_err(at)?;
        let (host, mut replicas) = lay_out(&SERVICES).map_err(|error| error.to_string())?;
        let mut relays = Vec::new();
        for replica in &mut replicas {
            relays.push(dial(way, host, replica).map_err(|error| format!("{}: {error}", replica.name))?);
        }
        let mut control = None;
        if way == Way::Mesh {
            let services = SERVICES.map(|(service, _)| service);
            identity::write_tokens(&folder, &services)?;
            let made = control.insert(Control::lay_out(host).map_err(at)?);
            let policies = |service: &str| policies::of(service).to_owned();
            files::write(&folder, host, made, (&SERVICES, &replicas), policies).map_err(at)?;
        }
        let addresses = addresses(&replicas);
        let pods = replicas.into_iter().zip(relays).map(|(replica, relay)| {
            let args = arguments(way, replica.service, &addresses, &folder);
            Pod { replica, sidecar: None, app: None, relay, args }
        });
        let pods = pods.collect();
        Ok(Self { way, folder, control, pods })
    }

    /// How many apps and sidecars there are, and control planes.
    pub(crate) fn processes(&self) -> usize {
        self.pods.len() * if self.way == Way::Mesh { 2 } else { 1 } + self.control.iter().len()
    }

    /// Starts everything but the shoppers. Every sidecar then holds the mesh, in memory and on disk.
    ///
    /// # Errors
    /// One message that names the process that would not start, with its last words.
    pub(crate) async fn start(&mut self) -> Result<(), String> {
        if let Some(control) = &mut self.control {
            control.start(&self.folder).await?;
        }
        for pod in &mut self.pods {
            if self.way == Way::Mesh {
                pod.start_sidecar(&self.folder).await?;
            }
            if pod.replica.service != "storefront" {
                pod.start_app(&self.folder, &[]).await?;
            }
        }
        if let Some(pages) = self.pages() {
            pages.settled(self.pods.len()).await?;
        }
        for sidecar in self.sidecars() {
            sidecar.kept().await?;
        }
        Ok(())
    }

    /// The pages of the control plane, if there is one.
    pub(crate) fn pages(&self) -> Option<Pages> {
        self.control.as_ref().map(Control::pages)
    }

    /// Lets the shoppers in.
    ///
    /// # Errors
    /// As [`World::start`].
    pub(crate) async fn open(&mut self, shoppers: u16, rate: u32) -> Result<(), String> {
        let args = ["--shoppers".to_owned(), shoppers.to_string(), "--rate".to_owned(), rate.to_string()];
        let Self { pods, folder, .. } = self;
        for pod in pods.iter_mut().filter(|pod| pod.replica.service == "storefront") {
            pod.start_app(folder, &args).await?;
        }
        Ok(())
    }

    /// Has a fault begin.
    pub(crate) async fn begin(&mut self, hit: &Hit) {
        if let Some(control) = &mut self.control {
            match hit.fault {
                Fault::KillControl => {
                    if let Some(process) = control.process().take() {
                        process.kill();
                        process.gone().await;
                    }
                }
                Fault::FreezeControl => control.process().iter().for_each(Process::freeze),
                _ => {}
            }
        }
        let Some(pod) = self.pod(&hit.replica) else { return };
        // First all signals, so that app and sidecar go together.
        match hit.fault {
            Fault::KillApp => pod.app.iter().for_each(Process::kill),
            Fault::KillPod => pod.processes().for_each(Process::kill),
            Fault::FreezeApp => pod.app.iter().for_each(Process::freeze),
            Fault::FreezePod => pod.processes().for_each(Process::freeze),
            Fault::BlackHole => pod.relay.iter().for_each(|relay| relay.swallow(true)),
            Fault::KillControl | Fault::FreezeControl => {}
        }
        if matches!(hit.fault, Fault::KillApp | Fault::KillPod)
            && let Some(app) = pod.app.take()
        {
            app.gone().await;
        }
        if hit.fault == Fault::KillPod
            && let Some(sidecar) = pod.sidecar.take()
        {
            sidecar.process.gone().await;
        }
    }

    /// Has a fault be over.
    ///
    /// # Errors
    /// When what was killed does not start again.
    pub(crate) async fn end(&mut self, hit: &Hit) -> Result<(), String> {
        let (folder, meshed) = (self.folder.clone(), self.way == Way::Mesh);
        match (hit.fault, &mut self.control) {
            (Fault::KillControl, Some(control)) => control.start(&folder).await?,
            (Fault::FreezeControl, Some(control)) => control.process().iter().for_each(Process::thaw),
            _ => {}
        }
        let Some(pod) = self.pod(&hit.replica) else { return Ok(()) };
        match hit.fault {
            Fault::KillApp => pod.start_app(&folder, &[]).await,
            Fault::KillPod => {
                if meshed {
                    pod.start_sidecar(&folder).await?;
                }
                pod.start_app(&folder, &[]).await
            }
            Fault::FreezeApp | Fault::FreezePod | Fault::BlackHole => {
                pod.let_go();
                Ok(())
            }
            Fault::KillControl | Fault::FreezeControl => Ok(()),
        }
    }

    /// What the control plane has signed and refused, if there is one; and the samples of all sidecars.
    ///
    /// # Errors
    /// When one of them cannot be asked.
    pub(crate) async fn identities(&self) -> Result<(Account, Samples), String> {
        let mut samples = Samples::default();
        for sidecar in self.sidecars() {
            let scraped = scrape::metrics(sidecar.probes).await;
            samples.extend(scraped.map_err(|error| format!("{}: {error}", sidecar.process.name))?);
        }
        Ok((Account::read(&self.folder)?, samples))
    }

    /// What the shoppers saw so far.
    pub(crate) fn tally(&self) -> Tally {
        let storefront = self.pods.iter().find(|pod| pod.replica.service == "storefront");
        let line = storefront.and_then(|pod| pod.app.as_ref()).and_then(Process::last_line);
        line.as_ref().map(Tally::read).unwrap_or_default()
    }

    /// The samples of the storefront's sidecar, which nothing happens to.
    ///
    /// # Errors
    /// When there is none, or it does not answer.
    pub(crate) async fn shoppers_sidecar(&self) -> Result<Samples, String> {
        let storefront = self.pods.iter().find(|pod| pod.replica.service == "storefront");
        let sidecar =
            storefront.and_then(|pod| pod.sidecar.as_ref()).ok_or("the storefront has no sidecar")?;
        scrape::metrics(sidecar.probes).await.map_err(|error| format!("{}: {error}", sidecar.process.name))
    }

    /// The sidecars that run, by replica: where `/metrics` is and where `/clusters` is.
    pub(crate) fn sidecars(&self) -> impl Iterator<Item = &Sidecar> {
        self.pods.iter().filter_map(|pod| pod.sidecar.as_ref())
    }

    /// An error if any process has ended that nobody killed.
    pub(crate) fn still_runs(&mut self) -> Result<(), String> {
        let control = self.control.iter_mut().flat_map(Control::process);
        control.into_iter().try_for_each(Process::still_runs)?;
        for pod in &mut self.pods {
            let sidecar = pod.sidecar.iter_mut().map(|sidecar| &mut sidecar.process);
            sidecar.chain(&mut pod.app).try_for_each(Process::still_runs)?;
        }
        Ok(())
    }

    /// Sends the shoppers home and returns what they saw.
    ///
    /// # Errors
    /// When they did not end as they should.
    pub(crate) async fn close(&mut self) -> Result<Tally, String> {
        self.let_go();
        let Some(pod) = self.pods.iter_mut().find(|pod| pod.replica.service == "storefront") else {
            return Err("there is no storefront".to_owned());
        };
        let Some(app) = &mut pod.app else { return Err("the storefront never opened".to_owned()) };
        app.terminate();
        app.ended().await?;
        let last = app.last_line().filter(|line| line["final"] == true);
        pod.app = None;
        last.as_ref().map(Tally::read).ok_or_else(|| "the storefront printed no final counts".to_owned())
    }

    /// Reads the book of payments.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn audit(&self) -> Result<Audit, String> {
        ledger::audit(&ledger_of(&self.folder)).map_err(|error| format!("the ledger: {error}"))
    }

    /// Stops whatever still runs, frozen or not, and returns what went wrong.
    pub(crate) async fn stop(&mut self) -> Vec<String> {
        self.let_go();
        let mut control: Vec<_> =
            self.control.iter_mut().filter_map(|control| control.process().take()).collect();
        let mut sidecars = Vec::new();
        let (mut apps, mut storefront) = (Vec::new(), Vec::new());
        for pod in &mut self.pods {
            sidecars.extend(pod.sidecar.take().map(|sidecar| sidecar.process));
            let apps = if pod.replica.service == "storefront" { &mut storefront } else { &mut apps };
            apps.extend(pod.app.take());
        }
        let mut faults = stop_all(&mut storefront).await;
        faults.extend(stop_all(&mut sidecars).await);
        faults.extend(stop_all(&mut apps).await);
        faults.extend(stop_all(&mut control).await);
        faults
    }

    /// Ends freezes and black holes.
    fn let_go(&mut self) {
        self.pods.iter().for_each(Pod::let_go);
        self.control.iter_mut().flat_map(Control::process).for_each(|process| process.thaw());
    }

    fn pod(&mut self, replica: &str) -> Option<&mut Pod> {
        self.pods.iter_mut().find(|pod| pod.replica.name == replica)
    }
}

impl Pod {
    fn processes(&self) -> impl Iterator<Item = &Process> {
        self.app.iter().chain(self.sidecar.iter().map(|sidecar| &sidecar.process))
    }

    /// Ends freezes and black holes; nothing to a pod that runs.
    fn let_go(&self) {
        self.processes().for_each(Process::thaw);
        self.relay.iter().for_each(|relay| relay.swallow(false));
    }

    async fn start_sidecar(&mut self, folder: &Path) -> Result<(), String> {
        let sidecar = Sidecar::start(folder, &mut self.replica).await?;
        self.sidecar.insert(sidecar).ready().await
    }

    async fn start_app(&mut self, folder: &Path, more: &[String]) -> Result<(), String> {
        let listen = self.replica.app.address.to_string();
        let mesh = self.sidecar.as_ref().map(|sidecar| format!("http://{}", sidecar.outbound));
        let mut args = vec!["store", self.replica.service, "--listen", &listen];
        args.extend(mesh.iter().flat_map(|url| ["--mesh", url]));
        args.extend(self.args.iter().chain(more).map(String::as_str));
        self.replica.app.let_go();
        let app = Process::start(&self.replica.name, &args, folder).map_err(|error| error.to_string())?;
        self.app.insert(app).first_line().await.map(drop)
    }
}

/// Settles where the others find a replica, and puts a relay there where it has one.
fn dial(way: Way, host: IpAddr, replica: &mut Replica) -> std::io::Result<Option<Relay>> {
    let itself = match way {
        Way::Mesh => replica.inbound.address,
        Way::Plain => replica.app.address,
    };
    replica.dialled = itself;
    let behind = SERVICES_HIT.map(|service| format!("{service}-{BEHIND_RELAY}"));
    if !behind.contains(&replica.name) {
        return Ok(None);
    }
    let port = Port::take(host)?;
    replica.dialled = port.address;
    port.listener().map(|listener| Relay::start(listener, itself)).transpose()
}

/// The addresses of each service.
fn addresses(replicas: &[Replica]) -> Vec<(&'static str, Vec<SocketAddr>)> {
    let addresses = SERVICES.map(|(service, _)| {
        let of = replicas.iter().filter(|replica| replica.service == service);
        (service, of.map(|replica| replica.dialled).collect())
    });
    addresses.into()
}

/// What an app of `service` is told, besides where it listens and who shops.
fn arguments(way: Way, service: &str, addresses: &[(&str, Vec<SocketAddr>)], folder: &Path) -> Vec<String> {
    let mut args = Vec::new();
    if way == Way::Plain {
        for (other, addresses) in addresses {
            let urls: Vec<_> = addresses.iter().map(|address| format!("http://{address}")).collect();
            args.extend(["--at".to_owned(), format!("{other}={}", urls.join(","))]);
        }
    }
    args.extend(["--deadline".to_owned(), DEADLINE.as_secs_f64().to_string()]);
    if service == "payments" {
        args.extend(["--ledger".to_owned(), ledger_of(folder).to_string_lossy().into_owned()]);
    }
    args
}

fn ledger_of(folder: &Path) -> PathBuf {
    folder.join("ledger")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_the_mesh_is_told_passes_its_own_check() {
        let folder = tempfile::tempdir().expect("a folder");
        let world = World::lay_out(Way::Mesh, folder.path()).expect("files");
        files::assert_good(&world.folder, world.pods.len());
    }
}
