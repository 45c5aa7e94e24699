//! What a connection from the mesh is, and what becomes of it.
//!
//! ```text
//! redirected or not -> entry -> opaque port? ------------------------------------------------+
//!   strict: TLS or nothing         permissive, off: TLS, HTTP/2, anything else, silence --+  |
//!     mTLS -> who is it -> HTTP/2: calls                                                  v  v
//!                          else: the service lets this caller do everything? -> bytes to the app
//! ```

use std::net::SocketAddr;
use std::time::SystemTime;

use config::model::Mtls;
use config::spiffe::SpiffeId;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::context::Context;
use crate::downstream::detect::{Sniff, Spoken, TLS_HANDSHAKE, first_byte};
use crate::downstream::hall::{Arrived, Entrance, Gate};
use crate::downstream::handshake::{Inside, Peer, authenticate, greet};
use crate::downstream::tunnel::Tunnel;
use crate::io::Wire;
use crate::metrics::events::HandshakeFailure;
use crate::socket;
use crate::upstream::raw;

/// Finds out; the caller bounds the time.
pub(crate) async fn settle(
    context: &Context,
    gates: &[Gate],
    tcp: TcpStream,
) -> Result<Arrived, HandshakeFailure> {
    let shared = &context.shared;
    let original = socket::original_destination(&tcp);
    let Some(gate) = find(gates, original) else {
        return without_entry(context, gates, original, tcp).await;
    };
    if shared.opaque_ports.contains(&gate.app.port()) {
        return opaque(context, gate, None, Wire::plain(tcp)).await;
    }
    let first = match gate.mtls {
        Mtls::Strict => first_byte(&tcp).await?,
        Mtls::Permissive | Mtls::Off => {
            match timeout(shared.limits.detection_timeout, first_byte(&tcp)).await {
                Ok(first) => first?,
                Err(_) => return opaque(context, gate, None, Wire::plain(tcp)).await,
            }
        }
    };
    // The certificate of this moment, whatever it was when the connection was accepted.
    let own = shared.tables.load().credentials.clone();
    match (first, gate.mtls, own) {
        (TLS_HANDSHAKE, Mtls::Strict | Mtls::Permissive, Some(own)) => {
            let (wire, peer, inside) = authenticate(tcp, &own.server).await?;
            speak(context, gate, Some(peer), wire, inside).await
        }
        (_, Mtls::Strict, _) => Err(HandshakeFailure::Plaintext),
        (TLS_HANDSHAKE, ..) => opaque(context, gate, None, Wire::plain(tcp)).await,
        _ => speak(context, gate, None, Wire::plain(tcp), Inside::Unsaid).await,
    }
}

/// The entry that a connection is for: a redirected one says by its original port, another by where it came if
/// only one entry listens there.
fn find(gates: &[Gate], original: Option<SocketAddr>) -> Option<&Gate> {
    match (original, gates) {
        (Some(original), _) => gates.iter().find(|gate| gate.app.port() == original.port()),
        (None, [only]) => Some(only),
        (None, _) => None,
    }
}

/// Goes on with a caller that is known, or may be anyone.
async fn speak(
    context: &Context,
    gate: &Gate,
    peer: Option<Peer>,
    wire: Wire,
    inside: Inside,
) -> Result<Arrived, HandshakeFailure> {
    let limits = &context.shared.limits;
    let (spoken, wire) = match inside {
        Inside::Http2 => (Spoken::Http2, wire),
        Inside::Opaque => (Spoken::Other, wire),
        Inside::Unsaid => Sniff::new(wire).listen(Some(limits.detection_timeout)).await?,
    };
    if spoken != Spoken::Http2 {
        return opaque(context, gate, peer, wire).await;
    }
    let established = Box::new(greet(wire, limits).await?);
    Ok(Arrived::Calls { established, peer, entrance: Entrance::Entry(gate.entry) })
}

/// Bytes that nobody looks at may be anything, so the caller must be allowed everything.
async fn opaque(
    context: &Context,
    gate: &Gate,
    peer: Option<Peer>,
    near: Wire,
) -> Result<Arrived, HandshakeFailure> {
    let id: Option<&SpiffeId> = peer.as_ref().map(|peer| &peer.leaf.id);
    if !context.shared.tables.load().entries[gate.entry].authorization.allows_all(id) {
        return Err(HandshakeFailure::NotAllowed);
    }
    let ends_after = peer.as_ref().map(|peer| peer.leaf.validity(SystemTime::now()).ends_after);
    tunnel(context, near, gate.app, peer.is_some(), ends_after).await
}

/// A redirected connection to a port of the pod that no entry speaks for: the app's own affair, unless something
/// here is strict.
async fn without_entry(
    context: &Context,
    gates: &[Gate],
    original: Option<SocketAddr>,
    tcp: TcpStream,
) -> Result<Arrived, HandshakeFailure> {
    let Some(to) = original else { return Err(HandshakeFailure::NoEntry) };
    if context.shared.is_ourselves(to) || context.shared.is_from_us(&tcp) {
        return Err(HandshakeFailure::Loop);
    }
    let strict = gates.iter().any(|gate| gate.mtls == Mtls::Strict);
    if strict && !context.shared.opaque_ports.contains(&to.port()) {
        return Err(HandshakeFailure::NoEntry);
    }
    tunnel(context, Wire::plain(tcp), to, false, None).await
}

async fn tunnel(
    context: &Context,
    near: Wire,
    to: SocketAddr,
    mtls: bool,
    ends_after: Option<std::time::Duration>,
) -> Result<Arrived, HandshakeFailure> {
    let limit = config::model::Upstream::default().connect_timeout;
    match raw::connect(&context.shared.dialled, to, None, limit).await {
        Ok(far) => Ok(Arrived::Tunnel(Tunnel { near, far, mtls, ends_after })),
        Err(_) => {
            near.abort();
            context.events().connect_failures.add(1);
            Err(HandshakeFailure::Unreachable)
        }
    }
}
