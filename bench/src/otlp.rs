//! A collector of traces that shows what it was sent, and can misbehave.
//!
//! It reads spans with the types that OpenTelemetry generates from its own protos, so that what a sidecar writes by
//! hand is held against somebody else's reading.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::Bytes;
use flate2::read::GzDecoder;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Request, Response};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::span::Event;
use opentelemetry_proto::tonic::trace::v1::{self as wire};
use prost::Message as _;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::grpc;
use crate::tls::{ServerTls, server_config};

const PATH: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// A running collector, on a thread of its own: a sidecar that goes has little time for its last spans, and a test that
/// is busy must take none of it. Dropped, it has closed.
pub struct Collector {
    /// Where it listens.
    pub addr: SocketAddr,
    shared: Arc<Shared>,
    /// Asks for connections to be closed; the collector ends with it.
    hang_ups: Option<mpsc::Sender<oneshot::Sender<()>>>,
    thread: Option<JoinHandle<()>>,
}

/// What a collector does with an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Takes it.
    Well,
    /// Takes all but so many spans.
    Reject(i64),
    /// Ends it with this `grpc-status`.
    Status(i32),
    /// Ends it with this `grpc-status`, and says that it may come again after so many milliseconds.
    Later(i32, u32),
    /// Reads it and never answers.
    Hang,
}

struct Shared {
    exports: Mutex<Vec<Export>>,
    next: Mutex<VecDeque<Answer>>,
    answer: Mutex<Answer>,
    tls: Option<Arc<ServerConfig>>,
    connections: AtomicUsize,
}

/// One export as it came.
#[derive(Clone, Debug)]
pub struct Export {
    /// Its request headers.
    pub headers: HeaderMap,
    /// The attributes of its resource.
    pub resource: HashMap<String, String>,
    /// Its spans.
    pub spans: Vec<Span>,
    /// How long it is, decompressed.
    pub bytes: usize,
    /// When all of it had come.
    pub came: Instant,
}

/// One span, its ids in hex.
#[derive(Clone, Debug)]
pub struct Span {
    /// 32 digits.
    pub trace: String,
    /// 16 digits.
    pub id: String,
    /// 16 digits, or empty.
    pub parent: String,
    /// `SpanKind`.
    pub kind: wire::span::SpanKind,
    /// Its name.
    pub name: String,
    /// `tracestate`.
    pub state: String,
    /// Nanoseconds since 1970.
    pub began: u64,
    /// Nanoseconds since 1970.
    pub ended: u64,
    /// Values as text.
    pub attributes: HashMap<String, String>,
    /// Names and attributes.
    pub events: Vec<(String, HashMap<String, String>)>,
    /// `Status.code` is ERROR.
    pub is_error: bool,
    /// `Status.message`.
    pub message: String,
    /// `service.name` of its resource.
    pub service: String,
}

impl Span {
    /// An attribute's value as text; empty: it has none of this name.
    pub fn attribute(&self, key: &str) -> &str {
        self.attributes.get(key).map_or("", String::as_str)
    }
}

impl Collector {
    /// Listens on any port of the loopback interface.
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
            exports: Mutex::default(),
            next: Mutex::default(),
            answer: Mutex::new(Answer::Well),
            tls: tls.map(server_config).transpose()?,
            connections: AtomicUsize::new(0),
        });
        let (hang_ups, asked) = mpsc::channel(1);
        let (listener, serves) = (listener.into_std()?, shared.clone());
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let serve = move || runtime.block_on(accept(listener, serves, asked));
        let thread = thread::Builder::new().name("collector".to_owned()).spawn(serve)?;
        Ok(Self { addr, shared, hang_ups: Some(hang_ups), thread: Some(thread) })
    }

    /// As `OTEL_EXPORTER_OTLP_ENDPOINT` names it.
    pub fn url(&self) -> String {
        let scheme = if self.shared.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.addr)
    }

    /// What it does with exports from now on.
    ///
    /// # Panics
    /// When another test thread has panicked.
    pub fn set(&self, answer: Answer) {
        *self.shared.answer.lock().expect("nobody panics with it held") = answer;
    }

    /// What it does with the next export; several wait in a queue, before what [`Collector::set`] says.
    ///
    /// # Panics
    /// As [`Collector::set`].
    pub fn next(&self, answer: Answer) {
        self.shared.next.lock().expect("nobody panics with it held").push_back(answer);
    }

    /// Every export so far, those that were not taken too.
    ///
    /// # Panics
    /// As [`Collector::set`].
    pub fn exports(&self) -> Vec<Export> {
        self.shared.exports.lock().expect("nobody panics with it held").clone()
    }

    /// Every span so far.
    pub fn spans(&self) -> Vec<Span> {
        self.exports().into_iter().flat_map(|export| export.spans).collect()
    }

    /// Closes every connection, as a server does that finds them idle. None takes anything any more when this
    /// returns.
    ///
    /// # Panics
    /// When the collector has panicked.
    pub async fn hang_up(&self) {
        let (done, hung_up) = oneshot::channel();
        let hang_ups = self.hang_ups.as_ref().expect("it is there until it is dropped");
        hang_ups.send(done).await.expect("it serves");
        hung_up.await.expect("it hangs up");
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.hang_ups = None;
        if let Some(thread) = self.thread.take() {
            // Its port is free then.
            let _ = thread.join();
        }
    }
}

async fn accept(
    listener: std::net::TcpListener,
    shared: Arc<Shared>,
    mut hang_ups: mpsc::Receiver<oneshot::Sender<()>>,
) {
    let listener = TcpListener::from_std(listener).expect("one that was tokio's before");
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((tcp, _)) = accepted else { return };
                shared.connections.fetch_add(1, Ordering::Relaxed);
                connections.spawn(handshake(tcp, shared.clone()));
            }
            asked = hang_ups.recv() => {
                let Some(done) = asked else { return };
                connections.shutdown().await;
                let _ = done.send(());
            }
        }
    }
}

async fn handshake(tcp: TcpStream, shared: Arc<Shared>) {
    match &shared.tls {
        None => serve(tcp, &shared).await,
        Some(config) => {
            if let Ok(tls) = TlsAcceptor::from(config.clone()).accept(tcp).await {
                serve(tls, &shared).await;
            }
        }
    }
}

async fn serve(io: impl AsyncRead + AsyncWrite + Unpin, shared: &Arc<Shared>) {
    let Ok(mut connection) =
        h2::server::Builder::new().initial_window_size(4 << 20).handshake::<_, Bytes>(io).await
    else {
        return;
    };
    let mut exports = JoinSet::new();
    while let Some(Ok((request, respond))) = connection.accept().await {
        exports.spawn(take(request, respond, shared.clone()));
    }
}

/// Takes one export; an error of the connection is seen by its sender.
async fn take(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    shared: Arc<Shared>,
) -> Option<()> {
    let (head, mut body) = request.into_parts();
    assert_eq!(head.uri.path(), PATH, "not an export of traces");
    let mut message = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk.ok()?;
        body.flow_control().release_capacity(chunk.len()).ok()?;
        message.extend_from_slice(&chunk);
    }
    // What is set once it is seen is for the next one.
    let next = shared.next.lock().expect("nobody panics with it held").pop_front();
    let answer = next.unwrap_or_else(|| *shared.answer.lock().expect("nobody panics with it held"));
    shared.exports.lock().expect("nobody panics with it held").push(export(head.headers, &message));
    let partial = match answer {
        Answer::Hang => return std::future::pending().await,
        Answer::Reject(rejected_spans) => {
            Some(ExportTracePartialSuccess { rejected_spans, error_message: "as the test says".to_owned() })
        }
        _ => None,
    };
    let status = match answer {
        Answer::Status(status) | Answer::Later(status, _) => status,
        _ => 0,
    };
    let mut response = Response::new(());
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    let mut stream = respond.send_response(response, false).ok()?;
    if status == 0 {
        let body = ExportTraceServiceResponse { partial_success: partial }.encode_to_vec();
        stream.send_data(grpc::message(&body), false).ok()?;
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", status.into());
    if let Answer::Later(_, millis) = answer {
        trailers.insert("grpc-status-details-bin", retry_info(status, millis).parse().expect("base64"));
    }
    stream.send_trailers(trailers).ok()
}

/// `google.rpc.Status` and what is in it, as their protos have them.
#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Detail>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Detail {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    delay: Option<Delay>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Delay {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

/// A status with a `RetryInfo`, as `grpc-status-details-bin` carries it.
fn retry_info(code: i32, millis: u32) -> String {
    let delay = Delay { seconds: i64::from(millis / 1_000), nanos: (millis % 1_000 * 1_000_000) as i32 };
    let info = RetryInfo { delay: Some(delay) };
    let type_url = "type.googleapis.com/google.rpc.RetryInfo".to_owned();
    let status = RpcStatus { code, details: vec![Detail { type_url, value: info.encode_to_vec() }] };
    STANDARD_NO_PAD.encode(status.encode_to_vec())
}

/// Reads an export.
fn export(headers: HeaderMap, message: &[u8]) -> Export {
    let (prefix, body) = message.split_at(grpc::PREFIX);
    let length = u32::from_be_bytes(prefix[1..].try_into().expect("four bytes")) as usize;
    assert_eq!(body.len(), length, "one message");
    let is_gzip = headers.get("grpc-encoding").is_some_and(|encoding| encoding == "gzip");
    assert_eq!(prefix[0] == 1, is_gzip, "the flag and grpc-encoding say the same");
    let mut plain = Vec::new();
    if is_gzip {
        GzDecoder::new(body).read_to_end(&mut plain).expect("gzip");
    } else {
        plain.extend_from_slice(body);
    }
    let request = ExportTraceServiceRequest::decode(&plain[..]).expect("an ExportTraceServiceRequest");
    assert_eq!(request.encode_to_vec(), plain, "no field that the protos do not know, and none out of order");
    let (mut resource, mut spans) = (HashMap::new(), Vec::new());
    for of_resource in request.resource_spans {
        resource = attributes(of_resource.resource.map(|resource| resource.attributes).unwrap_or_default());
        let service = resource.get("service.name").cloned().unwrap_or_default();
        for span in of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            spans.push(read(span, &service));
        }
    }
    Export { headers, resource, spans, bytes: plain.len(), came: Instant::now() }
}

fn read(span: wire::Span, service: &str) -> Span {
    let status = span.status.clone().unwrap_or_default();
    Span {
        kind: span.kind(),
        trace: hex(&span.trace_id, &[16]),
        id: hex(&span.span_id, &[8]),
        parent: hex(&span.parent_span_id, &[0, 8]),
        name: span.name,
        state: span.trace_state,
        began: span.start_time_unix_nano,
        ended: span.end_time_unix_nano,
        attributes: attributes(span.attributes),
        events: span
            .events
            .into_iter()
            .map(|Event { name, attributes: of, .. }| (name, attributes(of)))
            .collect(),
        is_error: status.code() == wire::status::StatusCode::Error,
        message: status.message,
        service: service.to_owned(),
    }
}

fn hex(id: &[u8], lengths: &[usize]) -> String {
    assert!(lengths.contains(&id.len()), "an id of {} bytes", id.len());
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attributes(pairs: Vec<KeyValue>) -> HashMap<String, String> {
    let mut attributes = HashMap::new();
    for KeyValue { key, value, .. } in pairs {
        let text = match value {
            Some(AnyValue { value: Some(value) }) => text(value),
            _ => panic!("{key} has no value"),
        };
        assert!(attributes.insert(key.clone(), text).is_none(), "{key} stands twice");
    }
    attributes
}

fn text(value: Value) -> String {
    match value {
        Value::StringValue(text) => text,
        Value::BoolValue(flag) => flag.to_string(),
        Value::IntValue(number) => number.to_string(),
        Value::DoubleValue(number) => number.to_string(),
        other => panic!("{other:?} is nothing that a sidecar says"),
    }
}
