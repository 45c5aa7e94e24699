//! Takes connections to the xDS listener in, and finds out who is at their other end.
//!
//! Past the limit on handshakes the oldest is sent away (decision 18): whoever connects and says nothing must not keep out
//! those who have a certificate. A connection that has proved who it is never goes for a new one.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use config::control::Limits;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
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
/// How long a new connection waits for the place of one that was sent away; it ends at once.
const PLACE_WAIT: Duration = Duration::from_millis(100);
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
        let mut shaking = Shaking::default();
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
            let place = match places.clone().try_acquire_owned() {
                Ok(place) => place,
                Err(_) => {
                    self.counters.refuse(Refusal::Connections);
                    if !shaking.dismiss_oldest() {
                        continue;
                    }
                    let Ok(Ok(place)) = timeout(PLACE_WAIT, places.clone().acquire_owned()).await else {
                        continue;
                    };
                    place
                }
            };
            if shaking.count() >= self.limits.handshakes && shaking.dismiss_oldest() {
                self.counters.refuse(Refusal::Handshakes);
            }
            let dismissed = shaking.enter();
            let credentials = self.credentials.as_ref().map(|credentials| credentials.load_full());
            let (limit, counters, taken) =
                (self.limits.handshake_timeout, self.counters.clone(), taken.clone());
            tasks.spawn(async move {
                let greeted = tokio::select! {
                    biased;
                    // Counted where it was decided.
                    Ok(()) = dismissed => return Ok(()),
                    greeted = timeout(limit, greet(tcp, address, credentials, place)) => greeted,
                };
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

/// The connections in the middle of TLS, the oldest first. Each holds the other end of its channel until it is through.
#[derive(Default)]
struct Shaking(VecDeque<oneshot::Sender<()>>);

impl Shaking {
    fn enter(&mut self) -> oneshot::Receiver<()> {
        let (dismiss, dismissed) = oneshot::channel();
        self.0.push_back(dismiss);
        dismissed
    }

    fn count(&mut self) -> usize {
        self.0.retain(|guest| !guest.is_closed());
        self.0.len()
    }

    /// Sends the one away that came first; `false`: there is none.
    fn dismiss_oldest(&mut self) -> bool {
        while let Some(oldest) = self.0.pop_front() {
            if oldest.send(()).is_ok() {
                return true;
            }
        }
        false
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
