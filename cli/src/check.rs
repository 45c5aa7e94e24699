//! `outrigger check` and `outrigger schema`.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

/// Checks files of either kind together. Exit code 0 when there is nothing to complain about, else 1, with
/// every fault of every file on stderr.
pub(crate) fn check(files: &[PathBuf]) -> ExitCode {
    let mut read = Vec::new();
    let mut unreadable = false;
    for file in files {
        match fs::read_to_string(file) {
            Ok(text) => read.push((file.display().to_string(), text)),
            Err(error) => {
                unreadable = true;
                eprintln!("{}: cannot be read: {error}", file.display());
            }
        }
    }
    let sources: Vec<_> = read.iter().map(|(name, text)| config::Source { name, text }).collect();
    if let Err(faults) = config::check(&sources) {
        eprintln!("{}", faults.to_string().trim_end());
        return ExitCode::FAILURE;
    }
    if unreadable {
        return ExitCode::FAILURE;
    }
    println!(
        "{} good",
        if files.len() == 1 { "1 file is".to_owned() } else { format!("{} files are", files.len()) }
    );
    ExitCode::SUCCESS
}

/// Prints the JSON Schema of both files.
pub(crate) fn schema() -> ExitCode {
    println!("{:#}", config::schema());
    ExitCode::SUCCESS
}
