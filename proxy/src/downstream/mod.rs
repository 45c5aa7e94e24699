//! Connections to us: detection, TLS, HTTP/2, and the calls they bring.

pub(crate) mod connection;
pub(crate) mod handshake;
pub(crate) mod lobby;
pub(crate) mod roster;
