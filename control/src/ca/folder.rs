//! The folder of the CA: roots, their keys, and the key of join tokens.
//!
//! ```text
//! *.crt        a root; trusted
//! *.key        the key of the root of the same name, 0600; that root may sign
//! *.stolen     whatever is in it: the key of the root of the same name is in foreign hands
//! tokens.key   what join tokens are signed with: 32 bytes in hex, 0600
//! bundle.pem   what clients are told to trust; written by us, where we may
//! used/        join tokens that were good for one time, and are used up
//! ```
//!
//! It may be a volume that cannot be written, with symbolic links in it (a Kubernetes Secret). It is read whole or not at all: a
//! root that is lost halfway would take its certificates with it. Blocks: it is for threads that may.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, SystemTime};

use files::{PRIVATE, PUBLIC, hex};
use identity::material::ROOTS_MAX;
use identity::pem;

use crate::ca::random::random;
use crate::ca::root::{Root, make};
use crate::ca::token::TokenKey;

/// The file of the key of join tokens.
pub(crate) const TOKENS_KEY: &str = "tokens.key";
/// The ending of a file that says of a root that its key was stolen.
const STOLEN: &str = ".stolen";
/// What clients are told to trust.
pub(crate) const BUNDLE: &str = "bundle.pem";

/// What is in the folder.
#[derive(Debug)]
pub(crate) struct Found {
    /// The oldest first.
    pub(crate) roots: Vec<Root>,
    /// `None`: there is no such file.
    pub(crate) tokens: Option<TokenKey>,
}

/// Reads the folder. The error tells everything that is wrong with it, a line each.
pub(crate) fn read(folder: &Path) -> Result<Found, String> {
    let say = |error: std::io::Error| format!("{}: {error}", folder.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(say)? {
        let name = entry.map_err(say)?.file_name().to_string_lossy().into_owned();
        if let Some(stem) =
            name.strip_suffix(".crt").filter(|stem| !stem.is_empty() && !stem.starts_with('.'))
        {
            names.push(stem.to_owned());
        }
    }
    if names.len() > ROOTS_MAX {
        return Err(format!(
            "{}: {} roots, but at most {ROOTS_MAX} are taken",
            folder.display(),
            names.len()
        ));
    }
    names.sort_unstable();
    let (mut roots, mut faults) = (Vec::<Root>::new(), Vec::new());
    for name in names {
        match root(folder, &name) {
            // The same one twice, as in Secrets of cert-manager (`tls.crt` and `ca.crt`): the one with the key counts.
            Ok(root) => match roots.iter_mut().find(|other| other.der == root.der) {
                Some(same) if same.issuer.is_none() => *same = root,
                Some(_) => {}
                None => roots.push(root),
            },
            Err(fault) => faults.push(fault),
        }
    }
    let tokens = tokens(&folder.join(TOKENS_KEY)).unwrap_or_else(|fault| {
        faults.push(fault);
        None
    });
    if !faults.is_empty() {
        return Err(faults.join("\n"));
    }
    roots.sort_by(|one, other| (one.not_before, &one.name).cmp(&(other.not_before, &other.name)));
    Ok(Found { roots, tokens })
}

fn root(folder: &Path, name: &str) -> Result<Root, String> {
    let path = folder.join(format!("{name}.crt"));
    let certificate = pem::read(&path)?;
    let key_path = folder.join(format!("{name}.key"));
    let key = private(&key_path)?;
    let key_name = key_path.display().to_string();
    let key = key.as_ref().map(|key| (key_name.as_str(), key.as_slice()));
    let root = Root::read(name, &path.display().to_string(), &certificate, key)?;
    Ok(Root { is_stolen: folder.join(format!("{name}{STOLEN}")).exists(), ..root })
}

fn tokens(path: &Path) -> Result<Option<TokenKey>, String> {
    private(path)?.map(|text| TokenKey::read(&path.display().to_string(), &text)).transpose()
}

/// A private file; `None`: there is none. That others may read it is an error.
fn private(path: &Path) -> Result<Option<Vec<u8>>, String> {
    match files::read_private(path, pem::FILE_BYTES_MAX) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        read => read.map(Some).map_err(|error| format!("{}: {error}", path.display())),
    }
}

/// Makes the folder's first or next root, and says what it is called. It is newer than all that are there, whatever the clock says.
pub(crate) fn add_root(folder: &Path, now: SystemTime) -> Result<String, String> {
    let there = if folder.exists() { read(folder)?.roots } else { Vec::new() };
    let newest = there.iter().map(|root| root.introduced() + Duration::from_secs(1)).max();
    let now = newest.map_or(now, |newest| newest.max(now));
    let made = make(now)?;
    // The key first: a root whose key was lost on the way would be trusted for nothing.
    write(&folder.join(format!("{}.key", made.name)), made.key.as_bytes(), PRIVATE)?;
    write(&folder.join(format!("{}.crt", made.name)), made.certificate.as_bytes(), PUBLIC)?;
    Ok(made.name)
}

/// The key of join tokens, which is made if there is none.
pub(crate) fn token_key(folder: &Path) -> Result<TokenKey, String> {
    let path = folder.join(TOKENS_KEY);
    if let Some(key) = tokens(&path)? {
        return Ok(key);
    }
    let aside = folder.join(format!(".{TOKENS_KEY}.{}", hex(&random::<8>()?)));
    let text = format!("{}\n", hex(&random::<32>()?));
    write(&aside, text.as_bytes(), PRIVATE)?;
    // Who comes first makes it; the other one takes that.
    let linked = fs::hard_link(&aside, &path);
    let _ = fs::remove_file(&aside);
    match linked {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            return Err(format!("{}: {error}", path.display()));
        }
        _ => {}
    }
    tokens(&path)?.ok_or_else(|| format!("{}: it has gone again", path.display()))
}

/// Keeps what clients are told to trust where people find it.
pub(crate) fn keep_bundle(folder: &Path, bundle: &str) -> Result<(), String> {
    let path = folder.join(BUNDLE);
    if fs::read(&path).is_ok_and(|there| there == bundle.as_bytes()) {
        return Ok(());
    }
    // Several control planes may write it at a time.
    let aside = folder.join(format!(".{BUNDLE}.{}", hex(&random::<8>()?)));
    let say = |error: std::io::Error| format!("{}: {error}", path.display());
    write(&aside, bundle.as_bytes(), PUBLIC)?;
    fs::rename(&aside, &path).map_err(|error| {
        let _ = fs::remove_file(&aside);
        say(error)
    })
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), String> {
    files::write(path, bytes, mode).map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn what_is_made_can_be_read_and_keys_are_ours_alone() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("ca");
        let now = SystemTime::now();
        let names = [(); 9].map(|()| add_root(&folder, now).unwrap());
        token_key(&folder).unwrap();
        token_key(&folder).unwrap();
        let found = read(&folder).unwrap();
        let found_names: Vec<&str> = found.roots.iter().map(|root| root.name.as_str()).collect();
        assert_eq!(found_names, names, "each is newer than the one before");
        assert!(found.roots.iter().all(|root| root.issuer.is_some()));
        assert!(found.tokens.is_some());
        for name in &names {
            assert_eq!(mode(&folder.join(format!("{name}.key"))), 0o600);
        }
        assert_eq!(mode(&folder.join(TOKENS_KEY)), 0o600);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 19, "nothing is left aside");
    }

    #[test]
    fn a_key_that_others_can_read_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let name = add_root(dir.path(), SystemTime::now()).unwrap();
        token_key(dir.path()).unwrap();
        for file in [format!("{name}.key"), TOKENS_KEY.to_owned()] {
            let path = dir.path().join(&file);
            for open in [0o644, 0o604, 0o620] {
                fs::set_permissions(&path, fs::Permissions::from_mode(open)).unwrap();
                let fault = read(dir.path()).unwrap_err();
                assert!(fault.contains(&file) && fault.contains("chmod 600"), "{open:o}: {fault}");
            }
            fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
            read(dir.path()).unwrap();
        }
    }

    #[test]
    fn a_folder_of_links_is_read_as_kubernetes_mounts_it() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("..2026_01");
        add_root(&data, SystemTime::now()).unwrap();
        symlink("..2026_01", dir.path().join("..data")).unwrap();
        for entry in fs::read_dir(&data).unwrap() {
            let name = entry.unwrap().file_name();
            symlink(Path::new("..data").join(&name), dir.path().join(&name)).unwrap();
        }
        let found = read(dir.path()).unwrap();
        assert!(matches!(&found.roots[..], [root] if root.issuer.is_some()));
    }

    #[test]
    fn the_same_root_twice_is_one_and_its_key_counts() {
        let dir = tempfile::tempdir().unwrap();
        let name = add_root(dir.path(), SystemTime::now()).unwrap();
        fs::copy(dir.path().join(format!("{name}.crt")), dir.path().join("ca.crt")).unwrap();
        let found = read(dir.path()).unwrap();
        assert!(matches!(&found.roots[..], [root] if root.issuer.is_some() && root.name == name));
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let name = add_root(dir.path(), SystemTime::now()).unwrap();
        fs::write(dir.path().join("bad.crt"), "no").unwrap();
        fs::set_permissions(dir.path().join(format!("{name}.key")), fs::Permissions::from_mode(0o644))
            .unwrap();
        let fault = read(dir.path()).unwrap_err();
        assert_eq!(fault.lines().count(), 2, "{fault}");
        assert!(read(&dir.path().join("nothing")).is_err());
    }
}
