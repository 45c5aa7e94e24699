//! The floors of the house: crates import downwards only, and no module imports one that imports it.
//!
//! The sources are read token by token, so that comments and texts do not count. Test modules are left out:
//! they may import what they please.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use proc_macro2::{TokenStream, TokenTree};
use serde_json::Value;

/// What each crate may depend on. A new crate gets its place here.
const FLOORS: [(&str, &[&str]); 9] = [
    ("outrigger-files", &[]),
    ("outrigger-config", &[]),
    ("outrigger-xds", &["outrigger-config"]),
    ("outrigger-identity", &["outrigger-files", "outrigger-config"]),
    ("outrigger-proxy", &["outrigger-files", "outrigger-config", "outrigger-identity", "outrigger-xds"]),
    ("outrigger-control", &["outrigger-files", "outrigger-config", "outrigger-identity", "outrigger-xds"]),
    (
        "outrigger",
        &[
            "outrigger-files",
            "outrigger-config",
            "outrigger-identity",
            "outrigger-xds",
            "outrigger-proxy",
            "outrigger-control",
            "outrigger-examples",
        ],
    ),
    ("outrigger-examples", &[]),
    ("bench", &[]),
];

/// Where the sidecar's own list of modules stands, highest first.
const SIDECAR: &str = "outrigger-proxy";

/// What tests of every crate may use besides.
const TEST_KIT: &str = "bench";

#[test]
fn crates_depend_downwards_only() {
    let crates = crates();
    let names: Vec<&str> = crates.keys().map(String::as_str).collect();
    let mut known: Vec<&str> = FLOORS.iter().map(|(name, _)| *name).collect();
    known.sort_unstable();
    assert_eq!(names, known, "every crate of the workspace has its floor, and no other");
    for (name, allowed) in FLOORS {
        for (dependency, is_dev) in &crates[name].dependencies {
            let fine = allowed.contains(&dependency.as_str()) || *is_dev && dependency == TEST_KIT;
            assert!(fine, "{name} may not depend on {dependency}; it may on {allowed:?}");
        }
    }
}

#[test]
fn no_module_imports_one_that_imports_it() {
    for (name, package) in crates() {
        let imports = imports(&package.folder.join("src"));
        assert!(!imports.is_empty(), "{name} has modules");
        if let Some(cycle) = cycle(&imports) {
            panic!("{name} has an import cycle: {}", cycle.join(" -> "));
        }
    }
}

#[test]
fn the_sidecars_modules_import_down_the_list_at_the_head_of_its_library_only() {
    let sources = crates()[SIDECAR].folder.join("src");
    let floors = floors(&fs::read_to_string(sources.join("lib.rs")).expect("the library"));
    let floor = |module: &str| {
        let top = module.split("::").next().unwrap_or_default();
        *floors.get(top).unwrap_or_else(|| panic!("`{top}` is missing in the list of lib.rs"))
    };
    let imports = imports(&sources);
    for (module, others) in imports.iter().filter(|(module, _)| *module != "::" && *module != "main") {
        for other in others {
            assert!(floor(other) >= floor(module), "{module} may not import {other}, which stands above it");
        }
    }
}

#[test]
fn imports_are_found_wherever_they_stand_and_cycles_are_named() {
    let text = r#"
        //! crate::comment
        mod child;
        use crate::a::{self, b::{C, d}, Item};
        fn f() -> crate::g::G { println!("{}", "crate::text"); vec![crate::h::x()] }
        #[cfg(test)]
        mod tests { use crate::tested; }
    "#;
    let found = paths(text.parse().expect("Rust"));
    let mut expected = vec!["a", "a::b::C", "a::b::d", "a::Item", "g::G", "h::x"];
    expected.sort_unstable();
    assert_eq!(found.paths, BTreeSet::from_iter(expected.into_iter().map(str::to_owned)));
    assert_eq!(found.children, ["child"]);
    assert!(!found.climbs);
    assert!(paths("pub(super) fn f() { super::g() }".parse().expect("Rust")).climbs);

    let graph = |edges: &[(&str, &str)]| {
        let mut graph = Imports::new();
        for (from, to) in edges {
            graph.entry((*from).to_owned()).or_default().insert((*to).to_owned());
        }
        graph
    };
    assert_eq!(cycle(&graph(&[("a", "b"), ("a", "c"), ("b", "c")])), None);
    let round = cycle(&graph(&[("a", "b"), ("b", "c"), ("c", "d"), ("d", "b")])).expect("a cycle");
    assert_eq!(round, ["b", "c", "d", "b"]);
}

/// For each module of the list in a file's head, the line it stands on.
fn floors(text: &str) -> BTreeMap<String, usize> {
    let list = text.split("```").nth(1).expect("a list between fences");
    let mut floors = BTreeMap::new();
    for (line, entry) in list.lines().enumerate().skip(1) {
        // Two spaces or more part the modules from what is said of them.
        let modules = entry.trim_start_matches("//!").trim().split("  ").next().unwrap_or_default();
        for module in modules.split(", ").filter(|module| !module.is_empty()) {
            floors.insert(module.to_owned(), line);
        }
    }
    floors
}

/// For each module, the modules it imports. A module is a file; `::` is the root.
type Imports = BTreeMap<String, BTreeSet<String>>;

struct Package {
    folder: PathBuf,
    /// Crates of the workspace, and whether only tests depend on them.
    dependencies: Vec<(String, bool)>,
}

fn crates() -> BTreeMap<String, Package> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    packages.iter().map(|package| (text(&package["name"]), read_package(package))).collect()
}

fn read_package(package: &Value) -> Package {
    let manifest = PathBuf::from(text(&package["manifest_path"]));
    let dependencies = package["dependencies"].as_array().expect("dependencies");
    Package {
        folder: manifest.parent().expect("a folder").to_owned(),
        dependencies: dependencies
            .iter()
            .filter(|dependency| dependency["path"].is_string())
            .map(|dependency| (text(&dependency["name"]), dependency["kind"] == "dev"))
            .collect(),
    }
}

fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

/// Reads every file below `folder`. A file that declares a child module counts as importing it, so that a
/// child that imports from its parent closes a cycle.
fn imports(folder: &Path) -> Imports {
    let files = modules(folder, "");
    let mut imports = Imports::new();
    for (module, path) in &files {
        let text = fs::read_to_string(path).expect("a source file");
        let found = paths(text.parse().unwrap_or_else(|error| panic!("{}: {error}", path.display())));
        assert!(!found.climbs, "{} climbs by `super::`; write `crate::`", path.display());
        let declared = found.children.iter().map(|child| match module.as_str() {
            "::" | "main" => child.clone(),
            parent => format!("{parent}::{child}"),
        });
        let named = found.paths.iter().map(|path| owner(path, &files));
        let others = declared.chain(named).filter(|other| other != module && files.contains_key(other));
        imports.insert(module.clone(), others.collect());
    }
    imports
}

/// The files of a crate by module: `call::pump`, `call` for `call/mod.rs` or `call.rs`, `::` for `lib.rs`.
/// `main.rs` is a root of its own.
fn modules(folder: &Path, prefix: &str) -> BTreeMap<String, PathBuf> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        if path.is_dir() {
            files.extend(modules(&path, &format!("{prefix}{name}::")));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let module = match (prefix, name.as_str()) {
                ("", "lib") => "::".to_owned(),
                (_, "mod") => prefix.trim_end_matches("::").to_owned(),
                _ => format!("{prefix}{name}"),
            };
            files.insert(module, path);
        }
    }
    files
}

/// The module whose file holds `path`: the longest beginning that is a file, else the root.
fn owner(path: &str, files: &BTreeMap<String, PathBuf>) -> String {
    let ends = path.match_indices("::").map(|(end, _)| end).chain([path.len()]);
    let longest = ends.map(|end| &path[..end]).filter(|beginning| files.contains_key(*beginning)).last();
    longest.unwrap_or("::").to_owned()
}

/// What one file says of others.
#[derive(Default)]
struct Found {
    /// Every path behind `crate::`.
    paths: BTreeSet<String>,
    /// Every `mod child;`.
    children: Vec<String>,
    /// Whether it says `super::`.
    climbs: bool,
}

fn paths(tokens: TokenStream) -> Found {
    let mut found = Found::default();
    collect(&Vec::from_iter(tokens), &mut found);
    found
}

fn collect(tokens: &[TokenTree], found: &mut Found) {
    let mut rest = tokens;
    while let Some((token, after)) = rest.split_first() {
        rest = after;
        match token {
            // `#[cfg(test)] mod tests { ... }`
            TokenTree::Punct(mark) if mark.as_char() == '#' && is_test_module(after) => rest = &after[4..],
            TokenTree::Ident(word) if word == "crate" => {
                if let Some(path) = after_colons(after) {
                    branch("", path, found);
                }
            }
            // Not `pub(super)`, which imports nothing.
            TokenTree::Ident(word) if word == "super" => found.climbs |= after_colons(after).is_some(),
            TokenTree::Ident(word) if word == "mod" => {
                if let [TokenTree::Ident(child), TokenTree::Punct(_), ..] = after {
                    found.children.push(child.to_string());
                }
            }
            TokenTree::Group(group) => collect(&Vec::from_iter(group.stream()), found),
            _ => {}
        }
    }
}

fn is_test_module(tokens: &[TokenTree]) -> bool {
    let [TokenTree::Group(attribute), TokenTree::Ident(word), TokenTree::Ident(_), TokenTree::Group(_), ..] =
        tokens
    else {
        return false;
    };
    word == "mod" && attribute.to_string().replace(' ', "") == "[cfg(test)]"
}

/// What stands behind `::`, if that is what comes next.
fn after_colons(tokens: &[TokenTree]) -> Option<&[TokenTree]> {
    match tokens {
        [TokenTree::Punct(one), TokenTree::Punct(two), rest @ ..]
            if one.as_char() == ':' && two.as_char() == ':' =>
        {
            Some(rest)
        }
        _ => None,
    }
}

/// Follows a path, and the branches of `{a, b::c}` each for itself.
fn branch(before: &str, tokens: &[TokenTree], found: &mut Found) {
    match tokens {
        [TokenTree::Ident(word), rest @ ..] => {
            let here = match (before, word.to_string().as_str()) {
                ("", word) => word.to_owned(),
                (before, "self") => before.to_owned(),
                (before, word) => format!("{before}::{word}"),
            };
            match after_colons(rest) {
                Some(further) => branch(&here, further, found),
                None => _ = found.paths.insert(here),
            }
        }
        [TokenTree::Group(group), ..] => {
            let inner = Vec::from_iter(group.stream());
            for one in inner.split(|token| matches!(token, TokenTree::Punct(mark) if mark.as_char() == ',')) {
                branch(before, one, found);
            }
        }
        // `::*` and `::<`.
        _ => _ = found.paths.insert(before.to_owned()),
    }
}

/// A way from a module back to itself, its first module again at the end.
fn cycle(imports: &Imports) -> Option<Vec<String>> {
    let mut done = BTreeSet::new();
    imports.keys().find_map(|start| walk(start, imports, &mut Vec::new(), &mut done))
}

fn walk<'a>(
    module: &'a str,
    imports: &'a Imports,
    way: &mut Vec<&'a str>,
    done: &mut BTreeSet<&'a str>,
) -> Option<Vec<String>> {
    if let Some(begin) = way.iter().position(|seen| *seen == module) {
        return Some(way[begin..].iter().chain([&module]).map(|&name| name.to_owned()).collect());
    }
    if done.contains(module) {
        return None;
    }
    way.push(module);
    let found = imports.get(module).into_iter().flatten().find_map(|next| walk(next, imports, way, done));
    way.pop();
    done.insert(module);
    found
}
