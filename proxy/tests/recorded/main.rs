//! What is recorded of calls of every kind, as spans and as lines of the access log, and what is documented of both.

#[path = "../pair/mod.rs"]
mod pair;

mod attempts;
mod docs;
mod headers;
mod http;

use ::http::{Method, Request, Response, StatusCode};
use bench::call::CallSpec;
use bench::client::Client;
use bench::otlp::{Collector, Span};
use bench::process::Sidecar;
use bench::wait::{soon, until};
use bytes::Bytes;
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use serde_json::Value;
use tokio::net::TcpStream;

use crate::pair::peer::{self, Peer};
use crate::pair::{ECHO, Site, mesh};

/// Logs every call.
const ALL: &str = "log: {access: {}}";

/// Two sidecars in a row that record and log, an app behind them that speaks gRPC and HTTP, and a collector.
struct Row {
    caller: Sidecar,
    callee: Sidecar,
    collector: Collector,
    _app: Peer,
    _site: Site,
}

impl Row {
    /// `more` is added to both files.
    async fn start(more: &str) -> Self {
        let collector = Collector::start().await.expect("a collector");
        let mut site = Site::new();
        site.variables.push(("OTEL_BSP_SCHEDULE_DELAY", "50".to_owned()));
        site.variables.push(("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url()));
        let app = peer::app(None, serve).await;
        let rules = "    inbound: {authorization: [{allow: {}}, {audit: {}}]}";
        let callee = site.callee_as(&site.ca.leaf(pair::ECHO_ID), app.addr, more, rules).await;
        let patient = "    upstream: {connect_timeout: 20s}";
        let caller = site.caller(&mesh(&[callee.inbound()], patient), more).await;
        Self { caller, callee, collector, _app: app, _site: site }
    }

    /// A client of gRPC.
    async fn client(&self) -> Client {
        Client::connect(self.caller.outbound(), None).await.expect("a connection")
    }

    /// Asks as clients of HTTP do, and reads all that comes: the status, if one did.
    async fn ask(&self, method: Method, path: &str) -> Option<u16> {
        let mut send = web(&self.caller).await;
        let request = Request::builder().method(method).uri(format!("http://{ECHO}{path}"));
        let request = request.body(()).expect("a request");
        let (response, mut stream) = send.send_request(request, false).expect("a request");
        let response = soon("a response", response).await.ok()?;
        // What has failed already is reset.
        let _ = stream.send_data(Bytes::new(), true);
        let (head, mut body) = response.into_parts();
        while let Some(Ok(data)) = soon("the rest", body.data()).await {
            let _ = body.flow_control().release_capacity(data.len());
        }
        Some(head.status.as_u16())
    }

    /// The spans of both sides, once there are two.
    async fn spans(&self) -> (Span, Span) {
        until("two spans", async || self.collector.spans().len() >= 2).await;
        let spans = self.collector.spans();
        let of = |direction: &str| {
            let span = spans.iter().find(|span| span.attribute("outrigger.direction") == direction);
            span.unwrap_or_else(|| panic!("{direction} {spans:?}")).clone()
        };
        (of("outbound"), of("inbound"))
    }
}

/// A connection of a client that need not speak gRPC.
async fn web(sidecar: &Sidecar) -> SendRequest<Bytes> {
    let tcp = TcpStream::connect(sidecar.outbound()).await.expect("a connection");
    let (send, connection) = h2::client::handshake(tcp).await.expect("a greeting");
    tokio::spawn(async { drop(connection.await) });
    send.ready().await.expect("an open connection")
}

/// Echoes calls of gRPC; `/silent` breaks before its head and `/broken` behind it; `/missing` is not found, and
/// anything else is.
async fn serve(mut request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    if request.headers().contains_key("te") {
        return peer::echo(request, respond).await;
    }
    if request.uri().path() == "/silent" {
        return respond.send_reset(Reason::INTERNAL_ERROR);
    }
    let mut head = Response::new(());
    if request.uri().path() == "/missing" {
        *head.status_mut() = StatusCode::NOT_FOUND;
    }
    let Ok(mut stream) = respond.send_response(head, false) else { return };
    // Its caller ends the request when the head is there.
    peer::drain(request.body_mut()).await;
    if request.uri().path() == "/broken" {
        stream.send_reset(Reason::INTERNAL_ERROR);
    } else {
        let _ = stream.send_data(Bytes::from_static(b"found"), true);
    }
}

/// The next line of the access log.
async fn line(sidecar: &mut Sidecar) -> Value {
    let line = soon("a line", sidecar.print()).await.expect("stdout").expect("a line");
    serde_json::from_str(&line).unwrap_or_else(|fault| panic!("{fault}: {line}"))
}

/// A call of gRPC that goes well, with these headers.
async fn call(client: &Client, headers: &[(&str, &str)]) {
    let mut spec = CallSpec::new(ECHO, pair::UNARY);
    spec.headers.extend(headers);
    pair::well(client.unary_with(spec, b"ping").await);
}
