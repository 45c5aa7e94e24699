//! `outrigger check` and `outrigger schema`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use config::{Group, Source};

use crate::files;

/// Checks files of any kind together; the mesh files of a folder are one mesh. Exit code 0 when there is nothing to complain
/// about, else 1, with every fault of every file on stderr.
pub(crate) fn check(paths: &[PathBuf]) -> ExitCode {
    let mut groups = Vec::new();
    let mut unreadable = false;
    let mut complain = |path: &Path, error: std::io::Error| {
        unreadable = true;
        eprintln!("{}: cannot be read: {error}", path.display());
    };
    for path in paths {
        let files = match path.is_dir() {
            true => files::listed(path).unwrap_or_else(|error| {
                complain(path, error);
                Vec::new()
            }),
            false => vec![path.clone()],
        };
        let mut read = Vec::new();
        for file in files {
            match fs::read_to_string(&file) {
                Ok(text) => read.push((file.display().to_string(), text)),
                Err(error) => complain(&file, error),
            }
        }
        groups.push(read);
    }
    let count: usize = groups.iter().map(Vec::len).sum();
    let groups: Vec<_> = groups.iter().map(|group| Group { sources: sources(group) }).collect();
    if let Err(faults) = config::check_groups(&groups) {
        eprintln!("{}", faults.to_string().trim_end());
        return ExitCode::FAILURE;
    }
    if unreadable {
        return ExitCode::FAILURE;
    }
    if count == 0 {
        eprintln!("there is no file to check; a folder's files end in `.yaml` or `.yml`");
        return ExitCode::FAILURE;
    }
    println!("{} good", if count == 1 { "1 file is".to_owned() } else { format!("{count} files are") });
    ExitCode::SUCCESS
}

fn sources(read: &[(String, String)]) -> Vec<Source<'_>> {
    read.iter().map(|(name, text)| Source { name, text }).collect()
}

/// Prints the JSON Schema of all files.
pub(crate) fn schema() -> ExitCode {
    println!("{:#}", config::schema());
    ExitCode::SUCCESS
}
