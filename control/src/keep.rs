//! The last good version of each mesh file, on disk: for a start at which a file is bad.
//!
//! One file in the folder for each mesh file: a line of JSON that says what follows, and the text as it was. It is written aside
//! and renamed, so that there is the old one or the new one and nothing between, and it is checked by its SHA-256. Blocks: it is
//! for threads that may.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use files::fingerprint;
use serde_json::{Value, json};

use crate::folder::read;

/// How names of kept files end. None is a mesh file, whatever folder it is put into.
const ENDING: &str = ".kept";

/// Keeps what is in force.
#[derive(Debug)]
pub(crate) struct Keeper {
    folder: PathBuf,
    /// Which content of each mesh file is on disk, by its digest.
    written: BTreeMap<PathBuf, String>,
    /// What an earlier process left there, of files that are gone, has been removed.
    is_swept: bool,
}

/// What was in force last.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) text: String,
    pub(crate) digest: String,
    /// Since when it was in force.
    pub(crate) since: SystemTime,
}

/// A version that is in force.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Good<'a> {
    pub(crate) path: &'a Path,
    pub(crate) digest: &'a str,
    pub(crate) since: SystemTime,
}

impl Keeper {
    pub(crate) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), written: BTreeMap::new(), is_swept: false }
    }

    /// What is kept of a mesh file. The error says why what is there cannot be used.
    pub(crate) fn kept(&mut self, path: &Path) -> Result<Option<Kept>, String> {
        let at = self.at(path);
        let say = |why: &str| format!("{}: {why}; it is as if nothing was kept", at.display());
        let whole = match fs::metadata(&at) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(say(&error.to_string())),
            Ok(_) => read(&at).map_err(|error| say(&error))?,
        };
        let kept = parse(&whole, path).ok_or_else(|| say("it is not what was written"))?;
        self.written.insert(path.to_owned(), kept.digest.clone());
        Ok(Some(kept))
    }

    /// Whether all of it is on disk, and nothing else.
    pub(crate) fn has<'a>(&self, good: impl Iterator<Item = Good<'a>>) -> bool {
        let mut count = 0;
        let mut same = |one: Good<'_>| {
            count += 1;
            self.written.get(one.path).is_some_and(|digest| digest == one.digest)
        };
        good.into_iter().all(&mut same) && count == self.written.len() && self.is_swept
    }

    /// Writes what has changed, and removes what is in force no more.
    ///
    /// # Errors
    /// What cannot be written, the first of it; the rest is written all the same.
    pub(crate) fn keep<'a>(&mut self, good: impl Iterator<Item = Good<'a>>) -> Result<(), String> {
        fs::create_dir_all(&self.folder).map_err(|error| format!("{}: {error}", self.folder.display()))?;
        let (mut here, mut failed) = (BTreeSet::new(), None);
        for one in good {
            here.insert(one.path.to_owned());
            if self.written.get(one.path).is_some_and(|digest| digest == one.digest) {
                continue;
            }
            // Another content by now is the business of the next look.
            let Some(text) = read(one.path).ok().filter(|text| fingerprint(text.as_bytes()) == one.digest)
            else {
                continue;
            };
            match self.write(one, &text) {
                Ok(()) => drop(self.written.insert(one.path.to_owned(), one.digest.to_owned())),
                Err(error) => _ = failed.get_or_insert(error),
            }
        }
        let gone: Vec<PathBuf> = self.written.keys().filter(|path| !here.contains(*path)).cloned().collect();
        for path in gone {
            let at = self.at(&path);
            match fs::remove_file(&at) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    _ = failed.get_or_insert(format!("{}: {error}", at.display()));
                }
                _ => drop(self.written.remove(&path)),
            }
        }
        if !self.is_swept {
            match self.sweep(&here) {
                Ok(()) => self.is_swept = true,
                Err(error) => _ = failed.get_or_insert(format!("{}: {error}", self.folder.display())),
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Removes what is kept of other files than these: a file that went while no control plane ran is not to come back.
    fn sweep(&self, here: &BTreeSet<PathBuf>) -> std::io::Result<()> {
        let named: BTreeSet<PathBuf> = here.iter().map(|path| self.at(path)).collect();
        for entry in fs::read_dir(&self.folder)? {
            let found = entry?.path();
            let is_kept = found.extension().is_some_and(|ending| ending == &ENDING[1..]);
            if is_kept && !named.contains(&found) {
                fs::remove_file(found)?;
            }
        }
        Ok(())
    }

    fn write(&self, one: Good<'_>, text: &str) -> Result<(), String> {
        let at = self.at(one.path);
        let since = one.since.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let head = json!({"path": one.path.display().to_string(), "digest": one.digest, "since": since});
        files::write(&at, format!("{head}\n{text}").as_bytes(), files::PRIVATE)
            .map_err(|error| format!("{}: {error}", at.display()))
    }

    fn at(&self, path: &Path) -> PathBuf {
        let name = fingerprint(path.as_os_str().as_encoded_bytes());
        self.folder.join(format!("{}{ENDING}", &name[..32]))
    }
}

/// Reads what was written for `path`.
fn parse(whole: &str, path: &Path) -> Option<Kept> {
    let (head, text) = whole.split_once('\n')?;
    let head: Value = serde_json::from_str(head).ok()?;
    let digest = head["digest"].as_str()?;
    let as_written =
        head["path"].as_str()? == path.display().to_string() && fingerprint(text.as_bytes()) == digest;
    let since = UNIX_EPOCH.checked_add(Duration::from_secs(head["since"].as_u64()?))?;
    as_written.then(|| Kept { text: text.to_owned(), digest: digest.to_owned(), since })
}

#[cfg(test)]
mod tests {
    use crate::keep::*;

    fn good<'a>(path: &'a Path, digest: &'a str) -> Good<'a> {
        Good { path, digest, since: UNIX_EPOCH + Duration::from_secs(7) }
    }

    #[test]
    fn what_is_in_force_is_kept_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, mesh) = (dir.path().join("a/cache"), dir.path().join("m.yaml"));
        fs::write(&mesh, "version: 1\n").unwrap();
        let digest = fingerprint(b"version: 1\n");
        let mut keeper = Keeper::new(&folder);
        assert_eq!(keeper.kept(&mesh), Ok(None));
        assert!(!keeper.has([good(&mesh, &digest)].into_iter()));
        keeper.keep([good(&mesh, &digest)].into_iter()).unwrap();
        assert!(keeper.has([good(&mesh, &digest)].into_iter()));
        // What the file says now is another version, which is not in force.
        fs::write(&mesh, "no\n").unwrap();
        keeper.keep([good(&mesh, &fingerprint(b"yes\n"))].into_iter()).unwrap();
        let mut next = Keeper::new(&folder);
        let kept = next.kept(&mesh).unwrap().unwrap();
        assert_eq!((kept.text.as_str(), &kept.digest), ("version: 1\n", &digest));
        assert_eq!(kept.since, UNIX_EPOCH + Duration::from_secs(7));
        next.keep(std::iter::empty()).unwrap();
        assert_eq!(
            fs::read_dir(&folder).unwrap().count(),
            0,
            "the mesh file is gone, and what was kept of it"
        );
    }

    #[test]
    fn what_is_kept_of_a_file_that_went_while_nobody_looked_does_not_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let (cache, one, two) =
            (dir.path().join("cache"), dir.path().join("one.yaml"), dir.path().join("two.yaml"));
        [&one, &two].iter().for_each(|mesh| fs::write(mesh, "version: 1\n").unwrap());
        let digest = fingerprint(b"version: 1\n");
        Keeper::new(&cache).keep([good(&one, &digest), good(&two, &digest)].into_iter()).unwrap();
        fs::write(cache.join("of somebody else"), "").unwrap();
        let mut next = Keeper::new(&cache);
        next.kept(&one).unwrap().unwrap();
        assert!(!next.has([good(&one, &digest)].into_iter()), "there is more on disk");
        next.keep([good(&one, &digest)].into_iter()).unwrap();
        assert!(next.has([good(&one, &digest)].into_iter()));
        assert_eq!(Keeper::new(&cache).kept(&two), Ok(None));
        assert!(cache.join("of somebody else").exists());
    }

    #[test]
    fn what_is_not_as_it_was_written_is_told_and_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let mesh = dir.path().join("m.yaml");
        fs::write(&mesh, "version: 1\n").unwrap();
        let digest = fingerprint(b"version: 1\n");
        Keeper::new(dir.path()).keep([good(&mesh, &digest)].into_iter()).unwrap();
        let at = Keeper::new(dir.path()).at(&mesh);
        let whole = fs::read_to_string(&at).unwrap();
        for broken in [
            &whole[..whole.len() - 1],
            &whole[..9],
            "",
            &whole.replace("version", "vorsion"),
            &whole.replace("m.yaml", "n.yaml"),
        ] {
            fs::write(&at, broken).unwrap();
            let told = Keeper::new(dir.path()).kept(&mesh).unwrap_err();
            assert!(told.contains("it is not what was written"), "{told}");
        }
        fs::write(&at, &whole).unwrap();
        assert!(Keeper::new(dir.path()).kept(&mesh).unwrap().is_some());
    }
}
