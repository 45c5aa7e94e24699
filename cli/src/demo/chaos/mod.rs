//! `outrigger demo --chaos`: the store twice, with the mesh and without, the same faults in both at the same moments,
//! and what the shoppers saw of it side by side. The mesh's control plane is hit as well.

mod policies;
mod relay;
mod schedule;
mod tally;
mod world;

use std::io;
use std::path::Path;
use std::time::Duration;

use examples::ledger::Audit;
use tokio::time::{Instant, sleep_until};

use crate::demo::chaos::schedule::{Hit, Moment, moments, plan};
use crate::demo::chaos::tally::{Tally, table};
use crate::demo::chaos::world::{DEADLINE, Way, World};
use crate::demo::options::Options;
use crate::demo::terminal::{StopSignal, say};

/// How long it runs where the command line says nothing.
const RUN_FOR: Duration = Duration::from_secs(60);

/// Calls per second in each store where the command line says nothing.
const RATE: u32 = 60;

/// Between two looks at whether everything runs.
const LOOK: Duration = Duration::from_secs(1);

/// Starts both stores, has things go wrong, and returns what must not have: calls of the mesh that failed, charges made
/// twice, processes that ended by themselves.
///
/// # Errors
/// When there is no folder for its files.
pub(crate) async fn demo(options: &Options) -> io::Result<Vec<String>> {
    let run_for = options.run_for.unwrap_or(RUN_FOR);
    let seed = options.seed.unwrap_or_else(|| u64::from(fastrand::u16(..)));
    let hits = match plan(run_for, seed) {
        Ok(hits) => hits,
        Err(fault) => return Ok(vec![fault]),
    };
    let mut stop = StopSignal::listen()?;
    let folder = tempfile::Builder::new().prefix("outrigger-demo-").tempdir()?;
    let mut stores = match Stores::lay_out(folder.path()) {
        Ok(stores) => stores,
        Err(fault) => return Ok(vec![fault]),
    };
    let started = tokio::select! {
        started = stores.start(options, seed) => started,
        () = stop.told() => Err("stopped before everything had started".to_owned()),
    };
    let faults = match started {
        Ok(()) => {
            let opened = Instant::now();
            let ran = tokio::select! {
                ran = stores.run(&hits, opened, opened + run_for) => ran,
                () = stop.told() => Ok(()),
            };
            let mut faults = Vec::from_iter(ran.err());
            faults.extend(stores.settle().await);
            faults
        }
        Err(fault) => {
            // What the others say while they are stopped half-way is not what went wrong.
            stores.stop().await;
            vec![fault]
        }
    };
    folder.close()?;
    Ok(faults)
}

/// The two stores.
struct Stores {
    mesh: World,
    plain: World,
}

impl Stores {
    fn lay_out(folder: &Path) -> Result<Self, String> {
        Ok(Self { mesh: World::lay_out(Way::Mesh, folder)?, plain: World::lay_out(Way::Plain, folder)? })
    }

    async fn start(&mut self, options: &Options, seed: u64) -> Result<(), String> {
        let (with, without) = (self.mesh.processes(), self.plain.processes());
        say(&format!("starting the store twice: {with} processes with the mesh, {without} without"));
        self.mesh.start().await?;
        self.plain.start().await?;
        for sidecar in self.mesh.sidecars() {
            let (name, probes, admin) = (&sidecar.replica, sidecar.probes, sidecar.admin);
            say(&format!("  {name:<11} http://{probes}/metrics   http://{admin}/clusters"));
        }
        if let Some(pages) = self.mesh.pages() {
            say(&format!("  who holds what: {}", pages.status_command()));
        }
        say("what the mesh is told of products, and of the others alike:");
        policies::of("products").lines().for_each(say);
        say(
            "plain: tonic's own balancing over the same three replicas (Channel::balance_list), nothing retried; \
             in both stores payments charge a key once",
        );
        let rate = options.rate.unwrap_or(RATE);
        tokio::try_join!(self.mesh.open(options.shoppers, rate), self.plain.open(options.shoppers, rate))?;
        say(&format!(
            "{} shoppers, {rate} calls/s and a deadline of {DEADLINE:?} in each; seed {seed}",
            options.shoppers
        ));
        say(&format!("{:<50}{:<24}{}", "", "mesh", "plain"));
        Ok(())
    }

    /// Lets faults begin and end when they are due, until `end`.
    async fn run(&mut self, hits: &[Hit], opened: Instant, end: Instant) -> Result<(), String> {
        for Moment { at, hit, begins } in moments(hits) {
            self.watch(opened + at).await?;
            if begins {
                tokio::join!(self.mesh.begin(hit), self.plain.begin(hit));
                self.tell(opened, &hit.replica, hit.fault.begins());
            } else {
                tokio::try_join!(self.mesh.end(hit), self.plain.end(hit))?;
                self.tell(opened, &hit.replica, hit.fault.is_over());
            }
        }
        self.watch(end).await
    }

    /// Looks after the processes until `until`.
    async fn watch(&mut self, until: Instant) -> Result<(), String> {
        while Instant::now() < until {
            sleep_until(until.min(Instant::now() + LOOK)).await;
            self.mesh.still_runs()?;
            self.plain.still_runs()?;
        }
        Ok(())
    }

    fn tell(&self, opened: Instant, replica: &str, what: &str) {
        let (mesh, plain) = (self.mesh.tally().short(), self.plain.tally().short());
        let at = opened.elapsed().as_secs_f64();
        say(&format!("{at:>6.1}s  {replica:<12}{what:<28}{mesh}   {plain}"));
    }

    /// Closes both stores, tells what the shoppers saw, and returns what must not have been.
    async fn settle(&mut self) -> Vec<String> {
        let (mesh, plain) = tokio::join!(self.mesh.close(), self.plain.close());
        let effort = self.mesh.shoppers_sidecar().await;
        let sidecars = self.mesh.sidecars().count();
        let identities = self.mesh.identities().await;
        let standing = match self.mesh.pages() {
            Some(pages) => pages.standing().await.ok(),
            None => None,
        };
        let faults = match (mesh, plain, self.mesh.audit(), self.plain.audit()) {
            (Ok(mesh), Ok(plain), Ok(mesh_book), Ok(plain_book)) => {
                table((&mesh, mesh_book), (&plain, plain_book)).iter().for_each(|row| say(row));
                if let Ok(samples) = &effort {
                    let attempts = samples.sum("outrigger_attempts_total", &[]);
                    say(&format!(
                        "the storefront's sidecar made {attempts} attempts for {} calls",
                        mesh.calls
                    ));
                }
                if let Some((connected, current)) = standing {
                    // They come back spread over time, so that they do not all come at once.
                    let others =
                        if connected < sidecars { "; the others wait for their next try" } else { "" };
                    say(&format!(
                        "of {sidecars} sidecars {connected} are connected to the control plane again, and {current} hold \
                         all it says{others}"
                    ));
                }
                let mut faults = verdict(&mesh, mesh_book);
                match &identities {
                    Ok((account, samples)) => {
                        say(&account.closing(samples));
                        faults.extend(account.faults());
                    }
                    Err(error) => faults.push(error.clone()),
                }
                faults
            }
            (mesh, plain, mesh_book, plain_book) => {
                let errors = [mesh.err(), plain.err(), mesh_book.err(), plain_book.err()];
                errors.into_iter().flatten().collect()
            }
        };
        let mut faults = faults;
        faults.extend(self.stop().await);
        faults
    }

    /// Stops both; only the mesh's must end without a fault.
    async fn stop(&mut self) -> Vec<String> {
        let (faults, _) = tokio::join!(self.mesh.stop(), self.plain.stop());
        faults
    }
}

/// What must not have happened with the mesh.
fn verdict(mesh: &Tally, book: Audit) -> Vec<String> {
    let mut faults = Vec::new();
    if mesh.calls == 0 {
        faults.push("no call was made".to_owned());
    }
    if mesh.failed_total() > 0 {
        faults.push(format!(
            "{} calls failed in spite of the mesh; what the first of them said:",
            mesh.failed_total()
        ));
        faults.extend(mesh.faults.iter().map(|fault| format!("  {fault}")));
    }
    if book.twice > 0 {
        faults.push(format!("{} keys were charged twice", book.twice));
    }
    if faults.is_empty() {
        say("with the mesh 0 calls failed and nobody was charged twice");
    }
    faults
}
