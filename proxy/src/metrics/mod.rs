//! What is counted, where it is kept, and what it is called.
//!
//! Workers count into series of their own, each written by one thread only; the control thread adds them up
//! when it is scraped (`control::export`). The crate `prometheus` is registry and encoder; it keeps no number of ours, because a
//! shared counter costs more than the work it counts.

pub(crate) mod calls;
pub(crate) mod counter;
pub(crate) mod events;
pub(crate) mod median;
pub(crate) mod names;
