//! What the command line asks of a demo.

use std::time::Duration;

/// What the command line asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// How long to run; none: until told to stop.
    pub(crate) run_for: Option<Duration>,
    /// How many shop at once.
    pub(crate) shoppers: u16,
    /// Calls that all shoppers start per second; none: what suits the demo.
    pub(crate) rate: Option<u32>,
    /// Whether things go wrong on purpose.
    pub(crate) chaos: bool,
    /// What chance begins with; none: anything.
    pub(crate) seed: Option<u64>,
}
