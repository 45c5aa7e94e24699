//! Connections to us: detection, TLS, HTTP/2, and the calls they bring.

pub(crate) mod connection;
pub(crate) mod detect;
pub(crate) mod hall;
pub(crate) mod handshake;
pub(crate) mod inbound;
pub(crate) mod judged;
pub(crate) mod lobby;
pub(crate) mod outbound;
pub(crate) mod proxy_request;
pub(crate) mod roster;
pub(crate) mod tunnel;
