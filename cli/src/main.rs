//! `outrigger`, the command line: a demo store inside a mesh, the config checks, the sidecar and the control plane themselves.

mod certs;
mod check;
mod demo;
mod diff;
mod explain;
mod files;
mod flow;
mod init;
mod page;
mod status;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use mimalloc::MiMalloc;

/// As in `outrigger-proxy`, which the subcommand `proxy` is.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// A gRPC service mesh: sidecars that speak gRPC natively.
#[derive(Debug, Parser)]
#[command(name = "outrigger", version)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs an online store of five gRPC services, each behind its own sidecar, every hop mTLS.
    Demo {
        /// How long to run, such as 10s or 2m; without it, until Ctrl-C.
        #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
        run_for: Option<Duration>,
        /// How many shop at once.
        #[arg(long, value_name = "N", default_value_t = 20)]
        #[arg(value_parser = clap::value_parser!(u16).range(1..=examples::arguments::SHOPPERS_MAX as i64))]
        shoppers: u16,
        /// Calls that all shoppers together start per second (default: 200; with --chaos 60).
        #[arg(long, value_name = "PER_SECOND")]
        #[arg(value_parser = clap::value_parser!(u32).range(1..=examples::arguments::RATE_MAX as i64))]
        rate: Option<u32>,
        /// Kills, freezes and cuts off replicas for a minute (or --for), in this store and in one without a mesh,
        /// and compares what the shoppers saw.
        #[arg(long)]
        chaos: bool,
        /// What the chance of --chaos begins with, so that the same things happen at the same moments.
        #[arg(long, value_name = "N", requires = "chaos")]
        seed: Option<u64>,
    },
    /// Checks sidecar.yaml, mesh.yaml and control.yaml files against the model and each other, and tells every fault.
    Check {
        /// The files, of any kind; the mesh files of a folder are one mesh.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Makes roots and join tokens for the CA of a control plane.
    Certs(certs::Options),
    /// Prints the JSON Schema of all files.
    Schema,
    /// Tells where a call goes, and why: the route, those that were passed over, backends, policies, endpoints.
    Explain(explain::Options),
    /// Tells in words what a change of the mesh would do, for sample calls too.
    Diff(diff::Options),
    /// Shows every proxy of a control plane, and whether it took what it was sent.
    Status(status::Options),
    /// Writes the rules that redirect a pod's connections to its sidecar, or removes them.
    Init(Box<init::Options>),
    /// Runs the sidecar; `outrigger proxy SIDECAR.YAML` is what containers run as `outrigger-proxy`.
    #[command(disable_help_flag = true)]
    Proxy {
        /// What `outrigger-proxy` takes.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
        args: Vec<String>,
    },
    /// Runs the control plane; `outrigger control CONTROL.YAML` is what containers run as `outrigger-control`.
    #[command(disable_help_flag = true)]
    Control {
        /// What `outrigger-control` takes.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
        args: Vec<String>,
    },
    /// Runs one app of the demo's store.
    #[command(hide = true, disable_help_flag = true)]
    Store {
        /// What `outrigger-store` takes.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
        args: Vec<String>,
    },
}

fn main() -> ExitCode {
    match CommandLine::parse().command {
        Command::Demo { run_for, shoppers, rate, chaos, seed } => {
            demo::run(demo::options::Options { run_for, shoppers, rate, chaos, seed })
        }
        Command::Check { files } => check::check(&files),
        Command::Certs(options) => certs::run(&options),
        Command::Schema => check::schema(),
        Command::Explain(options) => explain::run(&options),
        Command::Diff(options) => diff::run(&options),
        Command::Status(options) => status::run(&options),
        Command::Init(options) => init::run(&options),
        Command::Proxy { args } => proxy::main(args.into_iter()),
        Command::Control { args } => control::main(args.into_iter()),
        Command::Store { args } => examples::run(args.into_iter()),
    }
}

/// Reads `250ms`, `10s`, `2m`, `1h` or `30d`.
fn duration(text: &str) -> Result<Duration, String> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let millis_each: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err("a duration is a whole number and ms, s, m, h or d, such as 10s".to_owned()),
    };
    let millis = number.parse().ok().and_then(|number: u64| number.checked_mul(millis_each));
    millis.map(Duration::from_millis).ok_or_else(|| format!("`{number}` is no number that fits"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn a_duration_needs_a_number_and_a_unit() {
        for (text, millis) in [("250ms", 250), ("10s", 10_000), ("2m", 120_000), ("1h", 3_600_000)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)));
        }
        for text in ["", "10", "s", "-1s", "1.5s", "10 s", "99999999999999999999s", "18446744073709551615h"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_sidecar_gets_its_arguments_untouched() {
        let line = ["outrigger", "proxy", "--help", "x.yaml", "--", "-v"];
        let Command::Proxy { args } = CommandLine::parse_from(line).command else { panic!("not the proxy") };
        assert_eq!(args, ["--help", "x.yaml", "--", "-v"]);
    }
}
