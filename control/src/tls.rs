//! The server side of mTLS: our own certificate, and whom we let in.
//!
//! TLS 1.3 and, for foreign clients, 1.2. Sessions and tickets are off: rustls restores a resumed session's chain without
//! verifying it again, and every connection is to prove who it is.

use std::sync::Arc;
use std::time::SystemTime;

use config::identity::Identity;
use config::spiffe::SpiffeId;
use files::fingerprint;
use identity::leaf::{Leaf, validity};
use identity::material::{Origins, check_times};
use identity::pem;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    ServerConfig, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};

use crate::ca::force::InForce;
use crate::counters::Failure;
use crate::world::Worlds;

/// What is said in TLS (ALPN, RFC 7301) of an HTTP/2 connection.
const ALPN_HTTP2: &[u8] = b"h2";
/// How we are met and whom we let in, checked.
#[derive(Debug)]
pub(crate) struct Credentials {
    pub(crate) server: Arc<ServerConfig>,
    /// Whom we let in.
    pub(crate) callers: Arc<Callers>,
    /// Of our own certificate.
    pub(crate) expires: SystemTime,
}

/// Our own certificate, its key, and when it expires.
pub(crate) struct Own {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
    pub(crate) expires: SystemTime,
}

/// Who vouches for callers.
pub(crate) struct Trust {
    pub(crate) roots: RootCertStore,
    /// Callers may come without a certificate: those who ask for their first one do.
    pub(crate) is_optional: bool,
    /// Callers must prove an id of the trust domain that the newest of them has.
    pub(crate) worlds: Worlds,
}

/// What has been found of the three files.
pub(crate) struct Judged {
    /// What tells one content from another.
    pub(crate) digest: String,
    /// What they make, and what stands in them; or why they cannot be used.
    pub(crate) verdict: Result<(Credentials, Pem), String>,
}

/// What stands in the three files: certificate, key and bundle.
pub(crate) type Pem = [Vec<u8>; 3];

/// Reads the three files and checks that they belong together and are good at `now`. `ca`: what is in force of our own CA, whose
/// roots are trusted as well.
pub(crate) fn judge(files: &Identity, ca: Option<&InForce>, worlds: &Worlds, now: SystemTime) -> Judged {
    let pem = [&files.cert, &files.key, &files.bundle].map(|path| pem::read(path));
    let mut all = Vec::new();
    let ours = ca.map(|ca| Ok(ca.version.as_bytes().to_vec()));
    for part in pem.iter().chain(&ours) {
        let bytes = part.as_ref().map_or_else(|error| error.as_bytes(), Vec::as_slice);
        all.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        all.extend_from_slice(bytes);
    }
    let [cert, key, bundle] = pem;
    let whole = || Ok([cert?, key?, bundle?]);
    let verdict = whole().and_then(|pem| Ok((make(files, &pem, ca, worlds, now)?, pem)));
    Judged { digest: fingerprint(&all), verdict }
}

/// Makes them work, if they are good at `now`. Our own certificate need name no workload: clients go by the host name that they dial.
pub(crate) fn make(
    files: &Identity,
    [cert, key, bundle]: &Pem,
    ca: Option<&InForce>,
    worlds: &Worlds,
    now: SystemTime,
) -> Result<Credentials, String> {
    let origins = &Origins::files(files);
    let chain = pem::certificates(&origins.cert, cert)?;
    let key = pem::key(&origins.key, key)?;
    let mut roots = RootCertStore::empty();
    for root in pem::certificates(&origins.bundle, bundle)? {
        roots.add(root).map_err(|error| format!("{}: not a usable root: {error}", origins.bundle))?;
    }
    if let Some(ca) = ca {
        trust(ca, &mut roots)?;
    }
    let (not_before, expires) = validity(&chain[0]).map_err(|what| format!("{}: {what}", origins.cert))?;
    check_times(&origins.cert, not_before, expires, now)?;
    let trust = Trust { roots, is_optional: ca.is_some(), worlds: worlds.clone() };
    credentials(Own { chain, key, expires }, trust, origins)
}

/// Adds the roots of our own CA.
pub(crate) fn trust(ca: &InForce, roots: &mut RootCertStore) -> Result<(), String> {
    for root in ca.trusted() {
        roots.add(root.der.clone()).map_err(|error| format!("{}: not a usable root: {error}", root.name))?;
    }
    Ok(())
}

/// Makes them work together; `origins` names the parts in errors.
pub(crate) fn credentials(own: Own, trust: Trust, origins: &Origins) -> Result<Credentials, String> {
    let Own { chain, key, expires } = own;
    let Trust { roots, is_optional, worlds } = trust;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let chains = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|error| format!("{}: {error}", origins.bundle))?;
    let callers = Arc::new(Callers { chains, is_optional, worlds });
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13, &TLS12])
        .and_then(|builder| builder.with_client_cert_verifier(callers.clone()).with_single_cert(chain, key))
        .map_err(|error| format!("{}: does not fit {}: {error}", origins.key, origins.cert))?;
    server.alpn_protocols = vec![ALPN_HTTP2.to_vec()];
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    Ok(Credentials { server: Arc::new(server), callers, expires })
}

/// Why a handshake failed: the label `reason`.
pub(crate) fn failure(error: &std::io::Error) -> Failure {
    let Some(error) = error.get_ref().and_then(|error| error.downcast_ref::<Error>()) else {
        return Failure::Closed;
    };
    match error {
        Error::NoCertificatesPresented => Failure::NoCertificate,
        Error::InvalidCertificate(why) => match why {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Failure::UnknownIssuer,
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Failure::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                Failure::NotValidYet
            }
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                Failure::NotAWorkload
            }
            CertificateError::Other(other) => match other.0.downcast_ref::<Refusal>() {
                Some(Refusal::TrustDomain { .. }) => Failure::TrustDomain,
                Some(Refusal::NotAWorkload(_)) => Failure::NotAWorkload,
                None => Failure::Tls,
            },
            _ => Failure::Tls,
        },
        _ => Failure::Tls,
    }
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
pub(crate) struct Callers {
    chains: Arc<dyn ClientCertVerifier>,
    is_optional: bool,
    worlds: Worlds,
}

impl Callers {
    /// Whether a caller with this chain would be let in at `now`.
    pub(crate) fn let_in(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> bool {
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now = UnixTime::since_unix_epoch(since);
        chain.split_first().is_some_and(|(leaf, rest)| self.verify_client_cert(leaf, rest, now).is_ok())
    }
}

impl ClientCertVerifier for Callers {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        !self.is_optional
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chains.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let refuse =
            |refusal| Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refusal))));
        let verified = self.chains.verify_client_cert(leaf, intermediates, now).map_err(|error| {
            // A CA's certificate in the place of a leaf is one of the few that webpki has no word of rustls for.
            match (&error, Leaf::read(leaf)) {
                (Error::InvalidCertificate(CertificateError::Other(_)), Err(what)) => {
                    refuse(Refusal::NotAWorkload(what))
                }
                _ => error,
            }
        })?;
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
        self.chains.verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}
