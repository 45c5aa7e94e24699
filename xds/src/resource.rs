//! One resource as it is sent.

use bytes::Bytes;
use prost::Message;

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

impl Resource {
    /// The resource of a message.
    pub fn of(kind: Kind, name: impl Into<String>, message: &impl Message) -> Self {
        Self::of_bytes(kind, name, message.encode_to_vec())
    }

    /// The resource of an encoded message.
    pub fn of_bytes(kind: Kind, name: impl Into<String>, bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self { kind, name: name.into(), version: format!("{:016x}", fnv1a(&bytes)), bytes }
    }
}

/// FNV-1a with 64 bits: it has no seed, and is the same everywhere. Nobody gains by two resources of one version.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_that_of_the_bytes() {
        let of = |bytes: &'static [u8]| Resource::of_bytes(Kind::Cluster, "a", bytes).version;
        // The values of the FNV reference.
        assert_eq!(of(b""), "cbf29ce484222325");
        assert_eq!(of(b"a"), "af63dc4c8601ec8c");
        assert_eq!(of(b"foobar"), "85944171f73967e8");
    }
}
