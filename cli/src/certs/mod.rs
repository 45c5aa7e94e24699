//! `outrigger certs`: what people and programs need of the mesh's certificates.

mod issue;
mod keep;
mod kubernetes;
mod sds;
mod write;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};

/// The exit code of a command line that says too little, as clap has it.
const USAGE: u8 = 2;

/// `outrigger certs`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, arg_required_else_help = true)]
pub(crate) struct Options {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    keep: keep::Keeping,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes the first or the next root in the folder of a CA (`ca.folder` of control.yaml).
    ///
    /// A running control plane takes it in by itself: it is trusted at once, and signs when it has been for `ca.overlap`.
    Root {
        /// The folder; made if it is not there.
        folder: PathBuf,
    },
    /// Prints a join token, by which a workload asks a control plane for its first certificate.
    Token {
        /// The folder of the CA (`ca.folder` of control.yaml).
        folder: PathBuf,
        /// The workload that it is bound to, such as spiffe://cluster.local/ns/shop/sa/orders.
        #[arg(long, value_name = "SPIFFE-ID")]
        id: String,
        /// How long it can be used, such as 10m or 24h.
        #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = crate::duration)]
        life: Duration,
        /// It brings one certificate and no second; of each control plane that does not share its folder with the others.
        #[arg(long)]
        single_use: bool,
    },
    /// Prints an authority and join tokens as Secrets, for `kubectl apply -f -`; `--new` makes the authority first.
    Kubernetes(kubernetes::Options),
}

pub(crate) fn run(options: &Options) -> ExitCode {
    let Some(command) = &options.command else { return keep(&options.keep) };
    let done = match command {
        Command::Root { folder } => issue::root(folder),
        Command::Token { folder, id, life, single_use } => issue::token(folder, id, *life, *single_use),
        Command::Kubernetes(options) => kubernetes::print(options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("outrigger certs: {error}");
            ExitCode::FAILURE
        }
    }
}

fn keep(options: &keep::Keeping) -> ExitCode {
    if !options.are_given() {
        eprintln!("outrigger certs: say what is done with it: `--sds unix:PATH` or `--write FOLDER`");
        return ExitCode::from(USAGE);
    }
    match keep::run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("outrigger certs: {error}");
            ExitCode::FAILURE
        }
    }
}
