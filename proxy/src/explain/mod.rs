//! What would happen to a call, and why: `/explain` and `/routes` of a running sidecar, and `outrigger explain`.
//!
//! Nothing is decided here. `call::plan` decides, for calls and for whoever asks about one; this module puts into words what
//! it decided, and asks the routes that were passed over which of their conditions did not hold. The answer is JSON; its
//! keys are documented in `docs/explain.md`.

pub(crate) mod callee;
pub(crate) mod decision;
pub(crate) mod listing;
pub(crate) mod place;
pub(crate) mod query;
pub(crate) mod question;
mod view;

#[cfg(test)]
mod agreement;

pub use crate::explain::callee::Access;
pub use crate::explain::question::Call;
pub use crate::explain::view::View;
