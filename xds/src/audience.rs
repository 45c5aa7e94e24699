//! For whom resources are encoded: clients of one audience get the same bytes.

/// What differs between clients.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Audience {
    /// Which program asks.
    pub client: Client,
    /// Where its certificates come from; `None`: it has none, and speaks plain text only.
    pub certificates: Option<Certificates>,
}

/// Which program asks, by the `user_agent_name` of its node.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Client {
    /// Our sidecar.
    Outrigger,
    /// A proxyless gRPC library.
    Grpc,
    /// Envoy; its socket listener for the app's own calls listens here (`ADDRESS:PORT`).
    Envoy {
        /// Where the app reaches it.
        outbound: std::net::SocketAddr,
    },
}

/// Where a client finds its certificate and the roots it trusts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Certificates {
    /// It knows by itself (our sidecar: its `identity`).
    Own,
    /// `certificate_provider_instance` of this name in its bootstrap (gRPC).
    Provider(String),
    /// SDS secrets of these names, or, with a slash in front, files (Envoy).
    Secrets {
        /// The certificate and its key.
        identity: String,
        /// The roots.
        roots: String,
        /// The cluster in its bootstrap that secrets are asked of; `None`: they stand in the bootstrap themselves.
        sds: Option<String>,
    },
}
