//! What these tests share: apps and clients that speak bytes, and sidecars with ways in of the test's own.

use std::net::SocketAddr;
use std::time::Duration;

use bench::process::Sidecar;
use bench::wait::{soon, until};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::pair::peer::{self, Peer};
use crate::pair::{COMMON, ECHO_ID, Site, metric};

pub(crate) const FAILURES: &str = "outrigger_failures_total";
pub(crate) const HANDSHAKES: &str = "outrigger_handshake_failures_total";
pub(crate) const REFUSED: &str = "outrigger_refused_total";
pub(crate) const TUNNELS: &str = "outrigger_tunnels";
pub(crate) const TUNNELS_TOTAL: &str = "outrigger_tunnels_total";
pub(crate) const TUNNEL_BYTES: &str = "outrigger_tunnel_bytes_total";
pub(crate) const INBOUND: [(&str, &str); 1] = [("direction", "inbound")];
pub(crate) const OUTBOUND: [(&str, &str); 1] = [("direction", "outbound")];

/// Longest head of an answer of HTTP/1.1.
const HEAD_BYTES_MAX: usize = 4_096;

/// A sidecar of the service `echo` with these ways in, as lines of `sidecar.yaml`.
pub(crate) async fn sidecar(site: &Site, ways: &str, mesh: &str) -> Sidecar {
    let yaml = format!("service: echo\n{COMMON}{ways}\n");
    site.sidecar(&site.ca.leaf(ECHO_ID), &yaml, mesh).await
}

/// Waits until a metric has come to exactly what it must, and sees that it does not go past it.
pub(crate) async fn counts(sidecar: &Sidecar, name: &str, labels: &[(&str, &str)], exactly: u64) {
    let what = format!("{name} {labels:?} {exactly}");
    until(what, async || metric(sidecar, name, labels).await >= exactly).await;
    assert_eq!(metric(sidecar, name, labels).await, exactly, "{name} {labels:?}");
}

/// Waits until a gauge has come down to nothing.
pub(crate) async fn none_left(sidecar: &Sidecar, name: &str) {
    until(format!("no more {name}"), async || metric(sidecar, name, &[]).await == 0).await;
}

/// As many bytes as are asked for, without a pattern.
pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| random.u8(..)).take(length).collect()
}

/// An app that sends every byte back, and ends when its client has.
pub(crate) async fn byte_echo() -> Peer {
    peer::raw(echo_bytes).await
}

/// Sends every byte back.
pub(crate) async fn echo_bytes(tcp: TcpStream) {
    let (mut read, mut write) = tcp.into_split();
    let _ = tokio::io::copy(&mut read, &mut write).await;
    let _ = write.shutdown().await;
}

/// A connection whose writes leave at once.
pub(crate) async fn connect(addr: SocketAddr) -> TcpStream {
    let tcp = soon("a connection", TcpStream::connect(addr)).await.expect("a connection");
    tcp.set_nodelay(true).expect("an open socket");
    tcp
}

/// Reads until the peer ends, which it must do cleanly.
pub(crate) async fn rest(io: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut bytes = Vec::new();
    soon("the end", io.read_to_end(&mut bytes)).await.expect("a clean end");
    bytes
}

/// Reads until the peer ends, however it does: what came, and whether the end was clean.
pub(crate) async fn rest_and_end(io: &mut (impl AsyncRead + Unpin)) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    let end = soon("an end", io.read_to_end(&mut bytes)).await;
    (bytes, end.is_ok())
}

/// Sends `sent` and ends, reads all that comes back meanwhile: to the clean end of the peer.
pub(crate) async fn round_trip<T: AsyncRead + AsyncWrite + Unpin>(io: T, sent: &[u8]) -> Vec<u8> {
    let (mut read, mut write) = tokio::io::split(io);
    let send = async {
        write.write_all(sent).await.expect("sent");
        write.shutdown().await.expect("ended");
    };
    tokio::join!(send, rest(&mut read)).1
}

/// Whether bytes that are sent come back.
pub(crate) async fn echoes(io: &mut (impl AsyncRead + AsyncWrite + Unpin), bytes: &[u8]) -> bool {
    if io.write_all(bytes).await.is_err() || io.flush().await.is_err() {
        return false;
    }
    let mut back = vec![0; bytes.len()];
    soon("an echo, or an end", io.read_exact(&mut back)).await.is_ok() && back == bytes
}

/// The head of an answer of HTTP/1.1, and not a byte more: its status and the whole of it.
pub(crate) async fn answer_head(tcp: &mut TcpStream) -> (u16, String) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        assert!(head.len() < HEAD_BYTES_MAX, "{}", String::from_utf8_lossy(&head));
        let byte = soon("the head of an answer", tcp.read_u8()).await;
        head.push(byte.unwrap_or_else(|end| panic!("{end} after {}", String::from_utf8_lossy(&head))));
    }
    let head = String::from_utf8(head).expect("a head of HTTP/1.1");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("no status in {head}")), head)
}

/// What a client sends that wants a tunnel to `target`.
pub(crate) fn connect_head(target: &str) -> String {
    format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n")
}

/// A tunnel to `target`, asked for by CONNECT and granted.
pub(crate) async fn tunnel(outbound: SocketAddr, target: &str) -> TcpStream {
    let mut tcp = connect(outbound).await;
    tcp.write_all(connect_head(target).as_bytes()).await.expect("sent");
    let (status, head) = answer_head(&mut tcp).await;
    assert_eq!(status, 200, "{target}: {head}");
    tcp
}

/// A CONNECT to `target` that is turned away: the status, and the answer's text.
pub(crate) async fn turned_away(outbound: SocketAddr, target: &str) -> (u16, String) {
    asked(outbound, connect_head(target).as_bytes()).await
}

/// What is answered to a request that ends the connection: the status, and the answer's text.
pub(crate) async fn asked(outbound: SocketAddr, request: &[u8]) -> (u16, String) {
    let mut tcp = connect(outbound).await;
    tcp.write_all(request).await.expect("sent");
    let (status, _) = answer_head(&mut tcp).await;
    (status, String::from_utf8(rest(&mut tcp).await).expect("text"))
}

/// Ends a connection by RST.
pub(crate) fn reset(tcp: TcpStream) {
    SockRef::from(&tcp).set_linger(Some(Duration::ZERO)).expect("an open socket");
    drop(tcp);
}

const GREETING: &[u8] = b"220 hello\r\n";

/// An app that speaks first, and then sends every byte back.
pub(crate) async fn greeter() -> Peer {
    peer::raw(|mut tcp| async move {
        if tcp.write_all(GREETING).await.is_ok() {
            echo_bytes(tcp).await;
        }
    })
    .await
}

/// Hears the greeting before anything is said, and then is answered.
pub(crate) async fn greeted(mut io: impl AsyncRead + AsyncWrite + Unpin) {
    let mut greeting = vec![0; GREETING.len()];
    soon("a greeting", io.read_exact(&mut greeting)).await.expect("a greeting");
    assert_eq!(greeting, GREETING);
    assert_eq!(round_trip(io, b"QUIT\r\n").await, b"QUIT\r\n");
}
