//! The sidecar's executable; all of it is in the library.

use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> std::process::ExitCode {
    outrigger_proxy::main(std::env::args().skip(1))
}
