//! One resource as it is sent.

use bytes::Bytes;

use crate::kind::Kind;

/// A resource, encoded once and shared by everybody who gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// What it is.
    pub kind: Kind,
    /// What requests call it.
    pub name: String,
    /// Of its bytes: the same bytes have the same version in every process.
    pub version: String,
    /// The message itself, without the `Any` around it.
    pub bytes: Bytes,
}
