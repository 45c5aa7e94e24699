//! The follower's end of a connection to a control plane: which set of resources is to be in force next.

use std::collections::BTreeSet;
use std::future::pending;
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use config::model::{Inbound, Mesh, Sidecar};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use xds::Kind;
use xds::decode::{ListenerPart, Own, Part};
use xds::names::{inbound, service};

use crate::context::Shared;
use crate::control::files::File;
use crate::control::journal::{Journal, Source};
use crate::control::report::Reports;
use crate::control::sent::grace::{Fate, Grace};
use crate::control::sent::hosts::Hosts;
use crate::control::sent::keeper::Keep;
use crate::control::xds::held::Held;
use crate::control::xds::state::{Announced, Host, Phase, State, Want};
use crate::demand::Question;
use crate::hex::hex;
use crate::tables::Tables;

/// What faults call the mesh.
const NAME: &str = "the mesh of the control plane";

/// The follower's end of the connection to the control plane.
pub(crate) struct Sent {
    shared: Arc<Shared>,
    journal: Arc<Journal>,
    reports: Reports,
    own: Own,
    state: watch::Receiver<State>,
    want: watch::Sender<Want>,
    questions: mpsc::Receiver<Question>,
    draining: watch::Receiver<bool>,
    hosts: Hosts,
    grace: Grace,
    /// What is in force.
    in_force: Held,
    /// What contradicts itself in it.
    conflicts: BTreeSet<String>,
    /// What was found to make no mesh.
    rejected: Option<Held>,
    keep: watch::Sender<Keep>,
    /// What is announced while the sidecar is ready and stays.
    ours: Vec<Announced>,
    is_connected: bool,
    /// It is connected, and has answered all that it was asked at first.
    is_confirmed: bool,
}

/// What a sidecar begins with.
pub(crate) struct Beginning {
    pub(crate) own: Own,
    pub(crate) state: watch::Receiver<State>,
    pub(crate) want: watch::Sender<Want>,
    pub(crate) questions: mpsc::Receiver<Question>,
    /// What is in force already, out of the cache.
    pub(crate) in_force: Held,
    /// What contradicts itself in that.
    pub(crate) conflicts: BTreeSet<String>,
    /// What calls had asked for when that was written.
    pub(crate) hosts: Vec<String>,
    pub(crate) keep: watch::Sender<Keep>,
}

/// A set of resources that is to be a mesh.
pub(crate) struct Next {
    pub(crate) held: Held,
    /// What tells it from others.
    pub(crate) digest: String,
}

/// What resources come to.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) mesh: Mesh,
    /// Full names of this sidecar's services in it of which it does not say who may call them.
    pub(crate) unruled: BTreeSet<String>,
    /// What contradicts itself, in a line each.
    pub(crate) conflicts: BTreeSet<String>,
}

impl Sent {
    pub(crate) fn new(
        beginning: Beginning,
        sidecar: &Sidecar,
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
        let sent = Self {
            shared,
            journal,
            reports,
            own,
            state,
            want,
            questions,
            draining,
            hosts,
            grace,
            in_force,
            conflicts,
            rejected: None,
            keep,
            ours: ours.into_iter().collect(),
            is_connected: false,
            is_confirmed: false,
        };
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

    /// What the client has now, if it is to be a mesh and is not in force; notes how the connection fares.
    pub(crate) fn next(&mut self) -> Option<Next> {
        let state = self.state.borrow_and_update().clone();
        self.connected(&state);
        let mut held = state.held.clone();
        // Before all is here that was asked for, what is missing may be just late.
        let is_first = !self.shared.tables.load().has_mesh;
        if is_first && !state.synced {
            self.note(state);
            return None;
        }
        let now = Instant::now();
        for fate in self.grace.hold(&self.in_force, &mut held, now) {
            self.tell(&fate);
        }
        self.note(state);
        if !is_first && held.is(&self.in_force) {
            self.heal();
            self.answer();
            return None;
        }
        if self.rejected.as_ref().is_some_and(|rejected| rejected.is(&held)) {
            self.answer();
            return None;
        }
        let digest = digest(&held);
        Some(Next { held, digest })
    }

    /// Assembles and checks what is to be a mesh; to be run where it may take its time.
    pub(crate) fn judge(
        &self,
        held: &Held,
        sidecar: Arc<Sidecar>,
    ) -> impl FnOnce() -> Result<Verdict, String> + use<> {
        let (held, own, journal) = (held.clone(), self.own.clone(), self.journal.clone());
        let is_first = !self.shared.tables.load().has_mesh;
        let (reports, known) = (self.reports.clone(), self.conflicts.clone());
        move || {
            let verdict = judge(&held, &own, &sidecar, &journal.sidecar)?;
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
        }
    }

    /// Notes that what was to be a mesh is in force.
    pub(crate) fn taken_over(
        &mut self,
        held: Held,
        sidecar: &Sidecar,
        mesh: &Mesh,
        unruled: &BTreeSet<String>,
        conflicts: BTreeSet<String>,
    ) {
        self.rejected = None;
        self.journal.sent().conflicts = conflicts.clone();
        self.conflicts = conflicts;
        self.in_force = held;
        self.note_absent(sidecar, mesh);
        self.note_unruled(unruled);
        self.announce();
        self.answer();
        self.keep();
    }

    /// Notes that it is not.
    pub(crate) fn turned_down(&mut self, held: Held) {
        self.rejected = Some(held);
        self.answer();
    }

    /// What is in force is again what the control plane says.
    fn heal(&mut self) {
        self.rejected = None;
        if self.journal.record(Source::Mesh).rejection.is_some() {
            self.journal.heal(Source::Mesh);
            self.reports.say(format!("{NAME} is good again, and as it is in force"));
        }
    }

    /// The services of this sidecar's that are not in the mesh are told, once.
    pub(crate) fn note_absent(&self, sidecar: &Sidecar, mesh: &Mesh) {
        let mut names: Vec<&str> = sidecar.inbound.iter().map(|entry| entry.service.as_str()).collect();
        names.push(&sidecar.service);
        names.sort_unstable();
        names.dedup();
        names.retain(|name| mesh.service(name, &sidecar.namespace).is_none());
        let absent: Vec<String> = names.iter().map(|name| format!("{name}.{}", sidecar.namespace)).collect();
        let before = std::mem::replace(&mut self.journal.sent().absent, absent.clone());
        for name in absent.iter().filter(|name| !before.contains(name)) {
            let entered =
                sidecar.inbound.iter().any(|entry| name.starts_with(&format!("{}.", entry.service)));
            let so = if entered { ": calls to it end UNAVAILABLE, and /ready fails" } else { "" };
            self.reports.say(format!("{NAME} has no service {name}{so}; correct the name, or add it there"));
        }
        for name in before.iter().filter(|name| !absent.contains(name)) {
            self.reports.say(format!("{NAME} has service {name} now"));
        }
    }

    /// Those of which nobody says who may call them are told, once.
    fn note_unruled(&self, unruled: &BTreeSet<String>) {
        let before = std::mem::replace(&mut self.journal.sent().unruled, unruled.clone());
        for name in unruled.difference(&before) {
            self.reports.say(format!(
                "{NAME} has service {name}, and says nothing yet of who may call it: nobody may. Calls to it end \
                 UNAVAILABLE, and /ready fails; /config says whether its rules were refused"
            ));
        }
        for name in before.difference(unruled) {
            self.reports.say(format!("nothing is lacking any more of the rules about callers of {name}"));
        }
    }

    /// Takes a question of a call in.
    fn ask(&mut self, question: Question) {
        // Not by what the client has by now: that may be about to be in force.
        let state = self.journal.sent().state.clone();
        let tables = self.shared.tables.load_full();
        if self.hosts.ask(question, Instant::now(), |host| look(&tables, &state, host)) {
            self.ask_again();
            self.journal.sent().hosts = self.hosts.all().len();
        }
    }

    /// Tells the client all hosts that calls have asked for.
    fn ask_again(&self) {
        let hosts = self.hosts.all();
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
        self.hosts.answer(Instant::now(), |host| look(&tables, &state, host));
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

    /// Calls ask only where an answer can come, and what nobody confirms does not stay young on disk.
    fn connected(&mut self, state: &State) {
        self.is_connected = state.connection.phase == Phase::Connected;
        self.shared.demand.reach(self.is_connected);
        let confirmed = self.is_connected && state.synced;
        if std::mem::replace(&mut self.is_confirmed, confirmed) != confirmed {
            self.keep();
        }
    }

    fn keep(&self) {
        let held = self.shared.tables.load().has_mesh.then(|| self.in_force.clone());
        let hosts = Arc::new(self.hosts.list());
        self.keep.send_replace(Keep { held, hosts, confirmed: self.is_confirmed });
    }

    fn note(&self, state: State) {
        let mut sent = self.journal.sent();
        sent.from_cache &= !state.synced;
        sent.held_back = self.grace.held_back();
        sent.state = state;
    }

    fn tell(&self, fate: &Fate) {
        let limit = self.grace.limit();
        self.reports.say(match fate {
            Fate::HeldBack(name) => {
                self.journal.sent().held_back_total += 1;
                format!(
                    "{name} has no endpoint any more, says the control plane; those it had stay for {limit:?}"
                )
            }
            Fate::Returned(name) => format!("{name} has endpoints again"),
            Fate::LetGo(name) => format!("{name} has had no endpoint for {limit:?}: it has none from now on"),
        });
    }
}

/// What is known of a host: that a service in force has it, that nobody has, or nothing yet.
fn look(tables: &Tables, state: &State, host: &str) -> Option<bool> {
    if tables.hosts.find(host).is_some() {
        return Some(true);
    }
    match state.host(host) {
        Host::Open => None,
        // One that is here and not in force has been turned down.
        Host::Here | Host::Absent | Host::Refused(_) => Some(false),
    }
}

/// Makes a mesh of resources, or says in a line each why they make none; with what contradicts itself in them.
pub(crate) fn judge(
    held: &Held,
    own: &Own,
    sidecar: &Sidecar,
    sidecar_file: &File,
) -> Result<Verdict, String> {
    let assembly = xds::assemble::assemble(&held.parts(), own);
    let name = sidecar_file.path.display().to_string();
    let source = config::Source { name: &name, text: &sidecar_file.text };
    config::cross_check_sent(sidecar, source, &assembly.mesh, NAME).map_err(|faults| faults.to_string())?;
    let unruled = unruled(held, sidecar, &assembly.mesh);
    Ok(Verdict { mesh: assembly.mesh, unruled, conflicts: assembly.conflicts.into_iter().collect() })
}

/// Our services that are in the mesh without the rules for their callers, which our control planes always send: they are
/// late, were refused, or went while routes still lead there. Without them everybody would be let in. What others send
/// in a listener of the service's name is all that they have to say of it.
fn unruled(held: &Held, sidecar: &Sidecar, mesh: &Mesh) -> BTreeSet<String> {
    let ours = |entry: &Inbound| mesh.service(&entry.service, &sidecar.namespace);
    let names = sidecar.inbound.iter().filter_map(|entry| Some(mesh.services[ours(entry)?].full_name()));
    names.filter(|name| !held.holds(Kind::Listener, &inbound(name)) && !is_foreign(held, name)).collect()
}

/// Whether a control plane that is none of ours has sent a listener of this service.
fn is_foreign(held: &Held, full: &str) -> bool {
    held.iter().any(|(_, _, one)| match &one.part {
        Part::Listener(ListenerPart::Service(part)) => {
            part.said.is_none() && service(&part.service, &part.namespace) == full
        }
        _ => false,
    })
}

/// Those of `all` that are not known yet.
fn new_lines(all: &BTreeSet<String>, known: &BTreeSet<String>) -> String {
    all.difference(known).map(String::as_str).collect::<Vec<_>>().join("\n")
}

/// What tells one set of resources from another: SHA-256 over their names and versions, in hex.
pub(crate) fn digest(held: &Held) -> String {
    let mut context = Context::new(&SHA256);
    for (kind, name, one) in held.iter() {
        context.update(&[kind as u8]);
        for part in [name.as_bytes(), one.version.as_bytes(), &one.bytes] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
    }
    hex(context.finish().as_ref())
}
