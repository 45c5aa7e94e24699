//! The whole of a comparison, for people and for tools.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::diff::calls::{Followed, Touched};
use crate::diff::change::Change;
use crate::diff::risks::Warning;
use crate::diff::samples::SAMPLES_MAX;

/// Calls that are told one by one.
const CALLS_TOLD: usize = 40;

/// What a comparison found.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) changes: Vec<Change>,
    pub(crate) warnings: Vec<Warning>,
    pub(crate) calls: Followed,
}

impl Report {
    /// Whether the two mean the same.
    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.calls.touched.is_empty()
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "changes": self.changes.iter().map(Change::json).collect::<Vec<_>>(),
            "warnings": self.warnings.iter().map(Warning::json).collect::<Vec<_>>(),
            "calls": {
                "followed": self.calls.all,
                "touched": self.calls.touched.iter().map(Touched::json).collect::<Vec<_>>(),
            },
        })
    }

    pub(crate) fn text(&self) -> String {
        if self.is_empty() {
            return format!("the two mean the same; {}\n", followed(self.calls.all));
        }
        let mut out = String::new();
        // Writing to a String does not fail.
        for (head, lines) in self.sections() {
            let _ = writeln!(out, "{head}");
            for line in lines {
                let _ = writeln!(out, "  {line}");
            }
        }
        if !self.warnings.is_empty() {
            let _ = writeln!(out, "take care");
            for warning in &self.warnings {
                let _ = writeln!(out, "  ! {} {}", warning.service, warning.text);
            }
        }
        self.calls(&mut out);
        let _ = writeln!(
            out,
            "{}, {}; {}, {} of them {} differently",
            several(self.changes.len(), "change"),
            several(self.warnings.len(), "warning"),
            followed(self.calls.all),
            self.calls.touched.len(),
            if self.calls.touched.len() == 1 {
                "goes elsewhere or is treated"
            } else {
                "go elsewhere or are treated"
            },
        );
        out
    }

    /// The changes by service; one that all of several services share stands at their head once.
    fn sections(&self) -> Vec<(String, Vec<String>)> {
        let mut by_service: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        let mut by_text: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for change in &self.changes {
            by_text.entry(change.text()).or_default().push(&change.service);
        }
        let mut sections = Vec::new();
        for change in &self.changes {
            let text = change.text();
            let shared = &by_text[&text];
            // A mesh has many services that change alike where `defaults` change.
            if shared.len() <= SHARED_MIN {
                by_service.entry(&change.service).or_default().push(text);
            } else if shared[0] == change.service {
                sections.push((format!("{} services", shared.len()), vec![text]));
            }
        }
        sections.extend(by_service.into_iter().map(|(service, lines)| {
            (if service.is_empty() { "the mesh".to_owned() } else { service.to_owned() }, lines)
        }));
        sections
    }

    fn calls(&self, out: &mut String) {
        let touched = &self.calls.touched;
        if touched.is_empty() {
            return;
        }
        let _ = writeln!(out, "calls");
        for call in touched.iter().take(CALLS_TOLD) {
            let _ = writeln!(out, "  {}", call.call.text());
            for (what, old, new) in &call.differences {
                let _ = writeln!(out, "    {what}: {old} -> {new}");
            }
        }
        if touched.len() > CALLS_TOLD {
            let _ = writeln!(out, "  and {} more; --json tells them all", touched.len() - CALLS_TOLD);
        }
    }
}

/// A change that more services than this share is told once.
const SHARED_MIN: usize = 3;

fn followed(calls: usize) -> String {
    match calls {
        SAMPLES_MAX => format!("{calls} sample calls followed, and no more than that"),
        calls => format!("{} followed", several(calls, "sample call")),
    }
}

fn several(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
