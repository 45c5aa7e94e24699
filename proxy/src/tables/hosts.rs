//! From `:authority` to a service.

use std::borrow::Cow;

use config::model::Mesh;
use rustc_hash::FxHashMap;

/// Every host name of the mesh.
#[derive(Debug, Default)]
pub(crate) struct Hosts {
    services: FxHashMap<Box<str>, usize>,
}

/// An `:authority`, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Authority<'a> {
    /// In lower case, without a trailing dot.
    pub(crate) host: Cow<'a, str>,
    pub(crate) port: Option<u16>,
}

impl Hosts {
    pub(crate) fn new(mesh: &Mesh) -> Self {
        let mut services = FxHashMap::default();
        for (index, service) in mesh.services.iter().enumerate() {
            for host in &service.hosts {
                services.insert(host.as_str().into(), index);
            }
        }
        Self { services }
    }

    /// The service that answers to `host`, whatever the port.
    pub(crate) fn find(&self, host: &str) -> Option<usize> {
        self.services.get(host).copied()
    }
}

impl<'a> Authority<'a> {
    /// Reads `host`, `host:port`, `[v6]` or `[v6]:port`; borrows unless the case must change.
    pub(crate) fn parse(text: &'a str) -> Self {
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => match port.parse() {
                Ok(port) => (host, Some(port)),
                Err(_) => (text, None),
            },
            _ => (text, None),
        };
        let host = host.strip_suffix('.').unwrap_or(host);
        let host = if host.bytes().any(|b| b.is_ascii_uppercase()) {
            Cow::Owned(host.to_ascii_lowercase())
        } else {
            Cow::Borrowed(host)
        };
        Self { host, port }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_gives_host_and_port() {
        for (text, host, port) in [
            ("orders", "orders", None),
            ("Orders.Shop:50051", "orders.shop", Some(50_051)),
            ("orders.shop.svc.cluster.local.:80", "orders.shop.svc.cluster.local", Some(80)),
            ("[::1]:80", "[::1]", Some(80)),
            ("[::1]", "[::1]", None),
            ("orders:http", "orders:http", None),
        ] {
            assert_eq!(Authority::parse(text), Authority { host: host.into(), port }, "{text}");
        }
    }
}
