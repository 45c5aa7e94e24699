//! The folder of a certificate for gRPC's `file_watcher` and whoever else reads files.
//!
//! As the kubelet does it with a Secret: the names are links through `..data`, and that is swapped in one step. Nobody who
//! opens the three after one another within a renewal's time finds a new key beside an old certificate for longer than a step;
//! whoever waits for one of the names finds all three.
//!
//! ```text
//! tls.crt -> ..data/tls.crt    tls.key -> ..data/tls.key    ca.crt -> ..data/ca.crt
//! ..data  -> ..DIGEST          (swapped)
//! ..DIGEST/{tls.crt, tls.key, ca.crt}
//! ```

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{Error, ErrorKind, Result as Done};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use identity::material::Material;
use identity::pem;

const DATA: &str = "..data";
const ASIDE: &str = "..data.new";
const NAMES: [&str; 3] = ["tls.crt", "tls.key", "ca.crt"];
/// Of the key, where its group may read it.
const GROUP: u32 = 0o640;
/// Of the folders.
const FOLDER: u32 = 0o755;
/// So much of a digest makes a name.
const DIGITS: usize = 16;

/// Makes the folder if it is not there, and finds out whether it can be written, before anything is asked for.
pub(crate) fn prepare(folder: &Path) -> Result<(), String> {
    let made = || -> Done<()> {
        if !folder.exists() {
            DirBuilder::new().recursive(true).create(folder)?;
            // The key is closed, the folder is not: the umask is for everything else.
            fs::set_permissions(folder, Permissions::from_mode(FOLDER))?;
        }
        for name in NAMES {
            let path = folder.join(name);
            if fs::symlink_metadata(&path).is_ok() && !is_ours(&path, name) {
                let why =
                    format!("{name} is there already and not ours; take it away, or name another folder");
                return Err(Error::new(ErrorKind::AlreadyExists, why));
            }
        }
        let probe = folder.join("..probe");
        fs::write(&probe, "")?;
        fs::remove_file(probe)
    };
    made().map_err(|error| format!("{}: {error}", folder.display()))
}

/// Puts an identity in the place of the one before. `group`: the key's group may read it.
pub(crate) fn swap(folder: &Path, material: &Material, group: bool) -> Result<(), String> {
    swap_all(folder, material, group).map_err(|error| format!("{}: {error}", folder.display()))
}

fn swap_all(folder: &Path, material: &Material, group: bool) -> Done<()> {
    let name = format!("..{}", &material.digest[..DIGITS.min(material.digest.len())]);
    let new = folder.join(&name);
    DirBuilder::new().recursive(true).create(&new)?;
    fs::set_permissions(&new, Permissions::from_mode(FOLDER))?;
    let key_mode = if group { GROUP } else { files::PRIVATE };
    let contents = [
        (pem::write_certificates(&material.chain), files::PUBLIC),
        (pem::write_key(&material.key), key_mode),
        (pem::write_certificates(&material.roots), files::PUBLIC),
    ];
    for (file, (text, mode)) in NAMES.iter().zip(contents) {
        files::write(&new.join(file), text.as_bytes(), mode)?;
    }
    // The names come first and lead nowhere as yet, so that all three can be opened from one step on.
    put_names(folder, |path, name| !is_ours(path, name))?;
    let before = fs::read_link(folder.join(DATA)).ok();
    link(folder, &name, DATA, ASIDE)?;
    if before.is_none() {
        // Once more, for those who have looked at each name when it came.
        put_names(folder, |_, _| true)?;
    }
    File::open(folder)?.sync_all()?;
    sweep(folder, &name, before.as_deref());
    Ok(())
}

/// Puts those of the names that are to be put.
fn put_names(folder: &Path, is_due: impl Fn(&Path, &str) -> bool) -> Done<()> {
    for name in NAMES {
        if is_due(&folder.join(name), name) {
            link(folder, &format!("{DATA}/{name}"), name, "..link.new")?;
        }
    }
    Ok(())
}

/// Whether it is a name as we put it.
fn is_ours(path: &Path, name: &str) -> bool {
    fs::read_link(path).is_ok_and(|target| target == Path::new(DATA).join(name))
}

/// A link in one step.
fn link(folder: &Path, target: &str, name: &str, aside: &str) -> Done<()> {
    let aside = folder.join(aside);
    match fs::remove_file(&aside) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    symlink(target, &aside)?;
    fs::rename(aside, folder.join(name))
}

/// Takes away what is older than the one before: that one stays for whoever is about to open its files.
fn sweep(folder: &Path, new: &str, before: Option<&Path>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let text = name.to_string_lossy();
        let is_ours = text.strip_prefix("..").is_some_and(|digits| {
            digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
        });
        if is_ours && text != new && before != Some(Path::new(&name)) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
