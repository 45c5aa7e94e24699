//! What a test needs of the machine besides Rust. What is missing is a skip that is counted, or with
//! `OUTRIGGER_INTEROP=required`, as the gate has it, a failure.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use libtest_mimic::{Arguments, Failed, Trial};

/// A test: the promise that it holds, what the machine lacks for it, and the test itself.
pub(crate) struct Promise {
    pub(crate) name: &'static str,
    pub(crate) lacks: Option<String>,
    pub(crate) test: fn(),
}

/// Runs them as `cargo test` is used to, and tells how many were skipped and why.
pub(crate) fn keep(target: &str, promises: Vec<Promise>) -> ExitCode {
    let arguments = Arguments::from_args();
    let required = env::var_os("OUTRIGGER_INTEROP").is_some_and(|value| value == "required");
    let mut lacking: Vec<String> = promises.iter().filter_map(|promise| promise.lacks.clone()).collect();
    let trials = promises.into_iter().map(|promise| promise.trial(required)).collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    lacking.sort_unstable();
    lacking.dedup();
    if !arguments.list {
        let (ran, skipped) = (conclusion.num_passed + conclusion.num_failed, conclusion.num_ignored);
        let why = if skipped == 0 { String::new() } else { format!(" ({})", lacking.join("; ")) };
        println!("{target}: {ran} ran, {skipped} skipped{why}\n");
    }
    conclusion.exit_code()
}

impl Promise {
    fn trial(self, required: bool) -> Trial {
        let Self { name, lacks, test } = self;
        match lacks {
            Some(lacks) => Trial::test(name, || Err(Failed::from(lacks))).with_ignored_flag(!required),
            None => Trial::test(name, move || {
                test();
                Ok(())
            }),
        }
    }
}

/// The program that the environment variable names, else the first of `names` that can be run.
pub(crate) fn program(variable: &str, names: &[&str], proof: &str) -> Result<PathBuf, String> {
    let candidates = match env::var_os(variable) {
        Some(named) => vec![named],
        None => names.iter().map(OsString::from).collect(),
    };
    let runs = |program: &OsString| {
        let mut command = Command::new(program);
        command.arg(proof).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let found = candidates.into_iter().find(runs);
    found.map(PathBuf::from).ok_or_else(|| format!("no {}, and none in {variable}", names.join(" and no ")))
}
