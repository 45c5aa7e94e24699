//! Takes connections to the xDS listener in, and finds out who is at their other end.
//!
//! Past the limit on handshakes the oldest is sent away ([`Lobby`]), and past the limit on those who have come without a certificate
//! the oldest of them, until a token has let something of theirs in. A connection that has proved who it is never goes for a new one; it
//! ends when its certificate does, or the trust in it ([`Roster`]).

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use config::control::Limits;
use files::Reports;
use identity::leaf::Leaf;
use rustls::CertificateError;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::counters::{Counters, Refusal};
use crate::credentials::Held;
use crate::lobby::Lobby;
use crate::peer::{Peer, Socket};
use crate::roster::Roster;
use crate::tls::{Credentials, failure};

/// How long accepting pauses when the system has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Connections that wait to be served.
const WAITING_MAX: usize = 64;
/// How long a new connection waits for the place of one that was sent away; it ends as soon as its task runs.
const PLACE_WAIT: Duration = Duration::from_secs(1);
/// Between two looks at which connections have ended.
const TIDY_EVERY: Duration = Duration::from_secs(10);
/// Handshakes that fail are told this often at most.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// Connections that xDS can be spoken on.
pub(crate) type Incoming = mpsc::Receiver<Taken>;

/// A connection that xDS can be spoken on.
pub(crate) struct Taken {
    pub(crate) socket: Socket,
    pub(crate) peer: Peer,
    /// Of one that is unproven: it has to go for another one. To be let go of when something has been proved.
    pub(crate) dismissed: Option<oneshot::Receiver<()>>,
}

/// The xDS listener.
pub(crate) struct Door {
    pub(crate) listener: TcpListener,
    /// `None`: plaintext, on loopback.
    pub(crate) identity: Option<Arc<Held>>,
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

    async fn run(self, taken: mpsc::Sender<Taken>) {
        let places = Arc::new(Semaphore::new(self.limits.connections));
        let mut shaking = Lobby::default();
        let unproven = Arc::new(Unproven::new(self.limits.unproven, self.counters.clone()));
        let roster = Arc::<Roster>::default();
        if let Some(identity) = &self.identity {
            tokio::spawn(look_after(roster.clone(), identity.clone(), self.counters.clone(), taken.clone()));
        }
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
                    if !shaking.dismiss_oldest() && !unproven.dismiss_oldest() {
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
            let (identity, roster, unproven) = (self.identity.clone(), roster.clone(), unproven.clone());
            let (limit, counters, taken) =
                (self.limits.handshake_timeout, self.counters.clone(), taken.clone());
            tasks.spawn(async move {
                let greeted = tokio::select! {
                    biased;
                    // Counted where it was decided.
                    Ok(()) = dismissed => return Ok(()),
                    greeted = timeout(limit, greet(tcp, address, identity.as_deref(), &roster, place)) => greeted,
                };
                match greeted {
                    Ok(Ok((socket, peer))) => {
                        let dismissed = peer.unproven.then(|| unproven.enter());
                        counters.accept();
                        // Nobody takes it: we are leaving.
                        let _ = taken.send(Taken { socket, peer, dismissed }).await;
                        Ok(())
                    }
                    Ok(Err(error)) => {
                        counters.fail(failure(&error));
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

/// Those who have finished TLS without a certificate and have not proved anything since.
struct Unproven {
    lobby: Mutex<Lobby>,
    max: usize,
    counters: Arc<Counters>,
}

impl Unproven {
    fn new(max: usize, counters: Arc<Counters>) -> Self {
        Self { lobby: Mutex::default(), max, counters }
    }

    /// One more, who is told when it has to go for another one.
    fn enter(&self) -> oneshot::Receiver<()> {
        let mut lobby = self.lobby.lock().unwrap_or_else(PoisonError::into_inner);
        if lobby.count() >= self.max && lobby.dismiss_oldest() {
            self.counters.refuse(Refusal::Unproven);
        }
        lobby.enter()
    }

    fn dismiss_oldest(&self) -> bool {
        self.lobby.lock().unwrap_or_else(PoisonError::into_inner).dismiss_oldest()
    }
}

async fn greet(
    tcp: TcpStream,
    address: SocketAddr,
    identity: Option<&Held>,
    roster: &Roster,
    place: OwnedSemaphorePermit,
) -> io::Result<(Socket, Peer)> {
    tcp.set_nodelay(true)?;
    let Some(identity) = identity else {
        let peer = Peer { address, identity: None, expires: None, chain: Arc::default(), unproven: false };
        return Ok((Socket::plain(tcp, place), peer));
    };
    let credentials = identity.credentials();
    let tls = TlsAcceptor::from(credentials.server.clone()).accept(tcp).await?;
    let Some(chain) = tls.get_ref().1.peer_certificates().filter(|chain| !chain.is_empty()) else {
        let peer = Peer { address, identity: None, expires: None, chain: Arc::default(), unproven: true };
        return Ok((Socket::tls(tls, None, None, place), peer));
    };
    // The verifier has read it already.
    let leaf = Leaf::read(&chain[0]).map_err(io::Error::other)?;
    let dismissed = roster.enter(chain);
    // The trust may have changed after the handshake began and before it was listed.
    let newest = identity.credentials();
    if !Arc::ptr_eq(&newest, &credentials) && !newest.callers.let_in(chain, SystemTime::now()) {
        let why = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        return Err(io::Error::other(why));
    }
    let left = leaf.not_after.duration_since(SystemTime::now()).unwrap_or_default();
    let (expires, chain) = (Some(leaf.not_after), chain.iter().map(|der| der.clone().into_owned()).collect());
    let peer = Peer { address, identity: Some(leaf.id), expires, chain, unproven: false };
    Ok((Socket::tls(tls, Instant::now().checked_add(left), Some(dismissed), place), peer))
}

/// Ends connections for whose certificates nobody vouches any more, until the listener closes.
async fn look_after(
    roster: Arc<Roster>,
    identity: Arc<Held>,
    counters: Arc<Counters>,
    taken: mpsc::Sender<Taken>,
) {
    let mut changes: watch::Receiver<()> = identity.changes();
    let mut ticks = interval(TIDY_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            changed = changes.changed() => {
                if changed.is_err() {
                    return;
                }
                let (roster, credentials): (_, Arc<Credentials>) = (roster.clone(), identity.credentials());
                let looked = spawn_blocking(move || roster.look(&credentials.callers, SystemTime::now()));
                counters.distrust(looked.await.unwrap_or_default());
            }
            _ = ticks.tick() => roster.tidy(),
            () = taken.closed() => return,
        }
    }
}
