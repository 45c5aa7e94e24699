//! What is wrong with a file, where, and what would be right.

use std::collections::HashSet;
use std::error::Error;
use std::fmt;

/// Faults that are told; the rest are counted.
pub const FAULTS_TOLD_MAX: usize = 100;

/// Faults that are kept until they are sorted; a file of nothing but faults must not fill the memory.
const FAULTS_KEPT_MAX: usize = 10_000;

/// One thing wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The name of the file, as the caller gave it.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// The key, as `services[0].routes[1].match.method`; `.` stands for the whole file.
    pub path: String,
    /// What is wrong.
    pub problem: String,
    /// What would be right.
    pub hint: Option<String>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}: {}", self.file, self.line, self.column, self.path, self.problem)?;
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

/// All faults of one or more files, by file and then by place; never empty.
///
/// `Display` writes one line per fault, `file:line:column: path: problem; hint`, and at the end `and N more`
/// when there were more than [`FAULTS_TOLD_MAX`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults {
    told: Vec<Fault>,
    more: usize,
}

impl Faults {
    /// The first [`FAULTS_TOLD_MAX`] faults.
    pub fn told(&self) -> &[Fault] {
        &self.told
    }

    /// How many more there are.
    pub fn more(&self) -> usize {
        self.more
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.told.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            fault.fmt(f)?;
        }
        if self.more > 0 {
            write!(f, "\nand {} more", self.more)?;
        }
        Ok(())
    }
}

impl Error for Faults {}

/// A place in a file; both from 1, the column in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

impl Place {
    /// The first character, for what concerns the whole file.
    pub(crate) const START: Self = Self { line: 1, column: 1 };
}

/// What is wrong with a value, before its place is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wrong {
    pub(crate) problem: String,
    pub(crate) hint: Option<String>,
}

impl Wrong {
    pub(crate) fn new(problem: impl Into<String>) -> Self {
        Self { problem: problem.into(), hint: None }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// What is found of one file of a mesh.
#[derive(Clone, Debug)]
pub(crate) struct Sinks {
    /// What makes the file useless.
    pub(crate) faults: Sink,
    /// Backends that no file has, or not with these labels. A mesh can be built all the same.
    pub(crate) dangling: Sink,
}

impl Sinks {
    /// All of it as faults.
    pub(crate) fn joined(mut self) -> Sink {
        for fault in self.dangling.kept {
            self.faults.keep(fault);
        }
        self.faults.dropped += self.dangling.dropped;
        self.faults
    }
}

/// Collects the faults of one file.
#[derive(Clone, Debug)]
pub(crate) struct Sink {
    file: String,
    kept: Vec<Fault>,
    dropped: usize,
}

impl Sink {
    pub(crate) fn new(file: &str) -> Self {
        Self { file: file.to_owned(), kept: Vec::new(), dropped: 0 }
    }

    /// The file that it is of.
    pub(crate) fn file(&self) -> &str {
        &self.file
    }

    /// How many faults there are so far.
    pub(crate) fn count(&self) -> usize {
        self.kept.len() + self.dropped
    }

    /// The faults whose problem `known` has nowhere; where they stand does not matter.
    pub(crate) fn beyond(mut self, known: &Self) -> Self {
        let problems: HashSet<&str> = known.kept.iter().map(|fault| fault.problem.as_str()).collect();
        self.kept.retain(|fault| !problems.contains(fault.problem.as_str()));
        self.dropped = self.dropped.saturating_sub(known.dropped);
        self
    }

    pub(crate) fn add(&mut self, place: Place, path: &str, wrong: Wrong) {
        self.keep(Fault {
            file: self.file.clone(),
            line: place.line,
            column: place.column,
            path: if path.is_empty() { ".".to_owned() } else { path.to_owned() },
            problem: wrong.problem,
            hint: wrong.hint,
        });
    }

    fn keep(&mut self, fault: Fault) {
        match self.kept.len() < FAULTS_KEPT_MAX {
            true => self.kept.push(fault),
            false => self.dropped += 1,
        }
    }
}

/// Ends the collecting: nothing, or the faults of `sinks` in their order.
pub(crate) fn settle(sinks: Vec<Sink>) -> Result<(), Faults> {
    let mut told = Vec::new();
    let mut more = 0;
    for mut sink in sinks {
        sink.kept.sort_by_key(|fault| (fault.line, fault.column));
        told.append(&mut sink.kept);
        more += sink.dropped;
    }
    if told.is_empty() {
        return Ok(());
    }
    more += told.len().saturating_sub(FAULTS_TOLD_MAX);
    told.truncate(FAULTS_TOLD_MAX);
    Err(Faults { told, more })
}
