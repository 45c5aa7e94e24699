//! Keeps the cache on disk: what is in force, soon after it changes, and now and then while nothing does.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use files::Reports;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use crate::control::journal::Journal;
use crate::control::sent::cache::{self, Contents, Kept, Owner};
use crate::control::sent::verdict::Resources;

/// The least time between two writings, however much changes.
const WRITES_APART: Duration = Duration::from_secs(2);
/// The longest time between two writings while the control plane is connected: so old the cache seems at most, when it
/// is as good as new.
const REFRESH_MAX: Duration = Duration::from_secs(600);

/// What is to be kept.
#[derive(Clone, Debug, Default)]
pub(crate) struct Keep {
    /// `None`: nothing has been in force yet.
    pub(crate) resources: Option<Resources>,
    /// What calls have asked for by name.
    pub(crate) hosts: Arc<Vec<String>>,
    pub(crate) confirmed: Confirmed,
}

/// Whether a control plane says that it is so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Confirmed {
    /// None has been heard since the process began.
    #[default]
    Never,
    /// It has been away since.
    Until(SystemTime),
    /// It is connected.
    Now,
}

/// Writes the cache.
pub(crate) struct Keeper {
    pub(crate) owner: Owner,
    pub(crate) path: PathBuf,
    pub(crate) max_age: Duration,
    /// What was there when the process began.
    pub(crate) found: Option<Resources>,
    pub(crate) journal: Arc<Journal>,
    pub(crate) reports: Reports,
}

impl Keeper {
    /// Writes for as long as the process lives.
    pub(crate) async fn run(self, mut newest: watch::Receiver<Keep>) {
        let refresh = REFRESH_MAX.min(self.max_age / 4);
        let mut on_disk: Option<Resources> = None;
        loop {
            if let Ok(Err(_)) = timeout(refresh, newest.changed()).await {
                return;
            }
            let Keep { resources, hosts, confirmed } = newest.borrow_and_update().clone();
            let Some(resources) = resources else { continue };
            let is_on_disk = || on_disk.as_ref().is_some_and(|on_disk| on_disk.is(&resources));
            let known_at = match confirmed {
                Confirmed::Now => SystemTime::now(),
                // The last that it said may not have been written yet.
                Confirmed::Until(at) if !is_on_disk() => at,
                Confirmed::Until(_) | Confirmed::Never => continue,
            };
            let there = on_disk.as_ref().or(self.found.as_ref());
            let is_new = there.is_none_or(|there| !there.is(&resources));
            if self.write(resources.clone(), hosts, known_at).await {
                on_disk = Some(resources.clone());
            }
            let mut ahead = newest.clone();
            let other =
                ahead.wait_for(|keep| keep.resources.as_ref().is_some_and(|keep| !keep.is(&resources)));
            tokio::select! {
                () = sleep(WRITES_APART) => {}
                // What changes does not wait for a mere date: a control plane that has just been found says first that it is
                // there, and then what is new.
                _ = other, if !is_new => {}
            }
        }
    }

    /// Writes what a control plane said until `written`; whether that is on disk now.
    async fn write(&self, resources: Resources, hosts: Arc<Vec<String>>, written: SystemTime) -> bool {
        let (owner, path) = (self.owner.clone(), self.path.clone());
        // A disk may not answer, and probes must not wait for it.
        let done = spawn_blocking(move || {
            let Resources { held, closed } = resources;
            let resources = held.iter().map(|(kind, name, one)| Kept {
                kind,
                name: name.to_string(),
                version: one.version.to_string(),
                bytes: one.bytes.clone(),
            });
            let contents =
                Contents { written, hosts: hosts.to_vec(), closed, resources: resources.collect() };
            let bytes = cache::encode(&owner, &contents);
            cache::write(&path, &bytes).map(|()| bytes.len())
        });
        let done = done.await.unwrap_or_else(|error| Err(error.to_string()));
        let failed_before = self.journal.cache().failing.is_some();
        match &done {
            Err(why) if !failed_before => {
                self.reports.say(format!(
                    "mesh.cache: {why}; a restart without the control plane finds what was there"
                ));
            }
            Ok(_) if failed_before => self.reports.say("mesh.cache: written again".to_owned()),
            _ => {}
        }
        let is_written = done.is_ok();
        self.journal.note_cache(written, done);
        is_written
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::UNIX_EPOCH;

    use bench::wait::until;
    use tempfile::TempDir;
    use tokio::time::Instant;

    use super::*;
    use crate::control::files::File;
    use crate::control::xds::fixture::{service, set};

    /// How late a writing is seen at most.
    const LOOKS: Duration = Duration::from_millis(100);

    fn version(version: &str) -> Resources {
        Resources { held: set(service("b.n", version)), ..Resources::default() }
    }

    fn confirmed(resources: &Resources) -> Keep {
        Keep { resources: Some(resources.clone()), confirmed: Confirmed::Now, ..Keep::default() }
    }

    /// A keeper that has found `found`, and the folder that it writes to.
    fn keeper(found: &Resources) -> (Keeper, TempDir) {
        let dir = tempfile::tempdir().expect("a folder");
        let file = File { path: dir.path().into(), text: String::new(), read: UNIX_EPOCH };
        let journal = Arc::new(Journal::new(file, None, None, None));
        let word = |word: &str| word.to_owned();
        let owner = Owner { service: word("echo"), namespace: word("n"), trust_domain: word("t") };
        let reports = Reports::start("outrigger-proxy").expect("a thread");
        let (path, max_age, found) = (dir.path().join("cache"), REFRESH_MAX, Some(found.clone()));
        (Keeper { owner, path, max_age, found, journal, reports }, dir)
    }

    /// What is on disk.
    fn written(path: &Path) -> bytes::Bytes {
        cache::read(path).expect("a file").expect("a cache")
    }

    #[tokio::test(start_paused = true)]
    async fn what_changes_does_not_wait_for_the_date_of_what_was_found_and_two_dates_are_apart() {
        let (found, changed, began) = (version("1"), version("2"), Instant::now());
        let (keeper, _dir) = keeper(&found);
        let (journal, path) = (keeper.journal.clone(), keeper.path.clone());
        let (keep, newest) = watch::channel(Keep::default());
        keep.send_replace(confirmed(&found));
        tokio::spawn(keeper.run(newest));
        until("its date", async || journal.cache().writes == 1).await;
        keep.send_replace(confirmed(&found));
        until("another date", async || journal.cache().writes == 2).await;
        assert!(began.elapsed() >= WRITES_APART, "{:?}", began.elapsed());
        let dated = Instant::now();
        keep.send_replace(confirmed(&changed));
        until("the change", async || journal.cache().writes == 3).await;
        assert!(dated.elapsed() < WRITES_APART / 2, "{:?}", dated.elapsed());
        assert!(written(&path).ends_with(b"b.n\0\0\0\x012\0\0\0\x012"), "{:?}", written(&path));
    }

    #[tokio::test(start_paused = true)]
    async fn changes_are_apart_also_one_back_to_what_was_found() {
        let (found, changed) = (version("1"), version("2"));
        let (keeper, _dir) = keeper(&found);
        let journal = keeper.journal.clone();
        let (keep, newest) = watch::channel(Keep::default());
        keep.send_replace(confirmed(&changed));
        tokio::spawn(keeper.run(newest));
        until("the change", async || journal.cache().writes == 1).await;
        let changed_at = Instant::now();
        keep.send_replace(confirmed(&found));
        until("the change back", async || journal.cache().writes == 2).await;
        let apart = changed_at.elapsed();
        assert!(apart >= WRITES_APART - LOOKS && apart < WRITES_APART * 3 / 2, "{apart:?}");
    }
}
