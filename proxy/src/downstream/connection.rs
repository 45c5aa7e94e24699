//! One downstream connection: takes its calls in and lets it end as it should.
//!
//! ```text
//! Serve --drain, age--> Drain (GOAWAY in two phases) --last call ended--> closed
//!   any --too many resets--> Calm (GOAWAY ENHANCE_YOUR_CALM) --> closed
//!   any --forced--> Close --> closed
//! ```

use std::future::{Future as _, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, server};
use http::HeaderValue;
use identity::leaf::Leaf;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use crate::call;
use crate::call::origin::{Command, Link, Origin, Way};
use crate::call::standing::Standing;
use crate::context::Context;
use crate::downstream::hall::{Arrived, Door, Entrance, Hall};
use crate::downstream::handshake::{Established, Peer};
use crate::downstream::lobby::Guest;
use crate::downstream::tunnel::{self, Tunnel};
use crate::downstream::{inbound, outbound};
use crate::io::Io;
use crate::local::SeriesCache;
use crate::metrics::calls::{Direction, OTHER};
use crate::metrics::events::{HandshakeFailure, Limit, Side};
use crate::socket;
use crate::tls::expiry::{Expiry, Now, Stage};
use crate::tls::proof::Proof;

/// How long a connection that was told to calm down or to close may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(1);

/// Serves a connection from accept to close.
pub(crate) async fn serve(hall: Rc<Hall>, door: Door, tcp: TcpStream) {
    socket::tune(&tcp, socket::USER_TIMEOUT);
    let limits = &hall.context.shared.limits;
    let (events, direction) = (hall.context.events(), door.direction() as usize);
    let (lobby, gauge) = (&hall.lobbies[direction], &events.handshakes[direction]);
    let guest = lobby.enter(gauge);
    if hall.context.shared.is_full(limits.handshakes + 1, |events| events.handshakes[direction].value()) {
        lobby.dismiss_oldest(gauge);
    }
    let arrived = tokio::select! {
        biased;
        () = guest.dismissed() => return hall.context.refuse(Limit::Handshakes),
        result = timeout(limits.handshake_timeout, settle(&hall, &door, &guest, tcp)) => match result {
            Ok(Ok(arrived)) => arrived,
            Ok(Err(failure)) => return events.handshake_failed(failure),
            Err(_) => return hall.context.refuse(Limit::HandshakeTimeout),
        },
    };
    drop(guest);
    match arrived {
        Arrived::Calls { established, peer, entrance } => converse(&hall, *established, peer, entrance).await,
        Arrived::Tunnel(tunnel) => pass_on(&hall, door.direction(), tunnel).await,
    }
}

/// Detects, authenticates and greets; the caller bounds the time.
async fn settle(
    hall: &Hall,
    door: &Door,
    guest: &Guest<'_>,
    tcp: TcpStream,
) -> Result<Arrived, HandshakeFailure> {
    match door {
        Door::Inbound(gates) => inbound::settle(&hall.context, gates, guest, tcp).await,
        Door::Outbound => outbound::settle(hall, guest, tcp).await,
    }
}

/// Moves bytes until the connection ends.
async fn pass_on(hall: &Rc<Hall>, direction: Direction, tunnel: Tunnel) {
    let context = &hall.context;
    let link = Rc::new(Link::new(Rc::default(), &context.shared.limits, context.now()));
    let _near = context.count_connection(direction.into(), tunnel.mtls);
    let _far = context.count_connection(Side::Upstream, tunnel.far.mtls);
    let _entered = hall.roster.enter(direction, &link);
    tunnel::serve(context, direction, &link, tunnel).await;
}

/// Takes calls in until the connection ends.
async fn converse(hall: &Rc<Hall>, established: Established, peer: Option<Peer>, entrance: Entrance) {
    let Established { mut connection, turn } = established;
    let context = &hall.context;
    let limits = &context.shared.limits;
    let link = Rc::new(Link::new(turn.clone(), limits, context.now()));
    let mut expiry = peer.as_ref().map(|peer| Ending::new(peer.expiry));
    let (peer, mut proof) = peer.map(|Peer { leaf, hash, proof, .. }| ((leaf, hash), proof)).unzip();
    let origin = Rc::new(origin(hall, entrance, link.clone(), peer));
    let _counted = context.count_connection(origin.direction().into(), origin.mtls);
    let _entered = hall.roster.enter(origin.direction(), &link);
    let mut done = Command::Serve;
    // None yet: the roots may have changed since the handshake.
    let mut looked = None;
    loop {
        let event = poll_fn(|cx| {
            turn.begin();
            let command = link.command(cx);
            if command > done {
                return Poll::Ready(Event::Asked(command));
            }
            let change = Some(link.change());
            if looked != change {
                looked = change;
                if !link.is_distrusted() && proof.as_mut().is_some_and(|proof| !holds(hall, proof)) {
                    return Poll::Ready(Event::Distrusted);
                }
            }
            if let Some(command) = expiry.as_mut().map(|expiry| expiry.poll(cx))
                && command > done
            {
                return Poll::Ready(Event::Asked(command));
            }
            loop {
                match ready!(connection.poll_accept(cx)) {
                    Some(Ok((request, respond))) => {
                        let local = hall.locals.current(context);
                        let call = call::serve(context.clone(), local, origin.clone(), request, respond);
                        tokio::task::spawn_local(call);
                    }
                    Some(Err(error)) => return Poll::Ready(Event::Broken(error)),
                    None => return Poll::Ready(Event::Closed),
                }
            }
        });
        match event.await {
            Event::Broken(error) => return note_end(context, &error),
            Event::Closed => return,
            Event::Distrusted => {
                context.events().connections_distrusted[Side::Inbound as usize].add(1);
                link.distrust();
                done = done.max(Command::Drain);
                connection.graceful_shutdown();
            }
            Event::Asked(command) => {
                done = command.max(done);
                match command {
                    Command::Serve => {}
                    Command::Drain | Command::End => connection.graceful_shutdown(),
                    Command::Calm => return goodbye(connection, Reason::ENHANCE_YOUR_CALM).await,
                    Command::Close => return goodbye(connection, Reason::NO_ERROR).await,
                }
            }
        }
    }
}

/// What the certificates of a connection ask of it.
struct Ending {
    expiry: Expiry,
    again: Pin<Box<Sleep>>,
    command: Command,
}

impl Ending {
    fn new(expiry: Expiry) -> Self {
        Self { expiry, again: Box::pin(sleep_until(Instant::now())), command: Command::Serve }
    }

    fn poll(&mut self, cx: &mut TaskContext<'_>) -> Command {
        while self.again.as_mut().poll(cx).is_ready() {
            let (stage, again) = self.expiry.look(Now::read());
            self.command = match stage {
                Stage::Good => Command::Serve,
                Stage::Leaving => Command::Drain,
                Stage::Over => Command::Close,
            };
            self.again.as_mut().reset(again);
            if stage == Stage::Over {
                break;
            }
        }
        self.command
    }
}

/// Whether a caller's proof still holds.
fn holds(hall: &Hall, proof: &mut Proof) -> bool {
    proof.holds(hall.context.shared.tables.load().credentials.as_deref())
}

/// What a connection has to look up from taking calls in for.
enum Event {
    Asked(Command),
    /// The caller's certificate no longer leads to a root that is trusted.
    Distrusted,
    Broken(h2::Error),
    Closed,
}

/// Says why and closes, whether or not the peer listens.
async fn goodbye(mut connection: server::Connection<Io, Bytes>, reason: Reason) {
    connection.abrupt_shutdown(reason);
    let _ = timeout(GOODBYE, poll_fn(|cx| connection.poll_closed(cx))).await;
}

/// Counts what h2's own limits ended.
fn note_end(context: &Context, error: &h2::Error) {
    if error.is_go_away() && error.is_library() && error.reason() == Some(Reason::ENHANCE_YOUR_CALM) {
        context.refuse(Limit::ResetsPerSecond);
    }
}

/// `peer`: what its certificate says, and the hash of it.
fn origin(hall: &Hall, entrance: Entrance, link: Rc<Link>, peer: Option<(Leaf, String)>) -> Origin {
    let mtls = peer.is_some();
    let locals = hall.locals.clone();
    let entry = match entrance {
        Entrance::Entry(entry) => entry,
        Entrance::Outbound(via) => return Origin { way: Way::Outbound(via), link, locals, mtls },
    };
    let local = hall.locals.current(&hall.context);
    let tables = &local.tables;
    let label = match &peer {
        None => "unknown".into(),
        Some((leaf, _)) => match tables.peers.get(&leaf.id) {
            Some(name) => name.clone(),
            None if leaf.id.as_str().len() > PEER_BYTES_MAX => OTHER.into(),
            None => leaf.id.as_str().into(),
        },
    };
    let forwarded = peer.as_ref().and_then(|(leaf, hash)| forwarded(&hall.context, leaf, hash));
    let service = hall.context.shared.entries[entry].clone();
    let series = SeriesCache::new(Direction::Inbound, service, label);
    let peer = peer.map(|(leaf, _)| leaf.id);
    let way = Way::Inbound { entry, peer, standing: Standing::default(), forwarded, series };
    Origin { way, link, locals, mtls }
}

/// The longest SPIFFE id that stands in a label.
const PEER_BYTES_MAX: usize = 256;

/// `x-forwarded-client-cert` for every call of the connection, in Envoy's format.
fn forwarded(context: &Context, leaf: &Leaf, hash: &str) -> Option<HeaderValue> {
    let by = context.shared.identity.as_ref().map(|own| format!("By={own};")).unwrap_or_default();
    HeaderValue::try_from(format!("{by}Hash={hash};URI={}", leaf.id)).ok()
}
