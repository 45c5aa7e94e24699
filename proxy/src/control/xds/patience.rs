//! How long a control plane may keep us waiting.

use std::time::Duration;

use crate::control::xds::framer::Bounds;

/// How long the other side may keep us waiting, and for how much.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// What one answer may be.
    pub(crate) bounds: Bounds,
    /// A control plane that has accepted a connection answers within this.
    pub(crate) first_answer: Duration,
    /// Within this after our certificate was renewed it is shown: those of many sidecars may be renewed at one time.
    pub(crate) spread: Duration,
}

/// Of every sidecar.
pub(crate) const PATIENCE: Patience = Patience {
    bounds: Bounds { bytes: 16 << 20, stall: Duration::from_secs(20), whole: Duration::from_secs(60) },
    first_answer: Duration::from_secs(30),
    spread: Duration::from_secs(5),
};
