//! What a connection from the app is, and what becomes of it.
//!
//! ```text
//! redirected -> HTTP/2: calls, by :authority, else to where it was going
//!               else, silence too: bytes to where it was going
//! by itself  -> HTTP/2: calls, by :authority
//!               CONNECT -> a service of the mesh -> HTTP/2: calls of that service; else: bytes to one endpoint
//!                          anything else: bytes to there
//! ```

use std::net::SocketAddr;

use config::model::{Unknown, Upstream};
use http::StatusCode;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::balance::picker::{TRIES_MAX, Tried};
use crate::call::origin::Via;
use crate::call::plan::not_begun;
use crate::downstream::detect::{Sniff, Spoken};
use crate::downstream::hall::{Arrived, Entrance, Hall};
use crate::downstream::handshake::greet;
use crate::downstream::lobby::Guest;
use crate::downstream::proxy_request::{Asked, Denied, accept};
use crate::downstream::tunnel::Tunnel;
use crate::failure::{Failure, Reason};
use crate::io::Wire;
use crate::metrics::events::HandshakeFailure;
use crate::socket;
use crate::tables::Tables;
use crate::upstream::raw::{self, Raw};

/// Addresses of a name that are tried for a tunnel.
const ADDRESSES_MAX: usize = 5;
/// The share of `handshake_timeout` that finding the target of a CONNECT may take, so that the client is told.
const CONNECT_SHARE: f64 = 0.8;

/// Finds out; the caller bounds the time.
pub(crate) async fn settle(
    hall: &Hall,
    guest: &Guest<'_>,
    tcp: TcpStream,
) -> Result<Arrived, HandshakeFailure> {
    match socket::original_destination(&tcp) {
        Some(to) => redirected(hall, guest, tcp, to).await,
        None => direct(hall, guest, tcp).await,
    }
}

async fn redirected(
    hall: &Hall,
    guest: &Guest<'_>,
    tcp: TcpStream,
    to: SocketAddr,
) -> Result<Arrived, HandshakeFailure> {
    let shared = &hall.context.shared;
    let peer = tcp.peer_addr().map_err(|_| HandshakeFailure::Closed)?;
    let may_pass = shared.unknown == Unknown::Passthrough;
    let opaque = may_pass && shared.opaque_ports.contains(&to.port());
    let (spoken, wire) = match opaque || shared.is_loop(peer, to) {
        true => (Spoken::Nothing, Wire::plain(tcp)),
        false => {
            let patience = may_pass.then_some(shared.limits.detection_timeout);
            Sniff::new(Wire::plain(tcp)).listen(patience).await?
        }
    };
    guest.leave();
    // By now a connection of our own has been noted.
    if shared.is_loop(peer, to) {
        return Err(HandshakeFailure::Loop);
    }
    match (spoken, wire) {
        (Spoken::Http2, wire) => {
            let passage = may_pass.then(|| hall.passages.find(&hall.context, to));
            calls(hall, wire, Via::Redirected(passage)).await
        }
        (_, wire) if may_pass => pass(hall, wire, to).await,
        _ => Err(HandshakeFailure::Unknown),
    }
}

async fn direct(hall: &Hall, guest: &Guest<'_>, tcp: TcpStream) -> Result<Arrived, HandshakeFailure> {
    match Sniff::new(Wire::plain(tcp)).listen(None).await? {
        (Spoken::Http2, wire) => calls(hall, wire, Via::Authority).await,
        (Spoken::Connect | Spoken::Http1, wire) => {
            guest.leave();
            through_connect(hall, wire).await
        }
        (Spoken::Tls, _) => Err(HandshakeFailure::Tls),
        (Spoken::Other | Spoken::Nothing, _) => Err(HandshakeFailure::Protocol),
    }
}

async fn calls(hall: &Hall, wire: Wire, via: Via) -> Result<Arrived, HandshakeFailure> {
    let established = Box::new(greet(wire, &hall.context.shared.limits).await?);
    Ok(Arrived::Calls { established, peer: None, entrance: Entrance::Outbound(via) })
}

/// Bytes to where a redirected connection was going.
async fn pass(hall: &Hall, near: Wire, to: SocketAddr) -> Result<Arrived, HandshakeFailure> {
    match open(hall, &[to]).await {
        Some(far) => Ok(tunnel(near, far)),
        None => {
            near.abort();
            Err(HandshakeFailure::Unreachable)
        }
    }
}

/// What a CONNECT leads to.
#[expect(clippy::large_enum_variant, reason = "one for each CONNECT, and moved once")]
enum Target {
    /// A service of the mesh.
    Service,
    /// Anything else, connected.
    Far(Raw),
}

async fn through_connect(hall: &Hall, wire: Wire) -> Result<Arrived, HandshakeFailure> {
    let (wire, Asked { host, port }, target) =
        accept(wire, async |asked: &Asked| find_target(hall, asked).await).await?;
    if let Target::Far(far) = target {
        return Ok(tunnel(wire, far));
    }
    // The client was told that its tunnel stands: whatever ends it before it does, time too, is no clean end.
    wire.abort();
    let shared = &hall.context.shared;
    let (spoken, wire) = match shared.opaque_ports.contains(&port) {
        true => (Spoken::Other, wire),
        false => Sniff::new(wire).listen(Some(shared.limits.detection_timeout)).await?,
    };
    if spoken == Spoken::Http2 {
        wire.go_on();
        return calls(hall, wire, Via::Connect { host, port }).await;
    }
    match to_service(hall, &host).await {
        Some(far) => {
            wire.go_on();
            Ok(tunnel(wire, far))
        }
        None => Err(HandshakeFailure::Unreachable),
    }
}

/// Says what a CONNECT leads to, in time for the client to be told.
async fn find_target(hall: &Hall, asked: &Asked) -> Result<Target, Denied> {
    let limit = hall.context.shared.limits.handshake_timeout.mul_f64(CONNECT_SHARE);
    timeout(limit, target_of(hall, asked)).await.unwrap_or_else(|_| {
        let text = format!("`{}:{}` was not reached within {limit:?}", asked.host, asked.port);
        Err(Denied { status: StatusCode::GATEWAY_TIMEOUT, text, failure: HandshakeFailure::Unreachable })
    })
}

async fn target_of(hall: &Hall, asked: &Asked) -> Result<Target, Denied> {
    let Asked { host, port } = asked;
    let shared = &hall.context.shared;
    let denied = |status, text, failure| Err(Denied { status, text, failure });
    let is_service = |tables: &Tables| {
        let service = tables.hosts.find(host).map(|service| &tables.services[service]);
        service.map(|service| service.has_port(Some(*port)))
    };
    let mut found = is_service(&shared.tables.load());
    if found.is_none() {
        if !shared.has_mesh().await {
            let Failure { reason, message, .. } = not_begun(shared);
            let failure = match reason {
                Reason::NoIdentity => HandshakeFailure::NoIdentity,
                _ => HandshakeFailure::NoConfig,
            };
            return denied(StatusCode::SERVICE_UNAVAILABLE, message, failure);
        }
        found = is_service(&shared.tables.load());
        if found.is_none() && shared.demand.may_be_known(host, Instant::now()) {
            shared.demand.ask(host).await;
            found = is_service(&shared.tables.load());
        }
    }
    if found == Some(true) {
        return Ok(Target::Service);
    }
    if shared.unknown == Unknown::Refuse {
        let text = format!(
            "no service of the mesh answers to `{host}:{port}`, and `unknown: refuse` lets nothing else pass"
        );
        return denied(StatusCode::FORBIDDEN, text, HandshakeFailure::Unknown);
    }
    let addresses = match resolve(hall, host, *port).await {
        Ok(addresses) => addresses,
        Err(why) => {
            let text = format!("`{host}` has no address: {why}");
            return denied(StatusCode::BAD_GATEWAY, text, HandshakeFailure::Unreachable);
        }
    };
    if addresses.iter().any(|address| shared.is_ourselves(*address)) {
        let text = format!("`{host}:{port}` is this sidecar itself");
        return denied(StatusCode::LOOP_DETECTED, text, HandshakeFailure::Loop);
    }
    match open(hall, &addresses).await {
        Some(far) => Ok(Target::Far(far)),
        None => {
            let text = format!("`{host}:{port}` could not be reached");
            denied(StatusCode::BAD_GATEWAY, text, HandshakeFailure::Unreachable)
        }
    }
}

async fn resolve(hall: &Hall, host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if let Ok(ip) = bare.parse() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let found = hall.context.shared.resolver.resolve(host).await?;
    Ok(found.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
}

/// A connection to the first of `addresses` that answers, without our identity.
async fn open(hall: &Hall, addresses: &[SocketAddr]) -> Option<Raw> {
    let limit = Upstream::default().connect_timeout;
    for address in addresses.iter().take(ADDRESSES_MAX) {
        match raw::connect(&hall.context.shared.dialled, *address, None, limit).await {
            Ok(far) => return Some(far),
            Err(_) => hall.context.events().connect_failures.add(1),
        }
    }
    None
}

/// A connection to one endpoint of a service for bytes that pass as they are, inside mTLS where the endpoint is.
/// Routes play no part: they match calls.
async fn to_service(hall: &Hall, host: &str) -> Option<Raw> {
    let context = &hall.context;
    let local = hall.locals.current(context);
    let tables = &local.tables;
    let route = tables.services[tables.hosts.find(host)?].unrouted.as_ref()?;
    let target = local.target(route.cluster(&mut context.random.borrow_mut()));
    let mut tried = Tried::default();
    for _ in 0..TRIES_MAX {
        let member = target.pick(context, &tried, context.now())?;
        tried.add(member);
        let dial = &tables.endpoints[target.cluster.dials[member]];
        let limit = dial.upstream.connect_timeout;
        match raw::connect(&context.shared.dialled, dial.endpoint.address, dial.tls.as_ref(), limit).await {
            Ok(far) => return Some(far),
            Err(_) => {
                context.events().connect_failures.add(1);
                dial.endpoint.cooling.fail(context.now(), context.draw());
            }
        }
    }
    None
}

fn tunnel(near: Wire, far: Raw) -> Arrived {
    let expiry = far.expiry;
    Arrived::Tunnel(Tunnel { near, mtls: false, far, expiry, grant: None })
}
