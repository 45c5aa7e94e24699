//! A certificate signing request (PKCS#10, RFC 2986): its key, whom it names, and nothing else of it.

use config::spiffe::SpiffeId;
use files::fingerprint;
use rcgen::SubjectPublicKeyInfo;
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;

use crate::ca::reason::{Reason, Refusal};

/// Of a request in PEM; one with an RSA key of 8192 bits has some 3,000.
pub(crate) const BYTES_MAX: usize = 16 << 10;
/// The least RSA key.
const RSA_BITS_MIN: usize = 2_048;
/// The largest: the longer, the longer everybody takes to verify.
const RSA_BITS_MAX: usize = 8_192;

/// What is taken of a request.
#[derive(Debug)]
pub(crate) struct Csr {
    pub(crate) key: SubjectPublicKeyInfo,
    /// The key's kind, as the audit names it.
    pub(crate) key_type: String,
    /// SHA-256 of the key (SPKI), in hex.
    pub(crate) key_digest: String,
    /// Whom it names; `None`: nobody.
    pub(crate) id: Option<SpiffeId>,
}

/// Reads a request and checks that whoever made it has the key.
pub(crate) fn read(pem: &str) -> Result<Csr, Refusal> {
    let bad = |what: &str| Refusal::new(Reason::BadCsr, format!("the request (CSR) is not good: {what}"));
    if pem.len() > BYTES_MAX {
        return Err(bad(&format!("it has more than {BYTES_MAX} bytes")));
    }
    let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| bad(&format!("no `CERTIFICATE REQUEST` in PEM: {error}")))?;
    let (rest, request) = X509CertificationRequest::from_der(&der).map_err(|_| bad("it cannot be parsed"))?;
    if !rest.is_empty() {
        return Err(bad("there are bytes after it"));
    }
    let spki = &request.certification_request_info.subject_pki;
    let kind = |what: &str| {
        let kinds = "P-256, P-384, RSA of 2048 to 8192 bits, or Ed25519";
        Refusal::new(Reason::KeyType, format!("{what}; take {kinds}"))
    };
    let key_type = key_type(spki).map_err(|what| kind(&what))?;
    let key = SubjectPublicKeyInfo::from_der(spki.raw).map_err(|_| kind("the key is of an unknown kind"))?;
    request.verify_signature().map_err(|error| bad(&format!("it was not signed with its key: {error}")))?;
    let id = named(&request).map_err(|what| bad(&what))?;
    Ok(Csr { key, key_type, key_digest: fingerprint(spki.raw), id })
}

/// The kind of a key, or what is wrong with it.
fn key_type(spki: &x509_parser::x509::SubjectPublicKeyInfo<'_>) -> Result<String, String> {
    const P256: &str = "1.2.840.10045.3.1.7";
    const P384: &str = "1.3.132.0.34";
    const ED25519: &str = "1.3.101.112";
    match spki.parsed() {
        Ok(PublicKey::RSA(key)) => match key.key_size() {
            bits @ RSA_BITS_MIN..=RSA_BITS_MAX => Ok(format!("rsa-{bits}")),
            bits => Err(format!("an RSA key of {bits} bits")),
        },
        Ok(PublicKey::EC(_)) => {
            let curve = spki.algorithm.parameters.as_ref().and_then(|curve| curve.as_oid().ok());
            match curve.map(|curve| curve.to_id_string()).as_deref() {
                Some(P256) => Ok("p-256".to_owned()),
                Some(P384) => Ok("p-384".to_owned()),
                curve => Err(format!("a key on the curve {}", curve.unwrap_or("without a name"))),
            }
        }
        _ if spki.algorithm.algorithm.to_id_string() == ED25519 => Ok("ed25519".to_owned()),
        _ => Err(format!("a key of the kind {}", spki.algorithm.algorithm)),
    }
}

/// The one workload that it names; `None`: none. Other names than URIs are as good as none (Istio's agents give their DNS name),
/// since nothing of it goes into the certificate.
fn named(request: &X509CertificationRequest<'_>) -> Result<Option<SpiffeId>, String> {
    let mut found = None;
    for extension in request.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
        for name in &names.general_names {
            let GeneralName::URI(uri) = name else { continue };
            let id = SpiffeId::parse(uri).map_err(|rule| format!("its URI name `{uri}`: {rule}"))?;
            if found.replace(id).is_some() {
                return Err("it has more than one URI name".to_owned());
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use rcgen::{
        CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ECDSA_P521_SHA512,
        PKCS_ED25519, PKCS_RSA_SHA256, SanType,
    };

    use super::*;

    const ORDERS: &str = "spiffe://cluster.local/ns/shop/sa/orders";

    fn csr(uris: &[&str], key: &KeyPair) -> String {
        let mut params = CertificateParams::default();
        params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        params.serialize_request(key).unwrap().pem().unwrap()
    }

    fn of(uris: &[&str]) -> Result<Csr, Refusal> {
        read(&csr(uris, &KeyPair::generate().unwrap()))
    }

    #[test]
    fn keys_of_the_kinds_that_clients_make_are_taken() {
        for (algorithm, name) in [
            (&PKCS_ECDSA_P256_SHA256, "p-256"),
            (&PKCS_ECDSA_P384_SHA384, "p-384"),
            (&PKCS_ED25519, "ed25519"),
            (&PKCS_RSA_SHA256, "rsa-2048"),
        ] {
            let csr = read(&csr(&[ORDERS], &KeyPair::generate_for(algorithm).unwrap())).unwrap();
            assert_eq!((csr.key_type.as_str(), csr.id.unwrap().as_str()), (name, ORDERS));
        }
    }

    #[test]
    fn a_key_of_another_kind_is_refused_as_that() {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P521_SHA512).unwrap();
        let refusal = read(&csr(&[], &key)).unwrap_err();
        assert_eq!(refusal.reason, Reason::KeyType);
        assert!(refusal.message.contains("P-256"), "{}", refusal.message);
    }

    #[test]
    fn a_request_names_one_workload_or_nobody() {
        assert_eq!(of(&[]).unwrap().id, None);
        assert_eq!(of(&[ORDERS, ORDERS]).unwrap_err().reason, Reason::BadCsr);
        assert_eq!(of(&["https://cluster.local/x"]).unwrap_err().reason, Reason::BadCsr);
    }

    #[test]
    fn a_request_that_somebody_changed_is_refused() {
        let text = csr(&[ORDERS], &KeyPair::generate().unwrap());
        let der = CertificateSigningRequestDer::from_pem_slice(text.as_bytes()).unwrap().to_vec();
        let refused = |der: &[u8]| {
            let pem = identity::pem::write_certificate(der).replace("CERTIFICATE", "CERTIFICATE REQUEST");
            read(&pem).unwrap_err().reason
        };
        let at = der.windows(6).position(|window| window == b"orders").unwrap();
        let mut changed = der.clone();
        changed[at..at + 6].copy_from_slice(b"admins");
        assert_eq!(refused(&changed), Reason::BadCsr);
        assert_eq!(refused(&[&der[..], b"x"].concat()), Reason::BadCsr);
        for text in
            ["", "no", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"]
        {
            assert_eq!(read(text).unwrap_err().reason, Reason::BadCsr, "{text}");
        }
    }
}
