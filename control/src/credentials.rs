//! Follows the files of our own identity: a renewed certificate is used from the next handshake on.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use config::model::Identity;
use tokio::signal::unix::Signal;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use crate::report::Reports;
use crate::stamp::Stamp;
use crate::tls::{Credentials, Judged, judge};
use crate::watch::Watch;
use crate::world::Worlds;

/// Between two looks where the system gives no hints.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// The least time between two looks, however many hints there are.
const LOOKS_APART: Duration = Duration::from_millis(20);
/// When what does not fit together is looked at again, and how long it may stay so before it is told: the files are often written
/// one by one.
const AGAIN: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(1);

/// Our identity, as it is used now.
pub(crate) struct Held {
    /// For handshakes.
    pub(crate) credentials: Arc<ArcSwap<Credentials>>,
    /// Why what the files say now cannot be used.
    pub(crate) fault: Mutex<Option<String>>,
    /// How often that has happened.
    pub(crate) rejected: AtomicU64,
    /// Since when it is used.
    pub(crate) since: Mutex<SystemTime>,
}

/// Keeps it new.
pub(crate) struct Follower {
    files: Identity,
    worlds: Worlds,
    held: Arc<Held>,
    reports: Reports,
    digest: String,
    stamps: Option<Vec<Option<Stamp>>>,
    faulty_since: Option<Instant>,
    told: String,
}

impl Follower {
    /// Reads the files for the first time; they must be good.
    pub(crate) fn begin(files: Identity, worlds: Worlds, reports: Reports) -> Result<Self, String> {
        let now = SystemTime::now();
        let Judged { digest, verdict } = judge(&files, &worlds, now);
        let held = Arc::new(Held {
            credentials: Arc::new(ArcSwap::from_pointee(verdict?)),
            fault: Mutex::default(),
            rejected: AtomicU64::new(0),
            since: Mutex::new(now),
        });
        let (stamps, faulty_since, told) = (None, None, String::new());
        Ok(Self { files, worlds, held, reports, digest, stamps, faulty_since, told })
    }

    /// What is used now.
    pub(crate) fn held(&self) -> &Arc<Held> {
        &self.held
    }

    /// Follows for as long as the process lives.
    pub(crate) async fn run(mut self, mut hangups: Signal) {
        let mut watch = Watch::new();
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let files = [self.files.cert.clone(), self.files.key.clone(), self.files.bundle.clone()];
        loop {
            if let Ok(watch) = &mut watch {
                watch.cover(Vec::new(), files.to_vec()).await;
            }
            let again = self.look(files.to_vec()).await.then(|| Instant::now() + AGAIN);
            let hint = async {
                match &mut watch {
                    Ok(watch) => watch.hint().await,
                    Err(_) => std::future::pending().await,
                }
            };
            tokio::select! {
                () = hint => sleep(LOOKS_APART).await,
                // What was turned down may have become good by itself: a certificate that was not valid yet.
                _ = ticks.tick() => if self.faulty_since.is_some() { self.stamps = None },
                () = sleep_until(again.unwrap_or_else(Instant::now)), if again.is_some() => {}
                Some(()) = hangups.recv() => self.stamps = None,
            }
        }
    }

    /// Looks at the files, and takes over what has changed. Says whether it must look again soon.
    async fn look(&mut self, files: Vec<PathBuf>) -> bool {
        let began = SystemTime::now();
        let (identity, worlds, known) = (self.files.clone(), self.worlds.clone(), self.stamps.clone());
        // A disk may not answer, and clients must not wait for it.
        let looked = spawn_blocking(move || {
            let stamps: Vec<Option<Stamp>> = files.iter().map(|file| Stamp::of(file)).collect();
            let judged = (known.as_ref() != Some(&stamps)).then(|| judge(&identity, &worlds, began));
            (stamps, judged)
        });
        let Ok((stamps, Some(Judged { digest, verdict }))) = looked.await else { return false };
        let settled = stamps.iter().flatten().all(|stamp| stamp.is_settled(began));
        self.stamps = settled.then_some(stamps);
        match verdict {
            Ok(credentials) => {
                if digest != self.digest {
                    self.held.credentials.store(Arc::new(credentials));
                    *self.held.since.lock().unwrap_or_else(PoisonError::into_inner) = began;
                    self.digest = digest;
                    self.reports.say(format!("{}: renewed", self.files.cert.display()));
                }
                self.faulty_since = None;
                self.told.clear();
                *self.held.fault.lock().unwrap_or_else(PoisonError::into_inner) = None;
                !settled
            }
            Err(_) if digest == self.told => !settled,
            Err(why) => {
                if self.faulty_since.get_or_insert_with(Instant::now).elapsed() < PATIENCE {
                    self.stamps = None;
                    return true;
                }
                self.told = digest;
                self.held.rejected.fetch_add(1, Relaxed);
                self.reports
                    .say(format!("the identity cannot be used, and what was in force stays so:\n{why}"));
                *self.held.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
                !settled
            }
        }
    }
}
