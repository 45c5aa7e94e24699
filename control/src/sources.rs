//! The mesh files as they were read: which version of each is in force, and what they make together. Reads files, and is for a
//! thread that may block; when to look is `follow`'s business.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use config::meshes::{Candidate, MeshFile, Outcome, Taken, settle_meshes};
use config::model::Mesh;
use config::{Faults, Source};
use files::{Stamp, fingerprint};

use crate::folder::read;
use crate::journal::Record;
use crate::keep::{Good, Keeper, Kept};

/// Every file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sources {
    files: BTreeMap<PathBuf, File>,
}

/// One file.
#[derive(Clone, Debug)]
struct File {
    /// `None`: it is read at the next look, whatever its stamp.
    stamp: Option<Stamp>,
    digest: String,
    now: Arc<MeshFile>,
    in_force: Option<InForce>,
    /// The digest of the content whose faults were counted last, and when they came.
    told: Option<(String, SystemTime)>,
}

/// The version that is part of the mesh.
#[derive(Clone, Debug)]
struct InForce {
    digest: String,
    file: Arc<MeshFile>,
    since: SystemTime,
}

/// What a reading has found.
#[derive(Debug)]
pub(crate) struct Found {
    /// The files as they are now.
    pub(crate) sources: Sources,
    /// `None`: their content is what it was.
    pub(crate) news: Option<News>,
    /// Some file may change once more without showing it.
    pub(crate) unsettled: bool,
}

/// What other contents come to.
#[derive(Debug)]
pub(crate) struct News {
    /// What the files make together.
    pub(crate) mesh: Mesh,
    /// How each fares.
    pub(crate) records: BTreeMap<PathBuf, Record>,
    /// Faults of contents that had none so far, a text for each file.
    pub(crate) faults: Vec<String>,
    /// Whether another version of any file is in force than before.
    pub(crate) changed: bool,
}

impl Sources {
    /// Before the first reading: what was in force in an earlier life of files that are there, and what cannot be used of it.
    pub(crate) fn kept(keeper: &mut Keeper, seen: &BTreeMap<PathBuf, Option<Stamp>>) -> (Self, Vec<String>) {
        let (mut files, mut broken) = (BTreeMap::new(), Vec::new());
        for path in seen.keys() {
            match keeper.kept(path) {
                Ok(Some(kept)) => drop(files.insert(path.clone(), File::kept(path, kept))),
                Ok(None) => {}
                Err(why) => broken.push(why),
            }
        }
        (Self { files }, broken)
    }

    /// The versions that are in force.
    pub(crate) fn good(&self) -> impl Iterator<Item = Good<'_>> {
        self.files.iter().filter_map(|(path, file)| {
            let good = file.in_force.as_ref()?;
            Some(Good { path, digest: &good.digest, since: good.since })
        })
    }

    /// Whether the files that are there now are those that were read.
    pub(crate) fn are(&self, seen: &BTreeMap<PathBuf, Option<Stamp>>) -> bool {
        self.files.len() == seen.len()
            && self.files.iter().zip(seen).all(|((path, file), (seen, stamp))| {
                path == seen && file.stamp.is_some() && file.stamp == *stamp
            })
    }

    /// The paths of all files.
    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        self.files.keys().cloned().collect()
    }

    /// How many of them are part of the mesh, in any version.
    pub(crate) fn in_force(&self) -> usize {
        self.files.values().filter(|file| file.in_force.is_some()).count()
    }

    /// Reads what has changed since the last time (`all`: everything, and faults are news once more) and makes the best mesh
    /// of it.
    pub(crate) fn read(&self, seen: &BTreeMap<PathBuf, Option<Stamp>>, all: bool) -> Found {
        let began = SystemTime::now();
        let mut files: BTreeMap<PathBuf, File> = BTreeMap::new();
        for (path, stamp) in seen {
            let known = self.files.get(path);
            let mut file = match known.filter(|known| !all && known.stamp.is_some() && known.stamp == *stamp)
            {
                Some(known) => known.clone(),
                None => File::read(path, *stamp, known),
            };
            if all {
                file.told = None;
            }
            files.insert(path.clone(), file);
        }
        let unsettled = |file: &File| file.stamp.is_some_and(|stamp| !stamp.is_settled(began));
        let some_unsettled = files.values().any(unsettled);
        files.values_mut().filter(|file| unsettled(file)).for_each(|file| file.stamp = None);
        let as_before = files.len() == self.files.len()
            && files.iter().zip(&self.files).all(|((path, file), (known, old))| {
                path == known && file.digest == old.digest && Arc::ptr_eq(&file.now, &old.now)
            });
        if as_before && !all {
            return Found { sources: Self { files }, news: None, unsettled: some_unsettled };
        }
        let candidates: Vec<Candidate<'_>> = files
            .values()
            .map(|file| Candidate {
                now: &file.now,
                before: file.in_force.as_ref().map(|known| &*known.file),
            })
            .collect();
        let settled = settle_meshes(&candidates);
        let gone = self.files.iter().any(|(path, file)| file.in_force.is_some() && !files.contains_key(path));
        let mut news =
            News { mesh: settled.mesh, records: BTreeMap::new(), faults: Vec::new(), changed: gone };
        for ((path, file), outcome) in files.iter_mut().zip(settled.files) {
            news.changed |= file.take(&outcome, began);
            let (record, fault) = file.record(outcome, began);
            news.faults.extend(fault);
            news.records.insert(path.clone(), record);
        }
        Found { sources: Self { files }, news: Some(news), unsettled: some_unsettled }
    }
}

impl File {
    /// One of which only the version is known that was in force.
    fn kept(path: &Path, kept: Kept) -> Self {
        let name = path.display().to_string();
        let now = Arc::new(MeshFile::read(Source { name: &name, text: &kept.text }));
        let in_force = Some(InForce { digest: kept.digest.clone(), file: now.clone(), since: kept.since });
        Self { stamp: None, digest: kept.digest, now, in_force, told: None }
    }

    /// Reads a file; what was in force of it stays so until all are looked at together.
    fn read(path: &Path, stamp: Option<Stamp>, known: Option<&Self>) -> Self {
        let name = path.display().to_string();
        let text = read(path);
        let digest = fingerprint(text.as_ref().map_or_else(|error| error.as_bytes(), String::as_bytes));
        let in_force = known.and_then(|known| known.in_force.clone());
        // The same content is the same value: nothing is claimed anew by a file that was merely touched.
        let same = known.filter(|known| known.digest == digest).map(|known| known.now.clone());
        let same =
            same.or_else(|| in_force.as_ref().filter(|old| old.digest == digest).map(|old| old.file.clone()));
        let now = same.unwrap_or_else(|| {
            Arc::new(match &text {
                Ok(text) => MeshFile::read(Source { name: &name, text }),
                Err(error) => MeshFile::unreadable(&name, error),
            })
        });
        Self { stamp, digest, now, in_force, told: known.and_then(|known| known.told.clone()) }
    }

    /// Notes which version is part of the mesh now. Says whether that is another one than before.
    fn take(&mut self, outcome: &Outcome, now: SystemTime) -> bool {
        let as_before = self.in_force.as_ref().is_some_and(|known| known.digest == self.digest);
        match outcome.taken {
            Taken::Now if !as_before => {
                self.in_force =
                    Some(InForce { digest: self.digest.clone(), file: self.now.clone(), since: now });
                true
            }
            Taken::Now | Taken::Before => false,
            Taken::Nothing => self.in_force.take().is_some(),
        }
    }

    /// How it fares, and its faults where they are news.
    fn record(&mut self, outcome: Outcome, now: SystemTime) -> (Record, Option<String>) {
        let news = outcome
            .faults
            .as_ref()
            .filter(|_| self.told.as_ref().is_none_or(|(digest, _)| *digest != self.digest));
        let news = news.map(Faults::to_string);
        if news.is_some() {
            self.told = Some((self.digest.clone(), now));
        }
        if outcome.faults.is_none() {
            self.told = None;
        }
        let since = self.told.as_ref().map_or(now, |(_, since)| *since);
        let lines = |faults: Faults| faults.to_string().lines().map(str::to_owned).collect();
        let record = Record {
            taken: outcome.taken,
            digest: self.in_force.as_ref().map(|known| known.digest.clone()),
            since: self.in_force.as_ref().map(|known| known.since),
            faults: outcome.faults.map(|faults| (lines(faults), since)),
            warnings: outcome.warnings.iter().map(ToString::to_string).collect(),
            rejected: u64::from(news.is_some()),
        };
        (record, news)
    }
}
