//! What is kept over a restart: key, chain and roots in one file, which nobody else may read.
//!
//! ```text
//! outrigger identity 1
//! received 1795000000
//! -----BEGIN PRIVATE KEY----- ...
//! -----BEGIN CERTIFICATE----- ...      the leaf and its intermediates
//! roots
//! -----BEGIN CERTIFICATE----- ...
//! ```

use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use config::spiffe::SpiffeId;

use crate::check::{unix, whole};
use crate::material::Material;
use crate::pem;
use crate::plan::Life;

const FILE: &str = "identity.pem";
const HEAD: &str = "outrigger identity 1";
const RECEIVED: &str = "received ";
const ROOTS: &str = "\nroots\n";

/// The file in a cache's folder.
pub(crate) fn file(folder: &Path) -> PathBuf {
    folder.join(FILE)
}

/// What is kept, if it is good for `id` at `now`; the error says why it is not used. `Ok(None)`: nothing is kept.
pub(crate) fn load(
    folder: &Path,
    id: &SpiffeId,
    now: SystemTime,
) -> Result<Option<(Material, Life)>, String> {
    let path = file(folder);
    let place = path.display().to_string();
    let bytes = match files::read_private(&path, pem::FILE_BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{place}: {error}")),
    };
    let broken = |what: &str| format!("{place}: {what}; it is not of this program, or damaged");
    let text = String::from_utf8(bytes).map_err(|_| broken("it is no text"))?;
    let rest = text.strip_prefix(HEAD).and_then(|rest| rest.strip_prefix('\n'));
    let (received, rest) = rest.and_then(|rest| rest.split_once('\n')).ok_or_else(|| broken("no head"))?;
    let received = received.strip_prefix(RECEIVED).and_then(|seconds| seconds.parse::<u32>().ok());
    let received = received.ok_or_else(|| broken("no time"))?;
    let received = UNIX_EPOCH + Duration::from_secs(received.into());
    let (own, roots) = rest.split_once(ROOTS).ok_or_else(|| broken("no roots"))?;
    let chain = pem::certificates(&place, own.as_bytes())?;
    let key = pem::key(&place, own.as_bytes())?;
    let roots = pem::certificates(&place, roots.as_bytes())?;
    let material = whole(&place, id, chain, key, roots, now).map_err(|failure| failure.why)?;
    // A time that lies ahead is of a clock that has been set since.
    let life = match received <= now {
        true => Life::fresh(material.leaf.not_before, material.leaf.not_after, received),
        false => Life::kept(material.leaf.not_before, material.leaf.not_after),
    };
    Ok(Some((material, life)))
}

/// Keeps it. Makes the folder if it is missing, for nobody else to enter.
pub(crate) fn store(folder: &Path, material: &Material, life: Life) -> Result<(), String> {
    let path = file(folder);
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    let mut text = format!("{HEAD}\n{RECEIVED}{}\n", unix(life.begin));
    text.push_str(&pem::write_key(&material.key));
    material.chain.iter().for_each(|certificate| text.push_str(&pem::write_certificate(certificate)));
    // Of the last line's end and the first line of the roots one is made.
    text.push_str(&ROOTS[1..]);
    material.roots.iter().for_each(|root| text.push_str(&pem::write_certificate(root)));
    files::write(&path, text.as_bytes(), files::PRIVATE).map_err(failed)
}
