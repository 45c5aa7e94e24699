//! HTTP/2 frame by frame, for what a library would answer by itself (RFC 9113, 4.1).

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::lone::PATIENCE;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;

pub(crate) const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// A connection on which the test writes and reads each frame.
pub(crate) struct Wire(TcpStream);

impl Wire {
    pub(crate) async fn connect(at: SocketAddr) -> Self {
        Self(TcpStream::connect(at).await.expect("a connection"))
    }

    /// The client's preface, with empty SETTINGS.
    pub(crate) async fn preface(&mut self) {
        self.0.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("an open socket");
        self.send(SETTINGS, 0, 0, &[]).await;
    }

    pub(crate) async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.0.write_all(&frame).await.expect("an open socket");
    }

    /// The head of a gRPC call.
    pub(crate) async fn begin_call(&mut self, stream: u32, service: &str, method: &str) {
        let fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", method),
            (":authority", service),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ];
        let mut block = Vec::new();
        for (name, value) in fields {
            // Literal without indexing, new name, no Huffman (RFC 7541, 6.2.2); all are shorter than 127.
            block.push(0);
            for text in [name, value] {
                block.push(text.len() as u8);
                block.extend(text.as_bytes());
            }
        }
        self.send(HEADERS, END_HEADERS, stream, &block).await;
    }

    /// One message of a call, which is also its last.
    pub(crate) async fn end_call(&mut self, stream: u32, message: &[u8]) {
        let mut payload = vec![0];
        payload.extend((message.len() as u32).to_be_bytes());
        payload.extend(message);
        self.send(DATA, END_STREAM, stream, &payload).await;
    }

    /// The next frame of one of these kinds; others are passed over, SETTINGS acknowledged.
    pub(crate) async fn next(&mut self, kinds: &[u8]) -> Frame {
        loop {
            let frame = timeout(PATIENCE, self.read()).await;
            let frame = frame.unwrap_or_else(|_| panic!("no frame of the kinds {kinds:?} in time"));
            let frame = frame.unwrap_or_else(|| panic!("closed before a frame of the kinds {kinds:?}"));
            if frame.kind == SETTINGS && frame.flags & ACK == 0 {
                self.send(SETTINGS, ACK, 0, &[]).await;
            }
            if kinds.contains(&frame.kind) {
                return frame;
            }
        }
    }

    /// Waits for the end of a call's response; no other stream may be answered meanwhile.
    pub(crate) async fn response_ends(&mut self, stream: u32) {
        loop {
            let frame = self.next(&[HEADERS]).await;
            assert_eq!(frame.stream, stream);
            if frame.flags & END_STREAM != 0 {
                return;
            }
        }
    }

    /// Waits until the peer has closed, reading whatever comes before.
    pub(crate) async fn closes(&mut self) {
        let closing = async { while self.read().await.is_some() {} };
        timeout(PATIENCE, closing).await.expect("the peer closes in time");
    }

    /// `None` at the end of the connection.
    async fn read(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await.ok()?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.0.read_exact(&mut payload).await.ok()?;
        Some(Frame { kind, flags, stream: u32::from_be_bytes(stream) & 0x7fff_ffff, payload })
    }
}

impl Frame {
    /// The last stream of a GOAWAY (RFC 9113, 6.8), which must be without an error.
    pub(crate) fn last_stream(&self) -> u32 {
        assert_eq!(self.kind, GOAWAY);
        assert_eq!(self.payload[4..8], [0; 4], "NO_ERROR");
        let [a, b, c, d] = self.payload[..4] else { unreachable!("four bytes") };
        u32::from_be_bytes([a, b, c, d])
    }
}
