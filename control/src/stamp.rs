//! Files by what can be seen without reading them, and the folder of mesh files.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};

/// Largest file that is read; the parser has its own, smaller limit.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// Mesh files of one folder.
pub(crate) const FILES_MAX: usize = 1_000;
/// Clocks of file systems tick about this coarsely: what was written as late as that before it was read may change
/// once more without showing it.
const CLOCK_TICK: Duration = Duration::from_millis(100);

/// What a look at a file sees without reading it, through symbolic links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    /// Of the content, in nanoseconds since the Unix epoch.
    modified: i128,
}

impl Stamp {
    /// The stamp of a file; `None`: it cannot be seen.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let seen = std::fs::metadata(path).ok()?;
        let modified = i128::from(seen.mtime()) * 1_000_000_000 + i128::from(seen.mtime_nsec());
        Some(Self { device: seen.dev(), inode: seen.ino(), bytes: seen.len(), modified })
    }

    /// Whether a change after the reading, which began at `read`, would have changed the stamp as well.
    pub(crate) fn is_settled(&self, read: SystemTime) -> bool {
        let read = read.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as i128;
        let tick = CLOCK_TICK.as_nanos() as i128;
        // A time that lies in the future is of another clock, and says nothing.
        !(read - tick..=read + tick).contains(&self.modified)
    }
}

/// The files that are there, by path, or why that cannot be known.
pub(crate) type Look = Result<BTreeMap<PathBuf, Option<Stamp>>, String>;

/// Looks at a folder of mesh files, or at one mesh file. Mesh files of a folder end in `.yaml` or `.yml` and do not begin with a
/// dot, as what editors and Kubernetes put there for themselves does; folders below it are not looked at.
pub(crate) fn look(path: &Path) -> Look {
    let say = |error: std::io::Error| format!("{}: {error}", path.display());
    if !std::fs::metadata(path).map_err(say)?.is_dir() {
        return Ok(BTreeMap::from([(path.to_owned(), Stamp::of(path))]));
    }
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(path).map_err(say)? {
        let name = entry.map_err(say)?.file_name();
        let file = path.join(&name);
        if !is_mesh_file(&name.to_string_lossy()) || file.is_dir() {
            continue;
        }
        let stamp = Stamp::of(&file);
        files.insert(file, stamp);
        if files.len() > FILES_MAX {
            return Err(format!("{}: there are more than {FILES_MAX} mesh files", path.display()));
        }
    }
    match files.is_empty() {
        true => Err(format!("{}: there is no mesh file (`*.yaml` or `*.yml`)", path.display())),
        false => Ok(files),
    }
}

fn is_mesh_file(name: &str) -> bool {
    !name.starts_with('.') && (name.ends_with(".yaml") || name.ends_with(".yml"))
}

/// Reads a file whole.
pub(crate) fn read(path: &Path) -> Result<String, String> {
    let kind = std::fs::metadata(path).map_err(|error| error.to_string())?.file_type();
    // Opening a pipe waits for whoever writes to it.
    if !kind.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    let mut file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let size = file.metadata().map_err(|error| error.to_string())?.len();
    if size > FILE_BYTES_MAX {
        return Err(format!("{size} bytes is too large for a configuration"));
    }
    let mut text = String::new();
    file.by_ref().take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(|error| error.to_string())?;
    Ok(text)
}

/// What tells one content from another: SHA-256, in hex.
pub(crate) fn fingerprint(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
