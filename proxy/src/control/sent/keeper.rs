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
            if self.write(resources.clone(), hosts, known_at).await {
                on_disk = Some(resources);
            }
            sleep(WRITES_APART).await;
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
