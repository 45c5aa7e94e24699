//! The control plane: a folder of mesh files, followed live and served to sidecars, Envoy and proxyless gRPC over xDS.

use std::process::ExitCode;

/// Runs the command line of `outrigger-control`, `args` without the program's name.
pub fn main(args: impl Iterator<Item = String>) -> ExitCode {
    let _ = args;
    ExitCode::from(2)
}
