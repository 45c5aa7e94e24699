//! The two verifiers: webpki checks the chain, expiry and key usage; these add the SPIFFE id.

use std::sync::Arc;

use config::spiffe::SpiffeId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, PeerIncompatible,
    RootCertStore, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use identity::leaf::{Flaw, Leaf};

/// Why a certificate with a good chain is refused; found again inside `rustls::Error` to count it.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// Not a workload's.
    Flaw(Flaw),
    /// A valid id of a foreign trust domain.
    TrustDomain(SpiffeId),
    /// A valid id that does not serve the service called.
    NotTheService { found: SpiffeId, expected: String },
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Flaw(flaw) => write!(f, "not a workload certificate: {}", flaw.words()),
            Self::TrustDomain(id) => write!(f, "{id} is of a foreign trust domain"),
            Self::NotTheService { found, expected } => {
                write!(f, "the endpoint is {found}, but the service's identities are {expected}")
            }
        }
    }
}

impl std::error::Error for Refusal {}

fn refuse(refusal: Refusal) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refusal))))
}

/// What webpki has no word for is looked for in the leaf itself: a CA's in the place of a leaf, above all.
fn in_our_words(error: Error, leaf: &[u8]) -> Error {
    match (&error, Leaf::check(leaf)) {
        (Error::InvalidCertificate(CertificateError::Other(_)), Err(flaw)) => refuse(Refusal::Flaw(flaw)),
        _ => error,
    }
}

/// Verifies callers: a chain to the bundle and an id of the trust domain.
#[derive(Debug)]
pub(crate) struct MeshPeer {
    chain: Arc<dyn ClientCertVerifier>,
    trust_domain: String,
}

impl MeshPeer {
    pub(crate) fn new(
        roots: Arc<RootCertStore>,
        provider: Arc<CryptoProvider>,
        trust_domain: String,
    ) -> Result<Self, String> {
        let chain = WebPkiClientVerifier::builder_with_provider(roots, provider)
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Self { chain, trust_domain })
    }
}

impl ClientCertVerifier for MeshPeer {
    fn offer_client_auth(&self) -> bool {
        self.chain.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.chain.client_auth_mandatory()
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
        let verified = self.chain.verify_client_cert(leaf, intermediates, now);
        let verified = verified.map_err(|error| in_our_words(error, leaf))?;
        let leaf = Leaf::check(leaf).map_err(|flaw| refuse(Refusal::Flaw(flaw)))?;
        if leaf.id.trust_domain() != self.trust_domain {
            return Err(refuse(Refusal::TrustDomain(leaf.id)));
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// Verifies endpoints: a chain to the bundle and one of the service's identities. Host names play no part.
#[derive(Debug)]
pub(crate) struct MeshServer {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
    trust_domain: String,
    identities: Vec<SpiffeId>,
}

impl MeshServer {
    pub(crate) fn new(
        roots: Arc<RootCertStore>,
        provider: Arc<CryptoProvider>,
        trust_domain: String,
        identities: Vec<SpiffeId>,
    ) -> Self {
        Self { roots, provider, trust_domain, identities }
    }

    /// What a server's certificate says, if its chain leads to the bundle and its id is of the trust domain.
    pub(crate) fn vouched(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Leaf, Error> {
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(leaf)?,
            &self.roots,
            intermediates,
            now,
            self.provider.signature_verification_algorithms.all,
        )
        .map_err(|error| in_our_words(error, leaf))?;
        let leaf = Leaf::check(leaf).map_err(|flaw| refuse(Refusal::Flaw(flaw)))?;
        // The bundle speaks for our own trust domain only, whatever a service's identities say.
        if leaf.id.trust_domain() != self.trust_domain {
            return Err(refuse(Refusal::TrustDomain(leaf.id)));
        }
        Ok(leaf)
    }
}

impl ServerCertVerifier for MeshServer {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let leaf = self.vouched(leaf, intermediates, now)?;
        if !self.identities.contains(&leaf.id) {
            let expected: Vec<&str> = self.identities.iter().map(SpiffeId::as_str).collect();
            return Err(refuse(Refusal::NotTheService { found: leaf.id, expected: expected.join(", ") }));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
