//! mTLS with SPIFFE ids: TLS 1.3 only, one crypto provider, no resumption.
//!
//! rustls restores a resumed session's chain without verifying it again, so sessions and tickets are off:
//! every connection proves its identity when it is made.

pub(crate) mod leaf;
pub(crate) mod verify;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{Context as Digest, SHA256};
use config::model::Identity;
use config::spiffe::SpiffeId;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::server::NoServerSessionStorage;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::hex::hex;
use crate::tls::leaf::Leaf;
use crate::tls::verify::{MeshPeer, MeshServer};

/// What is said in TLS (ALPN, RFC 7301) of an HTTP/2 connection.
pub(crate) const ALPN_HTTP2: &[u8] = b"h2";
/// What is said of bytes that pass as they are: a word between sidecars, so that nobody has to wait for the first of
/// them where a server speaks first.
pub(crate) const ALPN_OPAQUE: &[u8] = b"outrigger-tcp";

/// Largest certificate, key or bundle file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// How far the clock of whoever signs certificates may be ahead of ours.
const CLOCK_SKEW_MAX: Duration = Duration::from_secs(60);

/// Our identity, read and checked: what both sides of TLS are built from.
#[derive(Debug)]
pub(crate) struct Credentials {
    provider: Arc<CryptoProvider>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: Arc<RootCertStore>,
    /// The server side: a caller must prove an id of our trust domain.
    pub(crate) server: Arc<ServerConfig>,
    /// What our own certificate says.
    pub(crate) leaf: Leaf,
}

impl Credentials {
    /// Checks that the three files belong together: the certificate names `expected`, is valid at `now`, and the key
    /// is its own. The error says which file is wrong and what would be right.
    pub(crate) fn new(
        files: &Identity,
        pem: &Pem,
        expected: &SpiffeId,
        now: SystemTime,
    ) -> Result<Self, String> {
        let chain = certificates(&files.cert, pem.cert.as_ref())?;
        let key = PrivateKeyDer::from_pem_slice(pem.key.as_ref().map_err(Clone::clone)?)
            .map_err(|error| format!("{}: no private key in PEM: {error}", files.key.display()))?;
        let mut roots = RootCertStore::empty();
        for root in certificates(&files.bundle, pem.bundle.as_ref())? {
            roots
                .add(root)
                .map_err(|error| format!("{}: not a usable root: {error}", files.bundle.display()))?;
        }
        let leaf = Leaf::read(&chain[0])
            .map_err(|error| format!("{}: not a workload certificate: {error}", files.cert.display()))?;
        if leaf.id != *expected {
            return Err(format!(
                "{}: the certificate is for {}, but sidecar.yaml says {expected}; \
                 mend trust_domain, namespace or account, or use the certificate of that account",
                files.cert.display(),
                leaf.id
            ));
        }
        if leaf.not_after <= now {
            return Err(format!("{}: the certificate has expired", files.cert.display()));
        }
        if leaf.not_before > now + CLOCK_SKEW_MAX {
            return Err(format!("{}: the certificate is not valid yet", files.cert.display()));
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let roots = Arc::new(roots);
        let server = server(&provider, &roots, leaf.id.trust_domain(), &chain, &key).map_err(|error| {
            format!("{}: does not fit {}: {error}", files.key.display(), files.cert.display())
        })?;
        Ok(Self { provider, chain, key, roots, server, leaf })
    }

    /// The client side towards a service: the server must prove one of `identities`.
    pub(crate) fn client(&self, identities: &[SpiffeId]) -> Result<Arc<ClientConfig>, String> {
        let verifier = MeshServer::new(
            self.roots.clone(),
            self.provider.clone(),
            self.leaf.id.trust_domain().to_owned(),
            identities.to_vec(),
        );
        let mut config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])
            .and_then(|builder| {
                builder
                    .dangerous()
                    .with_custom_certificate_verifier(Arc::new(verifier))
                    .with_client_auth_cert(self.chain.clone(), self.key.clone_key())
            })
            .map_err(|error| error.to_string())?;
        config.alpn_protocols = vec![ALPN_HTTP2.to_vec()];
        config.resumption = Resumption::disabled();
        // Our verifier goes by SPIFFE id; a name in the clear would tell a listener who is called.
        config.enable_sni = false;
        Ok(Arc::new(config))
    }
}

/// The client side towards a server that is known by its name, as a control plane is; `own`: who we are, if it asks.
pub(crate) fn by_name(roots: RootCertStore, own: Option<&Credentials>) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some(own) => builder
            .with_client_auth_cert(own.chain.clone(), own.key.clone_key())
            .map_err(|error| error.to_string())?,
    };
    config.alpn_protocols = vec![ALPN_HTTP2.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// The three files of an identity as they were read, or why one could not be.
#[derive(Debug)]
pub(crate) struct Pem {
    cert: Result<Vec<u8>, String>,
    key: Result<Vec<u8>, String>,
    bundle: Result<Vec<u8>, String>,
}

impl Pem {
    /// Reads all three, whatever is wrong with one.
    pub(crate) fn read(files: &Identity) -> Self {
        Self { cert: read(&files.cert), key: read(&files.key), bundle: read(&files.bundle) }
    }

    /// What tells one content from another: SHA-256, in hex.
    pub(crate) fn digest(&self) -> String {
        let mut digest = Digest::new(&SHA256);
        for part in [&self.cert, &self.key, &self.bundle] {
            let bytes = part.as_ref().map_or_else(|error| error.as_bytes(), Vec::as_slice);
            digest.update(&(bytes.len() as u64).to_le_bytes());
            digest.update(bytes);
        }
        hex(digest.finish().as_ref())
    }
}

fn server(
    provider: &Arc<CryptoProvider>,
    roots: &Arc<RootCertStore>,
    trust_domain: &str,
    chain: &[CertificateDer<'static>],
    key: &PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, String> {
    let verifier = MeshPeer::new(roots.clone(), provider.clone(), trust_domain.to_owned())?;
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])
        .and_then(|builder| {
            builder
                .with_client_cert_verifier(Arc::new(verifier))
                .with_single_cert(chain.to_vec(), key.clone_key())
        })
        .map_err(|error| error.to_string())?;
    config.alpn_protocols = vec![ALPN_HTTP2.to_vec(), ALPN_OPAQUE.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let size = std::fs::metadata(path).map_err(|error| format!("{}: {error}", path.display()))?.len();
    if size > FILE_BYTES_MAX {
        return Err(format!("{}: {size} bytes, but at most {FILE_BYTES_MAX} are read", path.display()));
    }
    std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// The certificates of a PEM file, at least one.
pub(crate) fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    certificates(path, read(path).as_ref())
}

fn certificates(path: &Path, pem: Result<&Vec<u8>, &String>) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem.map_err(Clone::clone)?)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("{}: not PEM: {error}", path.display()))?;
    if certificates.is_empty() {
        return Err(format!("{}: no certificate in PEM", path.display()));
    }
    Ok(certificates)
}
