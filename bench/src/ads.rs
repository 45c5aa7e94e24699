//! A control plane that does what a test says: it serves resources by incremental and by state-of-the-world ADS, remembers
//! every request, and can misbehave.
//!
//! It speaks with the types that `envoy-types` generates from the protos.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::{ControlPlane, Node};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
    Resource as WireResource,
};
use envoy_types::pb::google::protobuf::Any;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use prost::Message as _;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::grpc::{self, Deframer};
use crate::server::DATA_FRAME_BUDGET;
use crate::tls::{ServerTls, server_config};
use crate::utter::{Flood, flow, send, utter};

pub use crate::utter::Raw;

/// The path of incremental ADS.
const DELTA: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// What it calls itself.
pub const IDENTIFIER: &str = "scripted";
/// Things to send that wait for a stream.
const SENT_MAX: usize = 64;

/// A resource as it is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Its kind.
    pub type_url: String,
    /// What requests call it.
    pub name: String,
    /// Of incremental ADS.
    pub version: String,
    /// The message itself.
    pub value: Vec<u8>,
}

impl Resource {
    /// An answer of incremental ADS with this resource in it; its version is the nonce as well.
    pub fn answer(&self) -> Vec<u8> {
        let answer = DeltaDiscoveryResponse {
            resources: vec![wrap(self.clone())],
            type_url: self.type_url.clone(),
            nonce: self.version.clone(),
            ..DeltaDiscoveryResponse::default()
        };
        answer.encode_to_vec()
    }
}

/// How it treats connections and streams that begin from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// It serves.
    Well,
    /// It serves what is asked for by name, and lists nothing unasked.
    OnDemand,
    /// It accepts connections and says nothing at all.
    Deaf,
    /// It takes streams and never answers; on those that are open it falls silent.
    Mute,
    /// It takes streams, answers once, and says GOAWAY with this reason.
    Farewell(Reason),
    /// It ends streams with this `grpc-status`.
    Status(i32),
}

/// A request as it came.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// On which stream, counted from 0.
    pub stream: usize,
    /// Incremental.
    pub is_delta: bool,
    /// About what.
    pub type_url: String,
    /// Who asks, if it says so.
    pub node: Option<Node>,
    /// Names asked for; with state-of-the-world, all of them.
    pub subscribe: Vec<String>,
    /// Names let go.
    pub unsubscribe: Vec<String>,
    /// Versions held already.
    pub initial: BTreeMap<String, String>,
    /// Of the answer that is meant.
    pub nonce: String,
    /// Of what is in force, with state-of-the-world.
    pub version: String,
    /// Why the answer was turned down.
    pub error: Option<String>,
}

/// A running control plane, a task of the runtime it was started on. Dropped, it closes.
pub struct Ads {
    /// Where it listens.
    pub addr: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    tls: Option<Arc<ServerConfig>>,
    resources: watch::Sender<BTreeMap<(String, String), Resource>>,
    manner: Mutex<Manner>,
    raw: broadcast::Sender<Raw>,
    hang_up: watch::Sender<()>,
    seen: Mutex<Vec<Seen>>,
    connections: AtomicUsize,
    streams: AtomicUsize,
    nonces: AtomicUsize,
    floods_over: AtomicUsize,
}

impl Ads {
    /// Listens on any port of the loopback interface, in the clear.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start() -> io::Result<Self> {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), None).await
    }

    /// Listens where it is told to, perhaps by TLS.
    ///
    /// # Errors
    /// When the address cannot be bound, or the certificate is not usable.
    pub async fn start_at(addr: SocketAddr, tls: Option<&ServerTls>) -> io::Result<Self> {
        let listener = TcpListener::bind(addr).await?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared {
            tls: tls.map(server_config).transpose()?,
            resources: watch::Sender::default(),
            manner: Mutex::new(Manner::Well),
            raw: broadcast::Sender::new(SENT_MAX),
            hang_up: watch::Sender::default(),
            seen: Mutex::default(),
            connections: AtomicUsize::new(0),
            streams: AtomicUsize::new(0),
            nonces: AtomicUsize::new(0),
            floods_over: AtomicUsize::new(0),
        });
        let task = tokio::spawn(accept(listener, shared.clone()));
        Ok(Self { addr, shared, task })
    }

    /// Serves these resources from now on, and pushes what has changed.
    pub fn set(&self, resources: impl IntoIterator<Item = Resource>) {
        let by_name = resources.into_iter().map(|one| ((one.type_url.clone(), one.name.clone()), one));
        self.shared.resources.send_replace(by_name.collect());
    }

    /// How it treats what begins from now on.
    pub fn behave(&self, manner: Manner) {
        *lock(&self.shared.manner) = manner;
    }

    /// Sends something on every stream that is open.
    pub fn send(&self, raw: Raw) {
        let _ = self.shared.raw.send(raw);
    }

    /// Closes every connection, as a server does that is killed.
    pub fn hang_up(&self) {
        self.shared.hang_up.send_replace(());
    }

    /// Closes every connection, and gives the address back; what was seen stays.
    pub async fn close(&mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }

    /// Every request so far.
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.shared.seen).clone()
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Floods that have lasted as long as they were to, one for each stream.
    pub fn floods_over(&self) -> usize {
        self.shared.floods_over.load(Ordering::Relaxed)
    }

    /// Streams begun so far.
    pub fn streams(&self) -> usize {
        self.shared.streams.load(Ordering::Relaxed)
    }
}

impl Drop for Ads {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody panics with it held")
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((tcp, _)) = listener.accept().await {
        shared.connections.fetch_add(1, Ordering::Relaxed);
        connections.spawn(handshake(tcp, shared.clone()));
    }
}

async fn handshake(tcp: TcpStream, shared: Arc<Shared>) {
    let _ = tcp.set_nodelay(true);
    let mut hang_up = shared.hang_up.subscribe();
    let serving = async {
        if *lock(&shared.manner) == Manner::Deaf {
            std::future::pending::<()>().await;
        }
        match &shared.tls {
            None => serve(tcp, &shared).await,
            Some(config) => {
                if let Ok(tls) = TlsAcceptor::from(config.clone()).accept(tcp).await {
                    serve(tls, &shared).await;
                }
            }
        }
    };
    tokio::select! {
        () = serving => {}
        _ = hang_up.changed() => {}
    }
}

async fn serve(io: impl AsyncRead + AsyncWrite + Unpin, shared: &Arc<Shared>) {
    // ACKs are small, and a flood of answers brings many at once.
    let mut builder = h2::server::Builder::new();
    let handshake = builder.data_frame_budget(DATA_FRAME_BUDGET).handshake(io);
    let Ok(mut connection) = handshake.await else { return };
    let mut streams = JoinSet::new();
    // An answer given, where one is all there is.
    let said = Arc::new(tokio::sync::Notify::new());
    loop {
        tokio::select! {
            accepted = connection.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    streams.spawn(converse(request, respond, shared.clone(), said.clone()));
                }
                _ => return,
            },
            () = said.notified() => {
                if let Manner::Farewell(reason) = *lock(&shared.manner) {
                    connection.abrupt_shutdown(reason);
                }
            }
        }
    }
}

/// Serves one stream; an error of the connection is seen by the other side.
async fn converse(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    shared: Arc<Shared>,
    said: Arc<tokio::sync::Notify>,
) -> Option<()> {
    let (head, mut body) = request.into_parts();
    let number = shared.streams.fetch_add(1, Ordering::Relaxed);
    let manner = *lock(&shared.manner);
    let is_mute = || [manner, *lock(&shared.manner)].contains(&Manner::Mute);
    let mut response = Response::new(());
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    let mut stream = respond.send_response(response, false).ok()?;
    if let Manner::Status(status) = manner {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", status.into());
        return stream.send_trailers(trailers).ok();
    }
    let lists = manner != Manner::OnDemand;
    let mut session = Session { is_delta: head.uri.path() == DELTA, lists, ..Session::default() };
    let (mut resources, mut raw) = (shared.resources.subscribe(), shared.raw.subscribe());
    let mut deframer = Deframer::default();
    let mut flood: Option<Flood> = None;
    loop {
        tokio::select! {
            more = flow(&mut stream, &mut flood), if flood.is_some() => {
                if !more? {
                    flood = None;
                    shared.floods_over.fetch_add(1, Ordering::Relaxed);
                }
            }
            chunk = body.data() => {
                let chunk = chunk?.ok()?;
                body.flow_control().release_capacity(chunk.len()).ok()?;
                deframer.push(&chunk);
                while let Some(message) = deframer.next_message() {
                    let mut seen = read(session.is_delta, &message);
                    seen.stream = number;
                    lock(&shared.seen).push(seen.clone());
                    let answer = session.asked(&seen, &resources.borrow(), &shared.nonces);
                    if let Some(answer) = answer.filter(|_| !is_mute()) {
                        send(&mut stream, grpc::message(&answer)).await?;
                        if matches!(manner, Manner::Farewell(_)) {
                            said.notify_one();
                        }
                    }
                }
            }
            changed = resources.changed() => {
                changed.ok()?;
                for type_url in session.types() {
                    let answer = session.changed(&type_url, &resources.borrow(), &shared.nonces);
                    if let Some(answer) = answer.filter(|_| !is_mute()) {
                        send(&mut stream, grpc::message(&answer)).await?;
                    }
                }
            }
            Ok(raw) = raw.recv() => match raw {
                Raw::Flood { messages, per_second, lasting } => {
                    flood = Some(Flood::begin(messages, per_second, lasting));
                }
                raw => utter(&mut stream, raw).await?,
            },
        }
    }
}

/// What one stream was told.
#[derive(Default)]
struct Session {
    is_delta: bool,
    /// It shows all to who asks for all.
    lists: bool,
    of: BTreeMap<String, OfKind>,
}

#[derive(Default)]
struct OfKind {
    all: bool,
    names: BTreeSet<String>,
    /// Versions that the other side holds.
    sent: BTreeMap<String, String>,
    nonce: String,
}

type Resources = BTreeMap<(String, String), Resource>;

impl Session {
    fn types(&self) -> Vec<String> {
        self.of.keys().cloned().collect()
    }

    /// The answer to a request, if it asks for something.
    fn asked(&mut self, seen: &Seen, resources: &Resources, nonces: &AtomicUsize) -> Option<Vec<u8>> {
        let is_first = !self.of.contains_key(&seen.type_url);
        let of = self.of.entry(seen.type_url.clone()).or_default();
        let before = (of.all, of.names.clone());
        if !self.is_delta && !seen.nonce.is_empty() && seen.nonce != of.nonce {
            return None;
        }
        if is_first {
            of.sent.clone_from(&seen.initial);
        }
        if !self.is_delta {
            (of.all, of.names) = (false, BTreeSet::new());
        }
        of.all |= is_first && seen.subscribe.is_empty() || seen.subscribe.iter().any(|name| name == "*");
        of.names.extend(seen.subscribe.iter().filter(|name| *name != "*").cloned());
        for name in &seen.unsubscribe {
            of.names.remove(name);
            of.sent.remove(name);
        }
        let type_url = seen.type_url.clone();
        if self.is_delta {
            let missing = seen
                .subscribe
                .iter()
                .filter(|name| *name != "*" && !resources.contains_key(&(type_url.clone(), (*name).clone())));
            let missing: Vec<String> = missing.cloned().collect();
            self.delta(&type_url, resources, nonces, missing, is_first)
        } else if is_first || before != (of.all, of.names.clone()) {
            Some(self.sotw(&type_url, resources, nonces))
        } else {
            None
        }
    }

    /// The answer when resources have changed.
    fn changed(&mut self, type_url: &str, resources: &Resources, nonces: &AtomicUsize) -> Option<Vec<u8>> {
        if self.is_delta {
            return self.delta(type_url, resources, nonces, Vec::new(), false);
        }
        let now: BTreeMap<String, String> =
            self.picked(type_url, resources).map(|one| (one.name.clone(), one.version.clone())).collect();
        let differs = self.of.get(type_url).is_some_and(|of| of.sent != now);
        differs.then(|| self.sotw(type_url, resources, nonces))
    }

    fn picked<'r>(
        &'r self,
        type_url: &'r str,
        resources: &'r Resources,
    ) -> impl Iterator<Item = &'r Resource> {
        let of = &self.of[type_url];
        let all = of.all && self.lists;
        resources
            .values()
            .filter(move |one| one.type_url == type_url && (all || of.names.contains(&one.name)))
    }

    fn delta(
        &mut self,
        type_url: &str,
        resources: &Resources,
        nonces: &AtomicUsize,
        mut removed: Vec<String>,
        is_first: bool,
    ) -> Option<Vec<u8>> {
        let sent = &self.of[type_url].sent;
        let picked: Vec<&Resource> = self.picked(type_url, resources).collect();
        let here: BTreeSet<&String> = picked.iter().map(|one| &one.name).collect();
        removed.extend(sent.keys().filter(|name| !here.contains(name)).cloned());
        removed.sort_unstable();
        removed.dedup();
        let changed: Vec<Resource> =
            picked.into_iter().filter(|one| sent.get(&one.name) != Some(&one.version)).cloned().collect();
        if changed.is_empty() && removed.is_empty() && !is_first {
            return None;
        }
        let of = self.of.get_mut(type_url)?;
        of.sent.retain(|name, _| !removed.contains(name));
        of.sent.extend(changed.iter().map(|one| (one.name.clone(), one.version.clone())));
        of.nonce = nonce(nonces);
        let answer = DeltaDiscoveryResponse {
            system_version_info: of.nonce.clone(),
            resources: changed.into_iter().map(wrap).collect(),
            type_url: type_url.to_owned(),
            removed_resources: removed,
            nonce: of.nonce.clone(),
            control_plane: Some(ControlPlane { identifier: IDENTIFIER.to_owned() }),
            ..DeltaDiscoveryResponse::default()
        };
        Some(answer.encode_to_vec())
    }

    fn sotw(&mut self, type_url: &str, resources: &Resources, nonces: &AtomicUsize) -> Vec<u8> {
        let picked: Vec<Resource> = self.picked(type_url, resources).cloned().collect();
        let of = self.of.entry(type_url.to_owned()).or_default();
        of.nonce = nonce(nonces);
        of.sent = picked.iter().map(|one| (one.name.clone(), one.version.clone())).collect();
        let answer = DiscoveryResponse {
            version_info: of.nonce.clone(),
            resources: picked
                .into_iter()
                .map(|one| Any { type_url: one.type_url, value: one.value })
                .collect(),
            type_url: type_url.to_owned(),
            nonce: of.nonce.clone(),
            control_plane: Some(ControlPlane { identifier: IDENTIFIER.to_owned() }),
            ..DiscoveryResponse::default()
        };
        answer.encode_to_vec()
    }
}

fn nonce(nonces: &AtomicUsize) -> String {
    format!("n{}", nonces.fetch_add(1, Ordering::Relaxed))
}

fn wrap(one: Resource) -> WireResource {
    WireResource {
        name: one.name,
        version: one.version,
        resource: Some(Any { type_url: one.type_url, value: one.value }),
        ..WireResource::default()
    }
}

fn read(is_delta: bool, message: &[u8]) -> Seen {
    if is_delta {
        let request = DeltaDiscoveryRequest::decode(message).expect("a DeltaDiscoveryRequest");
        return Seen {
            is_delta,
            type_url: request.type_url,
            node: request.node,
            subscribe: request.resource_names_subscribe,
            unsubscribe: request.resource_names_unsubscribe,
            initial: request.initial_resource_versions.into_iter().collect(),
            nonce: request.response_nonce,
            error: request.error_detail.map(|fault| fault.message),
            ..Seen::default()
        };
    }
    let request = DiscoveryRequest::decode(message).expect("a DiscoveryRequest");
    Seen {
        type_url: request.type_url,
        node: request.node,
        subscribe: request.resource_names,
        nonce: request.response_nonce,
        version: request.version_info,
        error: request.error_detail.map(|fault| fault.message),
        ..Seen::default()
    }
}
