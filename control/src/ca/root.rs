//! A root: its certificate, and its key if we have it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use files::{fingerprint, hex};
use identity::leaf::validity;
use identity::pem;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256,
};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::ca::random::random;

/// How long a root is good: ten years.
const LIFE: Duration = Duration::from_secs(3_650 * 24 * 3_600);
/// A root is good from this long before it was made, because clocks differ. What is known of when a root was introduced is this: its
/// beginning and an hour.
pub(crate) const BACKDATED: Duration = Duration::from_secs(3_600);

/// A certificate that is trusted, and may sign if its key is here.
#[derive(Debug)]
pub(crate) struct Root {
    /// The file's name without its ending.
    pub(crate) name: String,
    pub(crate) der: CertificateDer<'static>,
    pub(crate) pem: String,
    /// SHA-256 of the certificate, in hex.
    pub(crate) fingerprint: String,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    pub(crate) issuer: Option<Issuer<'static, KeyPair>>,
    /// People say that somebody else has its key.
    pub(crate) is_stolen: bool,
}

/// A root that was just made, PEM.
pub(crate) struct Made {
    /// What its files are to be called, without their endings. No other root has it.
    pub(crate) name: String,
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// Makes a root: ECDSA P-256, signs leaves and nothing else.
pub(crate) fn make(now: SystemTime) -> Result<Made, String> {
    let say = |error: rcgen::Error| format!("a root cannot be made: {error}");
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(say)?;
    let mut params = CertificateParams::default();
    params.not_before = now.into();
    let (made, unique) = (params.not_before, random::<4>()?);
    let unique = hex(&unique);
    let day = format!("{:04}{:02}{:02}", made.year(), u8::from(made.month()), made.day());
    let name = format!("root-{day}-{:02}{:02}{:02}-{unique}", made.hour(), made.minute(), made.second());
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + LIFE).into();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "outrigger");
    params.distinguished_name.push(DnType::CommonName, name.as_str());
    params.serial_number = Some(random::<16>()?.to_vec().into());
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key).map_err(say)?;
    Ok(Made { name, certificate: certificate.pem(), key: key.serialize_pem() })
}

impl Root {
    /// Reads a root, and its key. Errors say what is wrong with `what` or its key.
    pub(crate) fn read(
        name: &str,
        what: &str,
        certificate: &[u8],
        key: Option<(&str, &[u8])>,
    ) -> Result<Self, String> {
        let mut found = pem::certificates(what, certificate)?;
        if found.len() != 1 {
            return Err(format!(
                "{what}: {} certificates; write each root into a file of its own",
                found.len()
            ));
        }
        let der = found.remove(0);
        check(&der).map_err(|why| format!("{what}: not a root: {why}"))?;
        let (not_before, not_after) = validity(&der).map_err(|why| format!("{what}: {why}"))?;
        let issuer = key
            .map(|(key_name, key)| {
                let text = std::str::from_utf8(key).map_err(|_| format!("{key_name}: not PEM"))?;
                let pair = KeyPair::from_pem(text)
                    .map_err(|error| format!("{key_name}: no private key in PEM: {error}"))?;
                issuer(&der, pair).map_err(|why| format!("{key_name}: {why} {what}"))
            })
            .transpose()?;
        Ok(Self {
            name: name.to_owned(),
            pem: pem::write_certificate(&der),
            fingerprint: fingerprint(&der),
            der,
            not_before,
            not_after,
            issuer,
            is_stolen: false,
        })
    }

    /// Since when everybody may know it, by its own dates.
    pub(crate) fn introduced(&self) -> SystemTime {
        self.not_before + BACKDATED
    }

    /// Whether a caller's chain, leaf first, leads to this root at `now`.
    pub(crate) fn vouches_for(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> bool {
        let Some((leaf, rest)) = chain.split_first() else { return false };
        let mut roots = RootCertStore::empty();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let now = UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
        roots.add(self.der.clone()).is_ok()
            && WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .is_ok_and(|verifier| verifier.verify_client_cert(leaf, rest, now).is_ok())
    }
}

/// Checks what every client will check as well; with OpenSSL, roots sign themselves.
fn check(der: &[u8]) -> Result<(), String> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| "it cannot be parsed")?;
    if !certificate.is_ca() {
        return Err("it is not a CA's (basic constraints)".to_owned());
    }
    if let Ok(Some(usage)) = certificate.key_usage()
        && !usage.value.key_cert_sign()
    {
        return Err("its key may not sign certificates (key usage)".to_owned());
    }
    if certificate.subject().as_raw() != certificate.issuer().as_raw() {
        return Err(format!("it is signed by {}; hand in that one", certificate.issuer()));
    }
    certificate
        .verify_signature(None)
        .map_err(|error| format!("it has not signed itself ({error}); was it changed?"))
}

/// Checks that the key is the certificate's, by a certificate that nobody gets.
fn issuer(der: &CertificateDer<'static>, key: KeyPair) -> Result<Issuer<'static, KeyPair>, String> {
    let (_, root) = X509Certificate::from_der(der).map_err(|_| "cannot sign for")?;
    if root.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
        return Err("is not the key of".to_owned());
    }
    let issuer = Issuer::from_ca_cert_der(der, key).map_err(|error| format!("cannot sign ({error}) for"))?;
    let probe = CertificateParams::default()
        .signed_by(issuer.key(), &issuer)
        .map_err(|error| format!("cannot sign ({error}) for"))?;
    let fits = X509Certificate::from_der(probe.der()).is_ok_and(|(_, probe)| {
        probe.issuer().as_raw() == root.subject().as_raw()
            && probe.verify_signature(Some(root.public_key())).is_ok()
    });
    if fits { Ok(issuer) } else { Err("makes certificates that do not chain to".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(made: &Made, key: Option<&str>) -> Result<Root, String> {
        let key = key.map(|key| ("a.key", key.as_bytes()));
        Root::read("a", "a.crt", made.certificate.as_bytes(), key)
    }

    #[test]
    fn a_root_that_was_made_can_be_read_and_each_has_a_name_of_its_own() {
        let now = SystemTime::now();
        let (one, other) = (make(now).unwrap(), make(now).unwrap());
        assert_ne!(one.name, other.name);
        let root = read(&one, Some(&one.key)).unwrap();
        assert!(root.issuer.is_some());
        let introduced = root.introduced();
        assert!(
            now.duration_since(introduced).unwrap_or_default() < Duration::from_secs(2),
            "{introduced:?}"
        );
        assert!(read(&other, None).unwrap().issuer.is_none());
    }

    #[test]
    fn a_key_of_another_root_and_what_is_no_root_are_refused_by_name() {
        let now = SystemTime::now();
        let (one, other) = (make(now).unwrap(), make(now).unwrap());
        assert_eq!(read(&one, Some(&other.key)).unwrap_err(), "a.key: is not the key of a.crt");
        let ca = bench::certs::Ca::new("cluster.local");
        let leaf = ca.leaf("spiffe://cluster.local/ns/a/sa/b");
        let error = Root::read("a", "a.crt", leaf.cert_pem.as_bytes(), None).unwrap_err();
        assert_eq!(error, "a.crt: not a root: it is not a CA's (basic constraints)");
        let both = format!("{}{}", one.certificate, other.certificate);
        let error = Root::read("a", "a.crt", both.as_bytes(), None).unwrap_err();
        assert_eq!(error, "a.crt: 2 certificates; write each root into a file of its own");
    }
}
