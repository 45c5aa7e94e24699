//! Trace headers, and which calls are recorded.

pub(crate) mod b3;
pub(crate) mod context;
pub(crate) mod hex;
pub(crate) mod parent;
pub(crate) mod sampling;
pub(crate) mod w3c;

#[cfg(test)]
mod tests;
