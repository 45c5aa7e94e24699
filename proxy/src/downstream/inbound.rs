//! What a connection from the mesh is, and what becomes of it.
//!
//! ```text
//! redirected or not -> entry -> redirected, and an opaque port? ------------------------------+
//!   strict: TLS or nothing         permissive, off: TLS, HTTP/2, anything else, silence --+  |
//!     mTLS -> who is it -> HTTP/2: calls                                                  v  v
//!                          else: the service lets this caller do everything? -> bytes to the app
//! ```

use std::net::SocketAddr;

use config::model::{Mtls, Upstream};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::context::Context;
use crate::downstream::detect::{Sniff, Spoken, TLS_HANDSHAKE, first_byte};
use crate::downstream::hall::{Arrived, Entrance, Gate};
use crate::downstream::handshake::{Inside, Peer, authenticate, greet};
use crate::downstream::lobby::Guest;
use crate::downstream::tunnel::{Grant, Tunnel};
use crate::io::Wire;
use crate::metrics::events::HandshakeFailure;
use crate::socket;
use crate::upstream::raw::{self, Raw};

/// Finds out; the caller bounds the time.
pub(crate) async fn settle(
    context: &Context,
    gates: &[Gate],
    guest: &Guest<'_>,
    tcp: TcpStream,
) -> Result<Arrived, HandshakeFailure> {
    let shared = &context.shared;
    let original = socket::original_destination(&tcp);
    let Some(gate) = find(gates, original) else {
        return without_entry(context, guest, original, tcp).await;
    };
    let opaque = Opaque { context, gate, guest };
    // Who dials the listener itself is a sidecar, or means to be taken for one.
    if original.is_some() && shared.opaque_ports.contains(&gate.app.port()) {
        return opaque.pass(None, Wire::plain(tcp)).await;
    }
    let first = match gate.mtls {
        Mtls::Strict => first_byte(&tcp).await?,
        Mtls::Permissive | Mtls::Off => {
            match timeout(shared.limits.detection_timeout, first_byte(&tcp)).await {
                Ok(first) => first?,
                Err(_) => return opaque.pass(None, Wire::plain(tcp)).await,
            }
        }
    };
    // The certificate of this moment, whatever it was when the connection was accepted.
    let own = shared.tables.load().credentials.clone();
    match (first, gate.mtls, own) {
        (TLS_HANDSHAKE, Mtls::Strict | Mtls::Permissive, Some(own)) => {
            let (wire, peer, inside) = authenticate(tcp, &own).await?;
            speak(opaque, Some(peer), wire, inside).await
        }
        // Not to be taken for the app's own TLS: it is the mesh's, and comes again.
        (TLS_HANDSHAKE, Mtls::Strict | Mtls::Permissive, None) if shared.identity.is_some() => {
            Err(HandshakeFailure::NoIdentity)
        }
        (_, Mtls::Strict, _) => Err(HandshakeFailure::Plaintext),
        (TLS_HANDSHAKE, ..) => opaque.pass(None, Wire::plain(tcp)).await,
        _ => speak(opaque, None, Wire::plain(tcp), Inside::Unsaid).await,
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
    opaque: Opaque<'_>,
    peer: Option<Peer>,
    wire: Wire,
    inside: Inside,
) -> Result<Arrived, HandshakeFailure> {
    let limits = &opaque.context.shared.limits;
    let (spoken, wire) = match inside {
        Inside::Http2 => (Spoken::Http2, wire),
        Inside::Opaque => (Spoken::Other, wire),
        Inside::Unsaid => Sniff::new(wire).listen(Some(limits.detection_timeout)).await?,
    };
    if spoken != Spoken::Http2 {
        return opaque.pass(peer, wire).await;
    }
    let established = Box::new(greet(wire, limits).await?);
    Ok(Arrived::Calls { established, peer, entrance: Entrance::Entry(opaque.gate.entry) })
}

/// Where bytes go that nobody looks at.
struct Opaque<'a> {
    context: &'a Context,
    gate: &'a Gate,
    guest: &'a Guest<'a>,
}

impl Opaque<'_> {
    /// They may be anything, so the caller must be allowed everything.
    async fn pass(self, peer: Option<Peer>, near: Wire) -> Result<Arrived, HandshakeFailure> {
        let Self { context, gate, guest } = self;
        let expiry = peer.as_ref().map(|peer| peer.expiry);
        let (caller, proof) = peer.map(|peer| (peer.leaf.id, peer.proof)).unzip();
        let mut grant = Grant { entry: gate.entry, caller, proof, by: None };
        // A mesh that is about to come may allow it.
        context.shared.has_mesh().await;
        if !grant.holds(&context.shared.tables.load()) {
            return Err(HandshakeFailure::NotAllowed);
        }
        guest.leave();
        let (near, far) = reach(context, near, gate.app).await?;
        let mtls = grant.caller.is_some();
        Ok(Arrived::Tunnel(Tunnel { near, mtls, far, expiry, grant: Some(grant) }))
    }
}

/// A redirected connection to a port of the pod that no entry of this listener speaks for: the app's own affair,
/// unless something here is strict.
async fn without_entry(
    context: &Context,
    guest: &Guest<'_>,
    original: Option<SocketAddr>,
    tcp: TcpStream,
) -> Result<Arrived, HandshakeFailure> {
    let shared = &context.shared;
    let Some(to) = original else { return Err(HandshakeFailure::NoEntry) };
    if tcp.peer_addr().is_ok_and(|peer| shared.is_loop(peer, to)) {
        return Err(HandshakeFailure::Loop);
    }
    if shared.strict && !shared.opaque_ports.contains(&to.port()) {
        return Err(HandshakeFailure::NoEntry);
    }
    guest.leave();
    let (near, far) = reach(context, Wire::plain(tcp), to).await?;
    Ok(Arrived::Tunnel(Tunnel { near, mtls: false, far, expiry: None, grant: None }))
}

/// Connects to where bytes go; who waits for it is reset if nobody is there.
async fn reach(context: &Context, near: Wire, to: SocketAddr) -> Result<(Wire, Raw), HandshakeFailure> {
    let limit = Upstream::default().connect_timeout;
    match raw::connect(&context.shared.dialled, to, None, limit).await {
        Ok(far) => Ok((near, far)),
        Err(_) => {
            near.abort();
            context.events().connect_failures.add(1);
            Err(HandshakeFailure::Unreachable)
        }
    }
}
