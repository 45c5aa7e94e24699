//! The store by itself, one process per app: `outrigger-store users --listen 127.0.0.1:0`.

use std::process::ExitCode;

fn main() -> ExitCode {
    outrigger_examples::run(std::env::args().skip(1))
}
