//! A simulated client of a control plane: one delta ADS stream on a connection of its own, which acknowledges what it gets
//! and keeps nothing but the names.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
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
    /// Bytes of responses so far, before TLS and HTTP/2.
    pub bytes: u64,
    /// What it holds: type and name, with the version.
    pub held: HashMap<(String, String), String>,
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
        let (node, held) = (Some(node), HashMap::new());
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
    pub async fn take(&mut self) -> io::Result<DeltaDiscoveryResponse> {
        let framed = loop {
            if let Some(framed) = self.deframer.next_message() {
                break framed;
            }
            let chunk = self.body.data().await.ok_or_else(|| io::Error::other("the stream has ended"))?;
            let chunk = chunk.map_err(io::Error::other)?;
            let _ = self.body.flow_control().release_capacity(chunk.len());
            self.bytes += chunk.len() as u64;
            self.deframer.push(&chunk);
        };
        let response = DeltaDiscoveryResponse::decode(framed).map_err(io::Error::other)?;
        for resource in &response.resources {
            let key = (response.type_url.clone(), resource.name.clone());
            self.held.insert(key, resource.version.clone());
        }
        for name in &response.removed_resources {
            self.held.remove(&(response.type_url.clone(), name.clone()));
        }
        self.send(DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..DeltaDiscoveryRequest::default()
        })?;
        Ok(response)
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

    fn send(&mut self, mut request: DeltaDiscoveryRequest) -> io::Result<()> {
        request.node = self.node.take();
        self.out.send_data(message(&request.encode_to_vec()), false).map_err(io::Error::other)
    }
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
