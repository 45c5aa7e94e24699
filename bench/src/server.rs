//! An echo gRPC server that does what a script says and remembers every call.
//!
//! It serves `/bench.Echo/Unary`, `Bidi` (echo each message as it comes), `ServerStream` (`x-count` messages
//! of `x-size` bytes) and `ClientStream` (one answer, `COUNT BYTES`), with [`crate::script::Script`] in the
//! request header `x-script` or set on the server. Answers carry `x-server`, the server's name.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderValue, Request};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::echo::{Exchange, HEALTH, Order};
use crate::farewell;
use crate::raw;
use crate::record::{CallRecord, Guard, Records, text};
use crate::script::{Script, Scripts};
use crate::tap::{self, Tap};
use crate::tls::{ServerTls, server_config};

/// TLS and the preface together may take this long.
pub const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// A graceful stop turns into a kill after this long.
pub const DRAIN_MAX: Duration = Duration::from_secs(30);
/// The budget h2 gives a connection for small DATA frames; ours never runs out in a test.
pub const DATA_FRAME_BUDGET: usize = 1 << 40;

const ORDERS_MAX: usize = 64;
/// How far `goaway-above` stands above its call; even, as the ids of a client's streams are odd.
const ABOVE: u32 = 1_000;

/// How the server behaves whatever the call.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// What `x-server` says in answers; tells replicas apart. ASCII.
    pub name: String,
    /// SETTINGS_MAX_CONCURRENT_STREAMS; default 10,000.
    pub max_concurrent_streams: u32,
    /// Receive window of a stream, in bytes; default 1 MiB.
    pub stream_window: u32,
    /// Receive window of a connection, in bytes; default 16 MiB.
    pub connection_window: u32,
    /// Speaks TLS, to stand in for a peer's sidecar; default plain h2c.
    pub tls: Option<ServerTls>,
    /// Whether calls are recorded; default yes. Load turns it off.
    pub record: bool,
    /// What calls without a script of their own do; servers with clones of it are a row that shares them.
    pub scripts: Scripts,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            name: "echo".to_owned(),
            max_concurrent_streams: 10_000,
            stream_window: 1 << 20,
            connection_window: 16 << 20,
            tls: None,
            record: true,
            scripts: Scripts::default(),
        }
    }
}

/// A running server, a task of the runtime it was started on. Dropped, it kills its connections.
pub struct Server {
    /// Where it listens (or listened, when it has been stopped).
    pub addr: SocketAddr,
    shared: Arc<Shared>,
    phase: watch::Sender<Phase>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum Phase {
    Run,
    Drain,
    Kill,
}

/// What health checks meet.
#[derive(Default)]
struct Health {
    message: Option<Bytes>,
    script: Script,
}

struct Shared {
    options: ServerOptions,
    name: HeaderValue,
    tls: Option<Arc<ServerConfig>>,
    records: Records,
    health: Mutex<Health>,
    accepted: AtomicUsize,
    open: AtomicUsize,
}

impl Server {
    /// Listens on `addr` (port 0: any) with default options.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn start(addr: SocketAddr) -> io::Result<Self> {
        Self::start_with(addr, ServerOptions::default()).await
    }

    /// Listens on `addr` as `options` say.
    ///
    /// # Errors
    /// When the address cannot be bound, or name or certificate are not usable.
    pub async fn start_with(addr: SocketAddr, options: ServerOptions) -> io::Result<Self> {
        let tls = options.tls.as_ref().map(server_config).transpose()?;
        let name = HeaderValue::from_str(&options.name).map_err(io::Error::other)?;
        let shared = Arc::new(Shared {
            options,
            name,
            tls,
            records: Records::default(),
            health: Mutex::default(),
            accepted: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
        });
        let mut server = Self { addr, shared, phase: watch::Sender::new(Phase::Run), accepting: None };
        server.listen().await?;
        Ok(server)
    }

    /// Stops gracefully: no new connection, GOAWAY on the old ones, their calls run to the end. After
    /// [`DRAIN_MAX`] it kills what is left. Returns when all is closed.
    pub async fn stop(&mut self) {
        self.phase.send_replace(Phase::Drain);
        let Some(mut accepting) = self.accepting.take() else { return };
        if tokio::time::timeout(DRAIN_MAX, &mut accepting).await.is_err() {
            self.phase.send_replace(Phase::Kill);
            let _ = accepting.await;
        }
    }

    /// Dies as by SIGKILL: every socket is reset (TCP RST). Returns when all is closed.
    pub async fn kill(&mut self) {
        self.phase.send_replace(Phase::Kill);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.await;
        }
    }

    /// Listens again, on the same port, after [`Server::stop`] or [`Server::kill`]; what it recorded stays.
    ///
    /// # Errors
    /// When the port has been taken meanwhile.
    ///
    /// # Panics
    /// When it still runs.
    pub async fn restart(&mut self) -> io::Result<()> {
        assert!(self.accepting.is_none(), "stop or kill the server before it is restarted");
        self.listen().await
    }

    /// Every call since the start or since [`Server::clear`], in order of arrival.
    pub fn calls(&self) -> Vec<CallRecord> {
        self.shared.records.all()
    }

    /// The calls that carried this `x-nonce`: more than one means a duplicate.
    pub fn calls_with_nonce(&self, nonce: &str) -> Vec<CallRecord> {
        self.calls().into_iter().filter(|call| call.nonce.as_deref() == Some(nonce)).collect()
    }

    /// Forgets the calls so far.
    pub fn clear(&self) {
        self.shared.records.clear();
    }

    /// Connections accepted since the start.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// Connections open now.
    pub fn open_connections(&self) -> usize {
        self.shared.open.load(Ordering::Relaxed)
    }

    /// The next call that brings no script of its own follows this one; several wait in a queue.
    ///
    /// # Panics
    /// When the script is misspelt or too many wait already: the test is wrong.
    pub fn script_next(&self, script: &str) {
        self.shared.options.scripts.next(script);
    }

    /// Every call that has no other script follows this one; `None`: none.
    ///
    /// # Panics
    /// When the script is misspelt.
    pub fn script_always(&self, script: Option<&str>) {
        self.shared.options.scripts.always(script);
    }

    /// From now on `grpc.health.v1.Health/Check` is answered with this `HealthCheckResponse.status` (1: SERVING);
    /// `None`: UNIMPLEMENTED, as in the beginning. Other scripts do not touch these calls.
    pub fn serve_health(&self, status: Option<u8>) {
        let message = status.map(|status| vec![0x08, status]);
        self.answer_health(message.as_deref(), "delay:0ms");
    }

    /// [`Server::serve_health`] with any message, and as a script says.
    ///
    /// # Panics
    /// When the script is misspelt.
    pub fn answer_health(&self, message: Option<&[u8]>, script: &str) {
        let script = script.parse().unwrap_or_else(|fault| panic!("{fault}"));
        let message = message.map(Bytes::copy_from_slice);
        *self.shared.health.lock().expect("nobody panics with it held") = Health { message, script };
    }

    /// The health checks so far, in order of arrival.
    pub fn health_checks(&self) -> Vec<CallRecord> {
        self.calls().into_iter().filter(|call| call.path == HEALTH).collect()
    }

    async fn listen(&mut self) -> io::Result<()> {
        let listener = TcpListener::bind(self.addr).await?;
        self.addr = listener.local_addr()?;
        self.phase.send_replace(Phase::Run);
        let accepting = accept(listener, self.shared.clone(), self.phase.subscribe());
        self.accepting = Some(tokio::spawn(accepting));
        Ok(())
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, mut phase: watch::Receiver<Phase>) {
    let mut connections = JoinSet::new();
    let theirs = phase.clone();
    loop {
        tokio::select! {
            _ = reached(&mut phase, Phase::Drain) => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((tcp, _)) => {
                    shared.accepted.fetch_add(1, Ordering::Relaxed);
                    connections.spawn(connection(tcp, shared.clone(), theirs.clone()));
                }
                // Out of descriptors, most likely: others must close first.
                Err(_) => tokio::task::yield_now().await,
            },
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Waits for a phase or a later one; a server that is gone has reached every phase.
async fn reached(phase: &mut watch::Receiver<Phase>, goal: Phase) {
    let _ = phase.wait_for(|now| *now >= goal).await;
}

async fn connection(tcp: TcpStream, shared: Arc<Shared>, phase: watch::Receiver<Phase>) {
    let _open = Open::new(&shared);
    let _ = tcp.set_nodelay(true);
    // A second handle on the socket, to have it closed by RST when h2 owns the first.
    let Ok(socket) = socket2::SockRef::from(&tcp).try_clone() else { return };
    let served = async {
        let Some(config) = &shared.tls else { return serve(tcp, &shared, phase.clone()).await };
        let handshake = TlsAcceptor::from(config.clone()).accept(tcp);
        match tokio::time::timeout(HANDSHAKE_MAX, handshake).await {
            Ok(Ok(tls)) => serve(tls, &shared, phase.clone()).await,
            _ => false,
        }
    };
    let mut killing = phase.clone();
    let reset = tokio::select! {
        reset = served => reset,
        _ = reached(&mut killing, Phase::Kill) => true,
    };
    if reset {
        let _ = socket.set_linger(Some(Duration::ZERO));
    }
}

/// Serves one connection to its end; `true`: it is to be reset.
async fn serve<T>(io: T, shared: &Arc<Shared>, mut phase: watch::Receiver<Phase>) -> bool
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let (io, tap) = Tap::new(io);
    let handshake = builder(&shared.options).handshake::<_, Bytes>(io);
    let Ok(Ok(mut h2)) = tokio::time::timeout(HANDSHAKE_MAX, handshake).await else { return false };
    let (orders, mut ordered) = mpsc::channel(ORDERS_MAX);
    let mut exchanges = JoinSet::new();
    // Calls below a scripted GOAWAY and after it: neither answered nor reset while the connection lives.
    let mut held: Vec<(Request<RecvStream>, SendResponse<Bytes>)> = Vec::new();
    let mut draining = false;
    loop {
        tokio::select! {
            biased;
            Some(order) = ordered.recv() => match order {
                Order::Disconnect => return true,
                Order::DisconnectOnceRead => {
                    // A peer that answers no PING has had time enough.
                    let _ = tokio::time::timeout(HANDSHAKE_MAX, farewell::read_by_peer(&mut h2)).await;
                    return true;
                }
                Order::GoawayBelow(call) => {
                    let below = call.1.stream_id().as_u32().saturating_sub(2);
                    tap.inject(raw::goaway(below, h2::Reason::NO_ERROR));
                    held.push(*call);
                }
                Order::GoawayAbove(call) => {
                    let above = call.1.stream_id().as_u32() + ABOVE;
                    tap.inject(raw::goaway(above, h2::Reason::NO_ERROR));
                    held.push(*call);
                }
            },
            _ = reached(&mut phase, Phase::Drain), if !draining => {
                draining = true;
                h2.graceful_shutdown();
            }
            Some(_) = exchanges.join_next() => {}
            accepted = h2.accept() => match accepted {
                Some(Ok((request, respond))) if held.is_empty() => {
                    let exchange = exchange(shared, &request, tap.clone(), orders.clone());
                    exchanges.spawn(exchange.run(request, respond));
                }
                Some(Ok(call)) => held.push(call),
                Some(Err(_)) | None => return false,
            },
        }
        if !held.is_empty() && exchanges.is_empty() {
            farewell::flushed(&mut h2, &tap).await;
            return false;
        }
    }
}

fn exchange(
    shared: &Shared,
    request: &Request<RecvStream>,
    tap: tap::Handle,
    orders: mpsc::Sender<Order>,
) -> Exchange {
    let health = shared.health.lock().expect("nobody panics with it held");
    let script = match text(request.headers(), "x-script") {
        _ if request.uri().path() == HEALTH => health.script.clone(),
        Some(script) => script.parse().unwrap_or_else(|fault| panic!("{fault}")),
        None => shared.options.scripts.take(),
    };
    let health = health.message.clone();
    let record = if shared.options.record { shared.records.begin(request) } else { Guard::off() };
    Exchange { script, server_name: shared.name.clone(), record, tap, orders, health }
}

fn builder(options: &ServerOptions) -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(options.stream_window)
        .initial_connection_window_size(options.connection_window)
        .max_concurrent_streams(options.max_concurrent_streams)
        .max_local_error_reset_streams(None)
        .max_pending_accept_reset_streams(100_000)
        .data_frame_budget(DATA_FRAME_BUDGET);
    builder
}

/// Counts a connection for as long as it is open.
struct Open<'s>(&'s AtomicUsize);

impl<'s> Open<'s> {
    fn new(shared: &'s Shared) -> Self {
        shared.open.fetch_add(1, Ordering::Relaxed);
        Self(&shared.open)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
