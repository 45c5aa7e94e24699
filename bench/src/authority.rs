//! A control plane's CA of which a test says how it answers: `CreateCertificate`, and the roots by SDS.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use envoy_types::pb::envoy::config::core::v3::{DataSource, data_source::Specifier};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, secret::Type,
};
use envoy_types::pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use envoy_types::pb::google::protobuf::Any;
use prost::Message as _;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::version::TLS13;
use rustls::{DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::certs::{Ca, LeafSpec};
use crate::peer::{self, Exchange};

const TYPE_URL: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

/// `istio.v1.auth.IstioCertificateRequest`.
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

/// How it answers.
#[derive(Clone, Debug)]
pub struct Script {
    /// How long leaves live.
    pub life: Duration,
    /// Signs for this id instead of the one asked for.
    pub id: Option<String>,
    /// Ends each request for a certificate so.
    pub status: Option<(u16, String)>,
    /// Believes no certificate.
    pub distrusts: bool,
    /// Tokens that it takes; each time it takes any if there is none.
    pub tokens: Vec<String>,
    /// The roots that it tells, PEM; `None`: it has no SDS, as Istio's.
    pub roots: Option<String>,
}

/// What was shown by whom a certificate was given to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// This token.
    Token(String),
    /// A certificate.
    Certificate,
}

struct Inner {
    signer: Ca,
    script: Script,
    given: Vec<By>,
}

struct Shared {
    inner: Mutex<Inner>,
    changed: watch::Sender<()>,
    refused: watch::Sender<usize>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running CA. Dropped, it is gone.
pub struct Authority {
    /// Where it listens.
    pub addr: SocketAddr,
    /// The root of its own certificate, PEM: what a bundle file holds.
    pub bundle: String,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Drop for Authority {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Authority {
    /// Signs by `signer`, tells its root alone, takes every token.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start(signer: Ca, life: Duration) -> io::Result<Self> {
        let web = Ca::new("web.test");
        let own = web.leaf_with(&LeafSpec { addresses: vec![[127, 0, 0, 1].into()], ..LeafSpec::default() });
        let chain = CertificateDer::pem_slice_iter(own.cert_pem.as_bytes()).collect::<Result<_, _>>();
        let key = PrivateKeyDer::from_pem_slice(own.key_pem.as_bytes()).map_err(io::Error::other)?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&TLS13])
            .map_err(io::Error::other)?
            .with_client_cert_verifier(Arc::new(Anybody))
            .with_single_cert(chain.map_err(io::Error::other)?, key)
            .map_err(io::Error::other)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let addr = listener.local_addr()?;
        let roots = Some(signer.bundle_pem().to_owned());
        let script = Script { life, id: None, status: None, distrusts: false, tokens: Vec::new(), roots };
        let inner = Mutex::new(Inner { signer, script, given: Vec::new() });
        let (changed, refused) = (watch::channel(()).0, watch::channel(0).0);
        let shared = Arc::new(Shared { inner, changed, refused });
        let of_calls = shared.clone();
        let handler = Arc::new(move |call| answer(call, of_calls.clone()));
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                let (acceptor, handler) = (acceptor.clone(), handler.clone());
                connections.spawn(async move {
                    let tls = acceptor.accept(tcp).await?;
                    let shown = tls.get_ref().1.peer_certificates().and_then(|chain| chain.first());
                    let shown = shown.map(|leaf| leaf.clone().into_owned());
                    peer::serve(tls, shown, handler).await
                });
            }
        });
        Ok(Self { addr, bundle: web.bundle_pem().to_owned(), shared, task })
    }

    /// Changes how it answers; streams of roots hear of it.
    pub fn script(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.shared.lock().script);
        self.shared.changed.send_replace(());
    }

    /// Signs by another root from now on.
    pub fn sign_by(&self, signer: Ca) {
        self.shared.lock().signer = signer;
    }

    /// Who was given a certificate, in order.
    pub fn given(&self) -> Vec<By> {
        self.shared.lock().given.clone()
    }

    /// Roots that were refused (NACK).
    pub fn refused(&self) -> usize {
        *self.shared.refused.borrow()
    }
}

async fn answer(call: Exchange, shared: Arc<Shared>) {
    match call.path.as_str() {
        "/istio.v1.auth.IstioCertificateService/CreateCertificate" => create(call, &shared).await,
        "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets" => stream(call, &shared).await,
        _ => call.end(12, "no such method"),
    }
}

async fn create(mut call: Exchange, shared: &Shared) {
    let request: Option<Request> = call.next().await;
    let Some(request) = request else { return call.end(3, "no request") };
    let by = match (call.token(), &call.certificate) {
        (Some(token), _) => By::Token(token),
        (None, Some(_)) => By::Certificate,
        (None, None) => return call.end(16, "neither token nor certificate"),
    };
    let signed = {
        let mut inner = shared.lock();
        let Script { life, id, status, distrusts, tokens, .. } = &inner.script;
        if let Some((code, words)) = status.clone() {
            Err((code, words))
        } else if *distrusts && by == By::Certificate {
            Err((16, "certificate unknown".to_owned()))
        } else if matches!(&by, By::Token(token) if !tokens.is_empty() && !tokens.contains(token)) {
            Err((16, "token unknown".to_owned()))
        } else {
            let until = SystemTime::now() + *life;
            let leaf = inner.signer.sign(&request.csr, id.as_deref(), until);
            let chain = vec![leaf, inner.signer.bundle_pem().to_owned()];
            inner.given.push(by);
            Ok(chain)
        }
    };
    match signed {
        Ok(cert_chain) => {
            call.send(&Response { cert_chain });
            call.end(0, "");
        }
        Err((code, words)) => call.end(code, &words),
    }
}

async fn stream(mut call: Exchange, shared: &Shared) {
    if call.certificate.is_none() || shared.lock().script.distrusts {
        return call.end(16, "no certificate that is known");
    }
    let first: Option<DiscoveryRequest> = call.next().await;
    if first.is_none_or(|first| first.resource_names != ["ROOTCA"] || first.type_url != TYPE_URL) {
        return call.end(3, "not a request for ROOTCA");
    }
    let mut changed = shared.changed.subscribe();
    let mut told = None;
    let mut nonce = 0_u64;
    loop {
        let roots = shared.lock().script.roots.clone();
        let Some(roots) = roots else { return call.end(12, "no SDS") };
        if told.as_ref() != Some(&roots) {
            nonce += 1;
            call.send(&response(&roots, nonce));
            told = Some(roots);
        }
        tokio::select! {
            request = call.next::<DiscoveryRequest>() => match request {
                Some(request) if request.error_detail.is_some() => {
                    shared.refused.send_modify(|refused| *refused += 1);
                }
                Some(_) => {}
                None => return,
            },
            _ = changed.changed() => {}
        }
    }
}

fn response(roots: &str, nonce: u64) -> DiscoveryResponse {
    let specifier = Some(Specifier::InlineString(roots.to_owned()));
    let trusted_ca = Some(DataSource { specifier, ..DataSource::default() });
    let context = CertificateValidationContext { trusted_ca, ..CertificateValidationContext::default() };
    let secret = Secret { name: "ROOTCA".to_owned(), r#type: Some(Type::ValidationContext(context)) };
    DiscoveryResponse {
        version_info: nonce.to_string(),
        resources: vec![Any { type_url: TYPE_URL.to_owned(), value: secret.encode_to_vec() }],
        type_url: TYPE_URL.to_owned(),
        nonce: nonce.to_string(),
        ..DiscoveryResponse::default()
    }
}

/// Takes any certificate, and none: what is believed is the script's business.
#[derive(Debug)]
struct Anybody;

impl ClientCertVerifier for Anybody {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
