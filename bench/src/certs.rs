//! A certificate authority for tests: SPIFFE leaves as the mesh wants them, and every wrong kind as well.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

pub use rcgen::KeyUsagePurpose;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// An authority that vouches for one trust domain; ECDSA P-256, made anew each time.
#[derive(Debug)]
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate with its private key, both PEM.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// The certificate alone, without the authority's.
    pub cert_pem: String,
    /// The PKCS#8 private key.
    pub key_pem: String,
}

/// What a leaf shall look like. The default is a good one, except that it has no URI.
#[derive(Clone, Debug)]
pub struct LeafSpec {
    /// URI SANs, in order; a SPIFFE leaf has exactly one (X.509-SVID, section 2).
    pub uris: Vec<String>,
    /// IP SANs, for servers of the web that are no part of a mesh.
    pub addresses: Vec<IpAddr>,
    /// DNS SANs, for the same.
    pub names: Vec<String>,
    /// Start of validity; default: an hour ago.
    pub not_before: SystemTime,
    /// End of validity; default: in a day.
    pub not_after: SystemTime,
    /// Whether it claims to be an authority, which a leaf must not.
    pub is_ca: bool,
    /// What the key may do, besides signing certificates where `is_ca`; default: sign handshakes.
    pub key_usages: Vec<KeyUsagePurpose>,
    /// Whether extended key usage holds serverAuth.
    pub server_auth: bool,
    /// Whether extended key usage holds clientAuth.
    pub client_auth: bool,
}

impl Default for LeafSpec {
    fn default() -> Self {
        let now = SystemTime::now();
        Self {
            uris: Vec::new(),
            names: Vec::new(),
            addresses: Vec::new(),
            not_before: now - Duration::from_secs(3_600),
            not_after: now + DAY,
            is_ca: false,
            key_usages: vec![KeyUsagePurpose::DigitalSignature],
            server_auth: true,
            client_auth: true,
        }
    }
}

impl Ca {
    /// Makes a root whose URI SAN is `spiffe://TRUST_DOMAIN`. Two calls make two unrelated roots.
    ///
    /// # Panics
    /// When the crypto library cannot make a key; there is nothing a test could do about it.
    pub fn new(trust_domain: &str) -> Self {
        let key = KeyPair::generate().expect("an ECDSA P-256 key");
        let mut params = CertificateParams::default();
        params.distinguished_name = name(&format!("{trust_domain} root"));
        params.subject_alt_names = vec![uri(&format!("spiffe://{trust_domain}"))];
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = (SystemTime::now() - DAY).into();
        params.not_after = (SystemTime::now() + 3_650 * DAY).into();
        let pem = params.self_signed(&key).expect("a self-signed root").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A good leaf for one SPIFFE id, valid from an hour ago for a day.
    pub fn leaf(&self, spiffe_id: &str) -> Leaf {
        self.leaf_with(&LeafSpec { uris: vec![spiffe_id.to_owned()], ..LeafSpec::default() })
    }

    /// A leaf that looks as `spec` says, signed whatever it says.
    ///
    /// # Panics
    /// When a URI or a name is not ASCII.
    pub fn leaf_with(&self, spec: &LeafSpec) -> Leaf {
        let key = KeyPair::generate().expect("an ECDSA P-256 key");
        let mut params = CertificateParams::default();
        params.distinguished_name = name("workload");
        params.subject_alt_names = spec.uris.iter().map(|text| uri(text)).collect();
        params.subject_alt_names.extend(spec.addresses.iter().copied().map(SanType::IpAddress));
        let names = spec.names.iter().map(|name| SanType::DnsName(name.as_str().try_into().expect("ASCII")));
        params.subject_alt_names.extend(names);
        params.not_before = spec.not_before.into();
        params.not_after = spec.not_after.into();
        params.use_authority_key_identifier_extension = true;
        // Some clients of the Workload API ask for basic constraints on leaves, too.
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = spec.key_usages.clone();
        if spec.is_ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages.push(KeyUsagePurpose::KeyCertSign);
        }
        if spec.server_auth {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        if spec.client_auth {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        }
        let cert = params.signed_by(&key, &self.issuer).expect("a signed leaf");
        Leaf { cert_pem: cert.pem(), key_pem: key.serialize_pem() }
    }

    /// A leaf for the key of a request (PEM), and for its first URI or for `id`: a workload's, good from a second ago.
    ///
    /// # Panics
    /// When the request cannot be read.
    pub fn sign(&self, request: &str, id: Option<&str>, until: SystemTime) -> String {
        let asked = CertificateSigningRequestParams::from_pem(request).expect("a request");
        let mut params = CertificateParams::default();
        params.subject_alt_names = match id {
            Some(id) => vec![uri(id)],
            None => asked.params.subject_alt_names.clone(),
        };
        params.not_before = (SystemTime::now() - Duration::from_secs(1)).into();
        params.not_after = until.into();
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.signed_by(&asked.public_key, &self.issuer).expect("a signed leaf").pem()
    }

    /// The root, PEM: what `ca.crt` holds.
    pub fn bundle_pem(&self) -> &str {
        &self.pem
    }
}

/// Writes `tls.crt`, `tls.key` and `ca.crt` into `dir`, under the names that `sidecar.yaml` uses by custom.
///
/// # Errors
/// Names the file that could not be written.
pub fn write_identity(dir: &Path, leaf: &Leaf, bundle_pem: &str) -> io::Result<()> {
    let files = [("tls.crt", leaf.cert_pem.as_str()), ("tls.key", &leaf.key_pem), ("ca.crt", bundle_pem)];
    for (file, text) in files {
        let path = dir.join(file);
        std::fs::write(&path, text).map_err(|fault| {
            io::Error::new(fault.kind(), format!("cannot write {}: {fault}", path.display()))
        })?;
    }
    Ok(())
}

fn name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().expect("a URI SAN is ASCII"))
}
