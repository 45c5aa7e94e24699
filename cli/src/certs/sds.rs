//! A certificate for Envoy by SDS over a Unix socket: state of the world, delta, and single fetches.
//!
//! | name | what |
//! |---|---|
//! | `default`, or the SPIFFE id | certificate and key |
//! | `ROOTCA`, or `spiffe://TRUST-DOMAIN` | the roots |
//!
//! The first of each pair is what Istio's agent calls it, the second what SPIRE's does. Until there is a certificate a stream
//! waits; each renewal is pushed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream as Probe;
use std::path::Path;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::{DataSource, data_source::Specifier};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, TlsCertificate, secret::Type,
};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_server::{
    SecretDiscoveryService, SecretDiscoveryServiceServer,
};
use envoy_types::pb::google::protobuf::Any;
use envoy_types::pb::google::rpc::Status as Detail;
use identity::material::Material;
use identity::pem;
use identity::state::State;
use prost::Message as _;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

const TYPE_URL: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
/// Streams of one connection.
const STREAMS_MAX: u32 = 256;
/// Names that one stream may ask for.
const NAMES_MAX: usize = 64;
/// Responses that wait for one client.
const RESPONSES_MAX: usize = 1;

/// Listens at a socket, in the place of one that nobody serves any more.
pub(crate) fn bind(path: &Path, group: bool) -> Result<UnixListener, String> {
    let say = |what: &dyn std::fmt::Display| format!("{}: {what}", path.display());
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder).map_err(|error| say(&error))?;
    }
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => match Probe::connect(path) {
            Ok(_) => return Err(say(&"another process serves this socket; name another path, or end it")),
            Err(_) => fs::remove_file(path).map_err(|error| say(&error))?,
        },
        Ok(_) => return Err(say(&"it is there and no socket; name another path")),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(say(&error)),
    }
    let listener = UnixListener::bind(path).map_err(|error| say(&error))?;
    let mode = if group { 0o660 } else { 0o600 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(|error| say(&error))?;
    Ok(listener)
}

/// Serves for as long as it is polled.
pub(crate) async fn serve(listener: UnixListener, state: watch::Receiver<State>) -> Result<(), String> {
    let service = SecretDiscoveryServiceServer::new(Secrets { state });
    let server = Server::builder().max_concurrent_streams(STREAMS_MAX).add_service(service);
    let served = server.serve_with_incoming(UnixListenerStream::new(listener)).await;
    served.map_err(|error| error.to_string())
}

struct Secrets {
    state: watch::Receiver<State>,
}

/// A secret and what tells it from the one before.
struct Made {
    version: String,
    any: Any,
}

/// The secret of a name; `None`: nobody has one.
fn secret(material: &Material, name: &str) -> Option<Made> {
    let id = &material.leaf.id;
    let inline = |text: String| {
        Some(DataSource { specifier: Some(Specifier::InlineString(text)), ..DataSource::default() })
    };
    let bare = name.strip_prefix("spiffe://");
    let (kind, told) = if name == "default" || name == id.as_str() {
        let (chain, key) = (pem::write_certificates(&material.chain), pem::write_key(&material.key));
        let told = chain.clone();
        let certificate = TlsCertificate {
            certificate_chain: inline(chain),
            private_key: inline(key),
            ..TlsCertificate::default()
        };
        (Type::TlsCertificate(certificate), told)
    } else if name == "ROOTCA" || bare == Some(id.trust_domain()) {
        let roots = pem::write_certificates(&material.roots);
        let context =
            CertificateValidationContext { trusted_ca: inline(roots.clone()), ..Default::default() };
        (Type::ValidationContext(context), roots)
    } else {
        return None;
    };
    let secret = Secret { name: name.to_owned(), r#type: Some(kind) };
    let any = Any { type_url: TYPE_URL.to_owned(), value: secret.encode_to_vec() };
    Some(Made { version: files::fingerprint(told.as_bytes()), any })
}

/// The identity in force, once there is one.
async fn material(state: &mut watch::Receiver<State>) -> Result<Arc<Material>, Status> {
    let gone = || Status::unavailable("this agent ends");
    let state = state.wait_for(|state| state.material.is_some()).await.map_err(|_| gone())?;
    state.material.clone().ok_or_else(gone)
}

/// What one client asked for, and has.
#[derive(Default)]
struct Asked {
    /// Each name with the version that the client has; empty: none.
    names: BTreeMap<String, String>,
    /// Names that nobody has, told once.
    unknown: BTreeSet<String>,
    nonce: u64,
}

impl Asked {
    fn add(&mut self, name: String, version: String) -> Result<(), Status> {
        if self.names.len() >= NAMES_MAX && !self.names.contains_key(&name) {
            return Err(Status::resource_exhausted(format!("at most {NAMES_MAX} secrets on one stream")));
        }
        self.names.entry(name).or_insert(version);
        Ok(())
    }

    /// The secrets that the client has not got as they are now.
    fn news(&mut self, material: &Material) -> Vec<(String, Made)> {
        let mut news = Vec::new();
        for (name, had) in &mut self.names {
            match secret(material, name) {
                Some(made) if made.version != *had => {
                    had.clone_from(&made.version);
                    news.push((name.clone(), made));
                }
                Some(_) => {}
                None if self.unknown.insert(name.clone()) => {
                    let id = &material.leaf.id;
                    eprintln!(
                        "outrigger certs: a client asks for the secret `{name}`, which nobody has; there are `default` ({id}) and \
                         `ROOTCA` (spiffe://{})",
                        id.trust_domain()
                    );
                }
                None => {}
            }
        }
        news
    }

    fn next_nonce(&mut self) -> String {
        self.nonce += 1;
        self.nonce.to_string()
    }
}

fn refused(detail: Option<&Detail>) {
    if let Some(detail) = detail {
        let words: String = detail.message.chars().filter(|c| !c.is_control()).take(500).collect();
        eprintln!("outrigger certs: a client refuses what it was sent: {words}");
    }
}

/// State of the world: the names of the newest request are all that is asked for.
async fn stream(
    mut requests: Streaming<DiscoveryRequest>,
    mut state: watch::Receiver<State>,
    answers: mpsc::Sender<Result<DiscoveryResponse, Status>>,
) -> Result<(), Status> {
    let mut asked = Asked::default();
    loop {
        tokio::select! {
            request = requests.message() => {
                let Some(request) = request? else { return Ok(()) };
                refused(request.error_detail.as_ref());
                let wanted: BTreeSet<String> = request.resource_names.into_iter().collect();
                asked.names.retain(|name, _| wanted.contains(name));
                for name in wanted {
                    asked.add(name, String::new())?;
                }
            }
            changed = state.changed(), if !asked.names.is_empty() => {
                changed.map_err(|_| Status::unavailable("this agent ends"))?;
            }
        }
        let Some(material) = state.borrow_and_update().material.clone() else { continue };
        let news = asked.news(&material);
        if news.is_empty() {
            continue;
        }
        let nonce = asked.next_nonce();
        if answers.send(Ok(response(&material, news, nonce))).await.is_err() {
            return Ok(());
        }
    }
}

fn response(material: &Material, news: Vec<(String, Made)>, nonce: String) -> DiscoveryResponse {
    DiscoveryResponse {
        version_info: material.digest.clone(),
        resources: news.into_iter().map(|(_, made)| made.any).collect(),
        type_url: TYPE_URL.to_owned(),
        nonce,
        ..DiscoveryResponse::default()
    }
}

/// What has changed, of the names that are subscribed.
async fn delta(
    mut requests: Streaming<DeltaDiscoveryRequest>,
    mut state: watch::Receiver<State>,
    answers: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
) -> Result<(), Status> {
    let mut asked = Asked::default();
    loop {
        tokio::select! {
            request = requests.message() => {
                let Some(request) = request? else { return Ok(()) };
                refused(request.error_detail.as_ref());
                for name in &request.resource_names_unsubscribe {
                    asked.names.remove(name);
                }
                let mut had = request.initial_resource_versions;
                for name in request.resource_names_subscribe {
                    // Who subscribes once more wants it once more.
                    asked.names.remove(&name);
                    let version = had.remove(&name).unwrap_or_default();
                    asked.add(name, version)?;
                }
            }
            changed = state.changed(), if !asked.names.is_empty() => {
                changed.map_err(|_| Status::unavailable("this agent ends"))?;
            }
        }
        let Some(material) = state.borrow_and_update().material.clone() else { continue };
        let news = asked.news(&material);
        if news.is_empty() {
            continue;
        }
        let resources = news.into_iter().map(|(name, Made { version, any })| Resource {
            name,
            version,
            resource: Some(any),
            ..Resource::default()
        });
        let answer = DeltaDiscoveryResponse {
            system_version_info: material.digest.clone(),
            resources: resources.collect(),
            type_url: TYPE_URL.to_owned(),
            nonce: asked.next_nonce(),
            ..DeltaDiscoveryResponse::default()
        };
        if answers.send(Ok(answer)).await.is_err() {
            return Ok(());
        }
    }
}

/// The stream that `answer` fills, and ends with the status that it fails with.
fn answered<A: Send + 'static, F>(
    answer: impl FnOnce(mpsc::Sender<Result<A, Status>>) -> F,
) -> Response<ReceiverStream<Result<A, Status>>>
where
    F: Future<Output = Result<(), Status>> + Send + 'static,
{
    let (answers, stream) = mpsc::channel(RESPONSES_MAX);
    let answering = answer(answers.clone());
    tokio::spawn(async move {
        if let Err(status) = answering.await {
            let _ = answers.send(Err(status)).await;
        }
    });
    Response::new(ReceiverStream::new(stream))
}

#[tonic::async_trait]
impl SecretDiscoveryService for Secrets {
    type StreamSecretsStream = ReceiverStream<Result<DiscoveryResponse, Status>>;
    type DeltaSecretsStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        let state = self.state.clone();
        Ok(answered(|answers| stream(request.into_inner(), state, answers)))
    }

    async fn delta_secrets(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        let state = self.state.clone();
        Ok(answered(|answers| delta(request.into_inner(), state, answers)))
    }

    async fn fetch_secrets(
        &self,
        request: Request<DiscoveryRequest>,
    ) -> Result<Response<DiscoveryResponse>, Status> {
        let material = material(&mut self.state.clone()).await?;
        let mut asked = Asked::default();
        for name in request.into_inner().resource_names {
            asked.add(name, String::new())?;
        }
        let news = asked.news(&material);
        Ok(Response::new(response(&material, news, String::new())))
    }
}
