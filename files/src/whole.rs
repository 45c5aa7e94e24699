//! Files that are written at once or not at all.
//!
//! ```text
//! .NAME.new: created, written, on disk -> renamed to NAME -> the folder on disk
//! ```
//!
//! A reader finds the old content or the new one, also if the power goes. One writer a file: two at a time would share `.NAME.new`.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Error, ErrorKind, Result, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// The mode of what only its owner needs: keys, tokens, caches.
pub const PRIVATE: u32 = 0o600;
/// The mode of what everybody may know: certificates, bundles.
pub const PUBLIC: u32 = 0o644;

/// Puts `bytes` in the place of the file, with these rights whatever the umask. Makes its folder where that is missing.
///
/// # Errors
/// What the system says; what was there before stays then.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let Some(name) = path.file_name() else {
        return Err(Error::new(ErrorKind::InvalidInput, "it has no file name"));
    };
    let folder = folder(path);
    fs::create_dir_all(&folder)?;
    // Begins with a dot, so that nobody who reads the folder takes it for one of its files.
    let mut aside = OsString::from(".");
    aside.push(name);
    aside.push(".new");
    let aside = path.with_file_name(aside);
    let written = put(&aside, bytes, mode).and_then(|()| fs::rename(&aside, path));
    if written.is_err() {
        // Half a key is of use to nobody.
        let _ = fs::remove_file(&aside);
    }
    written?;
    File::open(folder)?.sync_all()
}

fn put(aside: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let mut options = OpenOptions::new();
    // Nobody who may write there leads us elsewhere by a link.
    options.write(true).create(true).truncate(true).mode(mode).custom_flags(libc::O_NOFOLLOW);
    let mut file = options.open(aside)?;
    // One that was left behind may have other rights, and the umask takes some away.
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn folder(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        // The parent of a bare name is empty.
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use crate::whole::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_file_is_replaced_whole_with_its_rights_and_nothing_is_left_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("a/b/tls.key");
        write(&key, b"one", PRIVATE).unwrap();
        assert_eq!((fs::read(&key).unwrap().as_slice(), mode(&key)), (&b"one"[..], PRIVATE));
        write(&key, b"2", PUBLIC).unwrap();
        assert_eq!((fs::read(&key).unwrap().as_slice(), mode(&key)), (&b"2"[..], PUBLIC));
        // What an earlier process left behind is neither in the way nor of any influence.
        let aside = key.with_file_name(".tls.key.new");
        fs::write(&aside, "left behind, and long").unwrap();
        fs::set_permissions(&aside, Permissions::from_mode(0o666)).unwrap();
        write(&key, b"three", PRIVATE).unwrap();
        assert_eq!((fs::read(&key).unwrap().as_slice(), mode(&key)), (&b"three"[..], PRIVATE));
        assert_eq!(fs::read_dir(key.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn what_cannot_be_written_leaves_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let (file, elsewhere) = (dir.path().join("file"), dir.path().join("elsewhere"));
        fs::write(&elsewhere, "as it was").unwrap();
        symlink(&elsewhere, dir.path().join(".file.new")).unwrap();
        write(&file, b"no", PRIVATE).unwrap_err();
        assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "as it was", "no link leads us elsewhere");
        // The link is gone now; a folder cannot be replaced by a file.
        fs::create_dir(&file).unwrap();
        fs::write(file.join("inside"), "").unwrap();
        write(&file, b"no", PRIVATE).unwrap_err();
        assert!(!dir.path().join(".file.new").exists());
        assert!(write(Path::new("/"), b"", PRIVATE).is_err());
    }
}
