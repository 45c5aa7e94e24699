//! Hears of roots that change: the resource `ROOTCA` of the SDS of a control plane, state of the world.

use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{DataSource, Node, data_source::Specifier};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{Secret, secret::Type};
use envoy_types::pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use envoy_types::pb::google::rpc::Status;
use http::HeaderValue;
use prost::Message as _;
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use tokio::time::timeout;

use crate::material::ROOTS_MAX;
use crate::pem;
use crate::rpc::{Call, Channel, Ended, Target};
use crate::state::{Failure, Reason};

const PATH: &str = "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets";
const TYPE_URL: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
/// The name of the roots, as Istio has it.
pub(crate) const NAME: &str = "ROOTCA";
/// Largest answer that is read: [`ROOTS_MAX`] large roots.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// The first answer comes within so much.
pub(crate) const FIRST_MAX: Duration = Duration::from_secs(10);
/// `INVALID_ARGUMENT`, of a response that is refused.
const INVALID: i32 = 3;

/// A stream of roots.
pub(crate) struct Heard {
    call: Call,
    // The call ends with it.
    _channel: Channel,
    place: String,
}

impl Heard {
    /// Asks for the roots. `place`: who is asked, as errors say it.
    pub(crate) async fn begin(
        channel: Channel,
        id: &str,
        token: Option<HeaderValue>,
        place: String,
    ) -> Result<Self, Ended> {
        let target = Target { path: PATH, token, header: None };
        let mut call = channel.call(&target, ANSWER_BYTES_MAX).await?;
        let node = Node { id: id.to_owned(), ..Node::default() };
        call.send(&asked(Some(node), "", "", None), false)?;
        Ok(Self { call, _channel: channel, place })
    }

    /// The first roots, which are there without a wait.
    pub(crate) async fn first(&mut self) -> Result<Result<Vec<CertificateDer<'static>>, Failure>, Ended> {
        timeout(FIRST_MAX, self.next()).await.unwrap_or_else(|_| {
            let why = format!("{}: no roots within {FIRST_MAX:?}", self.place);
            Err(Ended { code: None, failure: Failure::new(Reason::Late, why) })
        })
    }

    /// The next roots. The inner error is a bundle that was refused, after which the stream goes on.
    pub(crate) async fn next(&mut self) -> Result<Result<Vec<CertificateDer<'static>>, Failure>, Ended> {
        let ended = match self.call.next().await {
            Ok(Some(answer)) => return self.answer(&answer),
            Ok(None) => {
                Ended { code: None, failure: Failure::new(Reason::Rpc, "the stream of roots has ended") }
            }
            Err(ended) => ended,
        };
        let Ended { code, mut failure } = ended;
        failure.why = format!("{}: the roots: {}", self.place, failure.why);
        Err(Ended { code, failure })
    }

    fn answer(&mut self, answer: &[u8]) -> Result<Result<Vec<CertificateDer<'static>>, Failure>, Ended> {
        let wrong = |why: &str| Failure::new(Reason::Answer, format!("{}: the roots: {why}", self.place));
        let response = DiscoveryResponse::decode(answer).map_err(|error| {
            let failure = wrong(&format!("the answer cannot be read: {error}"));
            Ended { code: None, failure }
        })?;
        let DiscoveryResponse { version_info, nonce, .. } = &response;
        let read = read(&response);
        let detail =
            read.as_ref().err().map(|why| Status { code: INVALID, message: why.clone(), details: vec![] });
        let version = if detail.is_none() { version_info.as_str() } else { "" };
        self.call.send(&asked(None, version, nonce, detail), false)?;
        Ok(read.map_err(|why| wrong(&why)))
    }
}

fn asked(node: Option<Node>, version: &str, nonce: &str, error_detail: Option<Status>) -> Vec<u8> {
    let request = DiscoveryRequest {
        version_info: version.to_owned(),
        node,
        resource_names: vec![NAME.to_owned()],
        type_url: TYPE_URL.to_owned(),
        response_nonce: nonce.to_owned(),
        error_detail,
        ..DiscoveryRequest::default()
    };
    request.encode_to_vec()
}

/// The roots of a response: at least one, and each of them usable, or the whole is refused.
fn read(response: &DiscoveryResponse) -> Result<Vec<CertificateDer<'static>>, String> {
    let secret = response.resources.iter().find_map(|any| {
        let secret = Secret::decode(any.value.as_slice()).ok().filter(|_| any.type_url == TYPE_URL)?;
        (secret.name == NAME).then_some(secret)
    });
    let secret = secret.ok_or_else(|| format!("the response has no secret `{NAME}`"))?;
    let Some(Type::ValidationContext(context)) = secret.r#type else {
        return Err(format!("`{NAME}` is no validation context"));
    };
    let text = match context.trusted_ca.and_then(|DataSource { specifier, .. }| specifier) {
        Some(Specifier::InlineBytes(bytes)) => bytes,
        Some(Specifier::InlineString(text)) => text.into_bytes(),
        _ => return Err(format!("`{NAME}` has no inline roots")),
    };
    usable(pem::certificates(NAME, &text)?)
}

/// Roots as they are taken: each once, at most [`ROOTS_MAX`], each of them usable.
pub(crate) fn usable(found: Vec<CertificateDer<'static>>) -> Result<Vec<CertificateDer<'static>>, String> {
    let mut roots: Vec<CertificateDer<'static>> = Vec::new();
    for root in found {
        if !roots.contains(&root) {
            roots.push(root);
        }
    }
    if roots.is_empty() || roots.len() > ROOTS_MAX {
        return Err(format!("{} roots, but from 1 to {ROOTS_MAX} are taken", roots.len()));
    }
    let mut store = RootCertStore::empty();
    for root in &roots {
        store.add(root.clone()).map_err(|error| format!("not a usable root: {error}"))?;
    }
    Ok(roots)
}
