//! Asks a CA for a certificate: `istio.v1.auth.IstioCertificateService/CreateCertificate`.
//!
//! Each request has a new key, which never leaves this process. What comes back is a chain whose last certificate is the root
//! that signs now, as Istio has it.

use std::time::SystemTime;

use config::spiffe::SpiffeId;
use http::HeaderValue;
use prost::Message as _;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::check::{CHAIN_MAX, is_root, whole};
use crate::material::Material;
use crate::pem;
use crate::rpc::{Channel, Ended, Target};
use crate::state::{Failure, Reason};

const PATH: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";
/// Largest answer that is read.
const ANSWER_BYTES_MAX: usize = 256 << 10;

/// `istio.v1.auth.IstioCertificateRequest`, without its metadata. A duration of 0 leaves it to the CA.
#[derive(Clone, PartialEq, prost::Message)]
struct Request {
    #[prost(string, tag = "1")]
    csr: String,
    #[prost(int64, tag = "3")]
    validity_duration: i64,
}

/// `istio.v1.auth.IstioCertificateResponse`.
#[derive(Clone, PartialEq, prost::Message)]
struct Response {
    #[prost(string, repeated, tag = "1")]
    cert_chain: Vec<String>,
}

/// Asks for a certificate of `id`. `trust`: roots that are trusted besides the one that comes with the chain; `place`: who is
/// asked, as errors say it.
pub(crate) async fn ask(
    channel: &Channel,
    id: &SpiffeId,
    token: Option<HeaderValue>,
    trust: &[CertificateDer<'static>],
    place: &str,
    clock: &(dyn Fn() -> SystemTime + Send + Sync),
) -> Result<Material, Ended> {
    let broken = |failure| Ended { code: None, failure };
    let (csr, key) = request(id).map_err(broken)?;
    let target = Target { path: PATH, token, header: None };
    let asked = Request { csr, validity_duration: 0 }.encode_to_vec();
    let answer = channel.unary(&target, &asked, ANSWER_BYTES_MAX).await.map_err(|mut ended| {
        ended.failure.why = format!("{place}: {}", ended.failure.why);
        ended
    })?;
    let response = Response::decode(answer).map_err(|error| {
        broken(Failure::new(Reason::Answer, format!("{place}: the answer cannot be read: {error}")))
    })?;
    judge(&response, id, key, trust, place, clock()).map_err(broken)
}

/// A request in PEM, and its key.
fn request(id: &SpiffeId) -> Result<(String, PrivateKeyDer<'static>), Failure> {
    let failed = |error: rcgen::Error| Failure::new(Reason::Answer, format!("our own request: {error}"));
    let key = KeyPair::generate().map_err(failed)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(id.as_str().try_into().map_err(failed)?)];
    let csr = params.serialize_request(&key).and_then(|csr| csr.pem()).map_err(failed)?;
    Ok((csr, PrivatePkcs8KeyDer::from(key.serialize_der()).into()))
}

fn judge(
    response: &Response,
    id: &SpiffeId,
    key: PrivateKeyDer<'static>,
    trust: &[CertificateDer<'static>],
    place: &str,
    now: SystemTime,
) -> Result<Material, Failure> {
    let wrong = |why: String| Failure::new(Reason::Answer, why);
    let text = response.cert_chain.join("\n");
    let mut chain = pem::certificates(&format!("{place}: the answer"), text.as_bytes()).map_err(wrong)?;
    if chain.len() > CHAIN_MAX {
        let why = format!("{place}: {} certificates, but at most {CHAIN_MAX} are taken", chain.len());
        return Err(wrong(why));
    }
    let mut roots = trust.to_vec();
    // Who said it was vouched for by the bundle, so the root it signs by is one to trust.
    if chain.len() > 1
        && let Some(root) = chain.pop_if(|last| is_root(last))
        && !roots.contains(&root)
    {
        roots.insert(0, root);
    }
    whole(place, id, chain, key, roots, now)
}
