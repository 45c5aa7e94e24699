//! Follows the mesh files: what has changed is read, judged together with the others, and put in force at once.
//!
//! ```text
//! hint, tick, SIGHUP -> stamps differ -> two equal looks -> read and settle -> mesh -> maker
//!                            |                                    |
//!                          nothing        faults, or services gone: once more, until it has stayed so for PATIENCE
//! ```
//!
//! A folder that cannot be looked at, or has no mesh file at all, changes nothing: that is how it looks when a volume is not
//! there.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use config::meshes::Taken;
use config::model::Mesh;
use files::{LOOK_EVERY, Patience, Reports, Stamp, Watch};
use tokio::signal::unix::Signal;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use crate::folder::{Look, look};
use crate::hosts;
use crate::journal::Journal;
use crate::keep::Keeper;
use crate::sources::{News, Sources};

/// The least time between two looks, however many hints there are.
const LOOKS_APART: Duration = Duration::from_millis(10);
/// Files that are being written are given this long until the next look, and this many looks.
const SETTLE: Duration = Duration::from_millis(20);
const SETTLE_LOOKS: usize = 10;
/// When what is not settled yet is looked at again.
const AGAIN: Duration = Duration::from_millis(100);
/// How long a fault must stay before it is told, and a service must be gone before it is taken away: files that belong together
/// are often written one by one.
const PATIENCE: Duration = Duration::from_millis(250);
/// A look that takes longer than this is told: the disk does not answer.
const LOOK_MAX: Duration = Duration::from_secs(10);

/// Follows the files for as long as the process lives.
pub(crate) struct Follower {
    sources: Arc<Sources>,
    journal: Arc<Journal>,
    reports: Reports,
    meshes: watch::Sender<Arc<Mesh>>,
    /// `None`: nothing is kept.
    keeper: Option<Arc<Mutex<Keeper>>>,
    /// Why something could not be kept, as it was told last.
    unkept: Option<String>,
    /// When it must be looked at again.
    again: Option<Instant>,
    /// With what is doubtful.
    patience: Patience,
    /// Everything is read at the next look, and faults are told once more.
    forced: bool,
}

impl Follower {
    /// Reads the files for the first time. There must be one that is good: clients would otherwise lose every service.
    /// `cache`: the folder of what was in force in an earlier life.
    pub(crate) fn begin(
        path: &Path,
        cache: Option<&Path>,
        reports: Reports,
    ) -> Result<(Self, watch::Receiver<Arc<Mesh>>), String> {
        let seen = look(path).map_err(|why| format!("mesh: {why}"))?;
        let mut keeper = cache.map(Keeper::new);
        let (before, broken) = keeper.as_mut().map(|keeper| Sources::kept(keeper, &seen)).unwrap_or_default();
        for why in broken {
            reports.say(format!("cache: {why}"));
        }
        let found = before.read(&seen, true);
        let journal = Arc::new(Journal::new(path));
        let Some(news) = found.news else {
            return Err(format!("mesh: {}: there is nothing", path.display()));
        };
        if found.sources.in_force() == 0 {
            return Err(format!("no mesh file can be used:\n{}", news.faults.join("\n")));
        }
        for faults in &news.faults {
            reports.say(format!(
                "a mesh file cannot be used, and is left out unless the cache has it:\n{faults}"
            ));
        }
        for (path, record) in news.records.iter().filter(|(_, record)| record.taken == Taken::Before) {
            let since = record.since.and_then(|since| since.elapsed().ok()).unwrap_or_default();
            let hours = since.as_secs() / 3_600;
            reports.say(format!(
                "{}: its last good version is in force, which the cache has from {hours} h ago",
                path.display()
            ));
        }
        tell_warnings(&reports, &news, &BTreeMap::new());
        let (meshes, newest) = watch::channel(Arc::new(news.mesh));
        journal.note(news.records, true, SystemTime::now());
        let follower = Self {
            sources: Arc::new(found.sources),
            journal,
            reports,
            meshes,
            keeper: keeper.map(|keeper| Arc::new(Mutex::new(keeper))),
            unkept: None,
            // They may have changed between that reading and the first hint.
            again: Some(Instant::now()),
            patience: Patience::new(PATIENCE),
            forced: false,
        };
        Ok((follower, newest))
    }

    /// How the files fare.
    pub(crate) fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    /// Follows for as long as the process lives.
    pub(crate) async fn run(mut self, mut hangups: Signal) {
        let mut watch = Watch::start(&self.reports);
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            watch.cover(vec![self.journal.path.clone()], self.sources.paths()).await;
            self.look().await;
            self.keep().await;
            let looked = Instant::now();
            let again = self.again;
            tokio::select! {
                () = watch.hint() => sleep_until(looked + LOOKS_APART).await,
                _ = ticks.tick() => {}
                () = sleep_until(again.unwrap_or_else(Instant::now)), if again.is_some() => {}
                Some(()) = hangups.recv() => self.forced = true,
            }
        }
    }

    /// Looks at the files, and takes over what has changed.
    async fn look(&mut self) {
        let began = Instant::now();
        self.again = None;
        let forced = std::mem::take(&mut self.forced);
        let Some(seen) = self.changed(forced).await else {
            // What was doubtful is as it was again; the next doubt has its own time.
            self.patience.settle();
            return;
        };
        let known = self.sources.clone();
        // Reading and checking large files takes its time, and clients must not wait for it.
        let Ok(found) = spawn_blocking(move || known.read(&seen, forced)).await else { return };
        if found.unsettled {
            self.again = Some(Instant::now() + AGAIN);
        }
        let Some(news) = found.news else {
            self.patience.settle();
            self.sources = Arc::new(found.sources);
            return;
        };
        if let Some(doubt) = self.doubt(&news)
            && !forced
            && !self.patience.has_stayed(&doubt, began, Instant::now())
        {
            // Nothing of it is kept, so that the next look finds all of it again.
            self.again = Some(Instant::now() + AGAIN);
            return;
        }
        self.patience.settle();
        self.sources = Arc::new(found.sources);
        self.take_over(news);
    }

    /// Has the cache hold what is in force. What could not be written is tried again after the next look.
    async fn keep(&mut self) {
        let Some(keeper) = &self.keeper else { return };
        let (keeper, sources) = (keeper.clone(), self.sources.clone());
        let kept = spawn_blocking(move || {
            let mut keeper = keeper.lock().unwrap_or_else(PoisonError::into_inner);
            if keeper.has(sources.good()) { Ok(()) } else { keeper.keep(sources.good()) }
        });
        let why = kept.await.unwrap_or_else(|error| Err(error.to_string())).err();
        if let Some(why) = &why {
            self.journal.unkept.fetch_add(1, Relaxed);
            if self.unkept.as_ref() != Some(why) {
                self.reports.say(format!("cache: {why}; a restart would not know what is in force now"));
            }
        }
        self.unkept = why;
    }

    /// What may be the half of a change: a file with faults, or services that are not there any more.
    fn doubt(&self, news: &News) -> Option<String> {
        let here: HashSet<_> =
            news.mesh.services.iter().map(|service| (&service.name, &service.namespace)).collect();
        let in_force = self.meshes.borrow();
        let gone =
            in_force.services.iter().filter(|service| !here.contains(&(&service.name, &service.namespace)));
        let gone: Vec<String> =
            gone.map(|service| format!("{}.{}", service.name, service.namespace)).collect();
        // What is gone has its own time, however long something else has been faulty.
        (!gone.is_empty() || !news.faults.is_empty()).then(|| gone.join(" "))
    }

    fn take_over(&self, news: News) {
        let before = self.journal.held();
        // First, so that whoever reads a line finds the same on the pages.
        self.journal.note(news.records.clone(), news.changed, SystemTime::now());
        for faults in &news.faults {
            let says = "a mesh file cannot be used, and what was in force stays so";
            self.reports.say(format!("{says}:\n{faults}"));
        }
        for (path, _) in before.files.iter().filter(|(_, record)| record.faults.is_some()) {
            if news.records.get(path).is_some_and(|record| record.faults.is_none()) {
                self.reports.say(format!("{}: good again", path.display()));
            }
        }
        for path in before.files.keys().filter(|path| !news.records.contains_key(*path)) {
            self.reports.say(format!("{}: the file is gone, and its services with it", path.display()));
        }
        tell_warnings(&self.reports, &news, &before.files);
        let taken = hosts::taken(&self.meshes.borrow(), &news.mesh);
        if !taken.is_empty() {
            self.reports.say(format!("in force, and calls may go elsewhere:\n{}", taken.join("\n")));
        }
        // The warnings may change what is in the mesh without another version of a file.
        self.meshes.send_if_modified(|mesh| {
            let other = **mesh != news.mesh;
            if other {
                *mesh = Arc::new(news.mesh);
            }
            other
        });
    }

    /// What is there, if it is not what was read, once it stands still.
    async fn changed(&self, forced: bool) -> Option<BTreeMap<PathBuf, Option<Stamp>>> {
        let mut seen = self.seen().await?;
        if self.sources.are(&seen) && !forced {
            return None;
        }
        for _ in 0..SETTLE_LOOKS {
            sleep(SETTLE).await;
            let now = self.seen().await?;
            let before = std::mem::replace(&mut seen, now);
            if before == seen {
                break;
            }
        }
        Some(seen)
    }

    /// What is there; `None` where that cannot be known, which is told.
    async fn seen(&self) -> Option<BTreeMap<PathBuf, Option<Stamp>>> {
        let path = self.journal.path.clone();
        let looked = tokio::time::timeout(LOOK_MAX, spawn_blocking(move || look(&path))).await;
        let seen: Look = match looked {
            Ok(Ok(seen)) => seen,
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("{}: no answer within {LOOK_MAX:?}", self.journal.path.display())),
        };
        match seen {
            Ok(seen) => {
                if self.journal.find() {
                    self.reports.say(format!("{}: it is there again", self.journal.path.display()));
                }
                Some(seen)
            }
            Err(why) => {
                if self.journal.lose(&why, SystemTime::now()) {
                    self.reports.say(format!("{why}; what was in force stays so"));
                }
                None
            }
        }
    }
}

/// Says what is new among the warnings.
fn tell_warnings(reports: &Reports, news: &News, before: &BTreeMap<PathBuf, crate::journal::Record>) {
    for (path, record) in &news.records {
        let known = |warning: &String| before.get(path).is_some_and(|old| old.warnings.contains(warning));
        let fresh: Vec<&str> =
            record.warnings.iter().filter(|warning| !known(warning)).map(String::as_str).collect();
        if !fresh.is_empty() {
            reports.say(format!("in force all the same:\n{}", fresh.join("\n")));
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::follow::*;

    #[tokio::test]
    async fn a_doubt_that_has_gone_does_not_make_the_next_one_older() {
        // Files that were written just now are read once more; others are known by their stamps.
        for just_now in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let (there, gone) = (dir.path().join("a.yaml"), dir.path().join(".a.yaml"));
            for (path, service) in [(&there, "a"), (&dir.path().join("b.yaml"), "b")] {
                std::fs::write(path, format!("version: 1\nservices: [{{name: {service}}}]\n")).unwrap();
                if !just_now {
                    let file = std::fs::File::options().append(true).open(path).unwrap();
                    file.set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
                }
            }
            let (mut follower, _) =
                Follower::begin(dir.path(), None, Reports::start("outrigger-control").unwrap()).unwrap();
            std::fs::rename(&there, &gone).unwrap();
            follower.look().await;
            assert!(follower.patience.is_tried(), "a service is gone");
            std::fs::rename(&gone, &there).unwrap();
            follower.look().await;
            assert!(!follower.patience.is_tried(), "just now: {just_now}");
            assert_eq!(follower.meshes.borrow().services.len(), 2);
        }
    }
}
