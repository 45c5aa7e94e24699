//! Callers who take nothing: what of the end of a call reaches them, and when.

use std::time::{Duration, Instant};

use bench::call::{Call, CallSpec};
use bench::client::{Client, ClientOptions};
use bench::record::CallEnd;
use bench::tls::{TlsIdentity, client_config};
use bench::wait::{soon, until, within};
use h2::Reason;
use rustls_pki_types::ServerName;
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy, duplex, split};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;

use crate::kit::{ECHO, ENDED_WITHIN, PERMISSION_DENIED, Site, echoes, id, stream};

const SERVER_STREAM: &str = "/bench.Echo/ServerStream";
const OPEN: &str =
    "{authorization: [{allow: {from: ['*']}}, {audit: {headers: [{name: x-tenant, present: true}]}}]}";
const SHUT: &str =
    "{authorization: [{allow: {from: ['*']}}, {deny: {headers: [{name: x-tenant, exact: b}]}}]}";
const FORBIDDEN: (&str, &str) = ("x-tenant", "b");
const ALLOWED: (&str, &str) = ("x-tenant", "a");
const NONCE: (&str, &str) = ("x-nonce", "forbidden");

/// What HTTP/2 gives a connection before anybody says more, which is the least that `h2` lets one have.
const WINDOW: u32 = 65_535;
/// More than any of these tests lets through.
const WIDE: u32 = 64 << 20;
const MESSAGE: &str = "10000";
/// So many messages, with five bytes each before them, and half of one more fill [`WINDOW`].
const FIT: u64 = 6;
/// Of a socket whose owner stops reading: small, so that it is full soon.
const RECEIVE_BUFFER: usize = 16 << 10;
/// How long a failed call waits for its last bytes to leave, as docs/authorization.md says.
const FLUSH: Duration = Duration::from_secs(1);
/// What stands still this long has been stopped.
const STILL: Duration = Duration::from_millis(500);
const LOOK: Duration = Duration::from_millis(20);

/// A call by which the app sends far more than anybody takes.
async fn flood(client: &Client) -> Call {
    let mut spec = CallSpec::new(ECHO, SERVER_STREAM).header("x-count", "100000").header("x-size", MESSAGE);
    for (name, value) in [FORBIDDEN, NONCE] {
        spec = spec.header(name, value);
    }
    spec.hold_window = true;
    let mut call = client.call(spec).await.expect("a call");
    call.send(b"go").await.expect("an open stream");
    call
}

/// The app is told of the call's end at once, whatever its caller takes.
async fn app_is_told(site: &Site) {
    // An app that finds so while it sends is told no reason.
    let cut = |end| matches!(end, CallEnd::ResetByPeer(Reason::CANCEL) | CallEnd::ConnectionLost);
    let told = async || {
        let calls = site.app.calls_with_nonce(NONCE.1);
        calls.len() == 1 && calls.iter().all(|call| cut(call.end))
    };
    within(ENDED_WITHIN, "the app's call is cut", until("its end", told)).await;
    assert!(site.app.open_connections() >= 1, "it was not the connection that ended");
}

/// One call was forbidden: the metrics and the access log say so.
async fn is_told_once(site: &mut Site) {
    for (name, label) in [
        ("outrigger_calls_revoked_total", ("reason", "policy")),
        ("outrigger_failures_total", ("reason", "REVOKED")),
        ("grpc_server_handled_total", ("grpc_code", "PermissionDenied")),
    ] {
        until(format!("one of {name}"), async || site.metric(name, &[label]).await == 1.0).await;
    }
    loop {
        let line =
            soon("a line of the access log", site.sidecar.print()).await.expect("stdout").expect("a line");
        let line: Value = serde_json::from_str(&line).expect("JSON");
        if line["reason"] == "REVOKED" {
            assert_eq!(line["grpc_status"], "PERMISSION_DENIED", "{line}");
            assert!(line["peer"] == id("orders") && line["method"] == SERVER_STREAM[1..], "{line}");
            break;
        }
    }
}

#[tokio::test]
async fn a_caller_whose_windows_stay_shut_is_told_by_trailers_that_need_none() {
    for (whose, stream_window, connection_window) in
        [("the stream's", WINDOW, WIDE), ("the connection's", WIDE, WINDOW)]
    {
        let mut site = Site::start(OPEN).await;
        let tls = Some(TlsIdentity::mutual(&site.ca.leaf(&id("orders")), site.ca.bundle_pem()));
        let options = ClientOptions { tls, stream_window, connection_window };
        let client = Client::connect_with(site.sidecar.inbound(), options).await.expect("a connection");
        let mut neighbour = stream(&client, &[ALLOWED]).await;
        let mut call = flood(&client).await;
        for _ in 0..FIT {
            assert!(soon(whose, call.recv()).await.is_some());
        }

        site.change(SHUT).await;
        let end = async { while call.recv().await.is_some() {} };
        within(ENDED_WITHIN, format!("{whose} window is shut: the end"), end).await;
        if stream_window == WINDOW {
            // While all that came is still held.
            soon(whose, echoes(&mut neighbour)).await;
        }
        // With both, what it holds of the connection's window goes.
        let (sender, receiver) = call.split();
        drop(sender);
        let outcome = receiver.finish().await;
        assert_eq!(outcome.grpc_status, PERMISSION_DENIED, "{whose}: {outcome:?}");
        assert!(outcome.clean_end && outcome.message.contains("any more"), "{whose}: {outcome:?}");
        assert!(outcome.cut_in_message && outcome.messages == FIT, "{whose} window was open: {outcome:?}");
        app_is_told(&site).await;
        is_told_once(&mut site).await;
        assert_eq!(site.metric("outrigger_flush_resets_total", &[]).await, 0.0, "{whose}");

        soon(whose, echoes(&mut neighbour)).await;
        neighbour.half_close();
        assert!(soon(whose, neighbour.finish()).await.is_ok(), "{whose}");
    }
}

#[tokio::test]
async fn a_caller_that_does_not_read_its_socket_is_reset_when_the_trailers_have_had_their_time() {
    let mut site = Site::start(OPEN).await;
    let (client, reading) = paused(&site).await;
    let mut neighbour = stream(&client, &[ALLOWED]).await;
    reading.send_replace(false);
    let call = flood(&client).await;
    standstill(&site).await;

    site.change(SHUT).await;
    let changed = Instant::now();
    app_is_told(&site).await;
    // It waits behind what nobody reads, and is on its way all the same.
    neighbour.send(b"ping").await.expect("an open stream");
    let resets = async || site.metric("outrigger_flush_resets_total", &[]).await == 1.0;
    within(ENDED_WITHIN + FLUSH, "the reset", until("a reset", resets)).await;
    println!("reset after {:?}", changed.elapsed());
    is_told_once(&mut site).await;

    reading.send_replace(true);
    let (sender, receiver) = call.split();
    let outcome = soon("what is left", receiver.finish()).await;
    assert_eq!((outcome.reset, outcome.clean_end), (Some(Reason::CANCEL), false), "{outcome:?}");
    drop(sender);
    assert_eq!(soon("its echo", neighbour.recv()).await.as_deref(), Some(&b"ping"[..]));
    neighbour.half_close();
    assert!(soon("the neighbour's end", neighbour.finish()).await.is_ok());
}

/// A caller with windows that never end, who reads its socket for as long as the switch says so.
async fn paused(site: &Site) -> (Client, watch::Sender<bool>) {
    let identity = TlsIdentity::mutual(&site.ca.leaf(&id("orders")), site.ca.bundle_pem());
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(RECEIVE_BUFFER).expect("a size");
    socket.connect(&site.sidecar.inbound().into()).expect("a connection");
    socket.set_nonblocking(true).expect("a socket");
    let tcp = TcpStream::from_std(socket.into()).expect("a runtime");
    let name = ServerName::IpAddress(site.sidecar.inbound().ip().into());
    let connector = TlsConnector::from(client_config(&identity).expect("TLS"));
    let (mut from, mut to) = split(connector.connect(name, tcp).await.expect("a handshake"));

    let (near, far) = duplex(RECEIVE_BUFFER);
    let (mut sent, mut read) = split(far);
    let (switch, mut reading) = watch::channel(true);
    tokio::spawn(async move { copy(&mut sent, &mut to).await });
    tokio::spawn(async move {
        let mut bytes = vec![0; RECEIVE_BUFFER];
        while reading.wait_for(|reading| *reading).await.is_ok() {
            match from.read(&mut bytes).await {
                Ok(0) | Err(_) => break,
                Ok(count) => read.write_all(&bytes[..count]).await.expect("a client"),
            }
        }
    });
    let options = ClientOptions { tls: Some(identity), stream_window: WIDE, connection_window: WIDE };
    (Client::over(near, &options).await.expect("a preface"), switch)
}

/// Waits until no message of the flood moves any more.
async fn standstill(site: &Site) {
    let method = [("grpc_method", "ServerStream")];
    let (mut before, mut since) = (0.0, Instant::now());
    let still = async || {
        let now = site.metric("grpc_server_msg_sent_total", &method).await;
        if now != before {
            (before, since) = (now, Instant::now());
        }
        tokio::time::sleep(LOOK).await;
        before > 0.0 && since.elapsed() > STILL
    };
    until("a full socket", still).await;
}
