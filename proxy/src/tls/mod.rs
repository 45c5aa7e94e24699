//! mTLS with SPIFFE ids: TLS 1.3 only, one crypto provider, no resumption.
//!
//! rustls restores a resumed session's chain without verifying it again, so sessions and tickets are off:
//! every connection proves its identity when it is made.

pub(crate) mod credentials;
pub(crate) mod expiry;
pub(crate) mod proof;
pub(crate) mod verify;
