//! What tells one content from another.

use aws_lc_rs::digest::{SHA256, digest};

/// SHA-256 of `bytes`, in lower-case hex.
pub fn fingerprint(bytes: &[u8]) -> String {
    hex(digest(&SHA256, bytes).as_ref())
}

/// Lower-case hex, two digits a byte.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
