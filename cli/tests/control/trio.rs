//! A caller's sidecar before those of two callees, under calls from begin to end, while their control plane does its worst.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bench::process::Sidecar;
use bench::vigil::{Duty, Vigil};
use bench::wait::until;
use serde_json::Value;
use tokio::time::sleep;

use crate::mesh::{Plant, mesh_of};

/// Calls that begin each second.
const PER_SECOND: u32 = 200;
/// So many calls show where they land.
const SHOWN: u64 = 100;
/// `/live` answers within a second; a machine that does other things as well may add one.
const LIVE_MAX: Duration = Duration::from_secs(2);
/// What a sidecar may grow by, in bytes, whatever it is sent.
const GROWTH_MAX: u64 = 64 << 20;
/// Lines about one fault, at most: the connection that ends, and the next that cannot be made.
const LINES_MAX: usize = 3;
/// By then a sidecar has found a control plane again that it has lost, and goes by it.
pub(crate) const FOUND_AGAIN: Duration = Duration::from_secs(60);

/// Between two looks at a condition.
const LOOK: Duration = Duration::from_millis(20);

/// What was in force, says a sidecar, stays so.
const STAYS: &str = "what was in force stays so";

/// The three sidecars.
pub(crate) struct Trio {
    pub(crate) caller: Sidecar,
    one: Sidecar,
    two: Sidecar,
    vigil: Option<Vigil>,
}

impl Trio {
    /// Starts them, with a cache each.
    pub(crate) async fn start(plant: &Plant, address: &str) -> Self {
        let (anywhere, words) = (SocketAddr::from(([127, 0, 0, 1], 0)), "cache: cache");
        Self {
            one: plant.callee_of("one", anywhere, address, words).await.expect("a sidecar"),
            two: plant.callee_of("two", anywhere, address, words).await.expect("a sidecar"),
            caller: plant.caller_of(address, words).await.expect("a sidecar"),
            vigil: None,
        }
    }

    /// The mesh in which `echo` is at these of them.
    pub(crate) fn mesh(&self, at: &[&str]) -> String {
        let inbound = |name: &&str| if *name == "one" { self.one.inbound() } else { self.two.inbound() };
        mesh_of(&at.iter().map(inbound).collect::<Vec<_>>(), "")
    }

    fn all(&self) -> [(&'static str, &Sidecar); 3] {
        [("caller", &self.caller), ("one", &self.one), ("two", &self.two)]
    }

    /// Begins calls, once they land on `name`.
    pub(crate) async fn under_calls(&mut self, name: &str) {
        until(format!("calls land on {name}"), async || crate::mesh::landed(&self.caller).await == name)
            .await;
        let written = "outrigger_mesh_cache_writes_total";
        for (who, sidecar) in self.all() {
            until(format!("the cache of {who} is written"), async || {
                value(sidecar, written, &[]).await > 0.0
            })
            .await;
        }
        self.vigil = Some(Vigil::begin(Duty::new("echo.shop", PER_SECOND, &self.all())));
    }

    fn vigil(&self) -> &Vigil {
        self.vigil.as_ref().expect("calls have begun")
    }

    /// Of calls from now on each lands on `name`: what is in force is what was.
    pub(crate) async fn stay_on(&self, name: &str) {
        // Those that are open may have begun before.
        let vigil = self.vigil();
        let open = vigil.calls() + SHOWN;
        until("calls go on", async || vigil.calls() > open).await;
        vigil.landed();
        until("calls are shown", async || vigil.calls() > open + SHOWN).await;
        let landed = vigil.landed();
        assert!(landed.keys().eq([name]), "calls land elsewhere than on {name}: {landed:?}");
    }

    /// Waits until calls land on `name` and nowhere else.
    pub(crate) async fn move_to(&self, name: &str) {
        let vigil = self.vigil();
        self.wait(format!("calls move to {name}"), async || {
            vigil.landed();
            let calls = vigil.calls() + SHOWN;
            until("calls go on", async || vigil.calls() > calls).await;
            vigil.landed().keys().eq([name])
        })
        .await;
    }

    /// Waits until every sidecar has lost its control plane for this reason, and says so on its page and on stderr.
    pub(crate) async fn lose_it(&self, reason: &str, words: &str) {
        for (name, sidecar) in self.all() {
            let losses = ("outrigger_control_losses_total", [("reason", reason)]);
            let lost = async || value(sidecar, losses.0, &losses.1).await > 0.0;
            self.wait(format!("{name} loses it, {reason}"), lost).await;
            let said =
                async || sidecar.stderr().lines().any(|line| line.contains(words) && line.contains(STAYS));
            self.wait(format!("{name} says {words:?}"), said).await;
            let why = self.page(sidecar).await["connection"]["lost"]["why"].clone();
            assert!(why.is_string(), "{name}: {why}");
        }
    }

    /// `mesh.control` of the caller's `/config`.
    pub(crate) async fn control(&self) -> Value {
        self.page(&self.caller).await
    }

    async fn page(&self, sidecar: &Sidecar) -> Value {
        let answer = sidecar.get("/config").await.expect("a page");
        let page: Value = serde_json::from_str(&answer.body).expect("JSON");
        page["mesh"]["control"].clone()
    }

    /// A metric of the caller's.
    pub(crate) async fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        value(&self.caller, name, labels).await
    }

    /// Waits until all are connected.
    pub(crate) async fn are_connected(&self) {
        for (name, sidecar) in self.all() {
            let connected = async || value(sidecar, "outrigger_control_connected", &[]).await == 1.0;
            self.wait(format!("{name} is connected"), connected).await;
        }
    }

    /// Waits for [`FOUND_AGAIN`] at most, and tells what the sidecars have said if it was in vain.
    async fn wait(&self, what: impl Display, mut holds: impl AsyncFnMut() -> bool) {
        let began = Instant::now();
        while !holds().await {
            assert!(began.elapsed() < FOUND_AGAIN, "{what}: not within {FOUND_AGAIN:?}; {}", self.told());
            sleep(LOOK).await;
        }
    }

    /// What they wrote to stderr.
    fn told(&self) -> String {
        self.all().map(|(name, sidecar)| format!("{name}:\n{}", sidecar.stderr())).join("\n")
    }

    /// Ends the calls: nobody who called has noticed anything, and each fault (there were so many) was told and not repeated.
    pub(crate) async fn nobody_noticed(mut self, what: &str, faults: usize) {
        let report = self.vigil.take().expect("calls have begun").end().await;
        report.nothing_noticed(what, LIVE_MAX, GROWTH_MAX);
        let lines: BTreeMap<&str, usize> = self
            .all()
            .map(|(name, sidecar)| {
                (name, sidecar.stderr().lines().filter(|line| line.contains(STAYS)).count())
            })
            .into();
        assert!(lines.values().all(|count| *count <= faults * LINES_MAX), "{lines:?}: {}", self.told());
    }
}

async fn value(sidecar: &Sidecar, name: &str, labels: &[(&str, &str)]) -> f64 {
    sidecar.metrics().await.expect("a scrape").value(name, labels)
}
