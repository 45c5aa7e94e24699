//! Endpoints that meet what comes as the cell under test plans it, and note all that they saw.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bench::grpc::{self, Deframer};
use bench::raw;
use bytes::{Buf as _, Bytes};
use h2::server::{Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request, Response};
use socket2::{SockRef, Socket};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::pair::peer::{Peer, head, headers, raw as raw_peer};

/// What happens to a connection.
#[derive(Clone)]
pub(crate) enum Reception {
    /// Plain HTTP/2.
    Plain,
    /// HTTP/2 by TLS with this certificate.
    Tls(TlsAcceptor),
    /// RST at once.
    Reset,
    /// TLS if there is a certificate, then goodbye before the SETTINGS.
    Goodbye(Option<TlsAcceptor>),
}

/// What happens to a request once all its messages that were announced are here.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fate {
    /// A message and OK.
    Answer,
    Reset(Reason),
    /// GOAWAY below the call.
    GoawayBelow,
    /// GOAWAY at the call or above it, and the connection ends under the call.
    Goaway(u32, Reason),
    /// The connection ends by RST.
    Cut,
    /// The connection ends by FIN.
    Fin,
    /// UNAVAILABLE, trailers-only or else in trailers, with `outrigger-unprocessed` or without.
    Unavailable {
        trailers_only: bool,
        marked: bool,
    },
}

/// What the endpoints of one row have in common: what they are about to do, and what they saw.
#[derive(Default)]
pub(crate) struct Script {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// How many connections, over all endpoints, are received as by `strangers`.
    unreachable: usize,
    /// The fates of the next requests, over all endpoints; then the last one for ever.
    fates: VecDeque<Fate>,
    seen: Seen,
}

/// What the endpoints saw.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// The endpoints of the connections that could not come to be, in order.
    pub(crate) unreachable: Vec<usize>,
    /// The requests, in order.
    pub(crate) requests: Vec<SeenRequest>,
}

#[derive(Clone, Debug)]
pub(crate) struct SeenRequest {
    pub(crate) endpoint: usize,
    pub(crate) nonce: String,
    pub(crate) messages: Vec<Bytes>,
}

impl Script {
    /// Plans what comes next: so many connections that fail, and the fates of requests, the last for ever.
    pub(crate) fn plan(&self, unreachable: usize, fates: &[Fate]) {
        *self.lock() = State { unreachable, fates: fates.iter().copied().collect(), seen: Seen::default() };
    }

    /// What has been seen since the plan.
    pub(crate) fn seen(&self) -> Seen {
        std::mem::take(&mut self.lock().seen)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with it held")
    }

    fn is_unreachable(&self, endpoint: usize) -> bool {
        let mut state = self.lock();
        if state.unreachable == 0 {
            return false;
        }
        state.unreachable -= 1;
        state.seen.unreachable.push(endpoint);
        true
    }

    fn next_fate(&self) -> Fate {
        let fates = &mut self.lock().fates;
        if fates.len() > 1 { fates.pop_front() } else { fates.front().copied() }.expect("a plan")
    }
}

/// `count` endpoints of one row, which receive connections as `friends`, or `strangers` while the script
/// says so.
pub(crate) async fn row(
    count: usize,
    script: &Arc<Script>,
    friends: &Reception,
    strangers: &Reception,
) -> Vec<Peer> {
    let mut peers = Vec::new();
    for endpoint in 0..count {
        let (script, friends, strangers) = (script.clone(), friends.clone(), strangers.clone());
        let serve = move |tcp| {
            let reception = if script.is_unreachable(endpoint) { &strangers } else { &friends };
            receive(tcp, reception.clone(), script.clone(), endpoint)
        };
        peers.push(raw_peer(serve).await);
    }
    peers
}

async fn receive(tcp: TcpStream, reception: Reception, script: Arc<Script>, endpoint: usize) {
    let socket = SockRef::from(&tcp).try_clone().expect("a second handle");
    match reception {
        Reception::Plain => converse(tcp, &socket, &script, endpoint).await,
        Reception::Tls(tls) => {
            let Ok(stream) = tls.accept(tcp).await else { return };
            converse(stream, &socket, &script, endpoint).await;
        }
        Reception::Reset => socket.set_linger(Some(Duration::ZERO)).expect("an open socket"),
        Reception::Goodbye(None) => drop(tcp),
        Reception::Goodbye(Some(tls)) => {
            let Ok(mut stream) = tls.accept(tcp).await else { return };
            let _ = stream.read(&mut [0; 1]).await;
        }
    }
}

/// How the connection goes on after a request. The call is held, because h2 resets one that is dropped.
enum End {
    Done,
    Goaway(Bytes, bool, Held),
    Cut(Held),
    Fin(Held),
}

type Held = (RecvStream, SendResponse<Bytes>);

async fn converse<T>(io: T, socket: &Socket, script: &Arc<Script>, endpoint: usize)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let injected = Arc::<Mutex<Bytes>>::default();
    let tap = Tap { io, injected: injected.clone() };
    let Ok(mut h2) = h2::server::handshake(tap).await else { return };
    let mut calls = JoinSet::new();
    let mut held = Vec::new();
    loop {
        tokio::select! {
            accepted = h2.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    calls.spawn(meet(script.clone(), endpoint, request, respond));
                }
                _ => return,
            },
            Some(end) = calls.join_next() => match end.expect("a call that is met") {
                End::Done => {}
                End::Goaway(frame, closes, call) => {
                    held.push(call);
                    *injected.lock().expect("nobody panics with it held") = frame;
                    flushed(&mut h2, &injected).await;
                    if closes {
                        socket.shutdown(Shutdown::Write).expect("an open socket");
                    }
                }
                End::Fin(call) => {
                    held.push(call);
                    socket.shutdown(Shutdown::Write).expect("an open socket");
                }
                End::Cut(_call) => {
                    return socket.set_linger(Some(Duration::ZERO)).expect("an open socket");
                }
            },
        }
    }
}

/// Drives the connection until the frame put in between has left.
async fn flushed<T>(h2: &mut Connection<Tap<T>, Bytes>, injected: &Mutex<Bytes>)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    poll_fn(|cx| match h2.poll_accept(cx) {
        Poll::Ready(None | Some(Err(_))) => Poll::Ready(()),
        _ if injected.lock().expect("nobody panics with it held").is_empty() => Poll::Ready(()),
        _ => Poll::Pending,
    })
    .await;
}

async fn meet(
    script: Arc<Script>,
    endpoint: usize,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) -> End {
    let fate = script.next_fate();
    let (parts, mut body) = request.into_parts();
    let text = |name: &str| parts.headers[name].to_str().expect("ASCII").to_owned();
    let announced: usize = text("x-messages").parse().expect("a number");
    let messages = read(&mut body, announced).await;
    let seen = SeenRequest { endpoint, nonce: text("x-nonce"), messages };
    script.lock().seen.requests.push(seen);
    let stream = respond.stream_id().as_u32();
    match fate {
        Fate::Answer => {
            let mut sender = respond.send_response(head(&[]), false).expect("an open call");
            sender.send_data(grpc::message(b"answer"), false).expect("an open call");
            sender.send_trailers(headers(&[("grpc-status", "0")])).expect("an open call");
        }
        Fate::Reset(reason) => respond.send_reset(reason),
        Fate::GoawayBelow => {
            return End::Goaway(
                raw::goaway(stream.saturating_sub(2), Reason::NO_ERROR),
                false,
                (body, respond),
            );
        }
        Fate::Goaway(above, reason) => {
            return End::Goaway(raw::goaway(stream + above, reason), true, (body, respond));
        }
        Fate::Cut => return End::Cut((body, respond)),
        Fate::Fin => return End::Fin((body, respond)),
        Fate::Unavailable { trailers_only, marked } => unavailable(&mut respond, trailers_only, marked),
    }
    End::Done
}

fn unavailable(respond: &mut SendResponse<Bytes>, trailers_only: bool, marked: bool) {
    let mut fields: HeaderMap = headers(&[("grpc-status", "14"), ("grpc-message", "theirs")]);
    if marked {
        fields.insert("outrigger-unprocessed", "1".parse().expect("a value"));
    }
    let mut response: Response<()> = head(&[]);
    if trailers_only {
        response.headers_mut().extend(fields);
        respond.send_response(response, true).expect("an open call");
    } else {
        let mut sender = respond.send_response(response, false).expect("an open call");
        sender.send_trailers(fields).expect("an open call");
    }
}

/// The messages that were announced, or fewer if the request ends before.
async fn read(body: &mut RecvStream, announced: usize) -> Vec<Bytes> {
    let (mut deframer, mut messages) = (Deframer::default(), Vec::new());
    while messages.len() < announced {
        let Some(Ok(data)) = body.data().await else { break };
        let _ = body.flow_control().release_capacity(data.len());
        deframer.push(&data);
        messages.extend(std::iter::from_fn(|| deframer.next_message()));
    }
    messages
}

/// Puts a frame of our own in at a flush, which h2 asks for between two of its frames only.
struct Tap<T> {
    io: T,
    injected: Arc<Mutex<Bytes>>,
}

impl<T: AsyncRead + Unpin> AsyncRead for Tap<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Tap<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let mut injected = this.injected.lock().expect("nobody panics with it held");
        while !injected.is_empty() {
            let count = ready!(Pin::new(&mut this.io).poll_write(cx, &injected))?;
            injected.advance(count);
        }
        drop(injected);
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
