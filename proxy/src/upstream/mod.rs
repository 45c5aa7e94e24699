//! Connections to endpoints: one pool per worker and endpoint.

pub(crate) mod connect;
pub(crate) mod connection;
pub(crate) mod pool;
pub(crate) mod raw;
pub(crate) mod room;
pub(crate) mod upkeep;
