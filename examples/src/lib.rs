//! An online store of five gRPC services: users, products, orders, payments, and a storefront whose
//! shoppers call the others.
//!
//! The apps know nothing of a mesh. Each listens on one address and calls the others by name, either
//! through one address that takes all names (`--mesh`, a sidecar) or at an address each (`--at`).
//! Nothing is retried here, so that whatever the mesh loses is seen and counted; only a watch that was cut in the
//! middle is taken up again, which nobody else can do.

pub mod app;
pub mod arguments;
pub mod counts;
pub mod deadline;
pub mod delivery;
pub mod health;
pub mod ledger;
pub mod orders;
pub mod payments;
pub mod pb;
pub mod products;
pub mod serve;
pub mod shoppers;
pub mod stop;
pub mod storefront;
pub mod targets;
pub mod users;
pub mod watching;

use std::process::ExitCode;

use crate::arguments::Arguments;

/// Runs one app until SIGTERM, SIGINT or, for the storefront, a line `stop` on stdin.
///
/// `args` begin with the app's name; [`arguments::USAGE`] tells the rest. The first line on stdout is
/// `{"listen":"ADDRESS"}`. Exit codes: 0 after a graceful end, 1 when the app could not start or open
/// calls had to be dropped, 2 for bad arguments.
pub fn run(args: impl Iterator<Item = String>) -> ExitCode {
    let arguments = match Arguments::parse(args) {
        Ok(arguments) => arguments,
        Err(fault) => {
            eprintln!("{fault}\n{}", arguments::USAGE);
            return ExitCode::from(2);
        }
    };
    let name = arguments.app.name();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("{name}: no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(app::run(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error}");
            ExitCode::FAILURE
        }
    }
}
