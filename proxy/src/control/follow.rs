//! Follows the mesh, from its file or a control plane, and the identity: what has changed is read, checked, built aside
//! and put in force at once.
//!
//! ```text
//! hint, tick, SIGHUP -> stamps differ -> two equal looks -> read and check -> snapshot -> in force
//!                            |                                    |
//!                          nothing                 a fault: nothing changes; told if it stays
//! ```

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use config::model::{Mesh, Sidecar};
use files::{LOOK_EVERY, Reports, Watch};
use tokio::signal::unix::Signal;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};

use crate::build::Parts;
use crate::context::Shared;
use crate::control::files::{File, Judged, judge_identity, judge_mesh};
use crate::control::followed::Followed;
use crate::control::issued::{self, Issued};
use crate::control::journal::{Journal, Source};
use crate::control::names::Names;
use crate::control::runway::Crier;
use crate::control::sent::intake::{Coming, Sent};
use crate::control::sent::verdict::Verdict;
use crate::tables::Tables;
use crate::tls::credentials::Credentials;

/// The least time between two looks, however many hints there are.
const LOOKS_APART: Duration = Duration::from_millis(10);
/// Answers of names that come within this time make one snapshot.
const GATHER: Duration = Duration::from_millis(50);
/// The first mesh waits no longer than this for names: calls wait for it, and most services can do without the one that does
/// not answer.
const FIRST_NAMES_MAX: Duration = Duration::from_secs(1);

/// What the snapshot in force is made of, and how the next one is made.
pub(crate) struct Follower {
    pub(crate) shared: Arc<Shared>,
    pub(crate) sidecar: Arc<Sidecar>,
    /// `None`: no control plane has sent one yet.
    pub(crate) mesh: Option<Arc<Mesh>>,
    /// Full names of this sidecar's services in it of which it does not say who may call them.
    pub(crate) unruled: BTreeSet<String>,
    pub(crate) credentials: Option<Arc<Credentials>>,
    pub(crate) names: Names,
    pub(crate) journal: Arc<Journal>,
    pub(crate) reports: Reports,
    /// Tells the client of a control plane which credentials are in force.
    pub(crate) proof: watch::Sender<Option<Arc<Credentials>>>,
    /// Where the mesh comes from a control plane.
    pub(crate) sent: Option<Sent>,
    /// Where the identity is no files.
    pub(crate) issued: Option<Issued>,
    pub(crate) crier: Crier,
}

impl Follower {
    /// Finds the first addresses of names, for `dns.timeout` at most: before that no call could go there.
    pub(crate) async fn begin(&mut self) {
        self.want_names(&[]);
        if self.names.is_empty() {
            return;
        }
        self.names.first_answers().await;
        self.readdress();
    }

    /// Follows for as long as the process lives.
    pub(crate) async fn run(mut self, mut hangups: Signal) {
        let sources = [Source::Mesh, Source::Identity].map(|source| Followed::new(source, &self.journal));
        let mut sources = sources.into_iter().filter(|source| !source.files.is_empty()).collect::<Vec<_>>();
        let mut watch = Watch::start(&self.reports);
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let files = sources.iter().flat_map(|source| source.files.iter().cloned());
            watch.cover(Vec::new(), files.collect()).await;
            for source in &mut sources {
                self.look(source).await;
            }
            let again = sources.iter().filter_map(|source| source.again).min();
            let coming = self.sent.as_ref().and_then(Sent::coming).map(|coming| coming.until);
            tokio::select! {
                () = watch.hint() => sleep(LOOKS_APART).await,
                _ = ticks.tick() => {
                    self.judge_again(&mut sources);
                    self.look_at_the_end();
                }
                () = certificates(&mut self.issued) => self.look_at_issued(),
                () = sleep_until(again.unwrap_or_else(Instant::now)), if again.is_some() => {}
                () = self.names.changed() => {
                    if self.put_coming_in_force() {
                        self.look_at_sent().await;
                        continue;
                    }
                    // One snapshot for answers that come together.
                    let all = async { loop { self.names.changed().await } };
                    let _: Result<(), _> = timeout(GATHER, all).await;
                    if self.put_coming_in_force() {
                        self.look_at_sent().await;
                    } else {
                        self.readdress();
                    }
                }
                () = sleep_until(coming.unwrap_or_else(Instant::now)), if coming.is_some() => {
                    self.put_coming_in_force();
                    self.look_at_sent().await;
                }
                () = news(&mut self.sent) => self.look_at_sent().await,
                Some(()) = hangups.recv() => {
                    self.look_at_sidecar().await;
                    sources.iter_mut().for_each(|source| source.forced = true);
                }
            }
        }
    }

    /// What was turned down may have become good by itself: a certificate that was not valid yet.
    fn judge_again(&self, sources: &mut [Followed]) {
        for source in sources {
            if self.journal.record(source.source).rejection.is_some() {
                source.seen = None;
            }
        }
    }

    /// Looks at a source, and takes over what has changed.
    async fn look(&mut self, source: &mut Followed) {
        source.again = None;
        let Some((stamps, forced)) = source.changed().await else { return };
        let (read, looked_at) = (SystemTime::now(), Instant::now());
        let (sidecar, journal) = (self.sidecar.clone(), self.journal.clone());
        let kind = source.source;
        // Reading and checking a large file takes its time, and probes must not wait for it.
        let judged = spawn_blocking(move || match kind {
            Source::Mesh => judge_mesh(&sidecar, &journal.sidecar)
                .map(|judged| judged.map(|(mesh, file)| News::Mesh(mesh, BTreeSet::new(), Some(file)))),
            Source::Identity => {
                judge_identity(&sidecar).map(|judged| judged.map(|own| News::Identity(Arc::new(own))))
            }
        });
        let Ok(Some(Judged { digest, verdict })) = judged.await else { return };
        let found_at = Instant::now();
        source.note(stamps, read);
        let in_force = self.journal.record(kind).digest == digest;
        let verdict = match verdict {
            Ok(_) if in_force => {
                source.patience.settle();
                if self.journal.record(kind).rejection.is_some() {
                    self.journal.heal(kind);
                    self.reports.say(format!("{}: good again, and as it is in force", source.name()));
                }
                return;
            }
            Ok(news) => {
                if let News::Mesh(mesh, ..) = &news {
                    // Calls must not find a service without addresses that will have some in a moment.
                    self.want_names(&[mesh]);
                    self.names.first_answers().await;
                }
                self.take_over(news, &digest).inspect_err(|_| self.readdress())
            }
            Err(faults) => Err(faults),
        };
        match verdict {
            Ok(()) => source.patience.settle(),
            Err(faults) if source.patience.has_stayed(&digest, looked_at, found_at) || forced => {
                self.turn_down(source, digest, faults, forced);
            }
            Err(_) => source.look_again(),
        }
    }

    /// Looks at what the agent says of the identity, and takes over a certificate or roots that are new.
    fn look_at_issued(&mut self) {
        let Some(issued) = &mut self.issued else { return };
        let state = issued.next();
        let found = issued::credentials(&state, &self.sidecar);
        if let Some(trouble) = state.trouble.as_ref().filter(|_| found.is_none()) {
            self.shared.no_identity.store(Some(Arc::new(trouble.why.clone())));
        }
        let digest = state.material.as_ref().map(|material| material.digest.clone()).unwrap_or_default();
        *self.journal.issued() = state;
        let (in_force, turned_down) = {
            let record = self.journal.record(Source::Identity);
            (record.digest == digest, record.rejection.as_ref().is_some_and(|no| no.digest == digest))
        };
        let done = match found {
            Some(found) if !in_force && !turned_down => {
                found.and_then(|own| self.take_over(News::Identity(Arc::new(own)), &digest))
            }
            _ => Ok(()),
        };
        if let Err(faults) = done {
            let says = format!("a new identity cannot be used, and what was in force stays so:\n{faults}");
            self.journal.reject(Source::Identity, digest, faults);
            self.reports.say(says);
        }
        self.look_at_the_end();
    }

    /// Tells how long the identity is good for, if that is not as it should be.
    fn look_at_the_end(&mut self) {
        if self.sidecar.identity.is_none() {
            return;
        }
        let runway = self.journal.runway(self.credentials.as_deref());
        let trouble = self.journal.issued().trouble.clone();
        if let Some(line) = self.crier.look(runway.as_ref(), trouble.as_ref(), SystemTime::now()) {
            self.reports.say(line);
        }
    }

    /// Looks at what a control plane has sent, and takes over what has changed once its names have been answered: until
    /// then calls must not find services without addresses that will have some in a moment, and everything else goes on.
    async fn look_at_sent(&mut self) {
        let Some(sent) = &mut self.sent else { return };
        let Some(resources) = sent.next() else { return };
        let judge = sent.judge(&resources);
        // Many resources take their time, and probes must not wait for them.
        let Ok((digest, verdict)) = spawn_blocking(judge).await else { return };
        match verdict {
            Ok(verdict) => {
                let patience = match self.shared.tables.load().knows_mesh() {
                    true => self.sidecar.dns.timeout,
                    false => self.sidecar.dns.timeout.min(FIRST_NAMES_MAX),
                };
                let until = Instant::now() + patience;
                sent.expect(Coming { resources, digest, verdict, until });
                self.want_names(&[]);
                self.put_coming_in_force();
            }
            Err(faults) => sent.turned_down(resources, digest, faults),
        }
    }

    /// Puts in force what a control plane has sent and was found good, if its names have been answered or have had their
    /// time; whether that was so.
    fn put_coming_in_force(&mut self) -> bool {
        let is_settled = self.names.are_answered();
        let is_due = |coming: &Coming| is_settled || coming.until <= Instant::now();
        let sent = self.sent.as_mut().filter(|sent| sent.coming().is_some_and(is_due));
        let Some(Coming { resources, digest, verdict, .. }) = sent.and_then(Sent::take_coming) else {
            return false;
        };
        let Verdict { mesh, unruled, conflicts } = verdict;
        let done = self.take_over(News::Mesh(mesh, unruled, None), &digest);
        let Some(sent) = &mut self.sent else { return false };
        match (done, &self.mesh) {
            (Ok(()), Some(mesh)) => sent.taken_over(resources, mesh, &self.unruled, conflicts),
            (Ok(()), None) => {}
            (Err(faults), _) => {
                sent.turned_down(resources, digest, faults);
                self.readdress();
            }
        }
        true
    }

    /// Builds the next snapshot and puts it in force.
    fn take_over(&mut self, news: News, digest: &str) -> Result<(), String> {
        let (mesh, unruled, credentials, source, file) = match news {
            News::Mesh(mesh, unruled, file) => {
                (Some(Arc::new(mesh)), unruled, self.credentials.clone(), Source::Mesh, file)
            }
            News::Identity(credentials) => {
                let unruled = self.unruled.clone();
                (self.mesh.clone(), unruled, Some(credentials), Source::Identity, None)
            }
        };
        let built = self.build(mesh.as_deref(), &unruled, credentials.as_ref());
        if built.is_ok() {
            if source == Source::Mesh
                && self
                    .mesh
                    .as_ref()
                    .is_some_and(|before| !mesh.as_ref().is_some_and(|mesh| same_hosts(before, mesh)))
            {
                self.shared.demand.forget();
            }
            (self.mesh, self.unruled, self.credentials) = (mesh, unruled, credentials);
        }
        self.want_names(&[]);
        self.shared.publish(Arc::new(built?));
        if source == Source::Identity {
            self.shared.no_identity.store(None);
            self.proof.send_replace(self.credentials.clone());
            if let Some(sent) = &mut self.sent {
                sent.identified();
            }
        }
        self.journal.load(source, digest.to_owned(), file);
        Ok(())
    }

    /// Asks for the names of the mesh in force, of the one that is coming, and of these.
    fn want_names(&mut self, others: &[&Mesh]) {
        let mesh = self.mesh.clone();
        let coming = self.sent.as_ref().and_then(Sent::coming).map(|coming| &coming.verdict.mesh);
        let meshes: Vec<&Mesh> =
            mesh.as_deref().into_iter().chain(coming).chain(others.iter().copied()).collect();
        self.names.want(&meshes);
    }

    /// Puts the addresses in force that names have now.
    fn readdress(&self) {
        match self.build(self.mesh.as_deref(), &self.unruled, self.credentials.as_ref()) {
            Ok(tables) => self.shared.publish(Arc::new(tables)),
            Err(error) => self.reports.say(error),
        }
    }

    fn build(
        &self,
        mesh: Option<&Mesh>,
        unruled: &BTreeSet<String>,
        credentials: Option<&Arc<Credentials>>,
    ) -> Result<Tables, String> {
        let before = self.shared.tables.load();
        let waits_for_identity = self.sidecar.identity.is_some() && credentials.is_none();
        let Some(mesh) = mesh.filter(|_| !waits_for_identity) else {
            let waits_for_identity = waits_for_identity && mesh.is_some();
            return Ok(Tables { waits_for_identity, ..Tables::blank(credentials.cloned(), Some(&before)) });
        };
        Tables::build(&Parts {
            sidecar: &self.sidecar,
            mesh,
            unruled,
            credentials,
            answers: &self.names.answers(),
            workers: self.shared.events.len(),
            before: Some(&before),
            now: self.shared.clock.nanos(Instant::now()),
        })
    }

    /// Notes a fault and tells it, if that has not been done.
    fn turn_down(&self, source: &Followed, digest: String, faults: String, forced: bool) {
        let told = self.journal.record(source.source).rejection.as_ref().is_some_and(|r| r.digest == digest);
        if told && !forced {
            return;
        }
        let says = format!("{} cannot be used, and what was in force stays so:\n{faults}", source.name());
        // First, so that whoever reads the line finds the same on the pages.
        self.journal.reject(source.source, digest, faults);
        self.reports.say(says);
    }

    /// A changed `sidecar.yaml` is not taken over; whoever asks for a look is told so.
    async fn look_at_sidecar(&self) {
        let path = self.journal.sidecar.path.clone();
        let Ok(now) = spawn_blocking(move || File::read(&path)).await else { return };
        let shown = self.journal.sidecar.path.display();
        match now {
            Ok(now) if now.text == self.journal.sidecar.text => {}
            Ok(_) => self
                .reports
                .say(format!("{shown} has changed; it is read at the start only: restart the sidecar")),
            Err(error) => self.reports.say(format!("{error}; what it said at the start stays in force")),
        }
    }
}

/// What has been read and found good.
enum News {
    /// With our services of which nobody says who may call them, and its file, if it comes from one.
    Mesh(Mesh, BTreeSet<String>, Option<File>),
    Identity(Arc<Credentials>),
}

/// Waits for news of a control plane, if there is one.
async fn news(sent: &mut Option<Sent>) {
    match sent {
        Some(sent) => sent.news().await,
        None => std::future::pending().await,
    }
}

/// Waits for news of whoever issues the identity, if anybody does.
async fn certificates(issued: &mut Option<Issued>) {
    match issued {
        Some(issued) => issued.news().await,
        None => std::future::pending().await,
    }
}

/// Whether the same hosts lead to services.
fn same_hosts(one: &Mesh, other: &Mesh) -> bool {
    let hosts =
        |mesh: &Mesh| mesh.services.iter().flat_map(|service| service.hosts.clone()).collect::<BTreeSet<_>>();
    hosts(one) == hosts(other)
}

impl<T> Judged<T> {
    fn map<U>(self, into: impl FnOnce(T) -> U) -> Judged<U> {
        Judged { digest: self.digest, verdict: self.verdict.map(into) }
    }
}
