//! What is in force and what was turned down, for the pages and the metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use config::identity::IdentitySource;
use identity::chain::Runway;
use identity::state::State as Agent;
use tokio::time::Instant;

use crate::control::files::File;
use crate::control::xds::state::State;
use crate::tls::credentials::Credentials;

/// What a part of the configuration comes from: the label `source`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The mesh file, or what a control plane has sent.
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
    /// `None`: the mesh comes from a control plane.
    mesh_file: Mutex<Option<File>>,
    /// How that fares.
    sent: Mutex<Sent>,
    cache: Mutex<Cache>,
    /// Where our own identity comes from; `None`: there is to be none.
    pub(crate) identity_source: Option<IdentitySource>,
    /// How it fares, where it is no files.
    issued: Mutex<Agent>,
    mesh: Mutex<Record>,
    identity: Mutex<Record>,
    names: Mutex<Arc<BTreeMap<String, NameRecord>>>,
    /// Addresses past the limit, over all answers.
    left_out: AtomicU64,
}

/// How the mesh fares that a control plane sends.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sent {
    /// What the client has.
    pub(crate) state: State,
    /// What is in force is that of an earlier process, and no control plane has said yet that it still is so.
    pub(crate) from_cache: bool,
    /// Clusters whose endpoints are held back, and since when.
    pub(crate) held_back: Vec<(Arc<str>, Instant)>,
    pub(crate) held_back_total: u64,
    /// Services of this sidecar's that are not in the mesh.
    pub(crate) absent: Vec<String>,
    /// Those in the mesh of which it does not say who may call them.
    pub(crate) unruled: BTreeSet<String>,
    /// What contradicts itself in what is in force.
    pub(crate) conflicts: BTreeSet<String>,
    /// Hosts that are asked for by name.
    pub(crate) hosts: usize,
}

/// How the cache fares.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cache {
    /// Where it is; `None`: there is none.
    pub(crate) path: Option<PathBuf>,
    /// When it was last known to be what the control plane says.
    pub(crate) written: Option<SystemTime>,
    pub(crate) bytes: usize,
    pub(crate) writes: u64,
    pub(crate) failures: u64,
    /// Why the last writing came to nothing, if it did.
    pub(crate) failing: Option<Arc<str>>,
    /// Why it was not used at the start.
    pub(crate) unused: Option<String>,
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
    /// What is in force, counted from 1; 0: nothing yet.
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
    /// `None`: nothing is in force yet.
    fn first(digest: Option<String>, now: SystemTime) -> Self {
        let version = u64::from(digest.is_some());
        Self { version, digest: digest.unwrap_or_default(), since: now, rejected: 0, rejection: None }
    }
}

impl Journal {
    /// What the sidecar starts with; `mesh` is the file and `digest` that of what is in force, `identity` is where that
    /// comes from and the digest of what there is of it.
    pub(crate) fn new(
        sidecar: File,
        mesh: Option<File>,
        digest: Option<String>,
        identity: Option<(IdentitySource, Option<String>)>,
    ) -> Self {
        let now = SystemTime::now();
        let (identity_source, of_identity) = identity.unzip();
        Self {
            sidecar,
            mesh: Mutex::new(Record::first(digest, now)),
            mesh_file: Mutex::new(mesh),
            sent: Mutex::default(),
            cache: Mutex::default(),
            identity_source,
            issued: Mutex::default(),
            identity: Mutex::new(Record::first(of_identity.flatten(), now)),
            names: Mutex::default(),
            left_out: AtomicU64::new(0),
        }
    }

    /// The sources that this sidecar has.
    pub(crate) fn sources(&self) -> impl Iterator<Item = (Source, Record)> {
        let identity = self.identity_source.is_some().then_some(Source::Identity);
        [Source::Mesh].into_iter().chain(identity).map(|source| (source, self.record(source).clone()))
    }

    pub(crate) fn record(&self, source: Source) -> MutexGuard<'_, Record> {
        let record = match source {
            Source::Mesh => &self.mesh,
            Source::Identity => &self.identity,
        };
        record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The mesh file in force; `None`: the mesh comes from a control plane.
    pub(crate) fn mesh_file(&self) -> Option<File> {
        self.mesh_file.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How the mesh fares that a control plane sends.
    pub(crate) fn sent(&self) -> MutexGuard<'_, Sent> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How the identity fares that somebody else issues.
    pub(crate) fn issued(&self) -> MutexGuard<'_, Agent> {
        self.issued.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long the identity in force is good for; `None`: there is none. A leaf that came fresh counts from then.
    pub(crate) fn runway(&self, own: Option<&Credentials>) -> Option<Runway> {
        let runway = own?.runway;
        let leaf = self.issued().life.filter(|life| life.end == runway.leaf.end).unwrap_or(runway.leaf);
        Some(Runway { leaf, ..runway })
    }

    /// How the cache fares.
    pub(crate) fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the cache was written at `at`, and how many bytes; or why it was not.
    pub(crate) fn note_cache(&self, at: SystemTime, done: Result<usize, String>) {
        let mut cache = self.cache();
        match done {
            Ok(bytes) => {
                (cache.written, cache.bytes) = (Some(at), bytes);
                cache.writes += 1;
                cache.failing = None;
            }
            Err(why) => {
                cache.failures += 1;
                cache.failing = Some(why.into());
            }
        }
    }

    /// Notes what was put in force.
    pub(crate) fn load(&self, source: Source, digest: String, mesh_file: Option<File>) {
        if mesh_file.is_some() {
            *self.mesh_file.lock().unwrap_or_else(PoisonError::into_inner) = mesh_file;
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
        match (source, self.identity_source.as_ref().and_then(IdentitySource::files)) {
            (Source::Mesh, _) => self.mesh_file().into_iter().map(|file| file.path).collect(),
            (Source::Identity, Some(files)) => {
                vec![files.cert.clone(), files.key.clone(), files.bundle.clone()]
            }
            (Source::Identity, None) => Vec::new(),
        }
    }
}
