//! ADS: what sidecars, Envoy and proxyless gRPC ask for, told over one stream each. And what else is served beside it: CSDS, the CA
//! (`certificates`) and its roots (`secrets`).
//!
//! ```text
//! server (a connection) -> stream (one stream: I/O) -> session (one stream: decisions) -> channel (one type of it)
//!                              |                          delta | sotw
//!                              '-> hub: views, counters, registry (who holds what), owners (who announces what)
//! ```
//!
//! [`server::serve`] takes a connection; everything else hangs on one [`hub::Hub`]. A stream pulls: it makes a response when
//! HTTP/2 has room for it, from the newest `View` of its audience, so that a slow client costs a list of names and
//! never a queue. Resources are shared bytes from the set to the socket.

mod admit;
mod audience;
mod certificates;
mod channel;
pub mod counters;
mod csds;
mod delta;
mod grpc;
pub mod hub;
pub mod limits;
mod pace;
mod registration;
pub mod registry;
mod secrets;
pub mod server;
pub mod session;
mod sotw;
mod stream;
mod view;
mod wire;

#[cfg(test)]
mod tests;
