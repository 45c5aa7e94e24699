//! `outrigger diff`: what a change of the mesh would do, in words.

mod access;
mod calls;
mod change;
mod cover;
mod report;
mod risks;
mod samples;
mod services;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use proxy::explain::View;

use crate::diff::report::Report;
use crate::files;

/// What is compared.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The mesh as it is: a file, or a folder of files.
    #[arg(value_name = "OLD")]
    old: PathBuf,
    /// The mesh as it would be.
    #[arg(value_name = "NEW")]
    new: PathBuf,
    /// Calls to follow through both, one a line: AUTHORITY METHOD, and HEADER:VALUE as often as needed. Without it they
    /// are made up from what the routes of both match.
    #[arg(long, value_name = "FILE")]
    calls: Option<PathBuf>,
    /// Prints JSON, for tools.
    #[arg(long)]
    json: bool,
}

/// Compares. Exit codes as those of diff(1): 0 the two mean the same, 1 they differ, 2 they could not be compared.
pub(crate) fn run(options: &Options) -> ExitCode {
    match compare(options) {
        Ok(report) => {
            match options.json {
                true => println!("{:#}", report.json()),
                false => print!("{}", report.text()),
            }
            match report.is_empty() {
                true => ExitCode::SUCCESS,
                false => ExitCode::FAILURE,
            }
        }
        Err(error) => {
            eprintln!("outrigger diff: {error}");
            ExitCode::from(2)
        }
    }
}

fn compare(options: &Options) -> Result<Report, String> {
    let old = View::new(files::mesh(&options.old)?, None)?;
    let new = View::new(files::mesh(&options.new)?, None)?;
    let samples = match &options.calls {
        Some(path) => {
            let name = path.display();
            let text =
                fs::read_to_string(path).map_err(|error| format!("{name}: cannot be read: {error}"))?;
            samples::read(&text).map_err(|error| format!("{name}:{error}"))?
        }
        None => samples::derive(&[old.mesh(), new.mesh()]),
    };
    let calls = calls::compare(&old, &new, &samples)?;
    let (old, new) = (old.mesh(), new.mesh());
    Ok(Report { changes: services::compare(old, new), warnings: risks::find(old, new), calls })
}
