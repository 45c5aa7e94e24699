//! What becomes of what a control plane takes away.

use std::sync::Arc;

/// What has become of what was taken away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The endpoints of a cluster are held back from now on.
    HeldBack(Arc<str>),
    /// There are some again.
    Returned(Arc<str>),
    /// The time is over, and there are none.
    LetGo(Arc<str>),
    /// All services are held back from now on.
    AllHeldBack,
    /// There are some again.
    AllReturned,
    /// The time is over, and there are none.
    AllLetGo,
}
