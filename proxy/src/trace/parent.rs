//! The span that a call belongs to, and how its values stand in headers.

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};

/// The span that a call belongs to, as headers name it. Neither id is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parent {
    pub(crate) trace: u128,
    pub(crate) span: u64,
    /// The trace's id came with 16 digits, and goes on so.
    pub(crate) short: bool,
    /// The trace's id is random, says the caller.
    pub(crate) random: bool,
}

impl Parent {
    /// How wide its trace's id is in B3.
    pub(crate) fn trace_digits(&self) -> usize {
        if self.short { 16 } else { 32 }
    }
}

/// A value that differs from call to call is kept out of HPACK's table, where it would drive others out and every
/// call would look through it (RFC 7541, section 6.2.3).
pub(crate) fn unlisted(mut value: HeaderValue) -> HeaderValue {
    value.set_sensitive(true);
    value
}

/// [`unlisted`] for what stands there already.
pub(crate) fn set_unlisted(headers: &mut HeaderMap, names: &[HeaderName]) {
    for name in names {
        if let Some(value) = headers.get_mut(name) {
            value.set_sensitive(true);
        }
    }
}
