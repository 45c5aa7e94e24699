//! The promises of the test kit: what the proxy's tests rely on when they read an outcome or a record.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use bench::call::CallSpec;
use bench::certs::{Ca, LeafSpec};
use bench::client::{Client, ClientOptions};
use bench::outcome::Outcome;
use bench::record::CallEnd;
use bench::server::{Server, ServerOptions};
use bench::tls::{ServerTls, TlsIdentity};
use h2::Reason;

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);
const UNARY: &str = "/bench.Echo/Unary";
const BIDI: &str = "/bench.Echo/Bidi";
const ORDERS: &str = "spiffe://cluster.local/ns/shop/sa/orders";

async fn pair() -> (Server, Client) {
    let server = Server::start(ANY).await.expect("a server");
    let client = Client::connect(server.addr, None).await.expect("a client");
    (server, client)
}

async fn scripted(script: &str) -> (Server, Outcome) {
    let (server, client) = pair().await;
    let spec = CallSpec::new("echo", UNARY).header("x-script", script).header("x-nonce", "n");
    let outcome = client.unary_with(spec, b"hello").await.expect("a call");
    (server, outcome)
}

#[tokio::test]
async fn all_four_kinds_come_back() {
    let (server, client) = pair().await;
    let outcome = client.unary("echo", UNARY, b"hello").await.expect("a call");
    assert!(outcome.is_ok(), "{outcome:?}");
    assert_eq!(outcome.last.as_deref(), Some(&b"hello"[..]));

    let mut bidi = client.call(CallSpec::new("echo", BIDI)).await.expect("a call");
    for turn in 0..100_u8 {
        bidi.send(&[turn]).await.expect("sent");
        assert_eq!(bidi.recv().await.as_deref(), Some(&[turn][..]));
    }
    assert!(bidi.finish().await.is_ok());

    let spec =
        CallSpec::new("echo", "/bench.Echo/ServerStream").header("x-count", "7").header("x-size", "70000");
    let outcome = client.unary_with(spec, b"").await.expect("a call");
    assert_eq!((outcome.is_ok(), outcome.messages, outcome.bytes), (true, 7, 490_000));

    let mut swallow = client.call(CallSpec::new("echo", "/bench.Echo/ClientStream")).await.expect("a call");
    for _ in 0..3 {
        swallow.send(&[0; 1_000]).await.expect("sent");
    }
    assert_eq!(swallow.finish().await.last.as_deref(), Some(&b"3 3000"[..]));
    assert!(server.calls().iter().all(|call| call.end == CallEnd::Clean), "{:?}", server.calls());
}

#[tokio::test]
async fn an_unknown_method_is_unimplemented() {
    let (_server, client) = pair().await;
    assert_eq!(client.unary("echo", "/bench.Echo/Nope", b"").await.expect("a call").grpc_status, Some(12));
}

#[tokio::test]
async fn a_status_comes_in_the_place_the_script_names() {
    let (_server, outcome) = scripted("trailers-only:14").await;
    assert_eq!((outcome.grpc_status, outcome.trailers, outcome.messages), (Some(14), None, 0));
    let (_server, outcome) = scripted("status:7").await;
    assert_eq!((outcome.grpc_status, outcome.trailers.is_some(), outcome.messages), (Some(7), true, 1));
    let (_server, outcome) = scripted("status-no-message:14").await;
    assert_eq!((outcome.grpc_status, outcome.trailers.is_some(), outcome.messages), (Some(14), true, 0));
}

#[tokio::test]
async fn a_reset_comes_before_headers_or_after_n_messages() {
    let (server, outcome) = scripted("reset:INTERNAL_ERROR").await;
    assert_eq!((outcome.http_status, outcome.reset), (None, Some(Reason::INTERNAL_ERROR)));
    assert_eq!(server.calls_with_nonce("n")[0].end, CallEnd::Scripted);
    let (_server, outcome) = scripted("refused").await;
    assert_eq!((outcome.http_status, outcome.reset), (None, Some(Reason::REFUSED_STREAM)));

    let (_server, client) = pair().await;
    for after in 0..20 {
        let script = format!("reset-after:{after}:CANCEL");
        let spec = CallSpec::new("echo", "/bench.Echo/ServerStream")
            .header("x-count", "50")
            .header("x-size", "30000");
        let outcome = client.unary_with(spec.header("x-script", &script), b"").await.expect("a call");
        assert_eq!(
            (outcome.messages, outcome.reset, outcome.http_status),
            (after, Some(Reason::CANCEL), Some(200))
        );
        assert!(!outcome.clean_end);
    }
}

#[tokio::test]
async fn a_goaway_below_spares_the_earlier_call() {
    let (_server, client) = pair().await;
    let mut earlier = client.call(CallSpec::new("echo", BIDI)).await.expect("a call");
    earlier.send(b"one").await.expect("sent");
    assert!(earlier.recv().await.is_some());
    let spec = CallSpec::new("echo", UNARY).header("x-script", "goaway-below");
    let outcome = client.unary_with(spec, b"x").await.expect("a call");
    assert_eq!((outcome.http_status, outcome.clean_end), (None, false), "{outcome:?}");
    assert!(outcome.goaway, "{outcome:?}");
    earlier.send(b"two").await.expect("sent");
    assert!(earlier.finish().await.is_ok());
    client.ended().await;
}

#[tokio::test]
async fn a_disconnect_is_a_tcp_reset_after_the_promised_messages() {
    let (_server, outcome) = scripted("disconnect").await;
    assert!(!outcome.clean_end && outcome.reset.is_none() && outcome.http_status.is_none(), "{outcome:?}");
    for after in [0, 1, 5] {
        let (_server, client) = pair().await;
        let script = format!("disconnect-after:{after}");
        let spec =
            CallSpec::new("echo", "/bench.Echo/ServerStream").header("x-count", "9").header("x-size", "50");
        let outcome = client.unary_with(spec.header("x-script", &script), b"").await.expect("a call");
        assert_eq!((outcome.messages, outcome.clean_end, outcome.reset), (after, false, None), "{outcome:?}");
    }
}

#[tokio::test]
async fn a_delay_delays_and_a_hang_lasts_until_the_cancel() {
    let began = std::time::Instant::now();
    let (_server, outcome) = scripted("delay:50ms").await;
    assert!(outcome.is_ok() && began.elapsed() >= Duration::from_millis(50));

    let (server, client) = pair().await;
    let spec = CallSpec::new("echo", UNARY).header("x-script", "hang");
    let mut call = client.call(spec).await.expect("a call");
    call.send(b"x").await.expect("sent");
    until(|| server.calls().first().is_some_and(|call| call.messages == 1)).await;
    call.cancel();
    until(|| server.calls()[0].end == CallEnd::ResetByPeer(Reason::CANCEL)).await;
}

#[tokio::test]
async fn scripts_set_on_the_server_apply_in_order() {
    let (server, client) = pair().await;
    server.script_always(Some("trailers-only:8"));
    server.script_next("refused");
    server.script_next("status:0");
    let mut seen = Vec::new();
    for _ in 0..3 {
        let outcome = client.unary("echo", UNARY, b"x").await.expect("a call");
        seen.push((outcome.reset, outcome.grpc_status));
    }
    assert_eq!(seen, [(Some(Reason::REFUSED_STREAM), None), (None, Some(0)), (None, Some(8))]);
}

#[tokio::test]
async fn a_stop_lets_calls_end_and_a_restart_keeps_the_port() {
    let (mut server, client) = pair().await;
    let mut call = client.call(CallSpec::new("echo", BIDI)).await.expect("a call");
    call.send(b"x").await.expect("sent");
    assert!(call.recv().await.is_some());
    let addr = server.addr;
    let (outcome, ()) = tokio::join!(call.finish(), server.stop());
    assert!(outcome.is_ok(), "{outcome:?}");
    assert!(Client::connect(addr, None).await.is_err());
    server.restart().await.expect("the same port");
    assert_eq!(server.addr, addr);
    let client = Client::connect(addr, None).await.expect("a client");
    assert!(client.unary("echo", UNARY, b"x").await.expect("a call").is_ok());
    assert_eq!((server.calls().len(), server.accepted()), (2, 2));
}

#[tokio::test]
async fn a_kill_never_ends_a_stream_cleanly() {
    let (mut server, client) = pair().await;
    let mut call = client.call(CallSpec::new("echo", BIDI)).await.expect("a call");
    call.send(b"x").await.expect("sent");
    assert!(call.recv().await.is_some());
    server.kill().await;
    let outcome = call.finish().await;
    assert!(!outcome.clean_end && outcome.grpc_status.is_none(), "{outcome:?}");
    assert_eq!(server.calls()[0].end, CallEnd::ConnectionLost);
    assert_eq!(server.open_connections(), 0);
}

#[tokio::test]
async fn a_reader_that_holds_the_window_stops_the_sender() {
    let server = Server::start(ANY).await.expect("a server");
    let options = ClientOptions { stream_window: 65_535, ..ClientOptions::default() };
    let client = Client::connect_with(server.addr, options).await.expect("a client");
    let spec = CallSpec { hold_window: true, ..CallSpec::new("echo", "/bench.Echo/ServerStream") };
    let spec = spec.header("x-count", "1000").header("x-size", "995");
    let mut call = client.call(spec).await.expect("a call");
    call.sender.send_ending(b"").await.expect("sent");
    for _ in 0..65 {
        assert!(call.recv().await.is_some());
    }
    let more = tokio::time::timeout(Duration::from_millis(50), call.recv()).await;
    assert!(more.is_err(), "the window was spent, yet more came");
    call.receiver.release();
    let outcome = call.finish().await;
    assert_eq!((outcome.is_ok(), outcome.messages), (true, 1_000));
}

#[tokio::test]
async fn a_cap_on_streams_makes_a_call_wait() {
    let options = ServerOptions { max_concurrent_streams: 1, ..ServerOptions::default() };
    let server = Server::start_with(ANY, options).await.expect("a server");
    let client = Client::connect(server.addr, None).await.expect("a client");
    let mut first = client.call(CallSpec::new("echo", BIDI)).await.expect("a call");
    first.send(b"x").await.expect("sent");
    assert!(first.recv().await.is_some());
    let mut second = std::pin::pin!(client.unary("echo", UNARY, b"y"));
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut second).await.is_err());
    assert!(first.finish().await.is_ok());
    assert!(second.await.expect("a call").is_ok());
}

#[tokio::test]
async fn mutual_tls_takes_the_right_authority_and_no_other() {
    let (ours, foreign) = (Ca::new("cluster.local"), Ca::new("cluster.local"));
    let tls = ServerTls { leaf: ours.leaf(ORDERS), client_trust: Some(ours.bundle_pem().to_owned()) };
    let options = ServerOptions { tls: Some(tls), ..ServerOptions::default() };
    let server = Server::start_with(ANY, options).await.expect("a server");
    let call = async |identity: TlsIdentity| -> io::Result<bool> {
        let client = Client::connect(server.addr, Some(identity)).await?;
        let outcome = client.unary("echo", UNARY, b"x").await.map_err(io::Error::other)?;
        if outcome.is_ok() { Ok(true) } else { Err(io::Error::other(format!("{outcome:?}"))) }
    };
    let bundle = ours.bundle_pem();
    let good = ours.leaf(ORDERS);
    assert!(call(TlsIdentity::mutual(&good, bundle)).await.expect("a call"));
    assert!(call(TlsIdentity::mutual(&good, foreign.bundle_pem())).await.is_err(), "the client must refuse");
    assert!(
        call(TlsIdentity::mutual(&foreign.leaf(ORDERS), bundle)).await.is_err(),
        "the server must refuse"
    );
    assert!(call(TlsIdentity::anonymous()).await.is_err(), "the server wants a certificate");
    let past = SystemTime::now() - Duration::from_secs(600);
    let expired =
        ours.leaf_with(&LeafSpec { uris: vec![ORDERS.to_owned()], not_after: past, ..LeafSpec::default() });
    assert!(call(TlsIdentity::mutual(&expired, bundle)).await.is_err(), "expired");
    let server_only = ours.leaf_with(&LeafSpec { client_auth: false, ..LeafSpec::default() });
    assert!(call(TlsIdentity::mutual(&server_only, bundle)).await.is_err(), "not for clients");
}

async fn until(done: impl Fn() -> bool) {
    let waiting = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("it never came to pass");
}
