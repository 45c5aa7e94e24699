//! What people make for the CA, with its folder and without a control plane: roots and join tokens.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use config::spiffe::SpiffeId;

use crate::ca::folder::{BUNDLE, add_root, keep_bundle, read, token_key};

/// A root that was made.
#[derive(Debug)]
pub struct MadeRoot {
    /// Its certificate; its key stands beside it, 0600.
    pub certificate: PathBuf,
    /// It is the first root of the folder, and signs at once.
    pub is_first: bool,
}

/// Makes the first or the next root of a CA's folder. The folder is made if it is not there.
///
/// # Errors
/// Names the file that is wrong or cannot be written.
pub fn make_root(folder: &Path, now: SystemTime) -> Result<MadeRoot, String> {
    let is_first = !folder.exists() || read(folder)?.roots.is_empty();
    let name = add_root(folder, now)?;
    if is_first {
        // For whoever starts sidecars beside the control plane; from here on it is the control plane's.
        let bundle: String = read(folder)?.roots.iter().map(|root| root.pem.as_str()).collect();
        keep_bundle(folder, &bundle)?;
    }
    Ok(MadeRoot { certificate: folder.join(format!("{name}.crt")), is_first })
}

/// Makes a join token for one workload. The key of tokens is made if it is not there.
///
/// # Errors
/// Names the file that is wrong or cannot be written; or says that `id` names no workload.
pub fn make_token(
    folder: &Path,
    id: &SpiffeId,
    life: Duration,
    single_use: bool,
    now: SystemTime,
) -> Result<String, String> {
    if id.path().is_empty() {
        return Err(format!("{id} names a trust domain and no workload; add /ns/NAMESPACE/sa/ACCOUNT"));
    }
    token_key(folder)?.make(id, life, single_use, now)
}

/// Where the control plane keeps what clients are to trust, in its folder.
pub fn bundle_path(folder: &Path) -> PathBuf {
    folder.join(BUNDLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_gets_its_first_root_and_a_next_one() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("ca");
        let now = SystemTime::now();
        let first = make_root(&folder, now).unwrap();
        assert!(first.is_first && first.certificate.exists());
        assert_eq!(std::fs::read(bundle_path(&folder)).unwrap(), std::fs::read(&first.certificate).unwrap());
        assert!(!make_root(&folder, now).unwrap().is_first);
        assert_eq!(read(&folder).unwrap().roots.len(), 2);
    }

    #[test]
    fn a_token_is_for_a_workload() {
        let dir = tempfile::tempdir().unwrap();
        let make = |id: &str| {
            let id = SpiffeId::parse(id).unwrap();
            make_token(dir.path(), &id, Duration::from_secs(60), false, SystemTime::now())
        };
        assert!(make("spiffe://cluster.local").unwrap_err().contains("no workload"));
        let token = make("spiffe://cluster.local/ns/shop/sa/orders").unwrap();
        assert_eq!(token.split('.').count(), 3);
    }
}
