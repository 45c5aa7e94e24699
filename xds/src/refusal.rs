//! Why a resource is not taken.

use std::fmt;

/// What in a resource cannot be honoured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Where in the resource, in the names of the proto: `virtual_hosts[0].routes[2].match.connect_matcher`.
    pub path: String,
    /// What is wrong with it, and what would be right.
    pub why: String,
}

impl Refusal {
    /// A fault at `path`.
    pub fn new(path: impl Into<String>, why: impl Into<String>) -> Self {
        Self { path: path.into(), why: why.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.why)
    }
}
