//! A client that writes its bytes by hand.

use std::net::SocketAddr;

use bench::raw::{self, PREFACE, kind};
use bench::wait::soon;
use bytes::Bytes;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Of HEADERS.
const END_HEADERS: u8 = 4;
/// Of SETTINGS and PING.
const ACK: u8 = 1;
/// SETTINGS_INITIAL_WINDOW_SIZE.
const INITIAL_WINDOW: u16 = 4;
const WINDOW_MAX: u32 = 0x7fff_ffff;
/// What a connection's window is before any WINDOW_UPDATE.
const WINDOW_FIRST: u32 = 65_535;
/// Of a socket whose owner stops reading: small, so that it is full soon.
const RECEIVE_BUFFER: usize = 16 << 10;

/// A frame that came.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) payload: Vec<u8>,
}

/// A connection.
pub(crate) struct Wire {
    pub(crate) tcp: TcpStream,
}

impl Wire {
    pub(crate) async fn connect(addr: SocketAddr) -> Self {
        let tcp = TcpStream::connect(addr).await.expect("a connection");
        tcp.set_nodelay(true).expect("an open socket");
        Self { tcp }
    }

    /// One whose kernel takes little when nobody reads.
    pub(crate) async fn narrow(addr: SocketAddr) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.set_recv_buffer_size(RECEIVE_BUFFER).expect("a size");
        socket.connect(&addr.into()).expect("a connection");
        socket.set_nonblocking(true).expect("a socket");
        Self { tcp: TcpStream::from_std(socket.into()).expect("a runtime") }
    }

    /// Writes what the peer takes; it may have closed by then.
    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        let _ = self.tcp.write_all(bytes).await;
    }

    /// Preface and SETTINGS, with windows that never end.
    pub(crate) async fn greet(&mut self) {
        let mut settings = INITIAL_WINDOW.to_be_bytes().to_vec();
        settings.extend_from_slice(&WINDOW_MAX.to_be_bytes());
        let mut bytes = PREFACE.to_vec();
        bytes.extend_from_slice(&raw::frame(kind::SETTINGS, 0, 0, &settings));
        let more = WINDOW_MAX - WINDOW_FIRST;
        bytes.extend_from_slice(&raw::frame(kind::WINDOW_UPDATE, 0, 0, &more.to_be_bytes()));
        self.write(&bytes).await;
    }

    /// HEADERS of a gRPC call.
    pub(crate) async fn call(&mut self, stream: u32, authority: &str, path: &str, more: &[(&str, &str)]) {
        self.write(&head(stream, authority, path, more)).await;
    }

    /// Reads until the peer closes, by FIN or RST; the bytes.
    pub(crate) async fn rest(&mut self, what: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        let _ = soon(what, self.tcp.read_to_end(&mut bytes)).await;
        bytes
    }

    /// Takes the peer's SETTINGS: only then may its windows be used.
    pub(crate) async fn settle(&mut self) {
        self.until(kind::SETTINGS, 0).await;
        self.write(&raw::frame(kind::SETTINGS, ACK, 0, &[])).await;
    }

    /// Reads until a PING has been answered: by then all that was written before it has been read.
    pub(crate) async fn until_pong(&mut self) {
        self.write(&raw::frame(kind::PING, 0, 0, &[1; 8])).await;
        self.until(kind::PING, ACK).await;
    }

    /// Reads up to a frame of this kind and these flags.
    async fn until(&mut self, of: u8, flags: u8) {
        loop {
            let mut header = [0; 9];
            soon("a frame", self.tcp.read_exact(&mut header)).await.expect("a frame");
            assert_ne!(header[3], kind::RST_STREAM, "no stream of this test is to be reset");
            let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
            soon("a frame", self.tcp.read_exact(&mut vec![0; length])).await.expect("its payload");
            if (header[3], header[4]) == (of, flags) {
                return;
            }
        }
    }

    /// Reads until the peer closes; the frames.
    pub(crate) async fn frames(&mut self, what: &str) -> Vec<Frame> {
        let bytes = self.rest(what).await;
        let (mut rest, mut frames) = (&bytes[..], Vec::new());
        while let Some((header, tail)) = rest.split_at_checked(9) {
            let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
            let Some((payload, tail)) = tail.split_at_checked(length) else { break };
            frames.push(Frame { kind: header[3], payload: payload.to_vec() });
            rest = tail;
        }
        frames
    }
}

/// HEADERS of a gRPC call that goes on.
pub(crate) fn head(stream: u32, authority: &str, path: &str, more: &[(&str, &str)]) -> Bytes {
    // `:method: POST` and `:scheme: http`, then literals with indexed and with new names (RFC 7541, 6.1,
    // 6.2.2 and appendix A).
    let mut block = vec![0x83, 0x86];
    indexed(&mut block, 4, path);
    indexed(&mut block, 1, authority);
    for (name, value) in [("content-type", "application/grpc"), ("te", "trailers")].iter().chain(more) {
        block.push(0);
        text(&mut block, name);
        text(&mut block, value);
    }
    raw::frame(kind::HEADERS, END_HEADERS, stream, &block)
}

fn indexed(block: &mut Vec<u8>, name: u8, value: &str) {
    block.push(name);
    text(block, value);
}

/// A string without Huffman coding (RFC 7541, 5.2).
fn text(block: &mut Vec<u8>, text: &str) {
    match u8::try_from(text.len()) {
        Ok(length @ 0..127) => block.push(length),
        _ => panic!("{text}: longer than these tests need"),
    }
    block.extend_from_slice(text.as_bytes());
}
