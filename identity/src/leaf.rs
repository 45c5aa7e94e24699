//! What a workload's certificate says, as X.509-SVID (SPIFFE, sections 2 and 4) asks for it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use config::spiffe::SpiffeId;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// A leaf certificate that names exactly one workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Whom it names.
    pub id: SpiffeId,
    /// It is good from then on.
    pub not_before: SystemTime,
    /// Until then.
    pub not_after: SystemTime,
}

/// What keeps a certificate from being a workload's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// It names nobody, more than one, or names badly; or is no certificate at all.
    Names(&'static str),
    /// It is a CA's.
    Authority(&'static str),
    /// Its key is for something else.
    KeyUse(&'static str),
}

impl Flaw {
    /// The same in words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Names(words) | Self::Authority(words) | Self::KeyUse(words) => words,
        }
    }
}

impl Leaf {
    /// [`Leaf::check`] for who wants words alone.
    pub fn read(der: &[u8]) -> Result<Self, &'static str> {
        Self::check(der).map_err(Flaw::words)
    }

    /// Reads a leaf: exactly one URI SAN, a SPIFFE id with a path; no CA; a key that signs handshakes and nothing else;
    /// extended key usage present. The signature and the validity period are the chain verifier's business.
    pub fn check(der: &[u8]) -> Result<Self, Flaw> {
        let (_, certificate) =
            X509Certificate::from_der(der).map_err(|_| Flaw::Names("it cannot be parsed"))?;
        // Before all else: its key signs certificates as well.
        if certificate.is_ca() {
            return Err(Flaw::Authority("it is a CA's"));
        }
        let mut uri = None;
        let mut purpose = false;
        for extension in certificate.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(names) => {
                    for name in &names.general_names {
                        let GeneralName::URI(found) = name else { continue };
                        if uri.replace(*found).is_some() {
                            return Err(Flaw::Names("it has more than one URI name"));
                        }
                    }
                }
                ParsedExtension::ExtendedKeyUsage(_) => purpose = true,
                ParsedExtension::KeyUsage(flags) if flags.key_cert_sign() || flags.crl_sign() => {
                    return Err(Flaw::KeyUse("its key may sign certificates"));
                }
                ParsedExtension::KeyUsage(flags) if !flags.digital_signature() => {
                    return Err(Flaw::KeyUse("its key may not sign handshakes"));
                }
                _ => {}
            }
        }
        let id = SpiffeId::parse(uri.ok_or(Flaw::Names("it has no URI name"))?).map_err(Flaw::Names)?;
        if id.path().is_empty() {
            return Err(Flaw::Names("its SPIFFE id names a trust domain and no workload"));
        }
        if !purpose {
            return Err(Flaw::KeyUse("it has no extended key usage"));
        }
        let (not_before, not_after) = times(&certificate);
        Ok(Self { id, not_before, not_after })
    }
}

/// From when to when a certificate is good, whatever it names.
pub fn validity(der: &[u8]) -> Result<(SystemTime, SystemTime), &'static str> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| "it cannot be parsed")?;
    Ok(times(&certificate))
}

fn times(certificate: &X509Certificate<'_>) -> (SystemTime, SystemTime) {
    let time = |seconds| UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    let validity = certificate.validity();
    (time(validity.not_before.timestamp()), time(validity.not_after.timestamp()))
}
