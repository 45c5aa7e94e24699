//! The mesh at one moment, and what each audience is told of it.
//!
//! A [`World`] never changes: the next one takes over every resource that is still the same, so that what many clients
//! hold is in memory once, and one endpoint that comes and goes costs one resource and not the whole mesh.
//!
//! ```text
//! files + registrations -> Mesh -> World (version n) -> Set (one for each audience) -> Resource (shared bytes)
//! ```

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use config::model::Mesh;
use rustc_hash::FxHashMap;
use tokio::sync::watch;
use xds::Audience;

use crate::directory::Directory;
use crate::set::Set;

/// Audiences whose sets are kept; past it, the one that was asked for least lately goes. An Envoy says itself where it listens, so
/// clients could make up any number of them.
const AUDIENCES_MAX: usize = 64;

/// A set that nobody has asked for in this many worlds is not made for the next one.
const UNASKED_WORLDS_MAX: u64 = 64;

/// The newest world, and a hint when there is a newer one.
pub type Worlds = watch::Receiver<Arc<World>>;

/// The mesh at one moment.
#[derive(Debug)]
pub struct World {
    /// Counted from 1 in each process.
    pub version: u64,
    /// Every service, registered endpoints among them; sorted by full name.
    pub mesh: Arc<Mesh>,
    directory: Arc<Directory>,
    sets: Mutex<FxHashMap<Audience, Kept>>,
}

/// A set, made by whoever asks first; the others wait for it.
#[derive(Debug, Default)]
struct Kept {
    set: Arc<OnceLock<Arc<Set>>>,
    /// The set of an earlier world, whose resources can be taken over.
    before: Option<Arc<Set>>,
    /// The version of the world in which it was asked for last.
    asked: u64,
    /// Which ask that was, within all of a world.
    turn: u64,
}

impl World {
    /// The first world of a process.
    pub fn first(mesh: Mesh) -> Self {
        Self::of(1, Arc::new(mesh), None, FxHashMap::default())
    }

    /// The world after this one. Makes the sets that are in use, so that those who wait for it need not: it may take
    /// its time, and is for a thread that may block.
    pub fn next(&self, mesh: Mesh) -> Self {
        let version = self.version + 1;
        let mut sets = FxHashMap::default();
        for (audience, kept) in self.lock().iter() {
            let newest = kept.set.get().cloned().or_else(|| kept.before.clone());
            if version - kept.asked <= UNASKED_WORLDS_MAX
                && let Some(newest) = newest
            {
                let kept =
                    Kept { before: Some(newest), asked: kept.asked, turn: kept.turn, ..Kept::default() };
                sets.insert(audience.clone(), kept);
            }
        }
        let in_use: Vec<Audience> = sets.keys().cloned().collect();
        let next = Self::of(version, Arc::new(mesh), Some(&self.directory), sets);
        for audience in &in_use {
            next.make(audience, false);
        }
        next
    }

    /// What this audience is told. The first ask encodes, which takes milliseconds for a large mesh.
    pub fn set(&self, audience: &Audience) -> Arc<Set> {
        self.make(audience, true)
    }

    /// The index of a service in the mesh, by its name and namespace.
    pub fn service(&self, name: &str, namespace: &str) -> Option<usize> {
        self.directory.service(&format!("{name}.{namespace}"))
    }

    /// How many audiences have asked.
    pub fn audiences(&self) -> usize {
        self.lock().len()
    }

    /// Every set that has been made, for the pages and the metrics.
    pub(crate) fn sets(&self) -> Vec<Arc<Set>> {
        self.lock().values().filter_map(|kept| kept.set.get().cloned()).collect()
    }

    fn of(
        version: u64,
        mesh: Arc<Mesh>,
        before: Option<&Arc<Directory>>,
        sets: FxHashMap<Audience, Kept>,
    ) -> Self {
        let directory = Directory::of(&mesh, before);
        Self { version, mesh, directory, sets: Mutex::new(sets) }
    }

    fn make(&self, audience: &Audience, asked: bool) -> Arc<Set> {
        let (set, before) = {
            let mut sets = self.lock();
            if !sets.contains_key(audience) && sets.len() >= AUDIENCES_MAX {
                let oldest =
                    sets.iter().min_by_key(|(_, kept)| (kept.asked, kept.turn)).map(|(key, _)| key.clone());
                sets.remove(&oldest.unwrap_or_else(|| audience.clone()));
            }
            let turn = sets.values().map(|kept| kept.turn).max().unwrap_or(0) + 1;
            let kept = sets.entry(audience.clone()).or_default();
            if asked {
                (kept.asked, kept.turn) = (self.version, turn);
            }
            (kept.set.clone(), kept.before.take())
        };
        // Outside the lock: other audiences need not wait for this one.
        let make = || {
            Arc::new(Set::new(audience.clone(), self.mesh.clone(), self.directory.clone(), before.as_deref()))
        };
        set.get_or_init(make).clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, FxHashMap<Audience, Kept>> {
        self.sets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
