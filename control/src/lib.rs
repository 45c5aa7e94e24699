//! The control plane: a folder of mesh files, followed live and served to sidecars, Envoy and proxyless gRPC over xDS.
//!
//! Imports go down this list only, or stay within a line.
//!
//! ```text
//! boot                       from control.yaml to a running control plane and back to nothing
//! admin                      the pages
//! metrics                    what is counted
//! ads                        xDS: sessions, the registry of proxies, registration, CSDS
//! maker                      from files and registrations to worlds
//! follow                     the files: what has changed, what is good, what stays in force
//! accept, tls                connections, and who is at their other end
//! world                      the mesh at one moment, and what each audience is told of it
//! set, changed, directory    the resources of one audience, made of those before
//! registrations, counters, peer, debounce, watch, stamp, journal, report
//! ```

use std::process::ExitCode;

pub mod accept;
pub mod ads;
pub mod peer;
pub mod registrations;
pub mod set;
pub mod world;

mod changed;
mod counters;
mod debounce;
mod directory;
mod follow;
mod journal;
mod leaf;
mod maker;
mod report;
mod sources;
mod stamp;
mod tls;
mod watch;

/// Runs the command line of `outrigger-control`, `args` without the program's name.
pub fn main(args: impl Iterator<Item = String>) -> ExitCode {
    let _ = args;
    ExitCode::from(2)
}
