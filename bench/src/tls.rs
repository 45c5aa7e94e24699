//! TLS for tests and load: mesh TLS as a sidecar's peer would speak it, but with the checks one chooses.
//!
//! Sessions and tickets are off on both sides, so that every handshake is a whole one.

use std::io;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
};

use crate::certs::Leaf;

/// How a client speaks TLS.
#[derive(Clone, Debug, Default)]
pub struct TlsIdentity {
    /// What it presents; `None`: no client certificate.
    pub leaf: Option<Leaf>,
    /// The roots that the server's chain must end in (PEM); `None`: any certificate will do.
    pub trust: Option<String>,
}

impl TlsIdentity {
    /// Presents `leaf` and accepts what `trust` vouches for, whatever its name.
    pub fn mutual(leaf: &Leaf, trust: &str) -> Self {
        Self { leaf: Some(leaf.clone()), trust: Some(trust.to_owned()) }
    }

    /// Presents nothing and accepts anything.
    pub fn anonymous() -> Self {
        Self::default()
    }
}

/// How a server speaks TLS.
#[derive(Clone, Debug)]
pub struct ServerTls {
    /// What it presents.
    pub leaf: Leaf,
    /// The roots that a client's chain must end in (PEM); `None`: it asks for no certificate.
    pub client_trust: Option<String>,
}

/// TLS 1.3 with ALPN `h2`; the server's chain is checked as `identity` says, its name never.
///
/// # Errors
/// PEM that holds no certificate or no key.
pub fn client_config(identity: &TlsIdentity) -> io::Result<Arc<ClientConfig>> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let roots = identity.trust.as_deref().map(roots).transpose()?;
    let verifier = Arc::new(ChainOnly { provider: provider.clone(), roots });
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match &identity.leaf {
        Some(leaf) => {
            let (chain, key) = chain_and_key(leaf)?;
            builder.with_client_auth_cert(chain, key).map_err(io::Error::other)?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

/// TLS 1.3 with ALPN `h2`; a client certificate is demanded if `client_trust` is given.
///
/// # Errors
/// PEM that holds no certificate or no key.
pub fn server_config(tls: &ServerTls) -> io::Result<Arc<ServerConfig>> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])
        .map_err(io::Error::other)?;
    let builder = match &tls.client_trust {
        Some(trust) => {
            let roots = Arc::new(roots(trust)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
                .build()
                .map_err(io::Error::other)?;
            builder.with_client_cert_verifier(verifier)
        }
        None => builder.with_no_client_auth(),
    };
    let (chain, key) = chain_and_key(&tls.leaf)?;
    let mut config = builder.with_single_cert(chain, key).map_err(io::Error::other)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn roots(pem: &str) -> io::Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    for cert in certificates(pem)? {
        store.add(cert).map_err(io::Error::other)?;
    }
    Ok(store)
}

fn chain_and_key(leaf: &Leaf) -> io::Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let key = PrivateKeyDer::from_pem_slice(leaf.key_pem.as_bytes())
        .map_err(|fault| io::Error::other(format!("the leaf's key is not a PEM private key: {fault}")))?;
    Ok((certificates(&leaf.cert_pem)?, key))
}

fn certificates(pem: &str) -> io::Result<Vec<CertificateDer<'static>>> {
    let certs: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|fault| io::Error::other(format!("not a PEM certificate: {fault}")))?;
    if certs.is_empty() {
        return Err(io::Error::other("no certificate in the PEM text; one or more are needed"));
    }
    Ok(certs)
}

/// Checks the chain if there are roots, and never the name: SPIFFE leaves have no DNS name.
#[derive(Debug)]
struct ChainOnly {
    provider: Arc<CryptoProvider>,
    roots: Option<RootCertStore>,
}

impl ServerCertVerifier for ChainOnly {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(roots) = &self.roots else { return Ok(ServerCertVerified::assertion()) };
        let parsed = ParsedCertificate::try_from(end_entity)
            .map_err(|_| rustls::Error::InvalidCertificate(CertificateError::BadEncoding))?;
        rustls::client::verify_server_cert_signed_by_trust_anchor(
            &parsed,
            roots,
            intermediates,
            now,
            self.provider.signature_verification_algorithms.all,
        )?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
