//! What a workload's certificate says, as X.509-SVID (SPIFFE, sections 2 and 4) asks for it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use config::spiffe::SpiffeId;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// A leaf certificate that names exactly one workload.
#[derive(Clone, Debug)]
pub(crate) struct Leaf {
    pub(crate) id: SpiffeId,
    pub(crate) expires: SystemTime,
}

impl Leaf {
    /// Reads a leaf: exactly one URI SAN, a SPIFFE id with a path; no CA. The signature and the validity period are the chain
    /// verifier's business.
    pub(crate) fn read(der: &[u8]) -> Result<Self, &'static str> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| "it cannot be parsed")?;
        let mut uri = None;
        for extension in certificate.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(names) => {
                    for name in &names.general_names {
                        let GeneralName::URI(found) = name else { continue };
                        if uri.replace(*found).is_some() {
                            return Err("it has more than one URI name");
                        }
                    }
                }
                ParsedExtension::BasicConstraints(constraints) if constraints.ca => {
                    return Err("it is a CA's");
                }
                ParsedExtension::KeyUsage(flags) if flags.key_cert_sign() || flags.crl_sign() => {
                    return Err("its key may sign certificates");
                }
                _ => {}
            }
        }
        let id = SpiffeId::parse(uri.ok_or("it has no URI name")?)?;
        if id.path().is_empty() {
            return Err("its SPIFFE id names a trust domain and no workload");
        }
        Ok(Self { id, expires: time(certificate.validity().not_after.timestamp()) })
    }
}

/// From when to when a certificate is good, whatever it names.
pub(crate) fn validity(der: &[u8]) -> Result<(SystemTime, SystemTime), &'static str> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| "it cannot be parsed")?;
    let validity = certificate.validity();
    Ok((time(validity.not_before.timestamp()), time(validity.not_after.timestamp())))
}

fn time(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}
