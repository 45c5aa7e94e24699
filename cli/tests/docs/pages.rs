//! The pages of the documentation, and what stands in them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A fenced block of a page.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) language: String,
    pub(crate) text: String,
}

impl Block {
    pub(crate) fn first_line(&self) -> &str {
        self.text.lines().next().unwrap_or_default().split("  #").next().unwrap_or_default().trim_end()
    }
}

pub(crate) fn blocks(document: &str) -> Vec<Block> {
    let text = read(document);
    let mut lines = text.lines();
    let mut blocks = Vec::new();
    while let Some(line) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let inside: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            blocks.push(Block { language: language.to_owned(), text: inside.join("\n") + "\n" });
        }
    }
    blocks
}

/// Every page, by its path below the root.
pub(crate) fn documents() -> Vec<String> {
    let mut pages = Vec::new();
    for folder in ["", "docs", "docs/decisions", "bench"] {
        for entry in fs::read_dir(root().join(folder)).expect("a folder") {
            let name = entry.expect("an entry").file_name().to_string_lossy().into_owned();
            if name.ends_with(".md") {
                pages.push(format!("{folder}/{name}").trim_start_matches('/').to_owned());
            }
        }
    }
    assert!(pages.len() > 10, "{pages:?}");
    pages
}

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

pub(crate) fn read(document: &str) -> String {
    fs::read_to_string(root().join(document)).unwrap_or_else(|error| panic!("{document}: {error}"))
}

pub(crate) fn readme_mesh() -> String {
    read("config/tests/good/readme.yaml")
}

/// What GitHub makes of a heading for links to it.
pub(crate) fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// Every text between backquotes, fenced blocks left out.
pub(crate) fn quoted(text: &str) -> BTreeSet<String> {
    let prose = text.split("```").step_by(2);
    prose.flat_map(|part| part.split('`').skip(1).step_by(2)).map(str::to_owned).collect()
}
