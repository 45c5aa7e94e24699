//! Where a test listens again after it has given an address up.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::net::Ipv4Addr;

/// A loopback host that no other test uses: nobody takes a port there while its process is away.
pub(crate) fn own_host() -> Ipv4Addr {
    let [a, b, c, ..] = RandomState::new().build_hasher().finish().to_ne_bytes();
    Ipv4Addr::new(127, a.max(1), b, c.clamp(1, 254))
}
