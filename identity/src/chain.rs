//! What certificates say of each other: who signed whom, and when each of them ends.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::CertificateDer;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::leaf::validity;
use crate::material::Material;
use crate::plan::Life;

/// What people want to know of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Its name, as RFC 4514 writes it; workloads have their name elsewhere, and often none here.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
    /// In hex, bytes apart by colons.
    pub serial: String,
    /// It is good from then on.
    pub not_before: SystemTime,
    /// Until then.
    pub not_after: SystemTime,
}

impl Summary {
    /// Reads one; `None`: it is no certificate.
    pub fn read(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let time = |seconds: i64| UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        Some(Self {
            subject: certificate.subject().to_string(),
            issuer: certificate.issuer().to_string(),
            serial: certificate.raw_serial_as_string(),
            not_before: time(certificate.validity().not_before.timestamp()),
            not_after: time(certificate.validity().not_after.timestamp()),
        })
    }
}

/// The lives of those whom an identity hangs on: whichever ends first ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Runway {
    /// Of the leaf.
    pub leaf: Life,
    /// Of the certificate that signed the leaf: an intermediate, or the root itself. `None`: it is not among those known.
    pub issuer: Option<Life>,
    /// The same of the root at which the chain ends.
    pub root: Option<Life>,
}

impl Runway {
    /// Of a chain and the roots that are believed. Names and key identifiers decide, and no signature: a chain that does not
    /// hold is refused by others.
    pub fn new(material: &Material) -> Self {
        let mut issuer = None;
        let mut last = material.chain.first();
        for intermediate in material.chain.iter().skip(1) {
            if !last.is_some_and(|signed| is_signer(intermediate, signed)) {
                break;
            }
            issuer = issuer.or_else(|| life(intermediate));
            last = Some(intermediate);
        }
        let root = last.and_then(|last| {
            let signers = material.roots.iter().filter(|root| is_signer(root, last) || *root == last);
            signers.filter_map(|root| life(root)).max_by_key(|life| life.end)
        });
        let leaf = Life::kept(material.leaf.not_before, material.leaf.not_after);
        Self { leaf, issuer: issuer.or(root), root }
    }
}

fn life(der: &CertificateDer<'_>) -> Option<Life> {
    let (begin, end) = validity(der).ok()?;
    Some(Life::kept(begin, end))
}

/// Whether the one has the name that the other was signed in and, as far as both say so, its key.
fn is_signer(signer: &CertificateDer<'_>, signed: &CertificateDer<'_>) -> bool {
    let (Ok((_, signer)), Ok((_, signed))) =
        (X509Certificate::from_der(signer), X509Certificate::from_der(signed))
    else {
        return false;
    };
    let own = signer.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(key) => Some(key.0),
        _ => None,
    });
    let named = signed.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(authority) => {
            authority.key_identifier.as_ref().map(|key| key.0)
        }
        _ => None,
    });
    signer.subject().as_raw() == signed.issuer().as_raw()
        && own.zip(named).is_none_or(|(own, named)| own == named)
}
