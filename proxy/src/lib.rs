//! The sidecar: an HTTP/2-aware proxy that stands beside a gRPC service.
//!
//! Imports go down this list only, or stay within a line; `cli/tests/floors.rs` keeps it so.
//!
//! ```text
//! boot                     files, listeners, threads
//! control                  admin pages, metrics, drain, the Unix socket (the control thread)
//! explain                  what would happen to a call
//! worker                   a data-plane thread
//! downstream               connections to us
//! call                     the life of a call
//! local, passage           one worker's view of the snapshot, and what lies outside of it
//! upstream                 connections to endpoints
//! context                  what threads share
//! build                    from the model to the snapshot
//! tables                   the snapshot
//! balance, endpoint, tls   which endpoint, and who it is
//! record, metrics, failure, grpc, trace, io, held, inherited, dial, demand, dns, socket, clock, process
//! ```

#![warn(clippy::disallowed_types, clippy::disallowed_methods)]

mod balance;
mod boot;
mod build;
mod call;
mod clock;
mod context;
mod control;
mod demand;
mod dial;
mod dns;
mod downstream;
mod endpoint;
pub mod explain;
mod failure;
mod grpc;
mod held;
mod inherited;
mod io;
mod local;
mod metrics;
mod passage;
mod process;
mod record;
mod socket;
mod tables;
mod tls;
mod trace;
mod upstream;
mod worker;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "\
outrigger-proxy, the sidecar

usage:
  outrigger-proxy [SIDECAR.YAML]         run; the first line on stdout is JSON with every bound address
  outrigger-proxy drain [SIDECAR.YAML]   ask the running sidecar to drain (for a container's preStop)
  outrigger-proxy --version | --help

SIDECAR.YAML defaults to /etc/outrigger/sidecar.yaml.
exit codes: 0 left as asked, 1 could not start or reach the sidecar, 2 usage
";

const DEFAULT_PATH: &str = "/etc/outrigger/sidecar.yaml";

/// Runs the command line of `outrigger-proxy`, `args` without the program's name.
pub fn main(args: impl Iterator<Item = String>) -> ExitCode {
    let args: Vec<String> = args.collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["--help" | "-h"] => {
            print!("{USAGE}");
            Ok(())
        }
        ["--version" | "-V"] => {
            println!("outrigger-proxy {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        ["drain"] => drain(Path::new(DEFAULT_PATH)),
        ["drain", path] => drain(Path::new(path)),
        [] => boot::run(Path::new(DEFAULT_PATH)),
        [path] if !path.starts_with('-') => boot::run(&PathBuf::from(path)),
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("outrigger-proxy: {error}");
            ExitCode::FAILURE
        }
    }
}

fn drain(path: &Path) -> Result<(), String> {
    let sidecar = control::files::read_sidecar(path)?;
    let socket = control::socket::path(&sidecar);
    let answer = control::socket::ask_drain(&socket)
        .map_err(|error| format!("no sidecar answers on {}: {error}", socket.display()))?;
    print!("{answer}");
    Ok(())
}
