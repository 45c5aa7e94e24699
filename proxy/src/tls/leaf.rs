//! What a workload's certificate says, as X.509-SVID (SPIFFE, sections 2 and 4) asks for it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use config::spiffe::SpiffeId;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// A leaf certificate that names exactly one workload.
#[derive(Clone, Debug)]
pub(crate) struct Leaf {
    pub(crate) id: SpiffeId,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
}

/// How long a connection on which a certificate was shown may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) calls_begin_for: Duration,
    /// Until the certificate expires: the handshake is the only time that it is looked at.
    pub(crate) ends_after: Duration,
}

/// Calls have this long to end before the certificate expires, or a tenth of what is left of its life.
const EXPIRY_MARGIN: Duration = Duration::from_secs(30);

impl Leaf {
    /// What is left at `now`.
    pub(crate) fn validity(&self, now: SystemTime) -> Validity {
        let ends_after = self.not_after.duration_since(now).unwrap_or_default();
        Validity { calls_begin_for: ends_after - EXPIRY_MARGIN.min(ends_after / 10), ends_after }
    }

    /// Reads a leaf: exactly one URI SAN, a SPIFFE id with a path; no CA; extended key usage present.
    /// The signature and the validity period are the chain verifier's business.
    pub(crate) fn read(der: &[u8]) -> Result<Self, &'static str> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| "it cannot be parsed")?;
        let mut uri = None;
        let mut usage = false;
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
                ParsedExtension::ExtendedKeyUsage(_) => usage = true,
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
        if !usage {
            return Err("it has no extended key usage");
        }
        let time = |seconds| UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        let validity = certificate.validity();
        let (not_before, not_after) = (validity.not_before.timestamp(), validity.not_after.timestamp());
        Ok(Self { id, not_before: time(not_before), not_after: time(not_after) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_cease_to_begin_half_a_minute_or_a_tenth_of_the_rest_before_the_end() {
        let id = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/orders").unwrap();
        let validity = |left: i64| {
            let now = UNIX_EPOCH + Duration::from_secs(1_000);
            let not_after = UNIX_EPOCH + Duration::from_secs((1_000 + left).try_into().unwrap());
            let validity = Leaf { id: id.clone(), not_before: now, not_after }.validity(now);
            (validity.calls_begin_for.as_secs(), validity.ends_after.as_secs())
        };
        assert_eq!(validity(3_600), (3_570, 3_600));
        assert_eq!(validity(100), (90, 100));
        assert_eq!(validity(-5), (0, 0));
    }
}
