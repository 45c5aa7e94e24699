//! Follows the folder of the CA, and the time: what stands in it is in force at once, and so is what becomes of it later.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use config::control::{Ca, Limits};
use files::{LOOK_EVERY, Patience, Reports, Watch};
use tokio::signal::unix::Signal;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use crate::ca::audit::Audit;
use crate::ca::authority::Authority;
use crate::ca::counters::Counters;
use crate::ca::folder::{Found, add_root, keep_bundle, read, token_key};
use crate::ca::force::InForce;
use crate::ca::rate::Rates;
use crate::ca::root::Root;
use crate::ca::seen::Seen;
use crate::ca::standing::Rule;
use crate::ca::used::Used;

/// The least time between two looks, however many hints there are.
const LOOKS_APART: Duration = Duration::from_millis(20);
/// When what does not fit together is looked at again, and how long it may stay so before it is told: certificate and key are
/// written one by one.
const AGAIN: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two sweeps of join tokens that have expired, and between two warnings of roots that soon will.
const SWEEP_EVERY: Duration = Duration::from_secs(3_600);

/// Keeps the CA as its folder and the time want it.
pub(crate) struct Keeper {
    folder: PathBuf,
    authority: Arc<Authority>,
    /// What came while we looked on.
    seen: Seen,
    reports: Reports,
    /// With a root that is trusted and not there.
    gone: Patience,
    /// With what cannot be used.
    patience: Patience,
    told: String,
    /// What could not be written into the folder, as it was told; and which bundle that was, and when.
    unkept: String,
    tried: Option<(String, Instant)>,
}

impl Keeper {
    /// Reads the folder for the first time, and makes what is missing in it: a root, and the key of join tokens.
    pub(crate) fn begin(
        settings: &Ca,
        cache: Option<&Path>,
        limits: &Limits,
        reports: Reports,
    ) -> Result<Self, String> {
        let now = SystemTime::now();
        let folder = settings.folder.clone();
        let found = first(&folder, now, &reports)?;
        let rule = Rule { overlap: settings.overlap, leaf_life: settings.leaf_life };
        let counters = Arc::<Counters>::default();
        let audit = Audit::start(settings.audit.as_deref(), counters.clone(), reports.clone())?;
        let rates = Rates { all: limits.csrs_per_second, identity: limits.csrs_per_identity };
        let seen = Seen::at_start(&found.roots);
        let in_force = InForce::new(found, &seen, rule, now);
        let used = Used::new(&folder, cache);
        let authority =
            Arc::new(Authority::new(folder.clone(), in_force, rule, rates, used, audit, counters));
        let [gone, patience] = [(); 2].map(|()| Patience::new(PATIENCE));
        let (told, unkept) = (String::new(), String::new());
        let mut keeper = Self { folder, authority, seen, reports, gone, patience, told, unkept, tried: None };
        let kept = keep_bundle(&keeper.folder, &keeper.authority.in_force().bundle);
        keeper.tell_kept(kept);
        Ok(keeper)
    }

    pub(crate) fn authority(&self) -> &Arc<Authority> {
        &self.authority
    }

    /// Follows for as long as the process lives.
    pub(crate) async fn run(mut self, mut hangups: Signal) {
        let mut watch = Watch::start(&self.reports);
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut sweep_at = Instant::now();
        let mut is_asked = false;
        loop {
            let roots = self.authority.in_force().roots.clone();
            let files = roots.iter().map(|root| self.folder.join(format!("{}.key", root.name)));
            watch.cover(vec![self.folder.clone()], files.collect()).await;
            let again = self.look(std::mem::take(&mut is_asked)).await.then(|| Instant::now() + AGAIN);
            self.authority.tell_more(SystemTime::now());
            if sweep_at <= Instant::now() {
                sweep_at = Instant::now() + SWEEP_EVERY;
                if let Some(warning) = self.authority.in_force().warning(&self.folder, SystemTime::now()) {
                    self.reports.say(format!("ca: {warning}"));
                }
                let authority = self.authority.clone();
                let _ = spawn_blocking(move || authority.sweep(SystemTime::now())).await;
            }
            let next = again.unwrap_or_else(|| self.next());
            tokio::select! {
                () = watch.hint() => sleep(LOOKS_APART).await,
                _ = ticks.tick() => {}
                () = sleep_until(next) => {}
                // Somebody says that it is meant.
                Some(()) = hangups.recv() => is_asked = true,
            }
        }
    }

    /// When the roots stand otherwise by themselves; never later than the next look at the clock.
    fn next(&self) -> Instant {
        let left = self.authority.in_force().standing.next.map(|next| next.duration_since(SystemTime::now()));
        let left = left.map_or(LOOK_EVERY, |left| left.unwrap_or_default());
        Instant::now() + left.clamp(LOOKS_APART, LOOK_EVERY)
    }

    /// Looks at the folder and the clock, and takes over what has changed; what would break the mesh only where that `is_asked`
    /// for. Says whether it must look again soon.
    async fn look(&mut self, is_asked: bool) -> bool {
        let began = Instant::now();
        let folder = self.folder.clone();
        // A disk may not answer, and clients must not wait for it.
        let read = spawn_blocking(move || match read(&folder) {
            Ok(found) if found.roots.is_empty() => {
                Err(format!("{}: there is no root (*.crt) in it any more", folder.display()))
            }
            read => read,
        });
        let Ok(read) = read.await else { return false };
        let now = SystemTime::now();
        let read = read.and_then(|found| match self.fault(&found.roots) {
            Some(fault) if !is_asked => Err(fault),
            _ => Ok(found),
        });
        // A file that is replaced may be gone for a moment.
        if let Ok(found) = &read
            && !is_asked
            && self.has_lost(&found.roots)
        {
            if !self.gone.has_stayed("", began, Instant::now()) {
                return true;
            }
        } else {
            self.gone.settle();
        }
        let is_good = read.is_ok();
        let (next, again) = match read {
            Ok(found) => {
                self.seen = self.seen.followed(&found.roots, now);
                self.patience.settle();
                self.told.clear();
                *self.authority.fault.lock().unwrap_or_else(PoisonError::into_inner) = None;
                (InForce::new(found, &self.seen, self.authority.rule, now), false)
            }
            Err(why) => {
                let again = self.complain(why, began, now);
                (self.authority.in_force().at(self.authority.rule, now), again)
            }
        };
        self.take(next, is_good).await;
        again
    }

    /// Why roots that can be read are not taken by themselves.
    fn fault(&self, roots: &[Root]) -> Option<String> {
        let in_force = self.authority.in_force();
        let is_there = |root: &Root| roots.iter().any(|other| other.der == root.der);
        if in_force.trusted().next().is_some() && !in_force.trusted().any(is_there) {
            return Some(format!(
                "{}: not one root that is trusted now is in it, and nobody would believe anybody: put them beside the new ones until those sign, or, if it is meant, send SIGHUP",
                self.folder.display()
            ));
        }
        self.seen.fault(roots)
    }

    /// Whether a root that is trusted is not there.
    fn has_lost(&self, roots: &[Root]) -> bool {
        self.authority.in_force().trusted().any(|root| !roots.iter().any(|other| other.der == root.der))
    }

    /// `is_good`: the folder is there, and what is in it is in force.
    async fn take(&mut self, next: InForce, is_good: bool) {
        let before = self.authority.in_force();
        let signer = |in_force: &InForce| in_force.signer().map(|root| root.name.clone());
        let same_trust = before.version == next.version;
        let changed = !same_trust || signer(&before) != signer(&next);
        if changed {
            let trusted: Vec<&str> = next.trusted().map(|root| root.name.as_str()).collect();
            let signs = signer(&next).unwrap_or_else(|| "none".to_owned());
            self.reports.say(format!("ca: {signs} signs; trusted: {}", trusted.join(", ")));
        }
        if !same_trust {
            self.authority.counters.trust_changes.fetch_add(1, Relaxed);
        }
        let (folder, bundle) = (self.folder.clone(), next.bundle.clone());
        match changed {
            true => self.authority.take(next),
            false => self.authority.refresh(next),
        }
        if is_good
            && self.may_keep()
            && let Ok(kept) = spawn_blocking(move || keep_bundle(&folder, &bundle)).await
        {
            self.tell_kept(kept);
        }
    }

    /// What was in force stays. Says whether it must look again soon.
    fn complain(&mut self, why: String, looked_at: Instant, now: SystemTime) -> bool {
        let has_stayed = self.patience.has_stayed(&why, looked_at, Instant::now());
        if why == self.told {
            return false;
        }
        if !has_stayed {
            return true;
        }
        self.told.clone_from(&why);
        let says = format!("the CA's folder cannot be used, and what was in force stays so:\n{why}");
        // First, so that whoever reads the line finds the same on the pages.
        self.authority.counters.rejected.fetch_add(1, Relaxed);
        *self.authority.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some((why, now));
        self.reports.say(says);
        false
    }

    /// Where the bundle could not be kept, the same is tried again with the ticks only: to try leaves hints in the folder.
    fn may_keep(&mut self) -> bool {
        let version = self.authority.in_force().version.clone();
        let just = |(tried, at): &(String, Instant)| *tried == version && at.elapsed() < LOOK_EVERY;
        if !self.unkept.is_empty() && self.tried.as_ref().is_some_and(just) {
            return false;
        }
        self.tried = Some((version, Instant::now()));
        true
    }

    /// The folder may be read-only, which is told once.
    fn tell_kept(&mut self, kept: Result<(), String>) {
        let why = kept.err().unwrap_or_default();
        if !why.is_empty() && why != self.unkept {
            self.reports.say(format!("ca: bundle.pem is not kept in the folder: {why}"));
        }
        self.unkept = why;
    }
}

/// What is in the folder, after what was missing has been made.
fn first(folder: &Path, now: SystemTime, reports: &Reports) -> Result<Found, String> {
    let is_there = folder.exists();
    let mut found = match is_there {
        true => read(folder)?,
        false => Found { roots: Vec::new(), tokens: None },
    };
    if found.roots.is_empty() {
        let name = add_root(folder, now)
            .map_err(|why| format!("there is no root (*.crt) in it, and none can be made: {why}"))?;
        reports.say(format!("ca: made the first root, {}", folder.join(name).display()));
        found = read(folder)?;
    }
    if found.tokens.is_none() {
        match token_key(folder) {
            Ok(key) => found.tokens = Some(key),
            Err(why) => reports.say(format!("ca: no join token is taken, for there is no tokens.key: {why}")),
        }
    }
    Ok(found)
}
