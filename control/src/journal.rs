//! How the mesh files fare, for the pages and the metrics. Written by the follower.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use config::meshes::Taken;

/// The journal.
#[derive(Debug)]
pub(crate) struct Journal {
    /// The folder, or the one file, as `control.yaml` names it.
    pub(crate) path: PathBuf,
    /// Times that what is in force could not be kept on disk.
    pub(crate) unkept: AtomicU64,
    held: Mutex<Held>,
}

/// All that is known of the files.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held {
    /// By path.
    pub(crate) files: BTreeMap<PathBuf, Record>,
    /// Why the folder cannot be looked at, and since when; all that was in force stays so.
    pub(crate) lost: Option<(String, SystemTime)>,
    /// How often that has happened.
    pub(crate) losses: u64,
    /// When the files last changed what is in force.
    pub(crate) changed: Option<SystemTime>,
}

/// How one file fares.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    /// Which version of it is in force.
    pub(crate) taken: Taken,
    /// Of the content in force.
    pub(crate) digest: Option<String>,
    /// When that was put in force.
    pub(crate) since: Option<SystemTime>,
    /// What is wrong with it as it is now, and since when; a line for each fault.
    pub(crate) faults: Option<(Vec<String>, SystemTime)>,
    /// What is wrong with what is in force and does not keep it out.
    pub(crate) warnings: Vec<String>,
    /// How often a version of it could not be used.
    pub(crate) rejected: u64,
}

impl Journal {
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), unkept: AtomicU64::new(0), held: Mutex::default() }
    }

    /// All of it as it is now.
    pub(crate) fn held(&self) -> Held {
        self.lock().clone()
    }

    /// Notes that the folder cannot be looked at. Says whether that is news.
    pub(crate) fn lose(&self, why: &str, now: SystemTime) -> bool {
        let mut held = self.lock();
        if held.lost.as_ref().is_some_and(|(known, _)| known == why) {
            return false;
        }
        if held.lost.is_none() {
            held.losses += 1;
        }
        held.lost = Some((why.to_owned(), now));
        true
    }

    /// Notes that it can be looked at again. Says whether that is news.
    pub(crate) fn find(&self) -> bool {
        self.lock().lost.take().is_some()
    }

    /// Notes how the files fare now, and whether that has changed what is in force.
    pub(crate) fn note(&self, mut files: BTreeMap<PathBuf, Record>, changed: bool, now: SystemTime) {
        let mut held = self.lock();
        for (path, record) in &mut files {
            record.rejected += held.files.get(path).map_or(0, |known| known.rejected);
        }
        held.files = files;
        if changed {
            held.changed = Some(now);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which version of a file is in force, as a word.
pub(crate) fn state(taken: Taken) -> &'static str {
    match taken {
        Taken::Now => "in_force",
        Taken::Before => "as_before",
        Taken::Nothing => "left_out",
    }
}

/// Seconds since 1970, with milliseconds.
pub(crate) fn unix(time: SystemTime) -> f64 {
    let millis = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    millis as f64 / 1_000.0
}
