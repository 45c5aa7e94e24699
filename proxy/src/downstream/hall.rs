//! The doors that connections come through, and what they turn out to be.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use config::model::Mtls;

use crate::call::origin::Via;
use crate::context::Context;
use crate::downstream::handshake::{Established, Peer};
use crate::downstream::lobby::Lobby;
use crate::downstream::roster::Roster;
use crate::downstream::tunnel::Tunnel;
use crate::local::Locals;
use crate::metrics::calls::Direction;
use crate::passage::Passages;

/// What every downstream connection of a worker shares.
#[derive(Debug)]
pub(crate) struct Hall {
    pub(crate) context: Rc<Context>,
    pub(crate) locals: Rc<Locals>,
    pub(crate) passages: Passages,
    /// By direction.
    pub(crate) lobbies: [Lobby; 2],
    pub(crate) roster: Roster,
}

/// A listener, as its connections see it.
#[derive(Clone, Debug)]
pub(crate) enum Door {
    /// The entries that listen there: one, or several that redirected connections are told apart for.
    Inbound(Arc<[Gate]>),
    Outbound,
}

/// An entry of `inbound`.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    /// Index into `Tables::entries`.
    pub(crate) entry: usize,
    pub(crate) app: SocketAddr,
    pub(crate) mtls: Mtls,
}

impl Door {
    pub(crate) fn direction(&self) -> Direction {
        match self {
            Self::Inbound(_) => Direction::Inbound,
            Self::Outbound => Direction::Outbound,
        }
    }
}

/// What a connection turned out to be.
#[expect(clippy::large_enum_variant, reason = "one for each connection, and moved once")]
pub(crate) enum Arrived {
    /// HTTP/2, with calls.
    Calls { established: Box<Established>, peer: Option<Peer>, entrance: Entrance },
    /// Bytes that pass as they are.
    Tunnel(Tunnel),
}

/// Which way calls came in.
pub(crate) enum Entrance {
    /// Index into `Tables::entries`.
    Entry(usize),
    Outbound(Via),
}
