//! The running store: every app and every sidecar as a process, started and stopped in order.

use std::path::Path;

use serde_json::Value;

use crate::demo::canary::{self, Canary};
use crate::demo::control::{Control, Pages};
use crate::demo::files;
use crate::demo::identity;
use crate::demo::mesh::{Replica, SERVICES, lay_out};
use crate::demo::processes::{Process, stop_all};
use crate::demo::scrape::{self, Samples};
use crate::demo::sidecar::Sidecar;

/// The processes of one demo.
#[derive(Debug, Default)]
pub(crate) struct Store {
    control: Option<Control>,
    sidecars: Vec<Sidecar>,
    /// Those that are only called.
    callees: Vec<Process>,
    /// The replicas of orders, which call payments and count it.
    orders: Vec<Process>,
    /// None or one.
    storefront: Vec<Process>,
}

impl Store {
    /// Makes join tokens, and starts the control plane, sidecars and every app but the storefront. Every sidecar then
    /// holds the mesh.
    ///
    /// # Errors
    /// One message that names the process that would not start, with its last words. What has started by
    /// then is in `self` and must be stopped.
    pub(crate) async fn start(&mut self, folder: &Path) -> Result<Vec<Replica>, String> {
        let (mut replicas, control) = write(folder)?;
        let control = self.control.insert(control);
        control.start(folder).await?;
        let pages = control.pages();
        for replica in &mut replicas {
            self.sidecars.push(Sidecar::start(folder, replica).await?);
        }
        for sidecar in &self.sidecars {
            sidecar.ready().await?;
        }
        pages.settled(self.sidecars.len()).await?;
        for replica in replicas.iter_mut().filter(|replica| replica.service != "storefront") {
            self.start_app(folder, replica, &[]).await?;
        }
        Ok(replicas)
    }

    /// Opens the doors: from here on `shoppers` start `rate` calls per second together.
    ///
    /// # Errors
    /// As [`Store::start`].
    pub(crate) async fn open(
        &mut self,
        folder: &Path,
        replicas: &mut [Replica],
        shoppers: u16,
        rate: u32,
    ) -> Result<(), String> {
        let shoppers = ["--shoppers", &shoppers.to_string(), "--rate", &rate.to_string()];
        for replica in replicas.iter_mut().filter(|replica| replica.service == "storefront") {
            self.start_app(folder, replica, &shoppers).await?;
        }
        Ok(())
    }

    /// Calls `Charge` once through the storefront's sidecar and returns the code and message it ended with.
    ///
    /// # Errors
    /// When the call could not be made at all.
    pub(crate) async fn charge_as_storefront(&self, folder: &Path) -> Result<(String, String), String> {
        let mesh = self.outbound_beside("storefront")?;
        let args = ["store", "charge", "--mesh", &mesh];
        let mut caller = Process::start("charge", &args, folder).map_err(|error| error.to_string())?;
        let answer = caller.first_line().await?;
        caller.ended().await?;
        let text = |key: &str| answer[key].as_str().unwrap_or_default().to_owned();
        Ok((text("code"), text("message")))
    }

    /// The pages of the control plane.
    ///
    /// # Errors
    /// When there is none yet.
    pub(crate) fn control(&self) -> Result<Pages, String> {
        self.control.as_ref().map(Control::pages).ok_or_else(|| "there is no control plane".to_owned())
    }

    /// The roll-out of a second version, before so many shoppers.
    ///
    /// # Errors
    /// As [`Store::control`].
    pub(crate) fn canary(
        &self,
        folder: &Path,
        replicas: &[Replica],
        shoppers: u16,
    ) -> Result<Canary, String> {
        Ok(Canary::new(folder, self.control()?, replicas, &self.sidecars, shoppers))
    }

    /// The sidecars.
    pub(crate) fn sidecars(&self) -> &[Sidecar] {
        &self.sidecars
    }

    /// What the storefront printed last.
    pub(crate) fn storefront_line(&self) -> Option<Value> {
        self.storefront.first().and_then(Process::last_line)
    }

    /// What each replica of orders printed last.
    pub(crate) fn orders_lines(&self) -> Vec<Value> {
        self.orders.iter().filter_map(Process::last_line).collect()
    }

    /// The samples of all sidecars of `service` together, or of all sidecars there are.
    ///
    /// # Errors
    /// When one of them does not answer.
    pub(crate) async fn scrape(&self, service: Option<&str>) -> Result<Samples, String> {
        let mut samples = Samples::default();
        for sidecar in self.sidecars.iter().filter(|sidecar| service.is_none_or(|of| of == sidecar.service)) {
            let scraped = scrape::metrics(sidecar.probes).await;
            samples.extend(scraped.map_err(|error| format!("{}: {error}", sidecar.process.name))?);
        }
        Ok(samples)
    }

    /// An error if any process has ended by itself.
    pub(crate) fn still_runs(&mut self) -> Result<(), String> {
        let sidecars = self.sidecars.iter_mut().map(|sidecar| &mut sidecar.process);
        let apps = self.callees.iter_mut().chain(&mut self.orders).chain(&mut self.storefront);
        let control = self.control.iter_mut().flat_map(|control| control.process());
        control.chain(sidecars).chain(apps).try_for_each(Process::still_runs)
    }

    /// Stops the callers, first the shoppers and then orders, and returns their last lines, the
    /// storefront's first, and what went wrong.
    pub(crate) async fn close(&mut self) -> (Vec<Value>, Vec<String>) {
        let (mut lines, mut faults) = (Vec::new(), Vec::new());
        for callers in [&mut self.storefront, &mut self.orders] {
            for caller in callers.iter() {
                caller.terminate();
            }
            for caller in callers.iter_mut() {
                faults.extend(caller.ended().await.err());
                match caller.last_line().filter(|line| line["final"] == true) {
                    Some(line) => lines.push(line),
                    None => faults.push(format!("{}: printed no final counts", caller.name)),
                }
            }
            callers.clear();
        }
        (lines, faults)
    }

    /// Stops whatever still runs and returns what went wrong.
    pub(crate) async fn stop(&mut self) -> Vec<String> {
        let mut faults = stop_all(&mut self.storefront).await;
        let mut sidecars = self.sidecars.drain(..).map(|sidecar| sidecar.process).collect();
        faults.extend(stop_all(&mut sidecars).await);
        self.callees.append(&mut self.orders);
        faults.extend(stop_all(&mut self.callees).await);
        let control = self.control.as_mut().and_then(|control| control.process().take());
        faults.extend(stop_all(&mut control.into_iter().collect()).await);
        faults
    }

    async fn start_app(&mut self, folder: &Path, replica: &mut Replica, more: &[&str]) -> Result<(), String> {
        let mesh = self.outbound_of(&replica.name)?;
        let listen = replica.app.address.to_string();
        let mut args = vec!["store", replica.service, "--listen", &listen];
        // Those that call nobody need no way out.
        if matches!(replica.service, "orders" | "storefront") {
            args.extend(["--mesh", &mesh]);
        }
        args.extend(more);
        replica.app.let_go();
        let process = Process::start(&replica.name, &args, folder).map_err(|error| error.to_string())?;
        let started = match replica.service {
            "storefront" => &mut self.storefront,
            "orders" => &mut self.orders,
            _ => &mut self.callees,
        };
        started.push(process);
        let Some(process) = started.last_mut() else { return Ok(()) };
        process.first_line().await.map(drop)
    }

    fn outbound_of(&self, replica: &str) -> Result<String, String> {
        let sidecar = self.sidecars.iter().find(|sidecar| sidecar.replica == replica);
        let sidecar = sidecar.ok_or_else(|| format!("{replica} has no sidecar"))?;
        Ok(format!("http://{}", sidecar.outbound))
    }

    fn outbound_beside(&self, service: &str) -> Result<String, String> {
        let sidecar = self.sidecars.iter().find(|sidecar| sidecar.service == service);
        let sidecar = sidecar.ok_or_else(|| format!("{service} has no sidecar"))?;
        Ok(format!("http://{}", sidecar.outbound))
    }
}

/// Writes the files of a store, and takes its addresses.
fn write(folder: &Path) -> Result<(Vec<Replica>, Control), String> {
    let services = SERVICES.map(|(service, _)| service);
    let (host, mut replicas) = lay_out(&SERVICES).map_err(|error| error.to_string())?;
    canary::name_versions(&mut replicas);
    identity::write_tokens(folder, &services)?;
    let control = Control::lay_out(host).map_err(|error| error.to_string())?;
    let policies = |service: &str| match service {
        canary::SERVICE => canary::routes(canary::SHARES[0]),
        _ => String::new(),
    };
    let written = files::write(folder, host, &control, (&SERVICES, &replicas), policies);
    written.map_err(|error| format!("{}: {error}", folder.display()))?;
    Ok((replicas, control))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::mesh::service_yaml;

    #[test]
    fn what_the_demo_writes_passes_its_own_check_at_every_step_of_the_canary() {
        let folder = tempfile::tempdir().expect("a folder");
        let (replicas, _control) = write(folder.path()).expect("files");
        for share in canary::SHARES {
            let text = service_yaml(canary::SERVICE, &replicas, &canary::routes(share));
            assert!(text.contains("labels: {version: v2}, weight"), "{text}");
            files::replace(&files::mesh_file(folder.path(), canary::SERVICE), &text).expect("a file");
            files::assert_good(folder.path(), replicas.len());
        }
    }
}
