//! The control thread: everything that is not a call. It never stalls one.

pub(crate) mod access;
pub(crate) mod admin;
pub(crate) mod certificates;
pub(crate) mod drain;
pub(crate) mod export;
pub(crate) mod family;
pub(crate) mod files;
pub(crate) mod follow;
pub(crate) mod followed;
pub(crate) mod health;
pub(crate) mod issued;
pub(crate) mod journal;
pub(crate) mod lookup;
pub(crate) mod names;
pub(crate) mod otlp;
pub(crate) mod recording;
pub(crate) mod runway;
pub(crate) mod sent;
pub(crate) mod show;
pub(crate) mod show_identity;
pub(crate) mod socket;
pub(crate) mod sweep;
pub(crate) mod xds;
