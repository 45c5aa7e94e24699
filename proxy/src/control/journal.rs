//! What is in force and what was turned down, for the pages and the metrics.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use config::model::Identity;
use tokio::time::Instant;

use crate::control::files::File;

/// What a part of the configuration comes from: the label `source`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The mesh file.
    Mesh,
    /// Certificate, key and bundle.
    Identity,
}

impl Source {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Mesh => "mesh",
            Self::Identity => "identity",
        }
    }
}

/// The journal. Written by the follower, read by the pages; all on the control thread.
#[derive(Debug)]
pub(crate) struct Journal {
    pub(crate) sidecar: File,
    mesh_file: Mutex<File>,
    pub(crate) identity_files: Option<Identity>,
    mesh: Mutex<Record>,
    identity: Mutex<Record>,
    names: Mutex<Arc<BTreeMap<String, NameRecord>>>,
    /// Addresses past the limit, over all answers.
    left_out: AtomicU64,
}

/// How a name of an endpoint has fared.
#[derive(Clone, Debug)]
pub(crate) struct NameRecord {
    /// When the last good answer came.
    pub(crate) answered: Option<Instant>,
    /// Questions that came to nothing.
    pub(crate) failures: u64,
    pub(crate) addresses: usize,
    /// Why the last question came to nothing, if it did.
    pub(crate) why: Option<Arc<str>>,
}

/// How a source has fared.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    /// What is in force, counted from 1.
    pub(crate) version: u64,
    /// Of the content in force.
    pub(crate) digest: String,
    /// When that was put in force, or was found good again.
    pub(crate) since: SystemTime,
    /// How often something was turned down.
    pub(crate) rejected: u64,
    /// What the files say now, if that is not in force.
    pub(crate) rejection: Option<Rejection>,
}

/// Something that was turned down.
#[derive(Clone, Debug)]
pub(crate) struct Rejection {
    pub(crate) at: SystemTime,
    pub(crate) digest: String,
    /// One line for each fault.
    pub(crate) faults: String,
}

impl Record {
    fn first(digest: String, now: SystemTime) -> Self {
        Self { version: 1, digest, since: now, rejected: 0, rejection: None }
    }
}

impl Journal {
    /// What the sidecar starts with; `identity` is the files and the digest of what they hold.
    pub(crate) fn new(sidecar: File, mesh: File, identity: Option<(Identity, String)>) -> Self {
        let now = SystemTime::now();
        let (files, digest) = identity.unzip();
        Self {
            sidecar,
            mesh: Mutex::new(Record::first(mesh.digest(), now)),
            mesh_file: Mutex::new(mesh),
            identity_files: files,
            identity: Mutex::new(Record::first(digest.unwrap_or_default(), now)),
            names: Mutex::default(),
            left_out: AtomicU64::new(0),
        }
    }

    /// The sources that this sidecar has.
    pub(crate) fn sources(&self) -> impl Iterator<Item = (Source, Record)> {
        let identity = self.identity_files.is_some().then_some(Source::Identity);
        [Source::Mesh].into_iter().chain(identity).map(|source| (source, self.record(source).clone()))
    }

    pub(crate) fn record(&self, source: Source) -> MutexGuard<'_, Record> {
        let record = match source {
            Source::Mesh => &self.mesh,
            Source::Identity => &self.identity,
        };
        record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The mesh file in force.
    pub(crate) fn mesh_file(&self) -> File {
        self.mesh_file.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes what was put in force.
    pub(crate) fn load(&self, source: Source, digest: String, mesh_file: Option<File>) {
        if let Some(file) = mesh_file {
            *self.mesh_file.lock().unwrap_or_else(PoisonError::into_inner) = file;
        }
        let mut record = self.record(source);
        record.version += 1;
        record.digest = digest;
        record.since = SystemTime::now();
        record.rejection = None;
    }

    /// Notes that the files say again what is in force.
    pub(crate) fn heal(&self, source: Source) {
        let mut record = self.record(source);
        record.since = SystemTime::now();
        record.rejection = None;
    }

    /// Notes what was turned down.
    pub(crate) fn reject(&self, source: Source, digest: String, faults: String) {
        let mut record = self.record(source);
        record.rejected += 1;
        record.rejection = Some(Rejection { at: SystemTime::now(), digest, faults });
    }

    /// Notes how the names of endpoints fare.
    pub(crate) fn note_names(&self, names: BTreeMap<String, NameRecord>) {
        *self.names.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(names);
    }

    /// Notes addresses that were left out because there were too many.
    pub(crate) fn leave_out(&self, addresses: usize) {
        self.left_out.fetch_add(addresses as u64, Ordering::Relaxed);
    }

    pub(crate) fn left_out(&self) -> u64 {
        self.left_out.load(Ordering::Relaxed)
    }

    /// How the names of endpoints fare.
    pub(crate) fn names(&self) -> Arc<BTreeMap<String, NameRecord>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The files of a source.
    pub(crate) fn paths(&self, source: Source) -> Vec<PathBuf> {
        match (source, &self.identity_files) {
            (Source::Mesh, _) => vec![self.mesh_file().path],
            (Source::Identity, Some(files)) => {
                vec![files.cert.clone(), files.key.clone(), files.bundle.clone()]
            }
            (Source::Identity, None) => Vec::new(),
        }
    }
}
