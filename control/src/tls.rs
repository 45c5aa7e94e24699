//! The server side of mTLS: our own certificate, and whom we let in.
//!
//! TLS 1.3 and, for foreign clients, 1.2. Sessions and tickets are off: rustls restores a resumed session's chain without
//! verifying it again, and every connection is to prove who it is.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use config::model::Identity;
use config::spiffe::SpiffeId;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    ServerConfig, SignatureScheme,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};

use crate::leaf::{Leaf, validity};
use crate::stamp::fingerprint;
use crate::world::Worlds;

/// What is said in TLS (ALPN, RFC 7301) of an HTTP/2 connection.
const ALPN_HTTP2: &[u8] = b"h2";
/// Largest certificate, key or bundle file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// How far the clock of whoever signs certificates may be ahead of ours.
const CLOCK_SKEW_MAX: Duration = Duration::from_secs(60);

/// Our identity, read and checked.
#[derive(Debug)]
pub(crate) struct Credentials {
    pub(crate) server: Arc<ServerConfig>,
    /// Of our own certificate.
    pub(crate) expires: SystemTime,
}

/// What has been found of the three files.
pub(crate) struct Judged {
    /// What tells one content from another.
    pub(crate) digest: String,
    /// What they make, or why they cannot be used.
    pub(crate) verdict: Result<Credentials, String>,
}

/// Reads the three files and checks that they belong together and are good at `now`. Callers must prove an id of the trust domain
/// that the newest of `worlds` has.
pub(crate) fn judge(files: &Identity, worlds: &Worlds, now: SystemTime) -> Judged {
    let pem = [&files.cert, &files.key, &files.bundle].map(|path| read(path));
    let mut all = Vec::new();
    for part in &pem {
        let bytes = part.as_ref().map_or_else(|error| error.as_bytes(), Vec::as_slice);
        all.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        all.extend_from_slice(bytes);
    }
    Judged { digest: fingerprint(&all), verdict: credentials(files, pem, worlds, now) }
}

fn credentials(
    files: &Identity,
    [cert, key, bundle]: [Result<Vec<u8>, String>; 3],
    worlds: &Worlds,
    now: SystemTime,
) -> Result<Credentials, String> {
    let chain = certificates(&files.cert, &cert?)?;
    let key = PrivateKeyDer::from_pem_slice(&key?)
        .map_err(|error| format!("{}: no private key in PEM: {error}", files.key.display()))?;
    let mut roots = RootCertStore::empty();
    for root in certificates(&files.bundle, &bundle?)? {
        roots.add(root).map_err(|error| format!("{}: not a usable root: {error}", files.bundle.display()))?;
    }
    let (not_before, expires) =
        validity(&chain[0]).map_err(|what| format!("{}: {what}", files.cert.display()))?;
    if expires <= now {
        return Err(format!("{}: the certificate has expired; renew it", files.cert.display()));
    }
    if not_before > now + CLOCK_SKEW_MAX {
        return Err(format!("{}: the certificate is not valid yet", files.cert.display()));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verify = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|error| format!("{}: {error}", files.bundle.display()))?;
    let callers = Arc::new(Callers { chain: verify, worlds: worlds.clone() });
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13, &TLS12])
        .and_then(|builder| builder.with_client_cert_verifier(callers).with_single_cert(chain, key))
        .map_err(|error| {
            format!("{}: does not fit {}: {error}", files.key.display(), files.cert.display())
        })?;
    server.alpn_protocols = vec![ALPN_HTTP2.to_vec()];
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    Ok(Credentials { server: Arc::new(server), expires })
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("{}: not PEM: {error}", path.display()))?;
    match certificates.is_empty() {
        true => Err(format!("{}: no certificate in PEM", path.display())),
        false => Ok(certificates),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let say = |error: std::io::Error| format!("{}: {error}", path.display());
    let found = std::fs::metadata(path).map_err(say)?;
    // Opening a pipe waits for whoever writes to it.
    if !found.is_file() {
        return Err(format!("{}: it is not a regular file", path.display()));
    }
    let size = found.len();
    if size > FILE_BYTES_MAX {
        return Err(format!("{}: {size} bytes, but at most {FILE_BYTES_MAX} are read", path.display()));
    }
    std::fs::read(path).map_err(say)
}

/// Why a caller with a good chain is refused; found again inside `rustls::Error` to tell it.
#[derive(Debug)]
enum Refusal {
    NotAWorkload(&'static str),
    TrustDomain { found: SpiffeId, expected: String },
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotAWorkload(what) => write!(f, "not a workload certificate: {what}"),
            Self::TrustDomain { found, expected } => {
                write!(f, "{found} is of a foreign trust domain; the mesh is of `{expected}`")
            }
        }
    }
}

impl std::error::Error for Refusal {}

/// Verifies callers: a chain to the bundle and an id of the mesh's trust domain.
#[derive(Debug)]
struct Callers {
    chain: Arc<dyn ClientCertVerifier>,
    worlds: Worlds,
}

impl ClientCertVerifier for Callers {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        true
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let refuse =
            |refusal| Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refusal))));
        let verified = self.chain.verify_client_cert(leaf, intermediates, now)?;
        let leaf = Leaf::read(leaf).map_err(|what| refuse(Refusal::NotAWorkload(what)))?;
        let expected = self.worlds.borrow().mesh.trust_domain.clone();
        if leaf.id.trust_domain() != expected {
            return Err(refuse(Refusal::TrustDomain { found: leaf.id, expected }));
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
