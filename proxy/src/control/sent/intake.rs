//! The follower's end of a connection to a control plane: which set of resources is to be in force next.
//!
//! ```text
//! State -> held back? -> as in force, coming or turned down already? -> judged -> coming: waits for names -> in force
//!                                                                          `----> turned down
//! ```

use std::collections::BTreeSet;
use std::future::pending;
use std::sync::Arc;
use std::time::SystemTime;

use config::model::{Mesh, Sidecar};
use files::Reports;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use xds::Kind;
use xds::decode::Own;

use crate::context::Shared;
use crate::control::journal::{Journal, Source};
use crate::control::sent::grace::Grace;
use crate::control::sent::hosts::{Hosts, Word};
use crate::control::sent::keeper::{Confirmed, Keep};
use crate::control::sent::told::Told;
use crate::control::sent::verdict::{NAME, Resources, Verdict};
use crate::control::xds::state::{Announced, Host, Phase, State, Want};
use crate::demand::Question;
use crate::failure::clip;
use crate::tables::Tables;

/// Of why a set was turned down, so much is said to the control plane.
const WORDS_BYTES_MAX: usize = 1_024;

/// The follower's end of the connection to the control plane.
pub(crate) struct Sent {
    shared: Arc<Shared>,
    journal: Arc<Journal>,
    reports: Reports,
    told: Told,
    sidecar: Arc<Sidecar>,
    own: Own,
    state: watch::Receiver<State>,
    want: watch::Sender<Want>,
    questions: mpsc::Receiver<Question>,
    draining: watch::Receiver<bool>,
    hosts: Hosts,
    grace: Grace,
    /// What is in force.
    in_force: Resources,
    /// What contradicts itself in it.
    conflicts: BTreeSet<String>,
    /// What is good, and waits for the addresses of its names.
    coming: Option<Coming>,
    /// What was found to make no mesh.
    rejected: Option<Resources>,
    keep: watch::Sender<Keep>,
    /// What is announced while the sidecar is ready and stays.
    ours: Vec<Announced>,
    is_connected: bool,
    /// When the control plane last said what the client has, or was there and said nothing else.
    said_at: SystemTime,
    confirmed: Confirmed,
}

/// What a sidecar begins with.
pub(crate) struct Beginning {
    pub(crate) own: Own,
    pub(crate) state: watch::Receiver<State>,
    pub(crate) want: watch::Sender<Want>,
    pub(crate) questions: mpsc::Receiver<Question>,
    /// What is in force already, out of the cache.
    pub(crate) in_force: Resources,
    /// What contradicts itself in that.
    pub(crate) conflicts: BTreeSet<String>,
    /// What calls had asked for when that was written.
    pub(crate) hosts: Vec<String>,
    pub(crate) keep: watch::Sender<Keep>,
}

/// What is to be in force, once its names have been answered.
pub(crate) struct Coming {
    pub(crate) resources: Resources,
    /// What tells it from others.
    pub(crate) digest: String,
    pub(crate) verdict: Verdict,
    /// When it is put in force whatever has not been answered.
    pub(crate) until: Instant,
}

impl Sent {
    pub(crate) fn new(
        beginning: Beginning,
        sidecar: Arc<Sidecar>,
        shared: Arc<Shared>,
        journal: Arc<Journal>,
        reports: Reports,
    ) -> Self {
        let Beginning { own, state, want, questions, in_force, conflicts, hosts: asked, keep } = beginning;
        let control = sidecar.mesh.control();
        let mut hosts = Hosts::default();
        hosts.resume(asked);
        let ours = control.and_then(|control| control.register).map(|address| Announced {
            service: sidecar.service.clone(),
            address,
            zone: sidecar.zone.clone(),
            labels: sidecar.labels.clone(),
        });
        let grace = Grace::new(control.map(|control| control.empty_grace).unwrap_or_default());
        let draining = shared.leaving.subscribe();
        let told = Told { journal: journal.clone(), reports: reports.clone() };
        let sent = Self {
            shared,
            journal,
            reports,
            told,
            sidecar,
            own,
            state,
            want,
            questions,
            draining,
            hosts,
            grace,
            in_force,
            conflicts,
            coming: None,
            rejected: None,
            keep,
            ours: ours.into_iter().collect(),
            is_connected: false,
            said_at: SystemTime::UNIX_EPOCH,
            confirmed: Confirmed::Never,
        };
        sent.shared.demand.reach(false);
        sent.ask_again();
        sent
    }

    /// Waits until something is to be looked at: the client has news, or the time of what is held back is over.
    /// Questions of calls are taken in meanwhile. Nothing is lost if it is dropped.
    pub(crate) async fn news(&mut self) {
        loop {
            let (due, overdue) = (self.grace.due(), self.hosts.due());
            let at = |due: Option<Instant>| async move {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => pending().await,
                }
            };
            let (due, overdue) = (at(due), at(overdue));
            tokio::select! {
                changed = self.state.changed() => match changed {
                    Ok(()) => return,
                    // The client has ended with the process.
                    Err(_) => pending().await,
                },
                () = due => return,
                () = overdue => self.answer(),
                Some(question) = self.questions.recv() => self.ask(question),
                Ok(()) = self.draining.changed() => self.announce(),
            }
        }
    }

    /// What the client has now, if it is to be looked at and was not yet; notes how the connection fares.
    pub(crate) fn next(&mut self) -> Option<Resources> {
        let state = self.state.borrow_and_update().clone();
        let was_connected = self.is_connected;
        self.is_connected = state.connection.phase == Phase::Connected;
        if was_connected || self.is_connected {
            self.said_at = SystemTime::now();
        }
        self.shared.demand.reach(self.is_connected);
        // Before all is here that was asked for, what is missing may be just late.
        let is_first = !self.shared.tables.load().knows_mesh();
        if is_first && !state.synced {
            self.note(state);
            return None;
        }
        let mut held = state.held.clone();
        // Whoever has services of its own knows that the mesh is not empty.
        let had_none = is_first && self.sidecar.inbound.is_empty();
        for fate in self.grace.hold(&self.in_force.held, &mut held, had_none, Instant::now()) {
            self.told.fate(&fate, self.grace.limit());
        }
        let found = Resources::new(held, &state, &self.in_force, &self.sidecar);
        self.note(state);
        if is_first && self.grace.holds_all() {
            return None;
        }
        if !is_first && found.is(&self.in_force) {
            self.coming = None;
            self.heal();
            if self.confirm(true) {
                self.keep();
            }
            // What came from a cache is in force without having been taken over.
            self.announce();
            self.answer();
            return None;
        }
        // Before it is taken over, on disk is what was in force; nobody says any more that that is so.
        if self.confirm(false) {
            self.keep();
        }
        let is_known = |known: Option<&Resources>| known.is_some_and(|known| known.is(&found));
        if is_known(self.rejected.as_ref()) || is_known(self.coming.as_ref().map(|coming| &coming.resources))
        {
            self.answer();
            return None;
        }
        Some(found)
    }

    /// Assembles and checks what is to be a mesh; to be run where it may take its time. What tells it from others comes with
    /// what it comes to.
    pub(crate) fn judge(
        &self,
        found: &Resources,
    ) -> impl FnOnce() -> (String, Result<Verdict, String>) + use<> {
        let (found, own, journal) = (found.clone(), self.own.clone(), self.journal.clone());
        let is_first = !self.shared.tables.load().knows_mesh();
        let (sidecar, reports, known) = (self.sidecar.clone(), self.reports.clone(), self.conflicts.clone());
        move || {
            let judged = found.judge(&own, &sidecar, &journal.sidecar).and_then(|verdict| {
                // One that is in force already is no reason to keep everything else out.
                let conflicts = new_lines(&verdict.conflicts, &known);
                match conflicts.is_empty() {
                    true => Ok(verdict),
                    // What is in force is better than a guess, and a guess better than nothing.
                    false if is_first => {
                        reports.say(format!(
                            "{NAME} contradicts itself, and is used as far as it goes:\n{conflicts}"
                        ));
                        Ok(verdict)
                    }
                    false => Err(conflicts),
                }
            });
            (found.digest(), judged)
        }
    }

    /// Notes what is to be in force once its names have been answered. It takes the place of what waited before, but not
    /// its time: else one set after the other could keep all of them out.
    pub(crate) fn expect(&mut self, coming: Coming) {
        let until = self.coming.take().map_or(coming.until, |before| before.until.min(coming.until));
        self.coming = Some(Coming { until, ..coming });
        self.answer();
    }

    /// What waits for its names.
    pub(crate) fn coming(&self) -> Option<&Coming> {
        self.coming.as_ref()
    }

    /// The same, to be put in force or turned down.
    pub(crate) fn take_coming(&mut self) -> Option<Coming> {
        self.coming.take()
    }

    /// Notes that what was to be a mesh is in force.
    pub(crate) fn taken_over(
        &mut self,
        resources: Resources,
        mesh: &Mesh,
        unruled: &BTreeSet<String>,
        conflicts: BTreeSet<String>,
    ) {
        self.rejected = None;
        self.journal.sent().conflicts = conflicts.clone();
        self.conflicts = conflicts;
        self.in_force = resources;
        self.told.absent(&self.sidecar, mesh);
        self.told.unruled(unruled);
        self.complain(None);
        self.announce();
        self.answer();
        if self.is_said() {
            // The connection may have been lost since.
            self.confirmed = Confirmed::Until(self.said_at);
        }
        self.confirm(true);
        self.keep();
    }

    /// Notes that what waited for a certificate is in force.
    pub(crate) fn identified(&mut self) {
        self.announce();
        self.answer();
    }

    /// Notes that it is not, and why.
    pub(crate) fn turned_down(&mut self, resources: Resources, digest: String, faults: String) {
        self.rejected = Some(resources);
        self.complain(Some(&faults));
        self.answer();
        let says = format!(
            "what the control plane has sent cannot be used, and what was in force stays so:\n{faults}"
        );
        // First, so that whoever reads the line finds the same on the pages.
        self.journal.reject(Source::Mesh, digest, faults);
        self.reports.say(says);
    }

    /// What is in force is again what the control plane says.
    fn heal(&mut self) {
        self.rejected = None;
        self.complain(None);
        if self.journal.record(Source::Mesh).rejection.is_some() {
            self.journal.heal(Source::Mesh);
            self.reports.say(format!("{NAME} is good again, and as it is in force"));
        }
    }

    /// Tells the control plane that its resources, each of them good, make no mesh together; or that they do.
    fn complain(&self, faults: Option<&str>) {
        let faults: Option<Arc<str>> = faults.map(|faults| clip(faults, WORDS_BYTES_MAX).into());
        self.want.send_if_modified(|want| {
            let differs = want.turned_down != faults;
            want.turned_down = faults;
            differs
        });
    }

    /// Takes a question of a call in.
    fn ask(&mut self, question: Question) {
        // Not by what the client has by now: that may be about to be in force.
        let state = self.journal.sent().state.clone();
        let tables = self.shared.tables.load_full();
        let coming = self.coming.as_ref();
        if self.hosts.ask(question, Instant::now(), |host| look(&tables, coming, &state, host)) {
            self.ask_again();
        }
    }

    /// Tells the client all hosts that calls have asked for.
    fn ask_again(&self) {
        let hosts = self.hosts.all();
        self.journal.sent().hosts = hosts.len();
        self.want.send_if_modified(|want| {
            let differs = want.hosts != hosts;
            want.hosts = hosts;
            differs
        });
    }

    /// Answers the calls whose question is settled by what is in force.
    fn answer(&mut self) {
        if !self.is_connected {
            return self.hosts.give_up();
        }
        let tables = self.shared.tables.load_full();
        let state = self.journal.sent().state.clone();
        let coming = self.coming.as_ref();
        self.hosts.answer(Instant::now(), |host| look(&tables, coming, &state, host));
    }

    /// Announces our endpoints while the sidecar is ready and stays.
    fn announce(&self) {
        let tables = self.shared.tables.load();
        let takes_calls = tables.has_mesh && tables.entries.iter().all(|entry| entry.in_mesh);
        let is_ready = takes_calls && !*self.draining.borrow();
        let endpoints = if is_ready { self.ours.clone() } else { Vec::new() };
        self.want.send_if_modified(|want| {
            let differs = want.endpoints != endpoints;
            want.endpoints = endpoints;
            differs
        });
    }

    /// Whether the control plane has said all that it was asked for.
    fn is_said(&self) -> bool {
        let is_synced = self.journal.sent().state.synced;
        is_synced && !self.grace.holds_all()
    }

    /// Notes whether the control plane says that what is in force is so, all that it holds back aside: what nobody confirms,
    /// and what stays only because newer resources were turned down or are not in force yet, does not stay young on disk.
    /// `is_newest`: what it said last is in force. Returns whether that is news.
    fn confirm(&mut self, is_newest: bool) -> bool {
        let confirmed = match self.confirmed {
            _ if is_newest && self.is_connected && self.is_said() => Confirmed::Now,
            Confirmed::Now => Confirmed::Until(SystemTime::now()),
            before => before,
        };
        std::mem::replace(&mut self.confirmed, confirmed) != confirmed
    }

    fn keep(&self) {
        let resources = self.shared.tables.load().knows_mesh().then(|| self.in_force.clone());
        let hosts = Arc::new(self.hosts.list());
        self.keep.send_replace(Keep { resources, hosts, confirmed: self.confirmed });
    }

    fn note(&self, state: State) {
        let mut sent = self.journal.sent();
        sent.from_cache &= !state.synced;
        sent.held_back = self.grace.held_back();
        sent.state = state;
    }
}

/// What is known of a host.
fn look(tables: &Tables, coming: Option<&Coming>, state: &State, host: &str) -> Word {
    if tables.hosts.find(host).is_some() {
        return Word::Here;
    }
    if coming.is_some_and(|coming| coming.resources.held.holds(Kind::Listener, host)) {
        return Word::Coming;
    }
    match state.host(host) {
        Host::Open => Word::None,
        // One that is here, and neither in force nor coming, has been turned down.
        Host::Here | Host::Absent | Host::Refused(_) => Word::Nobodys,
    }
}

/// Those of `all` that are not known yet.
fn new_lines(all: &BTreeSet<String>, known: &BTreeSet<String>) -> String {
    all.difference(known).map(String::as_str).collect::<Vec<_>>().join("\n")
}
