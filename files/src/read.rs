//! Files are read whole, within bounds, and only if they are files.
//!
//! Errors do not name the path: who asks knows what people call the file.

use std::fs::{File, Metadata, OpenOptions, metadata};
use std::io::{Error, ErrorKind, Read as _, Result};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Reads a file of at most `bytes_max` bytes, through symbolic links.
///
/// # Errors
/// What the system says; and that it is not a regular file, or has more bytes.
pub fn read(path: &Path, bytes_max: u64) -> Result<Vec<u8>> {
    let (file, seen) = open(path)?;
    take(file, &seen, bytes_max)
}

/// As [`read`], for text in UTF-8.
///
/// # Errors
/// As [`read`], and that it is not UTF-8.
pub fn text(path: &Path, bytes_max: u64) -> Result<String> {
    String::from_utf8(read(path, bytes_max)?)
        .map_err(|_| Error::new(ErrorKind::InvalidData, "it is not text in UTF-8"))
}

/// As [`read`], for keys and tokens: nobody but the file's owner may have a right to it. One of root's may be readable by its
/// group, because that is how Kubernetes mounts a Secret for those who are not root.
///
/// # Errors
/// As [`read`], and that others may read or write it, with the rights it has.
pub fn read_private(path: &Path, bytes_max: u64) -> Result<Vec<u8>> {
    let (file, seen) = open(path)?;
    let others = if seen.uid() == 0 { 0o037 } else { 0o077 };
    let mode = seen.mode() & 0o777;
    if mode & others != 0 {
        let why =
            format!("others have a right to it (mode {mode:04o}); it must be 0600 or less (`chmod 600`)");
        return Err(Error::new(ErrorKind::PermissionDenied, why));
    }
    take(file, &seen, bytes_max)
}

/// The rights to a file that holds a secret, where more than its owner and who reads it as one of its group have one; `None`: they
/// have none, or there is no such file. For what is mounted by others, who know no better: see [`read_private`] for the rest.
pub fn exposed(path: &Path) -> Option<u32> {
    let mode = metadata(path).ok()?.mode() & 0o777;
    (mode & 0o027 != 0).then_some(mode)
}

fn open(path: &Path) -> Result<(File, Metadata)> {
    // Opening a pipe would wait for whoever writes to it.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let seen = file.metadata()?;
    if !seen.is_file() {
        return Err(Error::new(ErrorKind::InvalidInput, "it is not a regular file"));
    }
    Ok((file, seen))
}

fn take(file: File, seen: &Metadata, bytes_max: u64) -> Result<Vec<u8>> {
    let too_large = |size: u64| {
        let why = format!("it has {size} bytes or more, and at most {bytes_max} are read");
        Error::new(ErrorKind::FileTooLarge, why)
    };
    if seen.len() > bytes_max {
        return Err(too_large(seen.len()));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(seen.len()).unwrap_or_default());
    // It may grow meanwhile.
    file.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(too_large(bytes.len() as u64));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions, write};
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::Command;

    use crate::read::*;

    #[test]
    fn a_file_is_read_up_to_its_bound_and_no_other_thing_is() {
        let dir = tempfile::tempdir().unwrap();
        let (file, pipe) = (dir.path().join("file"), dir.path().join("pipe"));
        write(&file, "four").unwrap();
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        assert_eq!(read(&file, 4).unwrap(), b"four");
        assert_eq!(text(&file, 4).unwrap(), "four");
        assert!(read(&file, 3).unwrap_err().to_string().contains("at most 3 are read"));
        for other in [dir.path(), &pipe, Path::new("/dev/null")] {
            assert_eq!(read(other, 4).unwrap_err().to_string(), "it is not a regular file", "{other:?}");
        }
        assert_eq!(read(&dir.path().join("none"), 4).unwrap_err().kind(), ErrorKind::NotFound);
        write(&file, b"\xff").unwrap();
        assert!(text(&file, 4).unwrap_err().to_string().contains("UTF-8"));
    }

    #[test]
    fn what_grows_while_it_is_read_is_bounded_as_well() {
        // Files of /proc say that they are empty.
        let file = Path::new("/proc/self/status");
        assert!(read(file, 1).unwrap_err().to_string().contains("at most 1 are read"));
        assert!(read(file, 1 << 20).unwrap().len() > 1);
    }

    #[test]
    fn a_secret_is_exposed_where_strangers_may_read_it_or_the_group_may_write_it() {
        let dir = tempfile::tempdir().unwrap();
        let secret = dir.path().join("secret");
        assert_eq!(exposed(&secret), None);
        write(&secret, "secret").unwrap();
        for (mode, is_exposed) in
            [(0o600, false), (0o440, false), (0o640, false), (0o660, true), (0o604, true), (0o644, true)]
        {
            set_permissions(&secret, Permissions::from_mode(mode)).unwrap();
            assert_eq!(exposed(&secret), is_exposed.then_some(mode), "{mode:o}");
        }
    }

    #[test]
    fn a_key_that_others_may_read_is_refused_with_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key");
        write(&key, "secret").unwrap();
        let of_root = std::fs::metadata(&key).unwrap().uid() == 0;
        for (mode, fine) in
            [(0o600, true), (0o400, true), (0o440, of_root), (0o460, false), (0o604, false), (0o644, false)]
        {
            set_permissions(&key, Permissions::from_mode(mode)).unwrap();
            match read_private(&key, 100) {
                Ok(bytes) => assert!(fine && bytes == b"secret", "{mode:o}"),
                Err(error) => {
                    assert!(!fine && error.to_string().contains(&format!("mode {mode:04o}")), "{error}");
                }
            }
        }
    }
}
