//! The control plane: a folder of mesh files, followed live and served to sidecars, Envoy and proxyless gRPC over xDS.
//!
//! Imports go down this list only, or stay within a line.
//!
//! ```text
//! boot                       from control.yaml to a running control plane and back to nothing
//! admin                      the pages
//! show, metrics              what they show
//! ads                        xDS: sessions, the registry of proxies, registration, CSDS
//! accept, roster, peer       connections, and who is at their other end
//! own                        our own certificate, where our CA signs it
//! follow, credentials        the files: what has changed, what is good, what stays in force
//! maker                      from files and registrations to worlds
//! tls                        our own certificate, and whom we let in
//! ca                         the authority: roots, tokens, leaves
//! world                      the mesh at one moment
//! set, changed, directory    what one audience is told of it, made of what it was told before
//! sources                    which version of each mesh file is in force
//! keep, hosts                the last good version of each, on disk; hosts that lead elsewhere than before
//! registrations, counters, lobby, debounce, folder, journal, notes
//! ```

pub mod ads;
pub mod ca;
pub mod peer;
pub mod registrations;
pub mod set;
pub mod world;

mod accept;
mod admin;
mod boot;
mod changed;
mod counters;
mod credentials;
mod debounce;
mod directory;
mod folder;
mod follow;
mod hosts;
mod journal;
mod keep;
mod lobby;
mod maker;
mod metrics;
mod notes;
mod own;
mod roster;
mod show;
mod sources;
mod tls;

use std::path::Path;
use std::process::ExitCode;

const USAGE: &str = "\
outrigger-control, the control plane

usage:
  outrigger-control [CONTROL.YAML]   run; the first line on stdout is JSON with the bound addresses
  outrigger-control --version | --help

CONTROL.YAML defaults to /etc/outrigger/control.yaml. SIGTERM ends it in order, SIGHUP has it look at all files.
exit codes: 0 left as asked, 1 could not start, 2 usage
";

const DEFAULT_PATH: &str = "/etc/outrigger/control.yaml";

/// Runs the command line of `outrigger-control`, `args` without the program's name.
pub fn main(args: impl Iterator<Item = String>) -> ExitCode {
    let args: Vec<String> = args.collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["--help" | "-h"] => {
            print!("{USAGE}");
            Ok(())
        }
        ["--version" | "-V"] => {
            println!("outrigger-control {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        [] => boot::run(Path::new(DEFAULT_PATH)),
        [path] if !path.starts_with('-') => boot::run(Path::new(path)),
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("outrigger-control: {error}");
            ExitCode::FAILURE
        }
    }
}
