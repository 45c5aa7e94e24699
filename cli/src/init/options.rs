//! What `outrigger init` takes.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::init::cidr::Cidr;
use crate::init::ports::Ports;

/// The user that the sidecar runs as, by custom of other meshes too.
const UID: u32 = 1337;

/// What `outrigger init` is asked for.
#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    /// The sidecar's file, whose ports the rules lead to. Without it, only --remove is possible.
    #[arg(value_name = "SIDECAR.YAML", required_unless_present = "remove")]
    pub(crate) file: Option<PathBuf>,
    /// User ids of the sidecar, whose own connections are left alone.
    #[arg(long, value_name = "UID", value_delimiter = ',', default_values_t = [UID])]
    pub(crate) uid: Vec<u32>,
    /// Ports of the pod that are reached directly, such as 9090 or 9000-9100.
    #[arg(long, value_name = "PORTS", default_value_t)]
    pub(crate) exclude_inbound_ports: Ports,
    /// Redirects only these ports of the pod instead of all.
    #[arg(long, value_name = "PORTS")]
    pub(crate) include_inbound_ports: Option<Ports>,
    /// Ports of others that the apps reach directly.
    #[arg(long, value_name = "PORTS", default_value_t)]
    pub(crate) exclude_outbound_ports: Ports,
    /// Addresses of others that the apps reach directly, such as 10.0.0.0/8 or fd00::/8.
    #[arg(long, value_name = "CIDRS", value_delimiter = ',')]
    pub(crate) exclude_outbound_ranges: Vec<Cidr>,
    /// Takes the rules away instead, whichever tool wrote them.
    #[arg(long)]
    pub(crate) remove: bool,
    /// Prints what would be written, and writes nothing.
    #[arg(long)]
    pub(crate) print: bool,
    /// What writes the rules; `auto` takes nft where it is installed.
    #[arg(long, value_enum, default_value_t = Tool::Auto)]
    pub(crate) tool: Tool,
}

/// What writes the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Tool {
    /// nft where it is installed, else iptables.
    Auto,
    /// `nft`, of nftables.
    Nft,
    /// `iptables-restore` and `ip6tables-restore`.
    Iptables,
}
