//! `outrigger-control`, the program that containers run.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// As in `outrigger-proxy`.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    outrigger_control::main(std::env::args().skip(1))
}
