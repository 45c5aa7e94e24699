//! A simulated client of a control plane: one delta ADS stream on a connection of its own, which acknowledges what it gets
//! and keeps nothing but a number for each name. A thousand of them shall weigh little beside what they measure.

use std::collections::HashSet;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{ListValue, Struct, Value};
use h2::{RecvStream, SendStream, client};
use http::Request;
use prost::Message;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio_rustls::TlsConnector;

use crate::grpc::{Deframer, message};

const PATH: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// As Envoy's and larger than any answer to one of many clients.
const WINDOW: u32 = 1 << 20;

/// Before each gRPC message.
const PREFIX_BYTES: u64 = 5;

/// Listeners, routes, clusters and endpoints, in the order in which a client needs them.
pub const TYPES: [&str; 4] = [
    "type.googleapis.com/envoy.config.listener.v3.Listener",
    "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
    "type.googleapis.com/envoy.config.cluster.v3.Cluster",
    "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
];

/// A client; its connection closes when it is dropped.
pub struct Subscriber {
    out: SendStream<Bytes>,
    body: RecvStream,
    deframer: Deframer,
    connection: AbortHandle,
    node: Option<Node>,
    /// Bytes of responses so far, before HTTP/2 and TLS.
    pub bytes: u64,
    /// What it holds: a number for each type and name.
    held: HashSet<u64>,
}

/// A response, as far as it is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Take {
    /// When it had come.
    pub at: Instant,
    /// Bytes of it, with the five before a gRPC message.
    pub bytes: u64,
    /// Bytes of the resources in it.
    pub resource_bytes: u64,
    /// How many they are.
    pub resources: usize,
}

/// `DeltaDiscoveryResponse`, whose resources are not read.
#[derive(Clone, PartialEq, Message)]
struct Answer {
    #[prost(message, repeated, tag = "2")]
    resources: Vec<Named>,
    #[prost(string, tag = "4")]
    type_url: String,
    #[prost(string, tag = "5")]
    nonce: String,
    #[prost(string, repeated, tag = "6")]
    removed: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Named {
    #[prost(string, tag = "3")]
    name: String,
    #[prost(message, optional, tag = "2")]
    resource: Option<Unread>,
}

#[derive(Clone, PartialEq, Message)]
struct Unread {
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Subscriber {
    /// Connects and opens the stream.
    ///
    /// # Errors
    /// When nobody answers, or not as ADS does.
    pub async fn connect(addr: SocketAddr, tls: Arc<ClientConfig>, node: Node) -> io::Result<Self> {
        let tcp = TcpStream::connect(addr).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::from(addr.ip());
        Self::over(TlsConnector::from(tls).connect(name, tcp).await?, node).await
    }

    async fn over(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, node: Node) -> io::Result<Self> {
        let mut builder = client::Builder::new();
        builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW);
        let (sender, connection) = builder.handshake::<_, Bytes>(io).await.map_err(io::Error::other)?;
        let connection = tokio::spawn(async move { drop(connection.await) }).abort_handle();
        let request = Request::post(format!("https://control{PATH}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .map_err(io::Error::other)?;
        let mut sender = sender.ready().await.map_err(io::Error::other)?;
        let (response, out) = sender.send_request(request, false).map_err(io::Error::other)?;
        let body = response.await.map_err(io::Error::other)?.into_body();
        let deframer = Deframer::default();
        let (node, held) = (Some(node), HashSet::new());
        Ok(Self { out, body, deframer, connection, node, bytes: 0, held })
    }

    /// Subscribes to names; none: to everything, or, of what it subscribes to already, nothing new.
    ///
    /// # Errors
    /// When the stream has ended.
    pub fn ask(&mut self, type_url: &str, names: &[String]) -> io::Result<()> {
        self.send(DeltaDiscoveryRequest {
            type_url: type_url.to_owned(),
            resource_names_subscribe: names.to_vec(),
            ..DeltaDiscoveryRequest::default()
        })
    }

    /// Says its node again, with other endpoints.
    ///
    /// # Errors
    /// When the stream has ended.
    pub fn announce(&mut self, node: Node) -> io::Result<()> {
        self.node = Some(node);
        self.ask(TYPES[1], &[])
    }

    /// The next response, acknowledged.
    ///
    /// # Errors
    /// When the stream ends.
    pub async fn take(&mut self) -> io::Result<Take> {
        let framed = loop {
            if let Some(framed) = self.deframer.next_message() {
                break framed;
            }
            let chunk = self.body.data().await.ok_or_else(|| io::Error::other("the stream has ended"))?;
            let chunk = chunk.map_err(io::Error::other)?;
            let _ = self.body.flow_control().release_capacity(chunk.len());
            self.deframer.push(&chunk);
        };
        let at = Instant::now();
        let bytes = framed.len() as u64 + PREFIX_BYTES;
        self.bytes += bytes;
        let answer = Answer::decode(framed).map_err(io::Error::other)?;
        let mut resource_bytes = 0;
        for one in &answer.resources {
            self.held.insert(number(&answer.type_url, &one.name));
            resource_bytes += one.resource.as_ref().map_or(0, |resource| resource.value.len() as u64);
        }
        for name in &answer.removed {
            self.held.remove(&number(&answer.type_url, name));
        }
        self.send(DeltaDiscoveryRequest {
            type_url: answer.type_url,
            response_nonce: answer.nonce,
            ..DeltaDiscoveryRequest::default()
        })?;
        Ok(Take { at, bytes, resource_bytes, resources: answer.resources.len() })
    }

    /// Takes responses until it holds so many resources.
    ///
    /// # Errors
    /// When the stream ends.
    pub async fn until_holding(&mut self, resources: usize) -> io::Result<()> {
        while self.held.len() < resources {
            self.take().await?;
        }
        Ok(())
    }

    /// How many resources it holds.
    pub fn holds(&self) -> usize {
        self.held.len()
    }

    fn send(&mut self, mut request: DeltaDiscoveryRequest) -> io::Result<()> {
        request.node = self.node.take();
        self.out.send_data(message(&request.encode_to_vec()), false).map_err(io::Error::other)
    }
}

fn number(type_url: &str, name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (type_url, name).hash(&mut hasher);
    hasher.finish()
}

/// The node of a sidecar in namespace `bench` that announces these endpoints (service, address).
pub fn sidecar(id: &str, endpoints: &[(&str, String)]) -> Node {
    let announced = endpoints
        .iter()
        .map(|(service, address)| mapping(vec![("service", text(service)), ("address", text(address))]));
    let list = Kind::ListValue(ListValue { values: announced.collect() });
    let ours = vec![("namespace", text("bench")), ("endpoints", Value { kind: Some(list) })];
    node(id, "outrigger", ours)
}

/// The node of an Envoy that dials in plain text.
pub fn envoy(id: &str) -> Node {
    node(id, "envoy", vec![("outbound", text("127.0.0.1:15001"))])
}

fn node(id: &str, agent: &str, ours: Vec<(&str, Value)>) -> Node {
    let fields = [("outrigger".to_owned(), mapping(ours))].into();
    Node {
        id: id.to_owned(),
        user_agent_name: agent.to_owned(),
        metadata: Some(Struct { fields }),
        ..Node::default()
    }
}

fn text(text: &str) -> Value {
    Value { kind: Some(Kind::StringValue(text.to_owned())) }
}

fn mapping(pairs: Vec<(&str, Value)>) -> Value {
    let fields = pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    Value { kind: Some(Kind::StructValue(Struct { fields })) }
}
