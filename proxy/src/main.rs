//! The sidecar's executable; all of it is in the library.

fn main() -> std::process::ExitCode {
    outrigger_proxy::main(std::env::args().skip(1))
}
