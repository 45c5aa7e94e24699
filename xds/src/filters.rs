//! The HTTP filters that we write and read, by their usual names.

/// Faults on purpose.
pub(crate) const FAULT: &str = "envoy.filters.http.fault";

/// Who may call what.
pub(crate) const RBAC: &str = "envoy.filters.http.rbac";

/// Who may not; filters have names of their own, and gRPC takes none twice.
pub(crate) const RBAC_DENY: &str = "envoy.filters.http.rbac.deny";

/// Whose calls are told of.
pub(crate) const RBAC_AUDIT: &str = "envoy.filters.http.rbac.audit";

/// Sends the call on; always the last one.
pub(crate) const ROUTER: &str = "envoy.filters.http.router";

/// The network filter in which all of them stand.
pub(crate) const MANAGER: &str = "envoy.filters.network.http_connection_manager";

/// TLS.
pub(crate) const TLS: &str = "envoy.transport_sockets.tls";
