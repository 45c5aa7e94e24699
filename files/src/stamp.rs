//! Files by what can be seen without reading them.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::task::spawn_blocking;

/// Clocks of file systems tick about this coarsely: what was written as late as that before it was read may change
/// once more without showing it.
const CLOCK_TICK: Duration = Duration::from_millis(100);

/// What a look at a file sees without reading it, through symbolic links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    /// Of the content, in nanoseconds since the Unix epoch.
    modified: i128,
}

impl Stamp {
    /// The stamp of a file; `None`: it cannot be seen.
    pub fn of(path: &Path) -> Option<Self> {
        let seen = std::fs::metadata(path).ok()?;
        let modified = i128::from(seen.mtime()) * 1_000_000_000 + i128::from(seen.mtime_nsec());
        Some(Self { device: seen.dev(), inode: seen.ino(), bytes: seen.len(), modified })
    }

    /// Whether a change after the reading, which began at `read`, would have changed the stamp as well.
    pub fn is_settled(&self, read: SystemTime) -> bool {
        let read = read.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as i128;
        let tick = CLOCK_TICK.as_nanos() as i128;
        // A time that lies in the future is of another clock, and says nothing.
        !(read - tick..=read + tick).contains(&self.modified)
    }
}

/// The stamps of files, taken on a thread that may block: a disk may not answer.
pub async fn stamps(files: &[PathBuf]) -> Vec<Option<Stamp>> {
    let all = files.to_vec();
    let taken = spawn_blocking(move || all.iter().map(|file| Stamp::of(file)).collect());
    taken.await.unwrap_or_else(|_| vec![None; files.len()])
}

#[cfg(test)]
mod tests {
    use crate::stamp::*;

    #[test]
    fn a_file_has_another_stamp_when_it_was_written_replaced_or_linked_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        assert_eq!(Stamp::of(&one), None);
        std::fs::write(&one, "1").unwrap();
        std::fs::write(&two, "2").unwrap();
        let first = Stamp::of(&one).unwrap();
        assert_eq!(Stamp::of(&one), Some(first));
        std::fs::write(&one, "more").unwrap();
        let second = Stamp::of(&one).unwrap();
        assert_ne!(second, first);
        std::fs::rename(&two, &one).unwrap();
        assert_ne!(Stamp::of(&one), Some(second));
        std::os::unix::fs::symlink(&one, &two).unwrap();
        assert_eq!(Stamp::of(&two), Stamp::of(&one), "a link is what it leads to");
    }

    #[test]
    fn what_was_written_as_late_as_it_was_read_may_change_without_showing_it() {
        let read = UNIX_EPOCH + Duration::from_secs(1_000);
        let written = |millis: i128| Stamp { device: 1, inode: 1, bytes: 1, modified: millis * 1_000_000 };
        assert!(written(999_899).is_settled(read));
        assert!(!written(999_901).is_settled(read));
        assert!(!written(1_000_050).is_settled(read), "while it was read");
        assert!(written(2_000_000).is_settled(read), "another clock");
    }
}
