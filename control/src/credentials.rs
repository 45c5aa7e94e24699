//! Follows the files of our own identity: a renewed certificate is used from the next handshake on.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use config::identity::Identity;
use files::{LOOK_EVERY, Patience, Reports, Stamp, Watch};
use tokio::signal::unix::Signal;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use crate::ca::authority::Authority;
use crate::ca::force::InForce;
use crate::tls::{Credentials, Judged, Pem, judge, make};
use crate::world::Worlds;

/// The least time between two looks, however many hints there are.
const LOOKS_APART: Duration = Duration::from_millis(20);
/// When what does not fit together is looked at again, and how long it may stay so before it is told: the files are often written
/// one by one.
const AGAIN: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(1);

/// Our identity, as it is used now.
pub(crate) struct Held {
    credentials: ArcSwap<Credentials>,
    changes: watch::Sender<()>,
    /// Why what the files say now cannot be used.
    pub(crate) fault: Mutex<Option<String>>,
    /// How often that has happened.
    pub(crate) rejected: AtomicU64,
    /// Since when it is used.
    pub(crate) since: Mutex<SystemTime>,
}

impl Held {
    pub(crate) fn new(credentials: Credentials, now: SystemTime) -> Self {
        Self {
            credentials: ArcSwap::from_pointee(credentials),
            changes: watch::Sender::new(()),
            fault: Mutex::default(),
            rejected: AtomicU64::new(0),
            since: Mutex::new(now),
        }
    }

    /// For handshakes.
    pub(crate) fn credentials(&self) -> Arc<Credentials> {
        self.credentials.load_full()
    }

    /// Others are used from now on.
    pub(crate) fn take(&self, credentials: Credentials, now: SystemTime) {
        self.credentials.store(Arc::new(credentials));
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = now;
        self.changes.send_replace(());
    }

    /// What is new cannot be used, or can be again.
    pub(crate) fn judge(&self, fault: Option<String>) {
        if fault.is_some() {
            self.rejected.fetch_add(1, Relaxed);
        }
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    /// Tells when others are used.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }
}

/// Keeps it new.
pub(crate) struct Follower {
    files: Identity,
    /// Our own CA, whose roots are trusted as well.
    ca: Option<Arc<Authority>>,
    worlds: Worlds,
    held: Arc<Held>,
    reports: Reports,
    digest: String,
    /// What stood in the files when they were good last.
    good: Pem,
    /// The version of the CA's roots that are trusted.
    trusted: String,
    stamps: Option<Vec<Option<Stamp>>>,
    patience: Patience,
    told: String,
}

impl Follower {
    /// Reads the files for the first time; they must be good.
    pub(crate) fn begin(
        files: Identity,
        ca: Option<Arc<Authority>>,
        worlds: Worlds,
        reports: Reports,
    ) -> Result<Self, String> {
        let now = SystemTime::now();
        let in_force = ca.as_ref().map(|ca| ca.in_force());
        let Judged { digest, verdict } = judge(&files, in_force.as_deref(), &worlds, now);
        let (credentials, good) = verdict?;
        let held = Arc::new(Held::new(credentials, now));
        let trusted = version(in_force.as_deref());
        let (stamps, patience, told) = (None, Patience::new(PATIENCE), String::new());
        Ok(Self { files, ca, worlds, held, reports, digest, good, trusted, stamps, patience, told })
    }

    /// What is used now.
    pub(crate) fn held(&self) -> &Arc<Held> {
        &self.held
    }

    /// Follows for as long as the process lives.
    pub(crate) async fn run(mut self, mut hangups: Signal) {
        let mut watch = Watch::start(&self.reports);
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let files = [self.files.cert.clone(), self.files.key.clone(), self.files.bundle.clone()];
        let mut trust = self.ca.as_ref().map(|ca| ca.changes());
        loop {
            watch.cover(Vec::new(), files.to_vec()).await;
            let again = self.look(files.to_vec()).await.then(|| Instant::now() + AGAIN);
            tokio::select! {
                () = watch.hint() => sleep(LOOKS_APART).await,
                // What was turned down may have become good by itself: a certificate that was not valid yet.
                _ = ticks.tick() => if self.patience.is_tried() { self.stamps = None },
                () = sleep_until(again.unwrap_or_else(Instant::now)), if again.is_some() => {}
                Some(()) = hangups.recv() => self.stamps = None,
                () = changed(&mut trust) => self.stamps = None,
            }
        }
    }

    /// Looks at the files, and takes over what has changed. Says whether it must look again soon.
    async fn look(&mut self, files: Vec<PathBuf>) -> bool {
        let (began, looked_at) = (SystemTime::now(), Instant::now());
        let (identity, worlds, known) = (self.files.clone(), self.worlds.clone(), self.stamps.clone());
        let ca = self.ca.as_ref().map(|ca| ca.in_force());
        let roots = ca.clone();
        // A disk may not answer, and clients must not wait for it.
        let looked = spawn_blocking(move || {
            let stamps: Vec<Option<Stamp>> = files.iter().map(|file| Stamp::of(file)).collect();
            let judged =
                (known.as_ref() != Some(&stamps)).then(|| judge(&identity, roots.as_deref(), &worlds, began));
            (stamps, judged)
        });
        let Ok((stamps, Some(Judged { digest, verdict }))) = looked.await else { return false };
        let settled = stamps.iter().flatten().all(|stamp| stamp.is_settled(began));
        self.stamps = settled.then_some(stamps);
        if verdict.is_err()
            && let Some(ca) = &ca
        {
            self.trust(ca, began);
        }
        match verdict {
            Ok((credentials, pem)) => {
                (self.good, self.trusted) = (pem, version(ca.as_deref()));
                let is_new = digest != self.digest;
                if is_new {
                    self.held.take(credentials, began);
                    self.digest = digest;
                }
                self.patience.settle();
                self.told.clear();
                self.held.judge(None);
                if is_new {
                    self.reports.say(format!("{}: renewed", self.files.cert.display()));
                }
                !settled
            }
            Err(why) => {
                let has_stayed = self.patience.has_stayed(&digest, looked_at, Instant::now());
                if digest == self.told {
                    return !settled;
                }
                if !has_stayed {
                    self.stamps = None;
                    return true;
                }
                self.told = digest;
                let says = format!("the identity cannot be used, and what was in force stays so:\n{why}");
                // First, so that whoever reads the line finds the same on the pages.
                self.held.judge(Some(why));
                self.reports.say(says);
                !settled
            }
        }
    }

    /// Has those let in whom the CA vouches for now, while what the files say cannot be used: what was in them goes on.
    fn trust(&mut self, ca: &InForce, now: SystemTime) {
        if ca.version != self.trusted
            && let Ok(credentials) = make(&self.files, &self.good, Some(ca), &self.worlds, now)
        {
            self.trusted.clone_from(&ca.version);
            self.held.take(credentials, now);
        }
    }
}

/// Of the roots of our CA; nothing where there is none.
fn version(ca: Option<&InForce>) -> String {
    ca.map(|ca| ca.version.clone()).unwrap_or_default()
}

/// Waits until another trust is in force; for ever where there is no CA.
async fn changed(trust: &mut Option<watch::Receiver<()>>) {
    if let Some(trust) = trust
        && trust.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}
