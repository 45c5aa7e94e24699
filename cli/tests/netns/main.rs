//! Redirection in network namespaces: `outrigger init`, the sidecars behind its rules, and what goes over the
//! wire between pods. Needs root, `ip`, `nft` and `iptables`; where they are missing, each test says so.

mod cluster;
mod door;
mod hole;
mod namespace;
mod partition;
mod python;
mod redirect;
mod rules;
mod secrets;
mod speaker;
#[path = "../parts/watchdog.rs"]
mod watchdog;
mod wire;
