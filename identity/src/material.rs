//! What a workload shows and whom it believes: chain, key and roots, checked to belong together.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{Context as Digest, SHA256};
use config::identity::Identity;
use config::spiffe::SpiffeId;
use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::leaf::{Leaf, validity};
use crate::pem;

/// How far the clock of whoever signs certificates may be ahead of ours.
pub const CLOCK_SKEW_MAX: Duration = Duration::from_secs(60);
/// Roots of one bundle.
pub const ROOTS_MAX: usize = 64;

/// An identity that can be used. The private key never leaves the process.
#[derive(Debug)]
pub struct Material {
    /// The leaf, and its intermediates in the order of signing.
    pub chain: Vec<CertificateDer<'static>>,
    /// Of the leaf.
    pub key: PrivateKeyDer<'static>,
    /// Who vouches for the trust domain; at most [`ROOTS_MAX`].
    pub roots: Vec<CertificateDer<'static>>,
    /// The same, as verifiers take them.
    pub trust: Arc<RootCertStore>,
    /// What the leaf says.
    pub leaf: Leaf,
    /// What tells one content from another: SHA-256, in hex.
    pub digest: String,
}

/// Where each part of an identity was found, as errors name it.
#[derive(Clone, Debug)]
pub struct Origins {
    /// Of the chain.
    pub cert: String,
    /// Of the key.
    pub key: String,
    /// Of the roots.
    pub bundle: String,
}

impl Origins {
    /// All from one place.
    pub fn one(place: &str) -> Self {
        let [cert, key, bundle] = [(); 3].map(|()| place.to_owned());
        Self { cert, key, bundle }
    }

    /// The three files.
    pub fn files(files: &Identity) -> Self {
        let [cert, key, bundle] =
            [&files.cert, &files.key, &files.bundle].map(|path| path.display().to_string());
        Self { cert, key, bundle }
    }
}

impl Material {
    /// Checks that the parts belong together and are good at `now`. Whether the key is the leaf's own shows when TLS takes
    /// them (`rustls` holds the two against each other). The error says which part is wrong and what would be right.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        roots: Vec<CertificateDer<'static>>,
        origins: &Origins,
        now: SystemTime,
    ) -> Result<Self, String> {
        let Origins { cert, bundle, .. } = origins;
        let first = chain.first().ok_or_else(|| format!("{cert}: no certificate"))?;
        let leaf =
            Leaf::read(first).map_err(|error| format!("{cert}: not a workload certificate: {error}"))?;
        check_times(cert, leaf.not_before, leaf.not_after, now)?;
        if roots.len() > ROOTS_MAX {
            return Err(format!("{bundle}: {} roots, but at most {ROOTS_MAX} are taken", roots.len()));
        }
        let mut trust = RootCertStore::empty();
        for root in &roots {
            trust.add(root.clone()).map_err(|error| format!("{bundle}: not a usable root: {error}"))?;
        }
        let mut digest = Digest::new(&SHA256);
        let key_bytes = [key.secret_der()];
        let parts = chain.iter().map(AsRef::as_ref).chain(key_bytes).chain(roots.iter().map(AsRef::as_ref));
        for part in parts {
            let part: &[u8] = part;
            digest.update(&(part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        let digest = files::hex(digest.finish().as_ref());
        Ok(Self { chain, key, roots, trust: Arc::new(trust), leaf, digest })
    }

    /// The same with other roots. Its times are not looked at again.
    pub fn with_roots(&self, roots: Vec<CertificateDer<'static>>) -> Result<Self, String> {
        let origins = Origins::one("the new roots");
        Self::new(self.chain.clone(), self.key.clone_key(), roots, &origins, self.leaf.not_before)
    }

    /// Reads the three files; each is read, whatever is wrong with another.
    pub fn read(files: &Identity, now: SystemTime) -> Result<Self, String> {
        let origins = Origins::files(files);
        let chain = pem::certificates(&origins.cert, &pem::read(&files.cert)?)?;
        let key = pem::key(&origins.key, &pem::read(&files.key)?)?;
        let roots = pem::read_certificates(&files.bundle)?;
        Self::new(chain, key, roots, &origins, now)
    }

    /// Checks that it is that workload's; `who` asks for it, as the error says.
    pub fn check_id(&self, origins: &Origins, expected: &SpiffeId, who: &str) -> Result<(), String> {
        if self.leaf.id == *expected {
            return Ok(());
        }
        Err(format!(
            "{}: the certificate is for {}, but {who} says {expected}; mend trust_domain, namespace or account, or use the \
             certificate of that account",
            origins.cert, self.leaf.id
        ))
    }

    /// When the first of the roots stops being good, and the last: `None` where none can be read.
    pub fn roots_end(&self) -> Option<(SystemTime, SystemTime)> {
        let ends = || self.roots.iter().filter_map(|root| Some(validity(root).ok()?.1));
        Some((ends().min()?, ends().max()?))
    }
}

/// Checks that a certificate is good at `now`.
pub fn check_times(
    what: &str,
    not_before: SystemTime,
    not_after: SystemTime,
    now: SystemTime,
) -> Result<(), String> {
    if not_after <= now {
        return Err(format!("{what}: the certificate has expired; renew it"));
    }
    if not_before > now + CLOCK_SKEW_MAX {
        return Err(format!("{what}: the certificate is not valid yet"));
    }
    Ok(())
}
