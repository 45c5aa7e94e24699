//! A caller's sidecar before those of two callees, under calls from begin to end, while their control plane does its worst.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bench::process::Sidecar;
use bench::vigil::{Duty, Vigil};
use bench::wait::{soon, until};
use serde_json::Value;
use tokio::time::sleep;

use crate::mesh::{Plant, mesh_of};

/// Calls that begin each second.
const PER_SECOND: u32 = 200;
/// So many calls show where they land.
const SHOWN: u64 = 100;
/// `/live` answers within a second; a machine that does other things as well may stand still for some.
const LIVE_MAX: Duration = Duration::from_secs(10);
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
        let words = "cache: cache";
        // On another host, by which what is told of it can be found.
        let [one, two] = [Ipv4Addr::LOCALHOST, plant.host].map(|host| SocketAddr::from((host, 0)));
        Self {
            one: plant.callee_of("one", one, address, words).await.expect("a sidecar"),
            two: plant.callee_of("two", two, address, words).await.expect("a sidecar"),
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
        let (vigil, before) = (self.vigil(), self.vigil().calls());
        // Calls of our own: one of the others may have begun before what is in force was.
        for _ in 0..SHOWN {
            let landed = soon("a call ends", crate::mesh::landed(&self.caller)).await;
            assert_eq!(landed, name, "a call lands elsewhere; {}", self.told());
        }
        until("the others go on", async || vigil.calls() > before + SHOWN).await;
    }

    /// Waits until calls land on `name` and nowhere else.
    pub(crate) async fn move_to(&self, name: &str) {
        let vigil = self.vigil();
        self.wait(FOUND_AGAIN, format!("calls move to {name}"), async || {
            vigil.landed();
            let calls = vigil.calls() + SHOWN;
            until("calls go on", async || vigil.calls() > calls).await;
            vigil.landed().keys().eq([name])
        })
        .await;
    }

    /// Waits until every sidecar has lost its control plane for this reason, and says so on its page and on stderr.
    pub(crate) async fn lose_it(&self, reason: &str, words: &str) {
        self.lose_it_within(FOUND_AGAIN, reason, words).await;
    }

    /// [`Trio::lose_it`] for what sidecars bear with for so long that a minute would not do.
    pub(crate) async fn lose_it_within(&self, limit: Duration, reason: &str, words: &str) {
        for (name, sidecar) in self.all() {
            let losses = ("outrigger_control_losses_total", [("reason", reason)]);
            let lost = async || value(sidecar, losses.0, &losses.1).await > 0.0;
            self.wait(limit, format!("{name} loses it, {reason}"), lost).await;
            let said =
                async || sidecar.stderr().lines().any(|line| line.contains(words) && line.contains(STAYS));
            self.wait(limit, format!("{name} says {words:?}"), said).await;
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
            self.wait(FOUND_AGAIN, format!("{name} is connected"), connected).await;
        }
    }

    /// Tells what the sidecars have said if it was in vain.
    async fn wait(&self, limit: Duration, what: impl Display, mut holds: impl AsyncFnMut() -> bool) {
        let began = Instant::now();
        while !holds().await {
            assert!(began.elapsed() < limit, "{what}: not within {limit:?}; {}", self.told());
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
