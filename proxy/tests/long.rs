//! Long names: what a caller wrote stands in the messages of the sidecars, and however long it was, the answer
//! stays small enough for every client and for the other sidecar, so that nobody else feels it.

mod pair;

use bench::call::{Call, CallSpec};
use bench::client::Client;
use bench::outcome::Outcome;
use bench::process::Sidecar;
use bench::raw::{self, PREFACE, kind};
use bench::server::Server;
use bench::tls::TlsIdentity;
use bench::wait::soon;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::pair::frames::headers;
use crate::pair::{ANY, BIDI, ECHO, ECHO_ID, SHOPPER_ID, Site, mesh, metric};

/// Just about what `limits.header_list` lets in.
const LONG: usize = 60_000;
/// What gRPC's own clients take as a header list unless they are told otherwise.
const HEADER_LIST_MAX: usize = 8 << 10;
const MESSAGE_MAX: usize = 1 << 10;
const FAILURES: &str = "outrigger_failures_total";

/// Who is called, by which path.
type Name = (String, String);

#[tokio::test]
async fn a_call_of_a_long_path_is_refused_by_the_callee_and_harms_nobody_on_the_way() {
    let row = Row::start().await;
    let client = Client::connect(row.caller.outbound(), None).await.expect("a connection");
    let mut neighbour = client.call(CallSpec::new(ECHO, BIDI)).await.expect("a call");
    echoed(&mut neighbour, 0).await;
    let paths = paths("/bench.Echo/");
    for (round, path) in paths.iter().enumerate() {
        let outcome = refused(&client, &(ECHO.to_owned(), path.clone()), 7).await;
        assert!(outcome.message.starts_with("outrigger inbound:"), "{}", outcome.message);
        assert!(outcome.message.contains(SHOPPER_ID), "it says who may not: {}", outcome.message);
        let beginning: String = path.chars().skip(1).take(50).collect();
        assert!(outcome.message.contains(&beginning), "it says what: {}", outcome.message);
        echoed(&mut neighbour, round + 1).await;
    }
    let refusals = [("direction", "inbound"), ("reason", "NOT_ALLOWED")];
    assert_eq!(metric(&row.callee, FAILURES, &refusals).await, paths.len() as u64);
    let between = [("direction", "upstream"), ("security", "mtls")];
    assert_eq!(metric(&row.caller, "outrigger_connections_total", &between).await, 1, "the first one lives");
    assert!(soon("the neighbour's end", neighbour.finish()).await.is_ok());
}

#[tokio::test]
async fn a_call_of_a_long_name_that_leads_nowhere_is_refused_by_the_caller_s_sidecar() {
    let row = Row::start().await;
    let client = Client::connect(row.caller.outbound(), None).await.expect("a connection");
    let mut neighbour = client.call(CallSpec::new(ECHO, BIDI)).await.expect("a call");
    echoed(&mut neighbour, 0).await;
    let unknown =
        vec![("h".repeat(LONG), BIDI.to_owned()), (format!("{}:80", "h".repeat(LONG)), BIDI.to_owned())];
    let unrouted: Vec<Name> =
        paths("/other.Service/").into_iter().map(|path| (ECHO.to_owned(), path)).collect();
    for (reason, code, names) in [("UNKNOWN_SERVICE", 14, unknown), ("NO_ROUTE", 12, unrouted)] {
        for (round, name) in names.iter().enumerate() {
            let outcome = refused(&client, name, code).await;
            assert!(outcome.message.starts_with("outrigger outbound:"), "{}", outcome.message);
            echoed(&mut neighbour, round).await;
        }
        let failures = [("direction", "outbound"), ("reason", reason)];
        assert_eq!(metric(&row.caller, FAILURES, &failures).await, names.len() as u64, "{reason}");
    }
    assert!(soon("the neighbour's end", neighbour.finish()).await.is_ok());
}

#[tokio::test]
async fn a_header_list_that_grows_on_its_way_on_is_refused_before_it_ends_a_connection_of_others() {
    let row = Row::start().await;
    let client = Client::connect(row.caller.outbound(), None).await.expect("a connection");
    let mut neighbour = client.call(CallSpec::new(ECHO, BIDI)).await.expect("a call");
    echoed(&mut neighbour, 0).await;
    let texts = ["\\", "\u{ff}", "{", "~"];
    for (round, text) in texts.into_iter().enumerate() {
        // As long as the limit lets it be, and written as it is; h2 would write it in Huffman code.
        let value = text.repeat(LONG / text.len());
        let fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", BIDI),
            (":authority", ECHO),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            ("x-long", &value),
        ];
        let mut wire = TcpStream::connect(row.caller.outbound()).await.expect("a connection");
        let call = [PREFACE, &raw::settings(), &headers(1, &fields, false)].concat();
        wire.write_all(&call).await.expect("it is read");
        soon(format!("{text}: an answer"), answered(&mut wire)).await;
        echoed(&mut neighbour, round + 1).await;
    }
    let between = [("direction", "upstream"), ("security", "mtls")];
    assert_eq!(metric(&row.caller, "outrigger_connections_total", &between).await, 1, "the first one lives");
}

#[tokio::test]
async fn a_long_host_that_is_not_the_authority_is_refused_without_it() {
    let row = Row::start().await;
    let mutual = TlsIdentity::mutual(&row.site.ca.leaf(SHOPPER_ID), row.site.ca.bundle_pem());
    for client in [
        Client::connect(row.caller.outbound(), None).await.expect("a connection"),
        Client::connect(row.callee.inbound(), Some(mutual)).await.expect("a mesh connection"),
    ] {
        let host = "h".repeat(LONG);
        let spec = CallSpec::new(ECHO, BIDI).header("host", &host);
        let outcome = soon("a long host", client.unary_with(spec, b"x")).await.expect("a call");
        assert_small(&outcome, 13);
        assert!(client.is_open());
    }
}

/// Two sidecars; the callee's lets the shopper call `Bidi` only, and the caller's has routes for `bench.Echo`.
struct Row {
    caller: Sidecar,
    callee: Sidecar,
    site: Site,
    _app: Server,
}

impl Row {
    async fn start() -> Self {
        let app = Server::start(ANY).await.expect("an app");
        let site = Site::new();
        let rules = "    inbound: {authorization: [{allow: {methods: [bench.Echo/Bidi]}}]}";
        let callee = site.callee_as(&site.ca.leaf(ECHO_ID), app.addr, "", rules).await;
        let routes = "    upstream: {connect_timeout: 20s}\n    unmatched: refuse\n    \
                      routes: [{match: {service: bench.Echo}, backends: [{service: echo}]}]";
        let caller = site.caller(&mesh(&[callee.inbound()], routes), "").await;
        Self { caller, callee, site, _app: app }
    }
}

/// Paths of one letter, of what `grpc-message` must escape, and of characters that are longer than a byte, which
/// stand at even and at odd places. HPACK makes the latter up to four times as long as they are.
fn paths(service: &str) -> Vec<String> {
    [("M", LONG), ("%", LONG), ("\u{e9}", LONG / 4), ("\u{20ac}", LONG / 4)]
        .into_iter()
        .map(|(text, length)| text.repeat(length / text.len()))
        .flat_map(|long| [format!("{service}{long}"), format!("{service}x{long}")])
        .collect()
}

async fn refused(client: &Client, (authority, path): &Name, code: i32) -> Outcome {
    let outcome = soon("a refusal", client.unary(authority, path, b"x")).await.expect("an open connection");
    assert_small(&outcome, code);
    outcome
}

#[track_caller]
fn assert_small(outcome: &Outcome, code: i32) {
    assert_eq!((outcome.grpc_status, outcome.clean_end), (Some(code), true), "{outcome:?}");
    assert!(outcome.message.len() <= MESSAGE_MAX, "{} bytes: {}", outcome.message.len(), outcome.message);
    // As RFC 9113, 6.5.2, counts it.
    let fields = outcome.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32);
    let list: usize = fields.sum();
    assert!(list <= HEADER_LIST_MAX, "a header list of {list} bytes");
}

/// Reads up to HEADERS.
async fn answered(wire: &mut TcpStream) {
    let mut header = [0; 9];
    while header[3] != kind::HEADERS {
        wire.read_exact(&mut header).await.expect("a frame");
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
        wire.read_exact(&mut vec![0; length]).await.expect("its payload");
    }
}

async fn echoed(call: &mut Call, round: usize) {
    call.send(b"neighbour").await.unwrap_or_else(|fault| panic!("round {round}: a neighbour: {fault}"));
    let echo = soon(format!("round {round}: a neighbour's echo"), call.recv()).await;
    assert_eq!(echo.as_deref(), Some(&b"neighbour"[..]), "round {round}: a neighbour");
}
