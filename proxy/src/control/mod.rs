//! The control thread: everything that is not a call. It never stalls one.

pub(crate) mod admin;
pub(crate) mod drain;
pub(crate) mod export;
pub(crate) mod show;
pub(crate) mod socket;
