//! Where the control plane is, and who asks.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use xds::decode::Own;

/// What the client goes by; it does not change while the process lives.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// From one on; each connection leads to one of them.
    pub(crate) addresses: Vec<Address>,
    /// The roots of the control plane's certificate; `None`: no address speaks TLS.
    pub(crate) bundle: Option<PathBuf>,
    pub(crate) protocol: Protocol,
    /// What a foreign control plane does not say.
    pub(crate) own: Own,
    pub(crate) node: Who,
    /// The full names of the services whose inbound calls come through this sidecar.
    pub(crate) services: Vec<String>,
}

/// Where a control plane listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// It speaks TLS.
    pub(crate) tls: bool,
    /// A name or an address, without the brackets of IPv6.
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        match self.host.contains(':') {
            true => write!(f, "{scheme}://[{}]:{}", self.host, self.port),
            false => write!(f, "{scheme}://{}:{}", self.host, self.port),
        }
    }
}

/// How resources are asked for (xDS protocol, "Variants of the xDS Transport Protocol").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// What has changed.
    #[default]
    Delta,
    /// All of a kind, each time.
    Sotw,
}

impl Protocol {
    /// The path of its method.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Delta => "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources",
            Self::Sotw => "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
        }
    }
}

/// Who asks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Who {
    pub(crate) service: String,
    pub(crate) namespace: String,
    pub(crate) zone: Option<String>,
    pub(crate) labels: BTreeMap<String, String>,
    /// Whether it has an identity, so that it can speak TLS to endpoints.
    pub(crate) tls: bool,
}
