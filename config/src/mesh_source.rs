//! Where a sidecar has its mesh from: a file, or a control plane.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::url;

/// The port of ADS, for who names none.
const PORT: u16 = 15_012;

/// Addresses of control planes that one sidecar may name.
pub const CONTROL_MAX: usize = 8;

/// What would be right, as a hint says it.
pub(crate) const CONTROL_HINT: &str = "write `https://host:port`, as `https://outrigger-control:15012`, or `http://` and an address of loopback";

/// Where the mesh comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MeshSource {
    /// A file, which is followed.
    File(PathBuf),
    /// A control plane that speaks xDS v3 (ADS).
    Control(ControlPlanes),
}

impl MeshSource {
    /// The mesh file, where there is one.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Control(_) => None,
        }
    }

    /// The control planes, where there are some.
    pub fn control(&self) -> Option<&ControlPlanes> {
        match self {
            Self::File(_) => None,
            Self::Control(control) => Some(control),
        }
    }

    /// Makes the file names in it relative to `base`.
    pub(crate) fn resolve_paths(&mut self, base: &Path) {
        let resolve = |path: &mut PathBuf| *path = base.join(&*path);
        match self {
            Self::File(path) => resolve(path),
            Self::Control(control) => {
                [&mut control.bundle, &mut control.cache].into_iter().flatten().for_each(resolve);
            }
        }
    }
}

/// `mesh.control` and what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlPlanes {
    /// Any one of them serves; from 1 to [`CONTROL_MAX`].
    pub addresses: Vec<ControlAddress>,
    /// The roots that vouch for them; `None`: those of the identity. There is one of the two if an address says `https`.
    pub bundle: Option<PathBuf>,
    /// The folder of what was last in force; `None`: it is not kept.
    pub cache: Option<PathBuf>,
    /// How old that may be when the sidecar starts.
    pub cache_max_age: Duration,
    /// How long the endpoints of a service stay that all at once are said to be none.
    pub empty_grace: Duration,
    /// How resources are asked for.
    pub protocol: Protocol,
    /// What is announced as an endpoint of the sidecar's own service, once it is ready.
    pub register: Option<SocketAddr>,
}

impl Default for ControlPlanes {
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            bundle: None,
            cache: None,
            cache_max_age: Duration::from_secs(72 * 3_600),
            empty_grace: Duration::from_secs(30),
            protocol: Protocol::Delta,
            register: None,
        }
    }
}

/// A variant of xDS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// What has changed (`DeltaAggregatedResources`).
    Delta,
    /// All there is (`StreamAggregatedResources`).
    Sotw,
}

impl Protocol {
    /// The word in the YAML.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delta => "delta",
            Self::Sotw => "sotw",
        }
    }
}

/// Where a control plane serves ADS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlAddress {
    /// It speaks TLS; else it is on loopback.
    pub tls: bool,
    /// A name or an address, without the brackets of IPv6.
    pub host: String,
    /// From 1 on.
    pub port: u16,
}

impl ControlAddress {
    /// Reads a URL.
    pub fn parse(url: &str) -> Option<Self> {
        url::parse(url, None, PORT).map(|(tls, host, port)| Self { tls, host, port })
    }

    /// Whether it cannot be elsewhere than on this host.
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
    }
}

impl fmt::Display for ControlAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        url::write(f, self.tls, &self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_plane_has_a_scheme_a_host_and_the_port_of_ads_unless_it_names_one() {
        for (url, read, loopback) in [
            ("https://control", "https://control:15012", false),
            ("https://control:1/", "https://control:1", false),
            ("http://127.0.0.1:9", "http://127.0.0.1:9", true),
            ("http://[::1]", "http://[::1]:15012", true),
            ("HTTP://localhost", "http://localhost:15012", true),
            ("http://10.0.0.1", "http://10.0.0.1:15012", false),
        ] {
            let address = ControlAddress::parse(url).unwrap();
            assert_eq!((address.to_string().as_str(), address.is_loopback()), (read, loopback), "{url}");
        }
        for bad in ["control:15012", "grpc://control", "https://", "https://a/b", "https://a:0"] {
            assert_eq!(ControlAddress::parse(bad), None, "{bad}");
        }
    }
}
