//! Join tokens for one use that are used up: a file each, so that neither a restart nor another control plane on the same folder
//! forgets one. Blocks: it is for threads that may.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The folder in the CA's.
const FOLDER: &str = "used";
/// They are forgotten so long after they have expired: a clock that is set back makes no second use of one.
const LATE: Duration = Duration::from_secs(3_600);

/// Where they are remembered: the first of these folders that can be written.
#[derive(Clone, Debug)]
pub(crate) struct Used {
    folders: Vec<PathBuf>,
}

/// What came of using a token.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// This is the one use.
    First,
    /// It was used before.
    Again,
}

impl Used {
    /// In the CA's folder, or else, where that is read-only, in the cache of the control plane.
    pub(crate) fn new(ca: &Path, cache: Option<&Path>) -> Self {
        Self { folders: [Some(ca), cache].into_iter().flatten().map(|folder| folder.join(FOLDER)).collect() }
    }

    /// Whether a token was used.
    pub(crate) fn has(&self, jti: &str) -> bool {
        self.folders.iter().any(|folder| folder.join(jti).exists())
    }

    /// Uses a token up, so that it is known after a restart. The error says why that cannot be remembered; nobody may be given
    /// anything for the token then.
    pub(crate) fn take(&self, jti: &str, expires: SystemTime) -> Result<Use, String> {
        if self.has(jti) {
            return Ok(Use::Again);
        }
        let mut why = String::new();
        for folder in &self.folders {
            match write(folder, jti, expires) {
                Ok(taken) => return Ok(taken),
                Err(error) => why = format!("{}: {error}", folder.display()),
            }
        }
        Err(why)
    }

    /// Forgets those that have expired; nobody takes them any more.
    pub(crate) fn sweep(&self, now: SystemTime) {
        for entry in self.folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten() {
            let expires = fs::read_to_string(entry.path()).ok().and_then(|text| text.trim().parse().ok());
            if expires.is_some_and(|seconds| {
                let end = UNIX_EPOCH
                    .checked_add(Duration::from_secs(seconds))
                    .and_then(|end| end.checked_add(LATE));
                end.is_some_and(|end| end <= now)
            }) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

fn write(folder: &Path, jti: &str, expires: SystemTime) -> std::io::Result<Use> {
    fs::create_dir_all(folder)?;
    let opened = OpenOptions::new().write(true).create_new(true).mode(files::PRIVATE).open(folder.join(jti));
    let mut file = match opened {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(Use::Again),
        opened => opened?,
    };
    let seconds = expires.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    // An empty file says that it was used as well, and is never swept.
    file.write_all(format!("{seconds}\n").as_bytes())?;
    file.sync_all()?;
    fs::File::open(folder)?.sync_all()?;
    Ok(Use::First)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_token_is_used_once_also_after_a_restart_and_forgotten_when_it_has_expired() {
        let dir = tempfile::tempdir().unwrap();
        let used = Used::new(dir.path(), None);
        assert!(!used.has("a"));
        assert_eq!(used.take("a", at(100)), Ok(Use::First));
        let after = Used::new(dir.path(), None);
        assert!(after.has("a"));
        assert_eq!(after.take("a", at(100)), Ok(Use::Again));
        assert_eq!(after.take("b", at(300)), Ok(Use::First));
        after.sweep(at(200));
        assert!(after.has("a"), "the clock may be set back");
        after.sweep(at(100) + LATE);
        assert!(!after.has("a") && after.has("b"));
    }

    #[test]
    fn where_the_folder_cannot_be_written_the_cache_remembers_or_nobody_does() {
        let dir = tempfile::tempdir().unwrap();
        // Not even root can make a folder below a file.
        let (folder, cache) = (dir.path().join("file"), dir.path().join("cache"));
        fs::write(&folder, "").unwrap();
        assert!(Used::new(&folder, None).take("a", at(1)).is_err());
        // Nor one in the place of a file.
        fs::write(dir.path().join(FOLDER), "").unwrap();
        assert!(Used::new(dir.path(), None).take("a", at(1)).is_err());
        let used = Used::new(&folder, Some(&cache));
        assert_eq!(used.take("a", at(1)), Ok(Use::First));
        assert_eq!(used.take("a", at(1)), Ok(Use::Again));
    }
}
