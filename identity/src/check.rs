//! What others hand us as our identity is checked whole before it is used.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use config::spiffe::SpiffeId;
use rustls::RootCertStore;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::leaf::Leaf;
use crate::material::{CLOCK_SKEW_MAX, Material, Origins};
use crate::state::{Failure, Reason};

/// Certificates of one chain.
pub(crate) const CHAIN_MAX: usize = 16;

/// Makes an identity of its parts: the leaf names `id`, the key is its own, the chain leads to one of the roots, and all is good
/// at `now`. `place`: where they come from, as errors say it.
pub(crate) fn whole(
    place: &str,
    id: &SpiffeId,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: Vec<CertificateDer<'static>>,
    now: SystemTime,
) -> Result<Material, Failure> {
    let wrong = |why: String| Failure::new(Reason::Answer, format!("{place}: {why}"));
    let first = chain.first().ok_or_else(|| wrong("no certificate".to_owned()))?;
    if chain.len() > CHAIN_MAX {
        return Err(wrong(format!(
            "a chain of {} certificates, but at most {CHAIN_MAX} are taken",
            chain.len()
        )));
    }
    let leaf = Leaf::read(first).map_err(|error| wrong(format!("not a workload certificate: {error}")))?;
    if leaf.id != *id {
        return Err(wrong(format!("the certificate is for {}, but we are {id}", leaf.id)));
    }
    if leaf.not_after <= now || leaf.not_before > now + CLOCK_SKEW_MAX {
        let why = format!(
            "{place}: the certificate is good from {} to {} (Unix), but the clock of this machine says {}; set the clock",
            unix(leaf.not_before),
            unix(leaf.not_after),
            unix(now)
        );
        return Err(Failure::new(Reason::Clock, why));
    }
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    CertifiedKey::from_der(chain.clone(), key.clone_key(), &provider)
        .map_err(|error| wrong(format!("the key does not fit the certificate: {error}")))?;
    let material = Material::new(chain, key, roots, &Origins::one(place), now)
        .map_err(|why| Failure::new(Reason::Answer, why))?;
    // What is valid in a moment, by the clock of whoever signed it, is looked at as of then.
    let at = now.max(material.leaf.not_before);
    leads_to(&material.chain, &material.trust, at).map_err(|why| {
        wrong(format!("the chain leads to none of the {} roots: {why}", material.roots.len()))
    })?;
    Ok(material)
}

/// Whether a chain, leaf first, leads to one of these roots at `now`.
pub(crate) fn leads_to(
    chain: &[CertificateDer<'static>],
    trust: &RootCertStore,
    now: SystemTime,
) -> Result<(), String> {
    let (leaf, intermediates) = chain.split_first().ok_or("no certificate")?;
    let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
    let now = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or_default());
    let leaf = ParsedCertificate::try_from(leaf).map_err(|error| error.to_string())?;
    verify_server_cert_signed_by_trust_anchor(&leaf, trust, intermediates, now, algorithms.all)
        .map_err(|error| error.to_string())
}

/// Whether it was signed by the first of its roots, which is the one that signs now. Where that cannot be said, it was.
pub(crate) fn is_of_the_signer(material: &Material, now: SystemTime) -> bool {
    let Some(first) = material.roots.first() else { return true };
    let mut signer = RootCertStore::empty();
    if signer.add(first.clone()).is_err() {
        return true;
    }
    leads_to(&material.chain, &Arc::new(signer), now.max(material.leaf.not_before)).is_ok()
}

/// Whether a certificate names itself as its issuer, as roots do.
pub(crate) fn is_root(der: &CertificateDer<'_>) -> bool {
    let parsed = X509Certificate::from_der(der);
    parsed.is_ok_and(|(_, certificate)| certificate.issuer() == certificate.subject() && certificate.is_ca())
}

/// Seconds since the epoch.
pub(crate) fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
