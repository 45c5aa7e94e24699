//! The sidecar as a client of a control plane: ADS, incremental or state-of-the-world.
//!
//! ```text
//! connect -> stream -> wire -> judge -> book -> settle -> State --watch--> follower
//!                 ^                       |                                   |
//!                 '---- delta | sotw <----'<------------- Want <---watch------'
//! ```
//!
//! `stream` brings whole answers, `wire` reads them, `judge` looks at each resource, `book` keeps the newest good ones, and
//! `settle` chooses those that have all that they name. `delta` and `sotw` say what to ask for and how to take note of
//! an answer. `client` ties them together; all that decides is pure. A `herald` announces our endpoints at each control plane, where
//! there are several.

pub(crate) mod backoff;
pub(crate) mod book;
pub(crate) mod client;
pub(crate) mod connect;
pub(crate) mod counts;
pub(crate) mod delta;
pub(crate) mod extent;
pub(crate) mod families;
#[cfg(test)]
pub(crate) mod fixture;
pub(crate) mod framer;
pub(crate) mod held;
pub(crate) mod herald;
pub(crate) mod judge;
pub(crate) mod keepalive;
pub(crate) mod line;
pub(crate) mod lost;
pub(crate) mod machine;
pub(crate) mod node;
pub(crate) mod pace;
pub(crate) mod patience;
pub(crate) mod settings;
pub(crate) mod settle;
pub(crate) mod sotw;
pub(crate) mod state;
pub(crate) mod stream;
#[cfg(test)]
mod tests;
pub(crate) mod wire;
