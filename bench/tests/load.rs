//! The promises of load, of the floors, and of the handle on a process.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bench::call::CallSpec;
use bench::client::Client;
use bench::forward;
use bench::load::{Load, Shape};
use bench::process::Sidecar;
use bench::record::CallEnd;
use bench::server::Server;
use bench::wait::until;
use h2::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::process::Command;

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn offered_is_completed_plus_failed_in_every_shape() {
    let server = Server::start(ANY).await.expect("a server");
    for shape in [Shape::Closed, Shape::PingPong, Shape::Open(5_000.0)] {
        let load = Load { shape, calls: 500, ..Load::closed(server.addr, 2, 5, LONG) };
        let report = load.run().await.expect("a run");
        assert_eq!((report.offered, report.completed, report.failed), (500, 500, 0), "{shape:?}: {report:?}");
    }
    server.script_always(Some("trailers-only:14"));
    let load = Load { calls: 50, ..Load::closed(server.addr, 1, 2, LONG) };
    let report = load.run().await.expect("a run");
    assert_eq!((report.offered, report.completed, report.failed), (50, 0, 50));
    assert!(report.first_failure.is_some());
}

#[tokio::test]
async fn an_open_loop_charges_a_stall_to_the_calls_that_waited() {
    let server = Server::start(ANY).await.expect("a server");
    let load = Load { shape: Shape::Open(1_000.0), calls: 100, ..Load::closed(server.addr, 1, 1, LONG) };
    let stall = async {
        until("the first calls", async || server.calls().len() >= 10).await;
        // The runtime has one thread: nothing is sent and nothing answered meanwhile.
        std::thread::sleep(Duration::from_millis(60));
    };
    let (report, ()) = tokio::join!(load.run(), stall);
    let report = report.expect("a run");
    assert_eq!(report.completed, 100);
    assert!(report.latency_us.p50 > 3_000.0, "most calls were due during the stall: {report:?}");
}

#[tokio::test]
async fn the_forwarders_carry_every_kind_and_a_cancel() {
    let server = Server::start(ANY).await.expect("a server");
    let listener = TcpListener::bind(ANY).await.expect("a listener");
    let entry = listener.local_addr().expect("an address");
    tokio::spawn(forward::h2(listener, server.addr));
    let client = Client::connect(entry, None).await.expect("a client");
    let big = vec![7; 3 << 20];
    let outcome = client.unary("echo", "/bench.Echo/Unary", &big).await.expect("a call");
    assert!(outcome.is_ok() && outcome.last.as_deref() == Some(&big[..]));
    let spec = CallSpec::new("echo", "/bench.Echo/Unary").header("x-script", "trailers-only:9");
    assert_eq!(client.unary_with(spec, b"x").await.expect("a call").grpc_status, Some(9));
    let spec = CallSpec::new("echo", "/bench.Echo/Bidi").header("x-script", "hang").header("x-nonce", "c");
    let mut call = client.call(spec).await.expect("a call");
    call.send(b"x").await.expect("sent");
    while server.calls_with_nonce("c").is_empty() {
        tokio::task::yield_now().await;
    }
    call.cancel();
    let cancelled = async {
        while server.calls_with_nonce("c")[0].end != CallEnd::ResetByPeer(Reason::CANCEL) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), cancelled).await.expect("the cancel never arrived");

    let listener = TcpListener::bind(ANY).await.expect("a listener");
    let entry = listener.local_addr().expect("an address");
    tokio::spawn(forward::tcp(listener, server.addr));
    let client = Client::connect(entry, None).await.expect("a client");
    assert!(client.unary("echo", "/bench.Echo/Unary", &big).await.expect("a call").is_ok());
}

#[tokio::test]
async fn a_process_that_fails_to_start_says_why() {
    let mut command = Command::new("sh");
    command.args(["-c", "echo the port is taken >&2; exit 3"]);
    let fault = Sidecar::spawn(command).await.err().expect("it cannot start").to_string();
    assert!(fault.contains("exit status: 3"), "{fault}");
    assert!(fault.contains("the port is taken"), "{fault}");
}

#[tokio::test]
async fn a_process_is_watched_from_its_line_of_addresses_to_its_end() {
    let listener = TcpListener::bind(ANY).await.expect("a listener");
    let probes = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        let body = "calls_total{code=\"OK\"} 3\n";
        // Not ready at first, as a sidecar that still reads its config.
        for status in std::iter::once("503 Not Yet").chain(std::iter::repeat("200 OK")) {
            let (mut tcp, _) = listener.accept().await.expect("a probe");
            let _ = tcp.read(&mut [0; 1_024]).await;
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            tcp.write_all(answer.as_bytes()).await.expect("answered");
        }
    });
    let line = format!(
        r#"{{"pid":'$$',"inbound":["127.0.0.1:1"],"outbound":null,"admin":"{probes}","probes":"{probes}","socket":null}}"#
    );
    let mut command = Command::new("sh");
    command.args(["-c", &format!("echo '{line}'; echo started >&2; exec sleep 600")]);
    let mut sidecar = Sidecar::spawn(command).await.expect("a process");
    assert_eq!(sidecar.inbound().port(), 1);
    assert_eq!(sidecar.metrics().await.expect("a scrape").value("calls_total", &[("code", "OK")]), 3.0);
    assert_eq!(sidecar.get("/config").await.expect("an answer").status, 200);
    assert!(sidecar.rss_bytes().expect("it runs") > 0);
    assert!(sidecar.cpu().expect("it runs") > Duration::ZERO);
    until("what it says on stderr", async || sidecar.stderr().contains("started")).await;
    sidecar.term();
    let status = tokio::time::timeout(Duration::from_secs(10), sidecar.wait()).await.expect("it ends");
    assert!(!status.expect("a status").success());
    assert!(sidecar.cpu().is_err(), "it is gone");
}
