//! The ADS server over real sockets, with worlds that a test makes, and clients that tonic makes of the protos.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bench::wait::soon;
use config::model::Mesh;
use config::parse::{Source, parse_mesh};
use config::spiffe::SpiffeId;
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::config::core::v3::address::Address;
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use envoy_types::pb::google::protobuf::value::Kind as Value;
use envoy_types::pb::google::protobuf::{self, Struct};
use envoy_types::pb::google::rpc::Status;
use outrigger_control::ads::hub::Hub;
use outrigger_control::ads::limits::Settings;
use outrigger_control::ads::server;
use outrigger_control::peer::Peer;
use outrigger_control::registrations::Registrations;
use outrigger_control::world::World;
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};
use xds::Kind;

/// What the tests set unless they say otherwise.
pub(crate) const SETTINGS: Settings = Settings {
    on_demand_above: 10_000,
    registration_grace: Duration::from_secs(30),
    streams: 1_000,
    subscriptions: 10_000,
    request: 256 << 10,
    requests_per_second: 1_000,
    first_words: Duration::from_secs(10),
    ping_every: Duration::from_secs(30),
    pong_max: Duration::from_secs(20),
};

/// A mesh of services `s0`, `s1`... in `shop`, each with one endpoint on this port.
pub(crate) fn services(count: usize, port: u16) -> String {
    let mut yaml = "version: 1\ntrust_domain: mesh.test\nservices:\n".to_owned();
    for n in 0..count {
        yaml += &format!(
            "- {{name: s{n}, namespace: shop, registration: true, endpoints: [\"10.0.0.1:{port}\"]}}\n"
        );
    }
    yaml
}

pub(crate) fn mesh(yaml: &str) -> Mesh {
    parse_mesh(Source { name: "mesh.yaml", text: yaml }).unwrap()
}

/// A server, ended when dropped.
pub(crate) struct Plane {
    pub(crate) hub: Arc<Hub>,
    pub(crate) address: SocketAddr,
    files: watch::Sender<Mesh>,
    /// Who the next connections come from.
    pub(crate) identity: Arc<Mutex<Option<SpiffeId>>>,
    /// Where they come from, if not from where they do.
    pub(crate) from: Arc<Mutex<Option<SocketAddr>>>,
    tasks: JoinSet<()>,
}

impl Plane {
    pub(crate) async fn start(yaml: &str, settings: Settings) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (files, mut edits) = watch::channel(mesh(yaml));
        let registrations = Arc::new(Registrations::default());
        let first = World::first(edits.borrow_and_update().clone());
        let (worlds, newest) = watch::channel(Arc::new(first));
        let hub = Hub::new(newest, registrations.clone(), settings);
        let identity = Arc::new(Mutex::new(None));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut announced = registrations.changes();
            loop {
                tokio::select! {
                    edited = edits.changed() => if edited.is_err() { return },
                    _ = announced.changed() => {}
                }
                let mut mesh = edits.borrow_and_update().clone();
                registrations.merge(&mut mesh);
                let next = worlds.borrow().next(mesh);
                worlds.send_replace(Arc::new(next));
            }
        });
        let (shared, who) = (hub.clone(), identity.clone());
        let from = Arc::new(Mutex::new(None));
        let elsewhere = from.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((tcp, address)) = listener.accept().await {
                let address = elsewhere.lock().unwrap().unwrap_or(address);
                let peer = Peer {
                    address,
                    identity: who.lock().unwrap().clone(),
                    expires: None,
                    chain: Arc::default(),
                    unproven: false,
                };
                connections.spawn(server::serve(tcp, peer, shared.clone()));
            }
        });
        Self { hub, address, files, identity, from, tasks }
    }

    /// The files say something else now.
    pub(crate) fn edit(&self, yaml: &str) {
        self.files.send_replace(mesh(yaml));
    }

    pub(crate) async fn channel(&self) -> Channel {
        soon("a connection", self.endpoint().connect()).await.unwrap()
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint::from_shared(format!("http://{}", self.address)).unwrap()
    }

    /// A sidecar of that id.
    pub(crate) async fn client(&self, id: &str) -> Client {
        Client::over(self.channel().await, node(id, &[])).await
    }

    /// A gRPC program.
    pub(crate) async fn program(&self, id: &str) -> Client {
        let node = Node { user_agent_name: "gRPC".to_owned(), ..node(id, &[]) };
        Client::over(self.channel().await, node).await
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.tasks.abort_all();
    }
}

/// The node of a sidecar that announces these endpoints (service of `shop`, address).
pub(crate) fn node(id: &str, endpoints: &[(&str, &str)]) -> Node {
    let text = |text: &str| protobuf::Value { kind: Some(Value::StringValue(text.to_owned())) };
    let block = |pairs: Vec<(&str, protobuf::Value)>| {
        let fields = pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        protobuf::Value { kind: Some(Value::StructValue(Struct { fields })) }
    };
    let endpoints = endpoints
        .iter()
        .map(|(service, address)| block(vec![("service", text(service)), ("address", text(address))]))
        .collect();
    let list = Value::ListValue(protobuf::ListValue { values: endpoints });
    let ours = block(vec![("namespace", text("shop")), ("endpoints", protobuf::Value { kind: Some(list) })]);
    Node {
        id: id.to_owned(),
        user_agent_name: "outrigger".to_owned(),
        metadata: Some(Struct { fields: [("outrigger".to_owned(), ours)].into() }),
        ..Node::default()
    }
}

/// A delta stream.
pub(crate) struct Client {
    pub(crate) requests: mpsc::Sender<DeltaDiscoveryRequest>,
    pub(crate) responses: Streaming<DeltaDiscoveryResponse>,
    node: Option<Node>,
}

impl Client {
    pub(crate) async fn over(channel: Channel, node: Node) -> Self {
        let (requests, stream) = mpsc::channel(16_384);
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        let answer = client.delta_aggregated_resources(ReceiverStream::new(stream));
        let responses = soon("a stream", answer).await.unwrap().into_inner();
        Self { requests, responses, node: Some(node) }
    }

    pub(crate) async fn send(&mut self, mut request: DeltaDiscoveryRequest) {
        request.node = self.node.take();
        self.requests.send(request).await.unwrap();
    }

    /// What it announces from now on.
    pub(crate) async fn announce(&mut self, node: Node) {
        self.node = Some(node);
        self.ask(Kind::Routes, &[]).await;
    }

    pub(crate) async fn ask(&mut self, kind: Kind, names: &[&str]) {
        self.send(DeltaDiscoveryRequest {
            type_url: kind.type_url().to_owned(),
            resource_names_subscribe: names.iter().map(ToString::to_string).collect(),
            ..DeltaDiscoveryRequest::default()
        })
        .await;
    }

    pub(crate) async fn hear(&mut self) -> DeltaDiscoveryResponse {
        soon("a response", self.responses.message()).await.unwrap().expect("the stream goes on")
    }

    /// The next response, acknowledged.
    pub(crate) async fn take(&mut self) -> DeltaDiscoveryResponse {
        let response = self.hear().await;
        self.answer(&response, None).await;
        response
    }

    pub(crate) async fn answer(&mut self, response: &DeltaDiscoveryResponse, why: Option<&str>) {
        self.send(DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail: why.map(|why| Status { message: why.to_owned(), ..Status::default() }),
            ..DeltaDiscoveryRequest::default()
        })
        .await;
    }

    /// Takes responses until the endpoints of a service are at these ports.
    pub(crate) async fn until_ports(&mut self, service: &str, ports: &[u16]) {
        loop {
            let response = self.take().await;
            if ports_of(&response, service).is_some_and(|found| found == ports) {
                return;
            }
        }
    }

    /// How the stream ends, whatever comes before.
    pub(crate) async fn end(&mut self) -> tonic::Status {
        soon("the end of the stream", async {
            loop {
                match self.responses.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => return tonic::Status::ok(""),
                    Err(status) => return status,
                }
            }
        })
        .await
    }
}

/// The ports of a service's endpoints, sorted, if the response holds them.
pub(crate) fn ports_of(response: &DeltaDiscoveryResponse, service: &str) -> Option<Vec<u16>> {
    let of_kind = response.type_url == Kind::Endpoints.type_url();
    let resource = response.resources.iter().find(|resource| of_kind && resource.name == service)?;
    let assignment = ClusterLoadAssignment::decode(&*resource.resource.as_ref()?.value).unwrap();
    let mut ports: Vec<u16> = assignment
        .endpoints
        .iter()
        .flat_map(|locality| &locality.lb_endpoints)
        .map(|endpoint| {
            let Some(HostIdentifier::Endpoint(endpoint)) = &endpoint.host_identifier else {
                panic!("an address")
            };
            let address = endpoint.address.as_ref().and_then(|address| address.address.as_ref());
            let Some(Address::SocketAddress(socket)) = address else { panic!("a socket address") };
            let Some(PortSpecifier::PortValue(port)) = socket.port_specifier else { panic!("a port") };
            u16::try_from(port).unwrap()
        })
        .collect();
    ports.sort_unstable();
    Some(ports)
}

/// Names in a response, sorted.
pub(crate) fn names(response: &DeltaDiscoveryResponse) -> Vec<&str> {
    let mut names: Vec<&str> = response.resources.iter().map(|resource| &*resource.name).collect();
    names.sort_unstable();
    names
}
