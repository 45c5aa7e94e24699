//! Takes connections to the xDS listener in, and finds out who is at their other end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use config::control::Limits;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::counters::{Counters, Refusal};
use crate::leaf::Leaf;
use crate::peer::{Peer, Socket};
use crate::report::Reports;
use crate::tls::Credentials;

/// How long accepting pauses when the system has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Connections that wait to be served.
const WAITING_MAX: usize = 64;
/// Handshakes that fail are told this often at most.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// Connections that xDS can be spoken on.
pub(crate) type Incoming = mpsc::Receiver<(Socket, Peer)>;

/// The xDS listener.
pub(crate) struct Door {
    pub(crate) listener: TcpListener,
    /// `None`: plaintext, on loopback.
    pub(crate) credentials: Option<Arc<ArcSwap<Credentials>>>,
    pub(crate) limits: Limits,
    pub(crate) counters: Arc<Counters>,
    pub(crate) reports: Reports,
}

impl Door {
    /// Opens it. It closes when nobody takes what comes in any more.
    pub(crate) fn open(self) -> Incoming {
        let (taken, incoming) = mpsc::channel(WAITING_MAX);
        tokio::spawn(self.run(taken));
        incoming
    }

    async fn run(self, taken: mpsc::Sender<(Socket, Peer)>) {
        let places = Arc::new(Semaphore::new(self.limits.connections));
        let handshakes = Arc::new(Semaphore::new(self.limits.handshakes));
        let mut tasks = JoinSet::new();
        let mut told = None::<Instant>;
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                Some(ended) = tasks.join_next(), if !tasks.is_empty() => {
                    if let Ok(Err(why)) = ended
                        && told.is_none_or(|told| told.elapsed() > TOLD_EVERY)
                    {
                        told = Some(Instant::now());
                        self.reports.say(why);
                    }
                    continue;
                }
                () = taken.closed() => return,
            };
            let Ok((tcp, address)) = accepted else {
                sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let Ok(place) = places.clone().try_acquire_owned() else {
                self.counters.refuse(Refusal::Connections);
                continue;
            };
            let Ok(shaking) = handshakes.clone().try_acquire_owned() else {
                self.counters.refuse(Refusal::Handshakes);
                continue;
            };
            let credentials = self.credentials.as_ref().map(|credentials| credentials.load_full());
            let (limit, counters, taken) =
                (self.limits.handshake_timeout, self.counters.clone(), taken.clone());
            tasks.spawn(async move {
                let greeted = timeout(limit, greet(tcp, address, credentials, place)).await;
                drop(shaking);
                match greeted {
                    Ok(Ok(socket)) => {
                        counters.accept();
                        // Nobody takes it: we are leaving.
                        let _ = taken.send(socket).await;
                        Ok(())
                    }
                    Ok(Err(error)) => {
                        counters.fail();
                        Err(format!("{address}: no connection to xDS: {error}"))
                    }
                    Err(_) => {
                        counters.refuse(Refusal::HandshakeTimeout);
                        Err(format!(
                            "{address}: no TLS handshake within {limit:?} (limits.handshake_timeout)"
                        ))
                    }
                }
            });
        }
    }
}

async fn greet(
    tcp: TcpStream,
    address: SocketAddr,
    credentials: Option<Arc<Credentials>>,
    place: OwnedSemaphorePermit,
) -> io::Result<(Socket, Peer)> {
    tcp.set_nodelay(true)?;
    let Some(credentials) = credentials else {
        return Ok((Socket::plain(tcp, place), Peer { address, identity: None, expires: None }));
    };
    let tls = TlsAcceptor::from(credentials.server.clone()).accept(tcp).await?;
    let chain = tls.get_ref().1.peer_certificates().unwrap_or_default();
    // The verifier has read it already.
    let leaf =
        chain.first().ok_or("no certificate").and_then(|leaf| Leaf::read(leaf)).map_err(io::Error::other)?;
    let left = leaf.expires.duration_since(SystemTime::now()).unwrap_or_default();
    let peer = Peer { address, identity: Some(leaf.id), expires: Some(leaf.expires) };
    Ok((Socket::tls(tls, Instant::now().checked_add(left), place), peer))
}
