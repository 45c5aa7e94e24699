//! The documentation is true: its commands run, its links lead somewhere, its YAML is good, and the code has
//! what it names.

mod commands;
mod desk;
mod pages;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::commands::COMMANDS;
use crate::desk::Desk;
use crate::pages::{Block, anchor, blocks, documents, quoted, read, readme_mesh, root};

/// YAML in the documentation that is no file of ours, by its beginning.
const FOREIGN_YAML: [&str; 3] = ["lifecycle:", "node:", "groups:"];

/// Words of the architecture and the decisions that belong to others.
const FOREIGN_SYMBOLS: [&str; 4] = ["Send", "RwLock", "std::time::Instant", "env::var"];

#[test]
fn every_fenced_command_is_run_or_has_a_reason() {
    let mut listed: BTreeSet<(&str, &str)> = COMMANDS.iter().map(|(file, line, _)| (*file, *line)).collect();
    for file in documents() {
        let blocks: Vec<Block> = blocks(&file).into_iter().filter(|block| block.language == "sh").collect();
        for block in &blocks {
            let line = block.first_line();
            let known = COMMANDS.iter().find(|(in_file, first, _)| *in_file == file && *first == line);
            let (in_file, first, _) =
                known.unwrap_or_else(|| panic!("`{line}` of {file} is not in COMMANDS"));
            listed.remove(&(*in_file, *first));
        }
    }
    assert!(listed.is_empty(), "listed and not there: {listed:?}");
}

#[test]
fn a_mesh_by_hand_works_as_the_readme_says() {
    let mut desk = Desk::new();
    desk.walk("README.md");
    // And what it says of a caller who may not.
    let mesh = desk.folder.join("mesh/mesh.yaml");
    let text = fs::read_to_string(&mesh).expect("the mesh");
    assert!(text.contains("sa/orders]"), "{text}");
    fs::write(&mesh, text.replace("sa/orders]", "sa/users]")).expect("the mesh");
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let output = desk.run("outrigger store charge --mesh http://127.0.0.1:15001");
        if output.contains(r#""code":"PermissionDenied""#) {
            break;
        }
        assert!(Instant::now() < deadline, "{output}");
    }
}

#[test]
fn the_commands_of_operations_work() {
    let mut desk = Desk::new();
    let sidecar = "service: orders\nnamespace: shop\noutbound: {listen: 127.0.0.1:15001}\n\
        admin: {listen: 127.0.0.1:15000}\nprobes: {listen: 127.0.0.1:15020}\nmesh: {file: mesh.yaml}\n";
    fs::write(desk.folder.join("sidecar.yaml"), desk.here(sidecar)).expect("a file");
    fs::write(desk.folder.join("mesh.yaml"), desk.here(&readme_mesh())).expect("a file");
    desk.walk("docs/operations.md");
    // It was asked to drain; the SIGTERM that Kubernetes would send now ends it.
    let (_, mut sidecar) = desk.running.remove(0);
    // SAFETY: a plain system call on a child that has not been waited for.
    unsafe { libc::kill(sidecar.id().cast_signed(), libc::SIGTERM) };
    assert_eq!(sidecar.wait().expect("a status").code(), Some(0));
}

#[test]
fn the_mesh_of_the_readme_is_the_one_that_is_tested() {
    let shown = blocks("README.md").into_iter().find(|block| block.language == "yaml").expect("a mesh");
    assert_eq!(shown.text, readme_mesh());
    assert!(shown.text.lines().count() <= 20, "the README says twenty lines");
}

#[test]
fn all_yaml_of_the_documentation_passes_check() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("shown.yaml");
    let mut checked = 0;
    for document in documents() {
        for block in blocks(&document).into_iter().filter(|block| block.language == "yaml") {
            if FOREIGN_YAML.iter().any(|begin| block.text.starts_with(begin)) {
                continue;
            }
            fs::write(&file, &block.text).expect("a file");
            let output = Command::new(env!("CARGO_BIN_EXE_outrigger")).arg("check").arg(&file).output();
            let output = output.expect("our own binary");
            assert!(output.status.success(), "{document}: {}", String::from_utf8_lossy(&output.stderr));
            checked += 1;
        }
    }
    assert!(checked >= 3, "{checked}");
}

#[test]
fn every_relative_link_leads_to_a_file_and_a_heading() {
    let mut followed = 0;
    for document in documents() {
        let text = read(&document);
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.contains("://") {
                continue;
            }
            let (path, heading) = target.split_once('#').unwrap_or((target, ""));
            let file = match path {
                "" => root().join(&document),
                path => root().join(&document).parent().expect("a folder").join(path),
            };
            assert!(file.exists(), "{document}: {target}");
            if !heading.is_empty() {
                let text = fs::read_to_string(&file).expect("a page");
                let found =
                    text.lines().filter(|line| line.starts_with('#')).any(|line| anchor(line) == heading);
                assert!(found, "{document}: {target}");
            }
            followed += 1;
        }
    }
    assert!(followed > 20, "{followed}");
}

#[test]
fn what_the_architecture_names_is_there() {
    let folders = [
        "proxy/src",
        "xds/src",
        "control/src",
        "config/src",
        "identity/src",
        "files/src",
        "cli/src",
        "bench/src",
    ];
    let sources = folders.map(|folder| sources(&root().join(folder))).concat();
    let mut looked_up = 0;
    for page in documents().into_iter().filter(|page| page == "ARCHITECTURE.md" || page.contains("decisions"))
    {
        for name in quoted(&read(&page)) {
            let is_file = name.ends_with(".rs")
                || name.ends_with('/')
                || ["/src", "/tests"].iter().any(|end| name.contains(end));
            if is_file {
                let places = ["", "proxy/src", "xds/src", "control/src", "config/src"]
                    .map(|folder| root().join(folder).join(&name));
                assert!(places.iter().any(|place| place.exists()), "{page}: no file `{name}`");
            } else if is_symbol(&name) && !FOREIGN_SYMBOLS.contains(&name.as_str()) {
                assert!(is_there(&name, &sources), "{page}: no `{name}` in the sources");
                looked_up += 1;
            }
        }
    }
    assert!(looked_up > 60, "{looked_up}");
}

/// `a::b`, `LikeThis` or `LIKE_THIS`.
fn is_symbol(name: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    name.chars().all(word) && (name.contains("::") || name.starts_with(|c: char| c.is_ascii_uppercase()))
}

/// A source file: the names of its folders and itself, and every word in it.
#[derive(Clone)]
struct Source {
    modules: BTreeSet<String>,
    words: BTreeSet<String>,
}

/// Whether the last word of a path stands in a file of the module before it, or beside the type before it.
fn is_there(name: &str, sources: &[Source]) -> bool {
    let segments: Vec<&str> = name.split("::").collect();
    let last = segments[segments.len() - 1];
    let has = |source: &Source| source.words.contains(last) || source.modules.contains(last);
    let Some(before) = segments.len().checked_sub(2).map(|i| segments[i]) else {
        return sources.iter().any(has);
    };
    let in_module: Vec<&Source> = sources.iter().filter(|source| source.modules.contains(before)).collect();
    if in_module.is_empty() {
        return sources.iter().any(|source| source.words.contains(before) && source.words.contains(last));
    }
    in_module.into_iter().any(has)
}

fn sources(folder: &Path) -> Vec<Source> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        if path.is_dir() {
            let mut below = sources(&path);
            below.iter_mut().for_each(|source| _ = source.modules.insert(name.clone()));
            found.extend(below);
        } else {
            let text = fs::read_to_string(&path).expect("a source file");
            let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).map(str::to_owned);
            found.push(Source { modules: BTreeSet::from([name]), words: words.collect() });
        }
    }
    found
}
