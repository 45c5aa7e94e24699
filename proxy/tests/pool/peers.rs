//! Peers that a library would not be: one that is read frame by frame, and endpoints that never answer.

use std::net::{SocketAddr, TcpStream as StdTcpStream};
use std::time::Duration;

use bench::raw::PREFACE;
use bench::wait::soon;
use socket2::{Domain, Socket, Type};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::kit::ANY;

/// Reads what a client sends first.
pub(crate) async fn client_preface(tcp: &mut TcpStream) {
    let mut preface = vec![0; PREFACE.len()];
    soon("the preface", tcp.read_exact(&mut preface)).await.expect("the preface");
    assert_eq!(preface, PREFACE);
}

/// A connection whose frames are read one by one.
pub(crate) struct Frames {
    pub(crate) tcp: TcpStream,
    /// What has been read and is not a whole frame yet; kept, so that a wait may be broken off.
    bytes: Vec<u8>,
}

/// The head of a frame.
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) stream: u32,
}

impl Frames {
    pub(crate) fn new(tcp: TcpStream) -> Self {
        Self { tcp, bytes: Vec::new() }
    }

    /// The next frame of one of these kinds; others are passed over. Waits for ever if none comes.
    pub(crate) async fn next(&mut self, kinds: &[u8]) -> Frame {
        loop {
            while let Some(frame) = self.whole() {
                if kinds.contains(&frame.kind) {
                    return frame;
                }
            }
            let count = self.tcp.read_buf(&mut self.bytes).await.expect("an open socket");
            assert!(count > 0, "closed before a frame of the kinds {kinds:?}");
        }
    }

    fn whole(&mut self) -> Option<Frame> {
        let [a, b, c, kind, _flags, stream @ ..] = *self.bytes.first_chunk::<9>()?;
        let length = 9 + u32::from_be_bytes([0, a, b, c]) as usize;
        if self.bytes.len() < length {
            return None;
        }
        self.bytes.drain(..length);
        Some(Frame { kind, stream: u32::from_be_bytes(stream) & 0x7fff_ffff })
    }
}

/// An endpoint that takes no call, in one of three ways.
pub(crate) struct Dead {
    pub(crate) what: &'static str,
    pub(crate) addr: SocketAddr,
    _listener: Option<Socket>,
    _fillers: Vec<StdTcpStream>,
}

impl Dead {
    /// One of each kind.
    pub(crate) fn all() -> [Self; 3] {
        [Self::refuses(), Self::silent(), Self::deaf()]
    }

    /// Its port refuses: bound, and nobody listens.
    fn refuses() -> Self {
        let socket = bound();
        Self { what: "refuses", addr: address(&socket), _listener: Some(socket), _fillers: Vec::new() }
    }

    /// The kernel accepts, and the process never says a word.
    pub(crate) fn silent() -> Self {
        let socket = bound();
        socket.listen(1_024).expect("a listener");
        Self { what: "is silent", addr: address(&socket), _listener: Some(socket), _fillers: Vec::new() }
    }

    /// Not even SYN is answered: the queue of connections to accept is full.
    fn deaf() -> Self {
        let socket = bound();
        socket.listen(0).expect("a listener");
        let addr = address(&socket);
        let mut fillers = Vec::new();
        while let Ok(filler) = StdTcpStream::connect_timeout(&addr, Duration::from_millis(200)) {
            fillers.push(filler);
            assert!(fillers.len() < 10, "the queue has no end");
        }
        Self { what: "is deaf", addr, _listener: Some(socket), _fillers: fillers }
    }
}

fn bound() -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&ANY.into()).expect("a port");
    socket
}

fn address(socket: &Socket) -> SocketAddr {
    socket.local_addr().expect("an address").as_socket().expect("an address of the internet")
}
