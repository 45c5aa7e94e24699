//! A peer that answers frame by frame, for what no HTTP/2 library would send: it reads just as much of what it
//! gets as it needs to know which streams there are.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bench::raw::{self, PREFACE, kind};
use bench::tls::{ServerTls, server_config};
use h2::Reason;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_rustls::TlsAcceptor;

use crate::pair::peer::{self, Peer};

const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;
/// SETTINGS_MAX_FRAME_SIZE, as it is unless somebody says more (RFC 9113, 6.5.2).
const FRAME_MAX: usize = 16_384;

/// Frames for the stream of this id.
pub(crate) type Frames = fn(u32) -> Vec<u8>;

/// What one request gets.
#[derive(Clone)]
pub(crate) enum Reply {
    /// A head, and then all DATA of the request as it comes.
    Echo,
    /// These frames.
    Frames(Frames),
    /// These frames, and a farewell right behind them.
    Last(Frames, Farewell),
}

/// What may follow an answer while the request is still open.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Farewell {
    /// RST_STREAM(NO_ERROR): the rest of the request is not wanted (RFC 9113, 8.1).
    Reset,
    /// The connection ends by FIN. What comes is still read: a socket that is closed would answer it by RST, which may
    /// overtake the answer.
    Fin,
    /// GOAWAY at the stream, and the connection ends by FIN.
    Goaway,
}

/// What requests get, and what there was.
#[derive(Clone, Default)]
pub(crate) struct Replies {
    next: Arc<Mutex<Option<Reply>>>,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
}

impl Replies {
    /// The next request gets `reply`; the others, before it and after it, an echo.
    pub(crate) fn next(&self, reply: Reply) {
        *self.next.lock().expect("nobody panics with it held") = Some(reply);
    }

    /// Connections and requests since the start.
    pub(crate) fn seen(&self) -> (usize, usize) {
        (self.connections.load(Ordering::Relaxed), self.requests.load(Ordering::Relaxed))
    }

    fn take(&self) -> Reply {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.next.lock().expect("nobody panics with it held").take().unwrap_or(Reply::Echo)
    }
}

/// Listens, speaks TLS if told so, and answers as `replies` say.
pub(crate) async fn app(tls: Option<&ServerTls>, replies: &Replies) -> Peer {
    let tls = tls.map(|tls| TlsAcceptor::from(server_config(tls).expect("a leaf and its key")));
    let replies = replies.clone();
    peer::raw(move |tcp| {
        let (tls, replies) = (tls.clone(), replies.clone());
        async move {
            replies.connections.fetch_add(1, Ordering::Relaxed);
            // An error is the end of a connection.
            let _ = match tls {
                None => converse(tcp, &replies).await,
                Some(tls) => match tls.accept(tcp).await {
                    Ok(stream) => converse(stream, &replies).await,
                    Err(error) => Err(error),
                },
            };
        }
    })
    .await
}

async fn converse<T: AsyncRead + AsyncWrite + Unpin>(mut io: T, replies: &Replies) -> std::io::Result<()> {
    io.read_exact(&mut [0; PREFACE.len()]).await?;
    io.write_all(&raw::settings()).await?;
    io.flush().await?;
    let mut echoed = HashSet::new();
    loop {
        let mut header = [0; 9];
        io.read_exact(&mut header).await?;
        let [_, high, mid, of, flags, a, b, c, d] = header;
        let length = u32::from_be_bytes([0, header[0], high, mid]) as usize;
        let stream = u32::from_be_bytes([a, b, c, d]);
        let mut payload = vec![0; length];
        io.read_exact(&mut payload).await?;
        match of {
            kind::SETTINGS if flags & ACK == 0 => {
                io.write_all(&raw::frame(kind::SETTINGS, ACK, 0, &[])).await?;
            }
            kind::PING if flags & ACK == 0 => {
                io.write_all(&raw::frame(kind::PING, ACK, 0, &payload)).await?;
            }
            kind::HEADERS | CONTINUATION if flags & END_HEADERS != 0 => match replies.take() {
                Reply::Echo => {
                    echoed.insert(stream);
                    io.write_all(&headers(stream, OK, false)).await?;
                }
                Reply::Frames(frames) => io.write_all(&frames(stream)).await?,
                Reply::Last(frames, farewell) => {
                    let mut frames = frames(stream);
                    match farewell {
                        Farewell::Reset => frames.extend(raw::frame(kind::RST_STREAM, 0, stream, &[0; 4])),
                        Farewell::Goaway => frames.extend(raw::goaway(stream, Reason::NO_ERROR)),
                        Farewell::Fin => {}
                    }
                    io.write_all(&frames).await?;
                    if farewell != Farewell::Reset {
                        io.shutdown().await?;
                    }
                }
            },
            kind::DATA if echoed.contains(&stream) => {
                io.write_all(&raw::frame(kind::DATA, 0, stream, &payload)).await?;
                if flags & END_STREAM != 0 {
                    io.write_all(&headers(stream, &[("grpc-status", "0")], true)).await?;
                }
            }
            _ => {}
        }
        io.flush().await?;
    }
}

/// The head of a gRPC response.
pub(crate) const OK: &[(&str, &str)] = &[(":status", "200"), ("content-type", "application/grpc")];

/// A header list as it stands here, END_STREAM with it if `end`.
pub(crate) fn headers(stream: u32, fields: &[(&str, &str)], end: bool) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        // A literal that no table keeps (RFC 7541, 6.2.2).
        block.push(0);
        text(&mut block, name);
        text(&mut block, value);
    }
    let mut pieces = block.chunks(FRAME_MAX).peekable();
    let (mut of, mut flags, mut frames) = (kind::HEADERS, if end { END_STREAM } else { 0 }, Vec::new());
    while let Some(piece) = pieces.next() {
        if pieces.peek().is_none() {
            flags |= END_HEADERS;
        }
        frames.extend_from_slice(&raw::frame(of, flags, stream, piece));
        (of, flags) = (CONTINUATION, 0);
    }
    frames
}

/// DATA, END_STREAM with it if `end`.
pub(crate) fn data(stream: u32, bytes: &[u8], end: bool) -> Vec<u8> {
    raw::frame(kind::DATA, if end { END_STREAM } else { 0 }, stream, bytes).to_vec()
}

/// A string without Huffman coding (RFC 7541, 5.1 and 5.2).
fn text(block: &mut Vec<u8>, text: &str) {
    let mut rest = text.len();
    if rest < 127 {
        block.push(rest as u8);
    } else {
        block.push(127);
        rest -= 127;
        while rest >= 128 {
            block.push((rest % 128) as u8 | 128);
            rest /= 128;
        }
        block.push(rest as u8);
    }
    block.extend_from_slice(text.as_bytes());
}
