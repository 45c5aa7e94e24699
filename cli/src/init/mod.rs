//! `outrigger init`: writes and removes the rules that lead a pod's connections to its sidecar.
//!
//! [`mod@plan`] says what is redirected, without a tool in mind; [`nft`] and [`iptables`] turn that into the text of
//! their rules; [`apply`] is the only file here that changes anything.

mod apply;
mod cidr;
mod iptables;
mod nft;
mod options;
mod plan;
mod ports;
#[cfg(test)]
mod sample;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use config::Source;

pub(crate) use crate::init::options::Options;
use crate::init::plan::Plan;

/// Writes, prints or removes the rules. Exit code 0 when that is done, else 1 with the reason on stderr.
pub(crate) fn run(options: &Options) -> ExitCode {
    match carry_out(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(wrong) => {
            eprintln!("outrigger init: {wrong}");
            ExitCode::FAILURE
        }
    }
}

fn carry_out(options: &Options) -> Result<(), String> {
    let plan =
        options.file.as_deref().filter(|_| !options.remove).map(|file| plan(file, options)).transpose()?;
    for note in plan.iter().flat_map(|plan| &plan.notes) {
        eprintln!("outrigger init: {note}");
    }
    match (&plan, options.print) {
        (_, true) => print!("{}", apply::preview(options.tool, plan.as_ref())),
        (None, false) => apply::remove(options.tool)?,
        (Some(plan), false) => {
            let tool = apply::write(options.tool, plan)?;
            println!("{plan}; written by {tool}");
        }
    }
    Ok(())
}

fn plan(file: &Path, options: &Options) -> Result<Plan, String> {
    let name = file.display().to_string();
    let text = fs::read_to_string(file).map_err(|error| format!("{name}: cannot be read: {error}"))?;
    let sidecar = config::parse_sidecar(Source { name: &name, text: &text })
        .map_err(|faults| format!("the configuration cannot be used:\n{}", faults.to_string().trim_end()))?;
    Plan::new(&sidecar, options)
        .map_err(|faults| format!("{name} does not suit redirection:\n{}", faults.join("\n")))
}
